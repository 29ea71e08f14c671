// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"math/rand/v2"
	"slices"
)

// twos, the power of two choices: of two servers drawn at random by weight the
// one with less load per weight.
type twos struct{ source rand.PCG }

// newTwos takes a source of its own, because an injected generator could not be
// copied by Clone.
func newTwos(o Options) (Scheduler, error) {
	word := rand.Uint64
	if o.Rand != nil {
		word = o.Rand.Uint64
	}
	return &twos{source: *rand.NewPCG(word(), word())}, nil
}

func (t *twos) Name() string     { return "twos" }
func (t *twos) Kind() Kind       { return Sequence }
func (t *twos) Edit([]Server)    {}
func (t *twos) Clone() Scheduler { c := *t; return &c }

func (t *twos) Pick(_ Packet, servers []Server) int {
	draw := newLottery(servers)
	if draw.sum() == 0 {
		return -1
	}
	return t.choose(draw, servers)
}

// choose draws two servers and returns the second only if it has strictly less
// load per weight.
func (t *twos) choose(draw lottery, servers []Server) int {
	r := rand.New(&t.source)
	first, second := draw.draw(r), draw.draw(r)
	a, _ := wlcCost(servers[first])
	b, _ := wlcCost(servers[second])
	if b.Compare(a) < 0 {
		return second
	}
	return first
}

// lottery draws usable servers by weight; while there is a slow start, by 256ths
// of it.
type lottery struct {
	index []int    // of the usable servers
	upTo  []uint64 // sum of the weights up to and including each
}

func newLottery(servers []Server) lottery {
	l := lottery{}
	slow := starting(servers)
	for i := range servers {
		if servers[i].Usable() {
			weight := uint64(servers[i].Weight)
			if slow {
				weight = servers[i].share()
			}
			l.upTo = append(l.upTo, l.sum()+weight)
			l.index = append(l.index, i)
		}
	}
	return l
}

func (l lottery) sum() uint64 {
	if len(l.upTo) == 0 {
		return 0
	}
	return l.upTo[len(l.upTo)-1]
}

// draw returns the first server at which the weights reach a number from 0 up to
// and including the sum. The 0 is the kernel's, and favours the first server a
// little: its chance is (weight + 1) / (sum + 1).
func (l lottery) draw(r *rand.Rand) int {
	at, _ := slices.BinarySearch(l.upTo, r.Uint64N(l.sum()+1))
	return l.index[at]
}
