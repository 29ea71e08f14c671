// SPDX-License-Identifier: Apache-2.0

package director

import (
	"math/bits"

	"xdplvs/bpf"
)

// region is a run of slots in the plans table.
type region struct {
	base, size uint32 // size 0: none
}

// arena gives out regions of the plans table by the buddy method: sizes are
// powers of two, a region lies at a multiple of its size, and two free halves
// become one again. A region that is given back may be written at once: whoever
// still reads the old plan notices that the real server it names belongs to
// another service.
type arena struct {
	end  uint32
	used uint32
	free [32]places // by log2 of the size
}

func newArena(slots int) *arena {
	a := &arena{end: uint32(slots) &^ (bpf.PlanAlign - 1)}
	for class := classOf(bpf.PlanAlign); class < len(a.free); class++ {
		a.free[class].bits = make([]uint64, a.end>>class/64+1)
	}
	for at := uint32(0); at < a.end; {
		class := bits.Len32(a.end-at) - 1
		a.free[class].add(at >> class)
		at += 1 << class
	}
	return a
}

// regionSize is the size of the region that so many slots need.
func regionSize(slots int) uint32 {
	return max(bpf.PlanAlign, uint32(1)<<bits.Len32(uint32(max(slots, 1))-1))
}

// take gives out a region of the size; false if no free one is large enough.
func (a *arena) take(size uint32) (region, bool) { return a.takeBelow(a.end, size) }

// takeBelow is take for a region that begins before some slot.
func (a *arena) takeBelow(slot, size uint32) (region, bool) {
	for class := classOf(size); class < len(a.free); class++ {
		i, ok := a.free[class].first()
		if !ok || i<<class >= slot {
			continue
		}
		r := region{i << class, size}
		a.carve(r, class)
		return r, true
	}
	return region{}, false
}

// claim takes a region that is in use already; false if that cannot be.
func (a *arena) claim(r region) bool {
	if r.size < bpf.PlanAlign || r.base%r.size != 0 {
		return false
	}
	for class := classOf(r.size); class < len(a.free); class++ {
		if a.free[class].has(r.base >> class) {
			a.carve(r, class)
			return true
		}
	}
	return false
}

// carve cuts a region out of the free one of the class in which it lies.
func (a *arena) carve(r region, class int) {
	a.free[class].remove(r.base >> class)
	for class > classOf(r.size) {
		class--
		a.free[class].add(r.base>>class ^ 1)
	}
	a.used += r.size
}

func (a *arena) give(r region) {
	if r.size == 0 {
		return
	}
	a.used -= r.size
	class, i := classOf(r.size), r.base>>classOf(r.size)
	for ; a.free[class].has(i ^ 1); class++ {
		a.free[class].remove(i ^ 1)
		i >>= 1
	}
	a.free[class].add(i)
}

func classOf(size uint32) int { return bits.TrailingZeros32(size) }

// places are the free regions of one size: number i begins at i times the size.
type places struct {
	bits []uint64
	n    int // bits that are set
	from int // no bit before this word is
}

func (p *places) has(i uint32) bool {
	return int(i/64) < len(p.bits) && p.bits[i/64]>>(i%64)&1 != 0
}

func (p *places) add(i uint32) {
	p.bits[i/64] |= 1 << (i % 64)
	p.n++
	p.from = min(p.from, int(i/64))
}

func (p *places) remove(i uint32) {
	p.bits[i/64] &^= 1 << (i % 64)
	p.n--
}

// first is the lowest.
func (p *places) first() (uint32, bool) {
	if p.n == 0 {
		return 0, false
	}
	for p.bits[p.from] == 0 {
		p.from++
	}
	return uint32(p.from*64 + bits.TrailingZeros64(p.bits[p.from])), true
}
