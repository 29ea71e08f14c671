// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// markRule is director.MarkRule as written.
type markRule struct {
	mark           setting[uint32]
	protocol       setting[director.Protocol]
	source, dest   setting[netip.Prefix]
	sports, dports setting[[]director.PortRange]
	ingress        setting[string]
	dscp           setting[uint32]
}

var markObject = object[markRule]{
	what: "a mapping with mark and what it is given to",
	fields: []field[markRule]{
		key("mark", number(1, math.MaxUint32), func(m *markRule) *setting[uint32] { return &m.mark },
			"Firewall mark that matching packets get; the first rule that matches counts.").must(),
		key("protocol", protocol(), func(m *markRule) *setting[director.Protocol] { return &m.protocol },
			"IP protocol; any that services have if absent."),
		key("source", prefix(), func(m *markRule) *setting[netip.Prefix] { return &m.source },
			"Address or prefix that packets come from; any if absent."),
		key("destination", prefix(), func(m *markRule) *setting[netip.Prefix] { return &m.dest },
			"Address or prefix that packets are sent to; any if absent."),
		key("source_port", ports(), func(m *markRule) *setting[[]director.PortRange] { return &m.sports },
			"Port, range of ports such as 6970-7170, or several; any if absent."),
		key("destination_port", ports(), func(m *markRule) *setting[[]director.PortRange] { return &m.dports },
			"Port, range of ports such as 6970-7170, or several; any if absent."),
		key("interface", interfaceName(), func(m *markRule) *setting[string] { return &m.ingress },
			"Interface that packets come in by, one of interfaces; any if absent."),
		key("dscp", number(0, 63), func(m *markRule) *setting[uint32] { return &m.dscp },
			"Differentiated services code point; any if absent."),
	},
}

// prefix is an address, or one with the length of a prefix.
func prefix() kind[netip.Prefix] {
	const what = "an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32"
	k := parsed(what, schema{"type": "string"}, func(text string) (netip.Prefix, string, bool) {
		if a, err := netip.ParseAddr(text); err == nil {
			return netip.PrefixFrom(a, a.BitLen()), "", true
		}
		p, err := netip.ParsePrefix(text)
		return p, "", err == nil
	})
	return mapped(k, func(c cursor, p netip.Prefix) (netip.Prefix, bool) {
		if !plain(c, p.Addr()) {
			return p, false
		}
		if p != p.Masked() {
			c.failf("%s has ones after its prefix, write %s", p, p.Masked())
			return p, false
		}
		return p, true
	})
}

// ports are one port or range, or several: as text with commas, or as a list.
func ports() kind[[]director.PortRange] {
	const what = "a port such as 80, a range such as 6970-7170, or several of them"
	text := parsed(what, schema{"type": []string{"string", "integer"}}, func(text string) (all []director.PortRange, note string, ok bool) {
		for part := range strings.SplitSeq(text, ",") {
			r, note, ok := portRange(strings.TrimSpace(part))
			if !ok {
				return nil, note, false
			}
			all = append(all, r)
		}
		return all, "", true
	})
	list := listOf("ports", text)
	s := func() schema { return schema{"anyOf": []schema{text.schema(), list.schema()}} }
	return kind[[]director.PortRange]{s, func(c cursor) (all []director.PortRange, ok bool) {
		if c.isScalar() {
			return text.decode(c)
		}
		l, ok := list.decode(c)
		for _, part := range l.all {
			all = append(all, part.value...)
			ok = ok && part.ok
		}
		if ok && len(all) == 0 {
			c.expected(what, "")
		}
		return all, ok && len(all) > 0
	}}
}

func portRange(text string) (r director.PortRange, note string, ok bool) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, note, ok1 := decimal(first)
	b, note2, ok2 := decimal(last)
	if note == "" {
		note = note2
	}
	if !ok1 || !ok2 || a > math.MaxUint16 || b > math.MaxUint16 {
		return r, note, false
	}
	if a > b {
		return r, fmt.Sprintf("%d is above %d", a, b), false
	}
	return director.PortRange{First: uint16(a), Last: uint16(b)}, "", true
}

func (m *markRule) build() director.MarkRule {
	r := director.MarkRule{
		Mark: m.mark.value, Protocol: m.protocol.value, Source: m.source.value, Dest: m.dest.value,
		SourcePorts: m.sports.value, DestPorts: m.dports.value, Interface: m.ingress.value,
	}
	if m.dscp.ok {
		r.DSCP = new(uint8(m.dscp.value))
	}
	return r
}

// marks makes the marking rules, and names those that never count, or cross others.
func (b *builder) marks(all list[markRule]) {
	var places []cursor
	for _, s := range all.all {
		if !s.ok {
			continue
		}
		m := &s.value
		r := m.build()
		b.checkMark(m, r)
		b.config.Desired.Marks = append(b.config.Desired.Marks, r)
		places = append(places, s.at)
	}
	shadowed, crossing := director.MarkPairs(b.config.Desired.Marks)
	for _, p := range shadowed {
		places[p.Second].failf("no packet ever gets this mark: the rule in line %d matches all of them first", places[p.First].at.Line)
	}
	for i, p := range crossing {
		if i == mostCrossing {
			b.note(places[p.Second], "so do %d more rules", len(crossing)-i)
			break
		}
		b.note(places[p.Second], "some of its packets get mark %d, by the rule in line %d, which comes first",
			b.config.Desired.Marks[p.First].Mark, places[p.First].at.Line)
	}
}

// mostCrossing is how many of them are named.
const mostCrossing = 20

// note tells of what is no fault.
func (b *builder) note(c cursor, format string, args ...any) {
	b.config.Notes = append(b.config.Notes, Error{b.doc.file, c.at.Line, c.at.Column, c.path.String(), fmt.Sprintf(format, args...)})
}

// checkMark finds what holds between a rule's values.
func (b *builder) checkMark(m *markRule, r director.MarkRule) {
	if m.source.ok && m.dest.ok && r.Source.Addr().Is4() != r.Dest.Addr().Is4() {
		m.dest.at.failf("%s is of another address family than the source %s", r.Dest, r.Source)
	}
	named := func(i director.Interface) bool { return i.Name == r.Interface }
	if m.ingress.ok && !slices.ContainsFunc(b.config.Desired.Interfaces, named) {
		m.ingress.at.failf("%s is not one of interfaces", r.Interface)
	}
}
