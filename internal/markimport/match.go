// SPDX-License-Identifier: Apache-2.0

package markimport

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// match is what a rule wants of a packet: one of each list. nil is anything, an empty list nothing.
type match struct {
	families       []bool // IPv6?
	protocols      []director.Protocol
	source, dest   []netip.Prefix
	sports, dports []director.PortRange
	interfaces     []string
	dscps          []uint8
}

// meet is what both want.
func (m match) meet(o match) match {
	return match{
		families:   both(m.families, o.families, same),
		protocols:  both(m.protocols, o.protocols, same),
		source:     both(m.source, o.source, meetPrefix),
		dest:       both(m.dest, o.dest, meetPrefix),
		sports:     both(m.sports, o.sports, meetPorts),
		dports:     both(m.dports, o.dports, meetPorts),
		interfaces: both(m.interfaces, o.interfaces, same),
		dscps:      both(m.dscps, o.dscps, same),
	}
}

// both lists what pairs have in common.
func both[T comparable](a, b []T, meet func(a, b T) (T, bool)) []T {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	all, has := []T{}, map[T]bool{}
	for _, x := range a {
		for _, y := range b {
			if z, ok := meet(x, y); ok && !has[z] {
				all, has[z] = append(all, z), true
			}
		}
	}
	return all
}

func same[T comparable](a, b T) (T, bool) { return a, a == b }

func meetPrefix(a, b netip.Prefix) (netip.Prefix, bool) {
	if a.Bits() < b.Bits() {
		a, b = b, a
	}
	return a, a.Overlaps(b)
}

func meetPorts(a, b director.PortRange) (director.PortRange, bool) {
	r := director.PortRange{First: max(a.First, b.First), Last: min(a.Last, b.Last)}
	return r, r.First <= r.Last
}

// empty reports whether no packet can match.
func (m match) empty() bool {
	none := func(isNil bool, n int) bool { return !isNil && n == 0 }
	return none(m.families == nil, len(m.families)) || none(m.protocols == nil, len(m.protocols)) ||
		none(m.source == nil, len(m.source)) || none(m.dest == nil, len(m.dest)) ||
		none(m.sports == nil, len(m.sports)) || none(m.dports == nil, len(m.dports)) ||
		none(m.interfaces == nil, len(m.interfaces)) || none(m.dscps == nil, len(m.dscps)) || len(m.possible()) == 0
}

// possible are the families of packets that can match: addresses tell, too.
func (m match) possible() (all []bool) {
	for _, v6 := range []bool{false, true} {
		is := func(p netip.Prefix) bool { return p.Addr().Is6() == v6 }
		if (m.families == nil || slices.Contains(m.families, v6)) && (m.source == nil || slices.ContainsFunc(m.source, is)) &&
			(m.dest == nil || slices.ContainsFunc(m.dest, is)) {
			all = append(all, v6)
		}
	}
	return all
}

// overlaps reports whether a packet can match both.
func (m match) overlaps(o match) bool { return !m.meet(o).empty() }

// mostRules is how many rules one of the firewall's may become.
const mostRules = 4096

// rules are what the match is in the director's words: lists of ports stay, others become several rules.
func (m match) rules(mark uint32) (all []director.MarkRule, err error) {
	families := m.possible()
	for _, v6 := range families {
		one := director.MarkRule{Mark: mark, SourcePorts: m.sports, DestPorts: m.dports}
		list := []director.MarkRule{one}
		list = times(list, ofFamily(m.source, v6), func(r *director.MarkRule, p netip.Prefix) { r.Source = p })
		list = times(list, ofFamily(m.dest, v6), func(r *director.MarkRule, p netip.Prefix) { r.Dest = p })
		if m.source == nil && m.dest == nil && len(families) == 1 { // or it would match the other family, too
			list = times(list, []netip.Prefix{everything(v6)}, func(r *director.MarkRule, p netip.Prefix) { r.Dest = p })
		}
		list = times(list, m.protocols, func(r *director.MarkRule, p director.Protocol) { r.Protocol = p })
		list = times(list, m.interfaces, func(r *director.MarkRule, name string) { r.Interface = name })
		list = times(list, m.dscps, func(r *director.MarkRule, dscp uint8) { r.DSCP = &dscp })
		if all = append(all, list...); len(all) > mostRules {
			return nil, fmt.Errorf("it would become more than %d rules", mostRules)
		}
		if m.source == nil && m.dest == nil {
			break // a rule without addresses is for both
		}
	}
	return all, nil
}

func everything(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func ofFamily(list []netip.Prefix, v6 bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 })
}

// times makes each rule as many as there are values; without values it stays. Beyond the limit it stops.
func times[T any](rules []director.MarkRule, values []T, set func(*director.MarkRule, T)) []director.MarkRule {
	if len(values) == 0 {
		return rules
	}
	var all []director.MarkRule
	for _, r := range rules {
		for _, v := range values {
			set(&r, v)
			if all = append(all, r); len(all) > mostRules {
				return all
			}
		}
	}
	return all
}

// prefixes are those that hold the addresses from first to last, and no others.
func prefixes(first, last netip.Addr) (all []netip.Prefix, ok bool) {
	if !first.IsValid() || first.BitLen() != last.BitLen() || last.Less(first) || first.Zone()+last.Zone() != "" {
		return nil, false
	}
	for {
		p := netip.PrefixFrom(first, first.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1)
			if wider.Masked().Addr() != first || last.Less(lastOf(wider)) {
				break
			}
			p = wider
		}
		if all = append(all, p); p.Addr().Is4In6() {
			return nil, false // that is IPv4, and on no wire
		}
		end := lastOf(p)
		if end == last {
			return all, true
		}
		first = end.Next()
	}
}

// isInterface reports whether an interface can have the name.
func isInterface(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." && !strings.ContainsAny(name, "/:\x00 \t\n\v\f\r")
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // never fails: the length is an address's
	return a
}
