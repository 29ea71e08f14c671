// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
)

// MarkRule gives packets a firewall mark. What it leaves out matches every packet.
type MarkRule struct {
	V6          bool
	Source      netip.Prefix
	Dest        netip.Prefix
	SourcePorts []PortRange
	DestPorts   []PortRange
	Protocol    uint8
	Interface   uint32 // index; NoInterface: of none that there is
	DSCP        int    // -1: any
	Mark        uint32
}

// NoInterface is the index of an interface that does not exist (yet).
const NoInterface = ^uint32(0)

// PortRange is from First to Last, both included.
type PortRange struct{ First, Last uint16 }

const (
	markWays   = int(directorLimitMARK_WAYS)
	markWords  = int(directorLimitMARK_WORDS)
	markShapes = int(directorLimitMARK_SHAPES)
)

// The sets of rules: one in force, one being written.
const markSets = 2

// markWordsOf are a rule's words, or their masks.
type markWordsOf [markWords]uint64

// marking is a rule, or a part of one that is split, as the data plane has it.
type marking struct {
	v6        bool
	key, mask markWordsOf
	rule      int
	mark      uint32
}

// Marks are marking rules that are ready to be put in force.
type Marks struct {
	rules   []MarkRule
	entries []marking
	shapes  [2][]markShape // IPv4, IPv6
}

type markShape struct {
	mask  markWordsOf
	first int
}

// NewMarks prepares rules; the first that matches a packet counts. It fails if the
// tables have no room for them: size is that of MarkRules.
func NewMarks(rules []MarkRule, t *Tables) (*Marks, error) {
	m := &Marks{rules: rules}
	for i := range rules {
		m.entries = append(m.entries, rules[i].expand(i)...)
		if len(m.entries) > markRoom(t) {
			return nil, fmt.Errorf("%d marking rules need more than the %d entries that there is room for (a range of ports needs several): %w",
				len(rules), markRoom(t), ErrFull)
		}
	}
	for _, e := range m.entries {
		m.addShape(&e)
	}
	for family, shapes := range m.shapes {
		if len(shapes) > markShapes {
			return nil, fmt.Errorf("marking rules have %d different shapes of IPv%d packets, room for %d (a shape is a set of prefix lengths, port range sizes and other things asked for): %w",
				len(shapes), 4+2*family, markShapes, ErrFull)
		}
	}
	return m, nil
}

// markRoom is how many entries find room: half of the places of a set.
func markRoom(t *Tables) int { return len(t.MarkRules) / markSets * markWays / 2 }

func familyOf(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

func (m *Marks) addShape(e *marking) {
	shapes := &m.shapes[familyOf(e.v6)]
	if !slices.ContainsFunc(*shapes, func(s markShape) bool { return s.mask == e.mask }) {
		*shapes = append(*shapes, markShape{e.mask, e.rule}) // entries come in the order of rules
	}
}

// expand splits the ranges of ports.
func (r *MarkRule) expand(number int) (all []marking) {
	e := marking{v6: r.V6, rule: number, mark: r.Mark}
	e.addr(0, r.Source)
	e.addr(2, r.Dest)
	if r.Interface != 0 {
		e.want(4, uint64(r.Interface)<<32, 0xffffffff<<32)
	}
	if r.Protocol != 0 {
		e.want(5, uint64(r.Protocol), 0xff)
	}
	if r.DSCP >= 0 {
		e.want(5, uint64(r.DSCP)<<8, 0xff<<8)
	}
	for _, source := range splitPorts(r.SourcePorts) {
		for _, dest := range splitPorts(r.DestPorts) {
			part := e
			part.want(4, uint64(bits.ReverseBytes16(source.value)), uint64(bits.ReverseBytes16(source.mask)))
			part.want(4, uint64(bits.ReverseBytes16(dest.value))<<16, uint64(bits.ReverseBytes16(dest.mask))<<16)
			all = append(all, part)
		}
	}
	return all
}

func (e *marking) want(word int, key, mask uint64) {
	e.key[word] |= key
	e.mask[word] |= mask
}

// addr puts a prefix into two words.
func (e *marking) addr(word int, p netip.Prefix) {
	if !p.IsValid() {
		return
	}
	key := p.Masked().Addr().AsSlice()
	mask := net.CIDRMask(p.Bits(), 8*len(key))
	if len(key) == 4 {
		e.want(word, uint64(binary.NativeEndian.Uint32(key)), uint64(binary.NativeEndian.Uint32(mask)))
		return
	}
	for i := range 2 {
		e.want(word+i, binary.NativeEndian.Uint64(key[8*i:]), binary.NativeEndian.Uint64(mask[8*i:]))
	}
}

// portPrefix are the ports that have value's bits where mask has ones.
type portPrefix struct{ value, mask uint16 }

// splitPorts turns ranges into prefixes, 30 of them at most for each; no range is every port.
func splitPorts(ranges []PortRange) (all []portPrefix) {
	if len(ranges) == 0 {
		return []portPrefix{{}}
	}
	for _, r := range ranges {
		for first, last := uint32(r.First), uint32(r.Last); first <= last; {
			size := uint32(1) << 16
			if first != 0 {
				size = first & -first
			}
			for size > last-first+1 {
				size /= 2
			}
			all = append(all, portPrefix{uint16(first), ^uint16(size - 1)})
			first += size
		}
	}
	return all
}

// Equal reports whether both have the same rules.
func (m *Marks) Equal(o *Marks) bool {
	return slices.EqualFunc(m.rules, o.rules, func(a, b MarkRule) bool {
		return slices.Equal(a.SourcePorts, b.SourcePorts) && slices.Equal(a.DestPorts, b.DestPorts) &&
			a.V6 == b.V6 && a.Source == b.Source && a.Dest == b.Dest && a.Protocol == b.Protocol &&
			a.Interface == b.Interface && a.DSCP == b.DSCP && a.Mark == b.Mark
	})
}

// SetMarks puts rules in force, in the place of all former ones. Packets see the
// old set or the new one, whole.
func (k *KeyTable) SetMarks(m *Marks) {
	t := k.t
	which := (atomic.LoadUint32(&t.Settings.MarkSet) + 1) % markSets
	for !t.writeMarks(m, which) { // too many keys of one bucket: others factors spread them otherwise
	}
	if atomic.LoadUint32(&t.Settings.Marking) != MarksNone || len(m.rules) > 0 {
		atomic.StoreUint32(&t.Settings.Marking, MarksAny)
	}
	atomic.StoreUint32(&t.Settings.MarkSet, which)
	keys, exact := m.keys()
	for _, key := range keys {
		k.count(key, 1)
	}
	for _, key := range k.marked {
		k.count(key, -1)
	}
	k.marked = keys
	switch {
	case len(m.rules) == 0:
		atomic.StoreUint32(&t.Settings.Marking, MarksNone)
	case exact:
		atomic.StoreUint32(&t.Settings.Marking, MarksKnown)
	}
}

// writeMarks fills the set that is not in force; false: a bucket was too small.
func (t *Tables) writeMarks(m *Marks, which uint32) bool {
	half := uint32(len(t.MarkRules) / markSets)
	set := (*MarkSet)(&t.Settings.MarkSets[which])
	set.Base, set.Mask = which*half, half-1
	for i := range set.Factor {
		set.Factor[i] = rand.Uint64() | 1
	}
	clear(t.MarkRules[set.Base:][:half])
	for family, shapes := range m.shapes {
		set.Shapes[family] = uint32(len(shapes))
		base := t.shapeBase(which, family)
		for i, s := range shapes {
			t.MarkShapes[base+i] = MarkShape{Mask: s.mask, First: uint32(s.first)}
		}
	}
	for i := range m.entries {
		if !t.writeMark(&m.entries[i], m, set, which) {
			return false
		}
	}
	return true
}

func (t *Tables) shapeBase(which uint32, family int) int { return (int(which)*2 + family) * markShapes }

// writeMark fills the first free place of the key's two buckets, in this order: the program looks
// into the second only where the first is full.
func (t *Tables) writeMark(e *marking, m *Marks, set *MarkSet, which uint32) bool {
	family := familyOf(e.v6)
	shape := slices.IndexFunc(m.shapes[family], func(s markShape) bool { return s.mask == e.mask })
	key := e.key
	key[5] |= uint64(t.shapeBase(which, family)+shape) << 32
	h := markHash(key, set)
	first, second := &t.MarkRules[set.Base+uint32(h)&set.Mask], &t.MarkRules[set.Base+secondBucket(h)&set.Mask]
	var slot *directorMarkRule
	for _, b := range []*MarkBucket{first, second} {
		for i := range b.Rule {
			switch r := &b.Rule[i]; {
			case r.Rule != 0 && r.Key == key:
				return true // an earlier rule has it
			case r.Rule == 0 && slot == nil:
				slot = r
			}
		}
	}
	if slot == nil {
		return false
	}
	*slot = directorMarkRule{Key: key, Rule: uint32(e.rule) + 1, Mark: bits.ReverseBytes32(e.mark)}
	return true
}

// markHash is mark_hash of mark.h.
func markHash(key markWordsOf, set *MarkSet) (h uint64) {
	for i, word := range key {
		h += word * set.Factor[i]
	}
	return h ^ h>>32
}

// secondBucket is second_bucket of service.h.
func secondBucket(hash uint64) uint32 { return uint32(hash * 0x9e3779b97f4a7c15 >> 32) }

// markedPorts is up to how many addresses and ports the filter is told of.
const markedPorts = 4096

// keys are what marked packets are known by, if the rules name addresses, protocols
// and not too many ports; exact is false if they do not.
func (m *Marks) keys() (keys []Key, exact bool) {
	for i := range m.rules {
		r := &m.rules[i]
		if !r.Dest.IsSingleIP() || r.Protocol == 0 || len(r.DestPorts) == 0 {
			return nil, false
		}
		keys = append(keys, icmpKey(r.Dest.Addr()))
		for _, ports := range r.DestPorts {
			if len(keys)+int(ports.Last-ports.First) > markedPorts {
				return nil, false
			}
			for port := uint32(ports.First); port <= uint32(ports.Last); port++ {
				keys = append(keys, Key{Addr: r.Dest.Addr(), Port: uint16(port), Protocol: r.Protocol})
			}
		}
	}
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(keys), true
}

// icmpKey is the key of an address itself, by which ICMP and fragments are known.
func icmpKey(addr netip.Addr) Key {
	if addr.Is4() {
		return Key{Addr: addr, Protocol: 1}
	}
	return Key{Addr: addr, Protocol: 58}
}
