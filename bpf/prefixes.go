// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
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

// lengthTree is the order in which lengths are tried.
type lengthTree struct {
	row     PrefixTree
	way     map[int][]int // to each length: the shorter ones that must be found before
	used    uint32
	lengths []int     // that there are, in order
	named   []float64 // of all prefixes, the share of those of each length
	covers  []float64 // of all addresses, the share that a prefix of a length, or a longer one, begins like
	costs   map[lengthSpan]lengthCost
}

// lengthSpan are lengths, from one on up to another, and how deep a tree of them may be.
type lengthSpan struct{ from, to, depth int }

// lengthCost is that of the best tree, and its root.
type lengthCost struct {
	steps float64
	root  int
}

func newLengthTree(all []said) (*lengthTree, error) {
	count := map[int]int{}
	for i := range all {
		count[all[i].prefix.Bits()]++
	}
	t := &lengthTree{way: map[int][]int{}, lengths: slices.Sorted(maps.Keys(count)), costs: map[lengthSpan]lengthCost{}}
	if len(t.lengths) > prefixLengths {
		return nil, fmt.Errorf("a prefix list has %d different lengths of prefixes, room for %d: %w", len(t.lengths), prefixLengths, ErrFull)
	}
	for _, length := range t.lengths {
		t.named = append(t.named, float64(count[length])/float64(len(all)))
		t.covers = append(t.covers, covered(all, length))
	}
	t.row.Node[0] = t.plant(lengthSpan{0, len(t.lengths), prefixDepth}, nil) << 8
	return t, nil
}

// covered is the share of all addresses whose first bits are those of a prefix that is so long, or longer.
func covered(all []said, length int) float64 {
	var last netip.Prefix
	n := 0
	for i := range all {
		if p := all[i].prefix; p.Bits() >= length && (n == 0 || !last.Contains(p.Addr())) {
			last = netip.PrefixFrom(p.Addr(), length)
			n++
		}
	}
	return math.Ldexp(float64(n), -length)
}

// plant makes the tree of a span, and returns its root's number.
func (t *lengthTree) plant(s lengthSpan, found []int) uint32 {
	if s.from == s.to {
		return 0
	}
	root := t.cost(s).root
	t.used++
	number, length := t.used, t.lengths[root]
	t.way[length] = slices.Clone(found)
	longer := t.plant(lengthSpan{root + 1, s.to, s.depth - 1}, append(found, length))
	shorter := t.plant(lengthSpan{s.from, root, s.depth - 1}, found)
	t.row.Node[number] = uint32(length) | longer<<8 | shorter<<16
	return number
}

// cost is how many steps of a look-up the best tree of a span takes on average, with one client for each
// prefix and as many from anywhere (Knuth, "Optimum binary search trees", 1971).
func (t *lengthTree) cost(s lengthSpan) (best lengthCost) {
	if s.from == s.to {
		return best
	}
	if known, ok := t.costs[s]; ok {
		return known
	}
	best.steps = math.Inf(1)
	for root, room := s.from, 1<<(s.depth-1)-1; root < s.to; root++ {
		if root-s.from > room || s.to-1-root > room {
			continue
		}
		steps := t.cost(lengthSpan{s.from, root, s.depth - 1}).steps + t.cost(lengthSpan{root + 1, s.to, s.depth - 1}).steps
		if steps < best.steps {
			best = lengthCost{steps, root}
		}
	}
	best.steps += t.asked(s)
	t.costs[s] = best
	return best
}

// asked is how many look-ups come to a span: those of its lengths' prefixes, and those from anywhere that the
// next shorter length leads to, but not the next longer one.
func (t *lengthTree) asked(s lengthSpan) float64 {
	anywhere := 1.0
	if s.from > 0 {
		anywhere = t.covers[s.from-1]
	}
	if s.to < len(t.covers) {
		anywhere -= t.covers[s.to]
	}
	for _, share := range t.named[s.from:s.to] {
		anywhere += share
	}
	return anywhere
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
