// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"xdplvs/bpf"
)

// region is a run of slots in the plans table.
type region struct {
	base, size uint32 // size 0: none
}

// arena gives out regions of the plans table: sizes are powers of two, free
// ones of a size wait in a list of their own. A region that is given back may
// be written at once: whoever still reads the old plan notices that the real
// server it names belongs to another service.
type arena struct {
	next, end uint32
	free      [33][]uint32 // bases, by log2 of the size
	used      uint32
}

func newArena(slots int) *arena { return &arena{end: uint32(slots)} }

func regionSize(slots int) uint32 {
	return max(bpf.PlanAlign, uint32(1)<<bits.Len32(uint32(max(slots, 1))-1))
}

func (a *arena) take(slots int) (region, error) {
	size := regionSize(slots)
	class := bits.TrailingZeros32(size)
	if n := len(a.free[class]); n > 0 {
		base := a.free[class][n-1]
		a.free[class] = a.free[class][:n-1]
		a.used += size
		return region{base, size}, nil
	}
	if size > a.end-a.next {
		return a.split(class)
	}
	r := region{a.next, size}
	a.next += size
	a.used += size
	return r, nil
}

// split halves a larger free region until one of the class is left.
func (a *arena) split(class int) (region, error) {
	for c := class + 1; c < len(a.free); c++ {
		n := len(a.free[c])
		if n == 0 {
			continue
		}
		base := a.free[c][n-1]
		a.free[c] = a.free[c][:n-1]
		for c--; c >= class; c-- {
			a.free[c] = append(a.free[c], base+1<<c)
		}
		a.used += 1 << class
		return region{base, 1 << class}, nil
	}
	return region{}, fmt.Errorf("take %d plan slots of %d, %d in use (raise limits.plan_slots): %w", 1<<class, a.end, a.used, bpf.ErrFull)
}

func (a *arena) give(r region) {
	if r.size == 0 {
		return
	}
	a.used -= r.size
	class := bits.TrailingZeros32(r.size)
	a.free[class] = append(a.free[class], r.base)
}

// claim marks regions that are in use already; what lies between them is free.
func (a *arena) claim(regions []region) {
	slices.SortFunc(regions, func(x, y region) int { return cmp.Compare(x.base, y.base) })
	for _, r := range regions {
		for a.next < r.base {
			size := uint32(1) << (bits.Len32(r.base-a.next) - 1)
			a.free[bits.TrailingZeros32(size)] = append(a.free[bits.TrailingZeros32(size)], a.next)
			a.next += size
		}
		a.next = max(a.next, r.base+r.size)
		a.used += r.size
	}
}
