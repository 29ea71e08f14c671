// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"xdplvs/director"
)

// guard is director.Guard as written.
type guard struct {
	allow, deny setting[list[source]]
	budget      setting[budget]
	ceiling     setting[rate]
	cookies     setting[director.DefenseMode]
}

const (
	allowDoc   = "Clients that may connect though a shorter prefix is denied: addresses, prefixes, and files of them."
	denyDoc    = "Clients that may not begin connections: addresses, prefixes, and files of them (absolute paths; one in a line, # begins a comment). The longest prefix decides."
	budgetDoc  = "New connections that each prefix of clients may begin."
	ceilingDoc = "New connections a second from all clients together; a number, or a mapping with rate and burst; no limit if absent."
)

var guardObject = object[guard]{
	what: "a mapping with allow, deny, budget, ceiling and syn_cookies",
	fields: []field[guard]{
		key("allow", prefixes(), func(g *guard) *setting[list[source]] { return &g.allow }, allowDoc),
		key("deny", prefixes(), func(g *guard) *setting[list[source]] { return &g.deny }, denyDoc),
		key("budget", budgetObject.kind(), func(g *guard) *setting[budget] { return &g.budget }, budgetDoc),
		key("ceiling", ceilingKind(), func(g *guard) *setting[rate] { return &g.ceiling }, ceilingDoc),
		key("syn_cookies", defenseMode(), func(g *guard) *setting[director.DefenseMode] { return &g.cookies },
			"Answer SYNs with cookies, so that nothing is stored before a client has proven itself; real servers by nat and fullnat only. As at the top if absent."),
	},
}

// source is a prefix of clients, or a file of them.
type source struct {
	prefix netip.Prefix
	file   string
}

func prefixes() kind[list[source]] {
	file := mapped(absolutePath(longestPath), func(_ cursor, path string) (source, bool) { return source{file: path}, true })
	one := mapped(prefix(), func(_ cursor, p netip.Prefix) (source, bool) { return source{prefix: p}, true })
	return listOf("prefixes and files", kind[source]{one.schema, func(c cursor) (source, bool) {
		if filepath.IsAbs(c.node().Value) {
			return file.decode(c)
		}
		return one.decode(c)
	}})
}

// rate is director.Limit as written.
type rate struct {
	rate, burst setting[uint32]
}

func perSecond() kind[uint32] { return number(1, director.MaxRate) }

var rateObject = object[rate]{
	what: "a mapping with rate and burst",
	fields: []field[rate]{
		key("rate", perSecond(), func(r *rate) *setting[uint32] { return &r.rate }, "New connections a second.").must(),
		key("burst", perSecond(), func(r *rate) *setting[uint32] { return &r.burst }, "So many may begin at once; those of a second if absent."),
	},
}

func ceilingKind() kind[rate] {
	return either("a number of new connections a second, or a mapping with rate and burst",
		mapped(perSecond(), func(c cursor, n uint32) (rate, bool) { return rate{rate: setting[uint32]{n, c, true}}, true }),
		rateObject.kind())
}

// budget is director.Budget as written.
type budget struct {
	rate
	prefix4, prefix6 setting[uint32]
}

var budgetObject = object[budget]{
	what: "a mapping with rate, burst, prefix4 and prefix6",
	fields: []field[budget]{
		key("rate", perSecond(), func(b *budget) *setting[uint32] { return &b.rate.rate }, "New connections a second from each prefix.").must(),
		key("burst", perSecond(), func(b *budget) *setting[uint32] { return &b.burst }, "So many may begin at once; those of a second if absent."),
		key("prefix4", number(1, 32), func(b *budget) *setting[uint32] { return &b.prefix4 }, "IPv4 clients whose addresses have so many bits in common share a budget; 32 if absent."),
		key("prefix6", number(1, 128), func(b *budget) *setting[uint32] { return &b.prefix6 }, "The same for IPv6; 64 if absent."),
	},
}

func (r *rate) build() director.Limit {
	return director.Limit{Rate: r.rate.value, Burst: r.burst.or(r.rate.value)}
}

// build has no files' prefixes yet.
func (g *guard) build() director.Guard {
	b := &g.budget.value
	built := director.Guard{
		Allow: inlinePrefixes(g.allow.value), Deny: inlinePrefixes(g.deny.value),
		Ceiling: g.ceiling.value.build(),
		Cookies: director.CookieMode{Own: g.cookies.ok, Mode: g.cookies.value},
	}
	if g.budget.ok {
		built.Budget = director.Budget{Limit: b.build(),
			Prefix4: uint8(b.prefix4.or(director.DefaultPrefix4)), Prefix6: uint8(b.prefix6.or(director.DefaultPrefix6))}
	}
	return built
}

func (g *guard) checkCookies(built *director.Service) {
	if err := built.CookieFault(); err != nil && g.cookies.ok {
		g.cookies.at.failf("%s", err)
	}
}

// inlinePrefixes are those that stand in the configuration itself.
func inlinePrefixes(all list[source]) (prefixes []netip.Prefix) {
	for _, s := range all.all {
		if s.ok && s.value.file == "" {
			prefixes = append(prefixes, s.value.prefix)
		}
	}
	return prefixes
}

// everybody is the owner of lists that are no service's.
const everybody = -1

// listFile is a file of prefixes that a configuration names.
type listFile struct {
	owner int // index of the service, or everybody
	deny  bool
	file  string
	at    Error // where it is named
}

// listFiles notes the files that a guard names.
func (b *builder) listFiles(owner int, g *guard) {
	for deny, all := range map[bool]list[source]{false: g.allow.value, true: g.deny.value} {
		for _, s := range all.all {
			if s.ok && s.value.file != "" {
				at := Error{File: b.doc.file, Line: s.at.at.Line, Column: s.at.at.Column, Path: s.at.path.String()}
				b.config.lists = append(b.config.lists, listFile{owner, deny, s.value.file, at})
			}
		}
	}
}

// ReadLists reads the files of prefixes that the configuration names.
func (c *Config) ReadLists() error {
	var errs Errors
	read := map[string][]netip.Prefix{}
	for _, l := range c.lists {
		all, known := read[l.file]
		if !known {
			var faults Errors
			all, faults = readPrefixes(l)
			read[l.file] = all
			errs = append(errs, faults...)
		}
		g := &c.Desired.Defense.Guard
		if l.owner != everybody {
			g = &c.Desired.Services[l.owner].Guard
		}
		if l.deny {
			g.Deny = append(g.Deny, all...)
		} else {
			g.Allow = append(g.Allow, all...)
		}
	}
	c.lists = nil
	if len(errs) > 0 {
		return &errs
	}
	return nil
}

func readPrefixes(l listFile) ([]netip.Prefix, Errors) {
	data, err := readLimited(l.file)
	if err == nil && len(data) > MaxFileSize {
		err = fmt.Errorf("%s is larger than %d bytes", l.file, MaxFileSize)
	}
	if err != nil {
		l.at.Message = err.Error()
		return nil, Errors{l.at}
	}
	return parsePrefixes(l.file, string(data))
}
