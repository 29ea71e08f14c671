// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"math/bits"
)

// Cost is the fraction Num/Den by which servers compete; the least wins. Den must
// be above 0.
type Cost struct{ Num, Den uint64 }

// Compare returns -1, 0 or 1 as c is less than, equal to or more than d. It
// multiplies crosswise in 128 bits: an overhead below 2^42 times a 32-bit weight
// does not fit in 64, and a rounded quotient would break ties that IPVS sees.
func (c Cost) Compare(d Cost) int {
	chi, clo := bits.Mul64(c.Num, d.Den)
	dhi, dlo := bits.Mul64(d.Num, c.Den)
	if chi != dhi {
		return cmp.Compare(chi, dhi)
	}
	return cmp.Compare(clo, dlo)
}

// CostFunc is a whole scheduler in one function: the cost of giving s the next
// connection, and whether s may have it at all (ok implies s.Usable()). It must
// depend on s alone.
type CostFunc func(s Server) (cost Cost, ok bool)

// NewRanked returns a sequence scheduler that always takes the server of least
// cost, of equal ones the first in the list.
func NewRanked(name string, cost CostFunc) Scheduler {
	return &ranked{name: name, cost: cost, uses: usesActive | usesInactive}
}

// counts says which counts a cost looks at.
type counts uint8

const (
	usesActive counts = 1 << iota
	usesInactive
)

// moved reports whether a connection counted so changes what the cost looks at.
func (u counts) moved(c Counting) bool {
	return c == CountActive && u&usesActive != 0 || c == CountInactive && u&usesInactive != 0
}

// growth is how a server's cost grows with its connections; it decides whether
// Forward may conclude that its choices repeat.
type growth uint8

const (
	growthUnknown   growth = iota
	growthLinear           // each connection adds the same to Num, Den stays
	growthAfterIdle        // the same, once no server's cost is 0
)

// ranked has no state: the counts say all.
type ranked struct {
	name   string
	cost   CostFunc
	uses   counts
	growth growth
	eases  bool // the cost rises where a slow start holds a server back
}

func (r *ranked) Name() string     { return r.name }
func (r *ranked) Kind() Kind       { return Sequence }
func (r *ranked) Edit([]Server)    {}
func (r *ranked) Clone() Scheduler { return r }

func (r *ranked) Pick(_ Packet, servers []Server) int { return least(servers, r.cost) }

// least returns the index of the first server of least cost, or -1.
func least(servers []Server, cost CostFunc) int {
	best, bestCost := -1, Cost{}
	for i := range servers {
		c, ok := cost(servers[i])
		if ok && (best < 0 || c.Compare(bestCost) < 0) {
			best, bestCost = i, c
		}
	}
	return best
}

// field holds the competitors as a binary heap: by cost, then by place in the
// list. Only its top ever changes, so sifting down is all it needs.
type field struct {
	cost []Cost // by index, of all servers
	heap []int
}

func newField(size int) *field { return &field{cost: make([]Cost, size)} }

// enter adds a competitor; heapify must follow.
func (f *field) enter(i int, c Cost) {
	f.cost[i] = c
	f.heap = append(f.heap, i)
}

func (f *field) heapify() {
	for i := len(f.heap)/2 - 1; i >= 0; i-- {
		f.sift(i)
	}
}

func (f *field) before(a, b int) bool {
	if c := f.cost[a].Compare(f.cost[b]); c != 0 {
		return c < 0
	}
	return a < b
}

func (f *field) sift(at int) {
	for {
		first := at
		for child := 2*at + 1; child <= 2*at+2 && child < len(f.heap); child++ {
			if f.before(f.heap[child], f.heap[first]) {
				first = child
			}
		}
		if first == at {
			return
		}
		f.heap[at], f.heap[first] = f.heap[first], f.heap[at]
		at = first
	}
}

// top returns the winner, or -1.
func (f *field) top() int {
	if len(f.heap) == 0 {
		return -1
	}
	return f.heap[0]
}

// settle gives the winner its new cost, or removes it.
func (f *field) settle(c Cost, stays bool) {
	f.cost[f.heap[0]] = c
	if !stays {
		last := len(f.heap) - 1
		f.heap[0] = f.heap[last]
		f.heap = f.heap[:last]
	}
	f.sift(0)
}
