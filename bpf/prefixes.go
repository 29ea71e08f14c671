// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
)

const (
	prefixWays    = int(directorLimitPREFIX_WAYS)
	prefixLists   = int(directorLimitPREFIX_LISTS)
	prefixLengths = int(directorLimitPREFIX_LENGTHS)
	prefixDepth   = int(directorLimitPREFIX_DEPTH)
	prefixSets    = 2
	prefixTrees   = prefixSets * prefixLists * 2 // for both families
	budgetBuckets = int(directorLimitBUDGET_BUCKETS)

	prefixNothing = uint64(directorPrefixSaysPREFIX_NOTHING)
	prefixAllow   = uint64(directorPrefixSaysPREFIX_ALLOW)
	prefixDeny    = uint64(directorPrefixSaysPREFIX_DENY)
	prefixLast    = uint64(directorPrefixSaysPREFIX_LAST)
	prefixSays    = uint64(directorPrefixSaysPREFIX_SAYS)
)

// prefixBuckets are those of both sets, at most a quarter full: then hardly any two neighbours are full.
func (s Sizes) prefixBuckets() uint32 {
	n := uint32(8)
	for uint64(n)*uint64(prefixWays) < 4*uint64(s.Prefixes) {
		n <<= 1
	}
	return prefixSets * n
}

// PrefixList says who may begin connections: the longest prefix that a client has decides. One that is
// in both is denied.
type PrefixList struct{ Allow, Deny []netip.Prefix }

// Prefixes are lists that are ready to be put in force.
type Prefixes struct {
	lists map[uint32]*preparedList // by number
	count int                      // entries
}

// preparedList is a list, by family.
type preparedList [2]preparedFamily

type preparedFamily struct {
	entries []prefixEntry
	tree    PrefixTree
}

type prefixEntry struct {
	prefix netip.Prefix
	says   uint64
}

// said is a prefix of a list, and the next shorter one of the list that holds it.
type said struct {
	prefixEntry
	parent *said
}

// PrefixLists is how many lists there may be; number 0 is none.
const PrefixLists = uint32(prefixLists)

// NewPrefixes prepares lists, by their numbers, from 1 to PrefixLists - 1. It fails if the tables have no
// room for them.
func NewPrefixes(lists map[uint32]PrefixList, t *Tables) (*Prefixes, error) {
	p := &Prefixes{lists: map[uint32]*preparedList{}}
	for number, l := range lists {
		prepared := new(preparedList)
		for family := range prepared {
			var err error
			if prepared[family], err = prepareFamily(l, family); err != nil {
				return nil, err
			}
			p.count += len(prepared[family].entries)
		}
		p.lists[number] = prepared
	}
	if room := t.PrefixRoom(); p.count > room {
		return nil, fmt.Errorf("prefix lists need %d entries (a prefix may need several), room for %d: %w", p.count, room, ErrFull)
	}
	return p, nil
}

// PrefixRoom is how many entries lists of prefixes may have together.
func (t *Tables) PrefixRoom() int { return len(t.Prefixes) / prefixSets * prefixWays / 4 }

// Entries are those that the lists need; nil has none.
func (p *Prefixes) Entries() int {
	if p == nil {
		return 0
	}
	return p.count
}

func prepareFamily(l PrefixList, family int) (f preparedFamily, err error) {
	all := sortedPrefixes(l, family)
	tree, err := newLengthTree(all)
	if err != nil {
		return f, err
	}
	f.tree = tree.row
	found := make(map[netip.Prefix]bool, len(all))
	for i := range all {
		f.entries = append(f.entries, all[i].prefixEntry)
		found[all[i].prefix] = true
	}
	for i := range all {
		for _, length := range tree.way[all[i].prefix.Bits()] {
			marker := netip.PrefixFrom(all[i].prefix.Addr(), length).Masked()
			if !found[marker] {
				found[marker] = true
				f.entries = append(f.entries, prefixEntry{marker, all[i].saysAt(length)})
			}
		}
	}
	return f, nil
}

// saysAt is what the list says of the first bits of a prefix.
func (s *said) saysAt(bits int) uint64 {
	for s != nil && s.prefix.Bits() > bits {
		s = s.parent
	}
	if s == nil {
		return prefixNothing
	}
	return s.says &^ prefixLast
}

// sortedPrefixes are a list's of one family, each before those inside it, and once.
func sortedPrefixes(l PrefixList, family int) (all []said) {
	add := func(prefixes []netip.Prefix, says uint64) {
		for _, p := range prefixes {
			if familyOf(p.Addr().Is6()) == family {
				all = append(all, said{prefixEntry: prefixEntry{p.Masked(), says | prefixLast}})
			}
		}
	}
	add(l.Deny, prefixDeny)
	add(l.Allow, prefixAllow)
	slices.SortStableFunc(all, func(a, b said) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	all = slices.CompactFunc(all, func(a, b said) bool { return a.prefix == b.prefix })
	var open *said
	for i := range all {
		for open != nil && !open.prefix.Contains(all[i].prefix.Addr()) {
			open = open.parent
		}
		if all[i].parent = open; open != nil {
			open.says &^= prefixLast
		}
		open = &all[i]
	}
	return all
}

// lengthTree is the order in which lengths are tried: those that many prefixes have come first.
type lengthTree struct {
	row  PrefixTree
	way  map[int][]int // to each length: the shorter ones that must be found before
	used uint32
}

func newLengthTree(all []said) (*lengthTree, error) {
	count := map[int]int{}
	for i := range all {
		count[all[i].prefix.Bits()]++
	}
	lengths := slices.Sorted(maps.Keys(count))
	if len(lengths) > prefixLengths {
		return nil, fmt.Errorf("a prefix list has %d different lengths of prefixes, room for %d: %w", len(lengths), prefixLengths, ErrFull)
	}
	t := &lengthTree{way: map[int][]int{}}
	t.row.Node[0] = t.plant(lengths, count, nil, prefixDepth) << 8
	return t, nil
}

// plant makes the tree of some lengths, so deep at most, and returns its root's number.
func (t *lengthTree) plant(lengths []int, count map[int]int, found []int, depth int) uint32 {
	if len(lengths) == 0 {
		return 0
	}
	root := rootOf(lengths, count, depth)
	t.used++
	number, length := t.used, lengths[root]
	t.way[length] = slices.Clone(found)
	longer := t.plant(lengths[root+1:], count, append(found, length), depth-1)
	shorter := t.plant(lengths[:root], count, found, depth-1)
	t.row.Node[number] = uint32(length) | longer<<8 | shorter<<16
	return number
}

// rootOf is the length that most prefixes have, of those that leave no more on either side than the depth
// has room for.
func rootOf(lengths []int, count map[int]int, depth int) int {
	root, room := len(lengths)/2, 1<<(depth-1)-1
	for i, length := range lengths {
		if i <= room && len(lengths)-1-i <= room && count[length] > count[lengths[root]] {
			root = i
		}
	}
	return root
}

// SetPrefixes puts lists in force, in the place of all former ones. Packets see the old ones or the new
// ones, whole.
func (t *Tables) SetPrefixes(p *Prefixes) {
	which := (atomic.LoadUint32(&t.Settings.PrefixSet) + 1) % prefixSets
	for !t.writePrefixes(p, which) { // two full buckets side by side: another factor spreads entries otherwise
	}
	atomic.StoreUint32(&t.Settings.PrefixSet, which)
}

func (t *Tables) writePrefixes(p *Prefixes, which uint32) bool {
	half := uint32(len(t.Prefixes) / prefixSets)
	set := &t.Settings.PrefixSets[which]
	set.Factor, set.Base, set.Mask = rand.Uint64()|1, which*half, half-1
	clear(t.Prefixes[set.Base:][:half])
	trees := t.Trees[int(which)*prefixLists*2:][:prefixLists*2]
	clear(trees)
	for number, l := range p.lists {
		for family := range l {
			f := &l[family]
			trees[int(number)*2+family] = f.tree
			for _, e := range f.entries {
				if !t.writePrefix(set.Base, half-1, prefixHash(e.prefix, number, set.Factor), e.says) {
					return false
				}
			}
		}
	}
	return true
}

func (t *Tables) writePrefix(base, mask uint32, hash, says uint64) bool {
	hash &^= prefixSays
	for spilled := range uint32(2) {
		b := &t.Prefixes[base+(uint32(hash>>3)+spilled)&mask]
		for i := range b.Entry {
			if b.Entry[i] == 0 {
				b.Entry[i] = hash | says
				return true
			}
			if b.Entry[i]&^prefixSays == hash {
				return false // another prefix looks the same
			}
		}
	}
	return false
}

func prefixMix(x, factor uint64) uint64 {
	x = (x ^ x>>32) * factor
	return x ^ x>>32
}

// prefixHash is prefix_hash of prefix.h.
func prefixHash(p netip.Prefix, list uint32, factor uint64) uint64 {
	bits := p.Bits()
	word := uint64(bits)<<32 | uint64(list)<<40
	if p.Addr().Is4() {
		addr := p.Addr().As4()
		return prefixMix(word|uint64(binary.BigEndian.Uint32(addr[:]))>>(32-bits), factor)
	}
	addr := p.Addr().As16()
	hi, lo := binary.BigEndian.Uint64(addr[:8]), binary.BigEndian.Uint64(addr[8:])
	if bits > 64 {
		lo >>= 128 - bits
	} else {
		hi, lo = hi>>(64-bits), 0
	}
	return prefixMix(prefixMix(prefixMix(word, factor)+hi, factor)+lo, factor)
}
