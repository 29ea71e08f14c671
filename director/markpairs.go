// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// MarkPair are two marking rules that can match the same packet, by their place in a list.
type MarkPair struct{ First, Second int }

// MarkPairs compares marking rules, of which the first that matches a packet counts. Shadowed rules
// never count: the first one matches all of their packets. Crossing ones share some packets, give
// them different marks, and neither is a special case of the other; each second one is named once.
func MarkPairs(rules []MarkRule) (shadowed, crossing []MarkPair) {
	outlines, names := make([]outline, len(rules)), map[string]uint64{}
	cover, cross := make([]int, len(rules)), make([]int, len(rules))
	for i := range rules {
		outlines[i] = rules[i].outline(names)
		cover[i], cross[i] = i, i
	}
	candidates(outlines, func(a, b int) {
		first, second := min(a, b), max(a, b)
		if first >= cover[second] || outlines[a].apart(&outlines[b]) || !rules[a].sharesPorts(&rules[b]) {
			return
		}
		if rules[first].Covers(&rules[second]) {
			cover[second] = first
		} else if first < cross[second] && rules[first].Mark != rules[second].Mark && !rules[second].Covers(&rules[first]) {
			cross[second] = first
		}
	})
	for i := range rules {
		if cover[i] < i {
			shadowed = append(shadowed, MarkPair{cover[i], i})
		} else if cross[i] < i {
			crossing = append(crossing, MarkPair{cross[i], i})
		}
	}
	return shadowed, crossing
}

// candidates calls yield for each pair that may share packets. Destinations tell most rules apart, or
// else their ports do: of several ways to put them in order, the one is taken that leaves fewest pairs.
func candidates(outlines []outline, yield func(a, b int)) {
	var best []span
	least := -1
	for _, of := range []func(*outline) span{(*outline).destSpan, (*outline).sourceSpan, (*outline).portSpan} {
		spans := make([]span, len(outlines))
		for i := range outlines {
			spans[i] = of(&outlines[i])
			spans[i].rule = i
		}
		slices.SortFunc(spans, func(a, b span) int { return a.first.compare(b.first) })
		pairs := 0
		for i := range spans {
			pairs += meeting(spans, i)
		}
		if least < 0 || pairs < least {
			best, least = spans, pairs
		}
	}
	for i := range best {
		for _, o := range best[i+1:][:meeting(best, i)] {
			yield(best[i].rule, o.rule)
		}
	}
}

// meeting is how many of those that begin after a span begin within it.
func meeting(spans []span, i int) int {
	n, _ := slices.BinarySearchFunc(spans[i+1:], spans[i].last, func(s span, last point) int {
		if s.first.compare(last) <= 0 {
			return -1
		}
		return 1
	})
	return n
}

// A span is what a rule wants of one part of a packet, from first to last.
type span struct {
	first, last point
	rule        int
}

type point [2]uint64

func (p point) compare(o point) int { return cmp.Or(cmp.Compare(p[0], o[0]), cmp.Compare(p[1], o[1])) }

func (o *outline) destSpan() span   { return o.addressSpan(0) }
func (o *outline) sourceSpan() span { return o.addressSpan(2) }

func (o *outline) addressSpan(word int) (s span) {
	for i := range s.first {
		s.first[i] = o.bits[word+i]
		s.last[i] = o.bits[word+i] | ^o.mask[word+i]
	}
	return s
}

func (o *outline) portSpan() span {
	return span{first: point{1: uint64(o.dports.First)}, last: point{1: uint64(o.dports.Last)}}
}

// An outline is what of a rule can be compared quickly, as there are many pairs: bits, and which of them
// it wants. Two addresses; protocol, DSCP, interface and family; the ports are between the outer ones.
type outline struct {
	bits, mask     [5]uint64
	sports, dports PortRange
}

// apart reports whether no packet can match both. False is not certain: ports may be several.
func (o *outline) apart(p *outline) bool {
	if o.dports.apart(p.dports) { // what rules differ by most comes first
		return true
	}
	differ := (o.bits[1]^p.bits[1])&o.mask[1]&p.mask[1] | (o.bits[0]^p.bits[0])&o.mask[0]&p.mask[0] |
		(o.bits[2]^p.bits[2])&o.mask[2]&p.mask[2] | (o.bits[3]^p.bits[3])&o.mask[3]&p.mask[3] |
		(o.bits[4]^p.bits[4])&o.mask[4]&p.mask[4]
	return differ != 0 || o.sports.apart(p.sports)
}

func (r PortRange) apart(o PortRange) bool { return r.Last < o.First || o.Last < r.First }

// outline: names numbers the interfaces.
func (r *MarkRule) outline(names map[string]uint64) (o outline) {
	o.address(0, r.Dest)
	o.address(2, r.Source)
	want := func(bits, mask uint64) { o.bits[4] |= bits; o.mask[4] |= mask }
	if families := r.families(); len(families) == 1 && families[0] {
		want(1<<48, 1<<48)
	} else if len(families) == 1 {
		want(0, 1<<48)
	}
	if r.Protocol != 0 {
		want(uint64(r.Protocol), 0xff)
	}
	if r.DSCP != nil {
		want(uint64(*r.DSCP)<<8, 0xff<<8)
	}
	if r.Interface != "" {
		if names[r.Interface] == 0 {
			names[r.Interface] = uint64(len(names) + 1)
		}
		want(names[r.Interface]<<16, 0xffffffff<<16)
	}
	o.sports, o.dports = outerPorts(r.SourcePorts), outerPorts(r.DestPorts)
	return o
}

// address puts a prefix into two words. IPv4 is mapped.
func (o *outline) address(word int, p netip.Prefix) {
	if !p.IsValid() {
		return
	}
	b := p.Addr().As16()
	ones := p.Bits()
	if p.Addr().Is4() {
		ones += 96
	}
	o.mask[word], o.mask[word+1] = ^(^uint64(0) >> min(ones, 64)), ^(^uint64(0) >> max(0, ones-64))
	o.bits[word], o.bits[word+1] = binary.BigEndian.Uint64(b[:8])&o.mask[word], binary.BigEndian.Uint64(b[8:])&o.mask[word+1]
}

// outerPorts is from the first to the last.
func outerPorts(ranges []PortRange) PortRange {
	if len(ranges) == 0 {
		return PortRange{0, 65535}
	}
	all := ranges[0]
	for _, r := range ranges {
		all = PortRange{min(all.First, r.First), max(all.Last, r.Last)}
	}
	return all
}

// sharesPorts reports whether a packet's ports can match both.
func (r *MarkRule) sharesPorts(o *MarkRule) bool {
	shares := func(a, b []PortRange) bool {
		return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(p PortRange) bool {
			return slices.ContainsFunc(b, func(q PortRange) bool { return !p.apart(q) })
		})
	}
	return shares(r.DestPorts, o.DestPorts) && shares(r.SourcePorts, o.SourcePorts)
}
