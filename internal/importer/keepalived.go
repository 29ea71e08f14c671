// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"xdplvs/director"
)

// Why keys of keepalived are not carried over, by key. To carry one over, take it in setting or server.
var (
	keepalivedService = map[string]string{
		"sorry_server_inhibit": "a sorry server is taken out, not quiesced", "quorum_up": notifyScripts, "quorum_down": notifyScripts, "omega": notifyScripts,
		"smtp_alert": mailForAll, "ha_suspend": "there is no VRRP", "snmp_name": "there is no SNMP",
	}
	keepalivedServer = map[string]string{
		"notify_up": notifyScripts, "notify_down": notifyScripts, "smtp_alert": mailForAll, "snmp_name": "there is no SNMP",
		"FILE_CHECK": "it is another convention than that of our check file", "BFD_CHECK": "there is no BFD",
	}
)

// The reasons.
const (
	notifyScripts = "commands under notify are told of all services, with arguments that say of which"
	mailForAll    = "mail under notify is for all services"
	unknownKey    = "unknown key"
)

// defaultPersistence is keepalived's and ipvsadm's, in seconds.
const defaultPersistence = 360

// keepalivedMethods are the values of lvs_method.
var keepalivedMethods = map[string]string{"NAT": "nat", "DR": "dr", "TUN": "tun"}

// keepalivedVirtual is a virtual_server while it is read.
type keepalivedVirtual struct {
	*builder
	virtual
	method      string
	tunnel      settings
	weight      int
	persistence settings
	flags       []string
	protocol    director.Protocol
	v6          bool
	servers     []*statement
	timing      timing
	host        string // virtualhost
	sorry       *statement
	sorryMethod string
}

// keepalived reads keepalived.conf(5).
func (b *builder) keepalived() {
	tree := b.blocks("!#", b.keepalivedVariables())
	groups := map[string]*statement{}
	for _, s := range tree {
		if s.words[0] == "virtual_server_group" {
			groups[s.word(1)] = s
		}
	}
	for _, s := range tree {
		switch s.words[0] {
		case "virtual_server_group":
		case "global_defs":
			b.keepalivedGlobals(s)
		case "virtual_server":
			b.keepalivedService(s, groups)
		default:
			b.note(s.line, "%s", cmp.Or(identity(s), s.words[0]+" is not about services"))
		}
	}
}

// identity is the reason for what begins with @ID.
func identity(s *statement) string {
	if strings.HasPrefix(s.words[0], "@") {
		return "it depends on the identity that keepalived is started with"
	}
	return ""
}

var (
	definition = regexp.MustCompile(`^\$([A-Za-z0-9_]+)=(.*)$`)
	use        = regexp.MustCompile(`\$\{?([A-Za-z0-9_]+)\}?`)
)

// keepalivedVariables replaces $NAME, and leaves out what only keepalived itself could tell.
func (b *builder) keepalivedVariables() func(int, []string) []string {
	values := map[string]string{}
	return func(line int, words []string) []string {
		if len(words) == 0 {
			return nil
		}
		if m := definition.FindStringSubmatch(words[0]); m != nil {
			values[m[1]] = strings.Join(append([]string{m[2]}, words[1:]...), " ")
			return nil
		}
		switch {
		case words[0] == "include" || strings.HasPrefix(words[0], "include"):
			b.note(line, "the file that it includes is not read: import it, too")
			return nil
		case strings.Contains(words[0], "~SEQ"):
			b.note(line, "sequences are not expanded")
			return nil
		}
		var all []string
		for _, word := range words {
			known := use.ReplaceAllStringFunc(word, func(name string) string { return values[use.FindStringSubmatch(name)[1]] })
			if known == word {
				all = append(all, word)
			} else {
				all = append(all, strings.Fields(known)...)
			}
		}
		return all
	}
}

// keepalivedService adds a virtual_server; one of a group is several services.
func (b *builder) keepalivedService(s *statement, groups map[string]*statement) {
	v := &keepalivedVirtual{builder: b, virtual: virtual{line: s.line, set: settings{"scheduler": "wlc"}},
		method: "nat", weight: 1, protocol: director.TCP, timing: keepalivedTiming}
	for _, k := range s.block {
		v.setting(k)
	}
	v.finish()
	if s.word(1) != "group" {
		v.emit(s.line, s.words[1:])
		return
	}
	group := groups[s.word(2)]
	if group == nil {
		b.note(s.line, "there is no virtual_server_group %s", s.word(2))
		return
	}
	for _, member := range group.block {
		v.emit(member.line, member.words)
	}
}

// emit adds the service for ADDRESS[-LAST] [PORT], or fwmark N.
func (v *keepalivedVirtual) emit(line int, where []string) {
	if len(where) > 0 && where[0] == "fwmark" {
		mark, err := strconv.ParseUint(strings.Join(where[1:], ""), 10, 32)
		if err != nil || mark == 0 {
			v.note(line, "it has no firewall mark")
			return
		}
		v.emitKey(line, director.MarkKey(uint32(mark), v.v6))
		return
	}
	if len(where) == 0 {
		v.note(line, "it has no address")
		return
	}
	port := uint64(0)
	var err error
	if len(where) > 1 {
		port, err = strconv.ParseUint(where[1], 10, 16)
	}
	addrs, ok := addressRange(where[0], "-")
	if !ok || err != nil {
		v.note(line, "%s is no address and port", strings.Join(where, " "))
		return
	}
	for _, a := range addrs {
		v.emitKey(line, director.ServiceKey{Protocol: v.protocol, Addr: a, Port: uint16(port)})
	}
}

func (v *keepalivedVirtual) emitKey(line int, key director.ServiceKey) {
	one := virtual{key: key, line: line, set: settings{}, quorumLine: v.quorumLine}
	for k, value := range v.set {
		one.set[k] = value
	}
	v.apology(&one)
	for _, s := range v.servers {
		if r, ok := v.server(s, key); ok {
			one.reals = append(one.reals, r)
		}
	}
	v.service(&one)
}

// setting takes one key of the service.
func (v *keepalivedVirtual) setting(k *statement) {
	value := k.word(1)
	if v.timingKey(&v.timing, k) {
		return
	}
	switch name := k.words[0]; name {
	case "lb_algo", "lvs_sched":
		v.set["scheduler"] = value
	case "lb_kind", "lvs_method":
		v.method, v.tunnel = v.forward(k)
	case "protocol":
		if err := v.protocol.UnmarshalText([]byte(strings.ToLower(value))); err != nil {
			v.note(k.line, "%s", err)
		}
	case "persistence_timeout":
		if value == "" {
			value = strconv.Itoa(defaultPersistence)
		}
		v.persist()["timeout"] = value
	case "persistence_granularity":
		v.persist()["netmask"] = value
	case "ops":
		v.set["one_packet"] = true
	case "sh-port", "sh-fallback", "mh-port", "mh-fallback":
		v.flags = append(v.flags, name)
	case "ip_family":
		v.v6 = value == "inet6"
	case "weight":
		v.weight, _ = strconv.Atoi(value) // what is no number is 0, and what it should be nobody knows
	case "real_server":
		v.servers = append(v.servers, k)
	case "alpha": // nobody gets connections here before his first good result
	case "virtualhost":
		v.host = value
	case "quorum", "hysteresis":
		v.set[name], v.quorumLine = value, k.line
	case "inhibit_on_failure":
		v.set[name] = true
	case "persistence_engine":
		v.persist()["engine"] = value
	case "sorry_server":
		v.sorry = k
	case "sorry_server_lvs_method":
		v.sorryMethod, _ = v.forward(k)
	default:
		v.refuse(k, keepalivedService)
	}
}

// refuse lists a key with the reason.
func (v *keepalivedVirtual) refuse(k *statement, reasons map[string]string) {
	v.note(k.line, "%s", cmp.Or(identity(k), reasons[k.words[0]], unknownKey))
}

func (v *keepalivedVirtual) persist() settings {
	if v.persistence == nil {
		v.persistence = settings{"timeout": strconv.Itoa(defaultPersistence)}
	}
	return v.persistence
}

func (v *keepalivedVirtual) finish() {
	if v.persistence != nil {
		v.set["persistence"] = v.persistence
	}
	if v.flags != nil {
		v.set["scheduler_flags"] = v.flags
	}
}

// forward reads NAT, DR, or TUN [type ipip|gue|gre] [port N] [csum|nocsum].
func (v *keepalivedVirtual) forward(k *statement) (method string, tunnel settings) {
	method = keepalivedMethods[strings.ToUpper(k.word(1))]
	if method == "" {
		v.note(k.line, "unknown method %q (known: NAT, DR, TUN)", k.word(1))
		return "nat", nil
	}
	set := settings{}
	for i := 2; i < len(k.words); i++ {
		switch k.words[i] {
		case "type":
			i++
			set["type"] = k.word(i)
		case "port":
			i++
			set["port"], _ = strconv.Atoi(k.word(i)) // 0 is no port, and said so
		case "csum":
			set["checksum"] = true
		case "nocsum":
		default:
			v.note(k.line, "unknown word %s", k.words[i])
		}
	}
	if len(set) == 0 {
		return method, nil
	}
	return method, set
}

// server reads real_server ADDRESS [PORT] { … }.
func (v *keepalivedVirtual) server(s *statement, key director.ServiceKey) (server, bool) {
	r := server{s.line, settings{"address": s.word(1), "method": v.method, "weight": v.weight}}
	if v.tunnel != nil {
		r.set["tunnel"] = v.tunnel
	}
	port, err := strconv.ParseUint(s.word(2), 10, 16)
	if s.word(2) != "" && err != nil {
		v.note(s.line, "%s is no port", s.word(2))
		return r, false
	}
	host, t := v.host, v.timing
	for _, k := range s.block {
		if k.words[0] == "virtualhost" {
			host = k.word(1)
		} else if v.timingKey(&t, k) {
			continue
		}
	}
	var checks []settings
	for _, k := range s.block {
		if keepalivedCheckers[k.words[0]] != nil {
			if check := v.checker(k, host, t); v.sound(k.line, check) {
				checks = append(checks, check)
			}
			continue
		}
		switch k.words[0] {
		case "virtualhost", "alpha", "delay_loop", "retry", "delay_before_retry", "warmup", "connect_timeout":
		case "inhibit_on_failure":
			r.set["inhibit_on_failure"] = true
		case "weight":
			r.set["weight"] = k.word(1)
		case "uthreshold":
			r.set["upper"] = k.word(1)
		case "lthreshold":
			r.set["lower"] = k.word(1)
		case "lb_kind", "lvs_method":
			method, tunnel := v.forward(k)
			r.set["method"], r.set["tunnel"] = method, tunnel
		default:
			v.refuse(k, keepalivedServer)
		}
	}
	used(r.set, checks)
	if port != 0 && r.set["method"] == "nat" || port != 0 && key.Mark != 0 {
		r.set["port"] = port // with other methods it is the service's
	}
	return r, true
}

// apology adds the sorry server.
func (v *keepalivedVirtual) apology(one *virtual) {
	if v.sorry == nil {
		return
	}
	s := settings{"address": v.sorry.word(1), "method": cmp.Or(v.sorryMethod, v.method)}
	if port := v.sorry.word(2); port != "" && s["method"] == "nat" {
		s["port"] = figure(port) // with other methods it is the service's
	}
	one.set["sorry_servers"], one.sorryLine = []settings{s}, v.sorry.line
}

// keepalivedGlobals takes who is told by mail.
func (b *builder) keepalivedGlobals(s *statement) {
	for _, k := range s.block {
		switch k.words[0] {
		case "notification_email":
			for _, who := range k.block {
				b.mailTo(who.line, who.words...)
			}
		case "notification_email_from":
			b.mailFrom(k.line, k.word(1))
		case "smtp_server":
			server := k.word(1)
			if port := k.word(2); port != "" {
				server = net.JoinHostPort(server, port)
			}
			b.mailBy(k.line, server)
		default:
			b.note(k.line, "%s is not about services", k.words[0])
		}
	}
}

// maxRange bounds a range of addresses, whose last number only may differ where they are written so.
const maxRange = 1024

// addressRange is an address, or FIRST<separator>LAST, where LAST may be the last number only.
func addressRange(text, separator string) (addrs []netip.Addr, ok bool) {
	low, high, isRange := strings.Cut(text, separator)
	first, err := netip.ParseAddr(low)
	if err != nil || first.Zone() != "" {
		return nil, false
	}
	if !isRange {
		return []netip.Addr{first}, true
	}
	last, err := netip.ParseAddr(high)
	if err != nil {
		cut := strings.LastIndexAny(low, ".:") + 1
		last, err = netip.ParseAddr(low[:cut] + high)
	}
	if err != nil || last.BitLen() != first.BitLen() || last.Less(first) {
		return nil, false
	}
	for a := first; len(addrs) < maxRange; a = a.Next() {
		if addrs = append(addrs, a); a == last {
			return slices.Clip(addrs), true
		}
	}
	return nil, false
}
