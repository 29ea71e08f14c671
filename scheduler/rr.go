// SPDX-License-Identifier: Apache-2.0

package scheduler

import "slices"

// rr, round robin: the usable server after the last one chosen. Weights other
// than 0 do not matter.
type rr struct {
	order []uint32 // ids as of the last Edit, to find the place again after the next
	last  int      // index of the last choice, -1 = before the first
}

func newRR(Options) (Scheduler, error) { return &rr{last: -1}, nil }

func (r *rr) Name() string     { return "rr" }
func (r *rr) Kind() Kind       { return Sequence }
func (r *rr) State() [2]uint64 { return [2]uint64{uint64(r.last + 1)} }

// Clone shares order, which Edit replaces and nobody changes.
func (r *rr) Clone() Scheduler { c := *r; return &c }

// Edit keeps the place in the round. If the last choice was removed, its
// predecessor stands in for it, so that its successor is next.
func (r *rr) Edit(servers []Server) {
	order := make([]uint32, len(servers))
	for i, s := range servers {
		order[i] = s.ID
	}
	place := -1
	for i := min(r.last, len(r.order)-1); i >= 0 && place < 0; i-- {
		place = slices.Index(order, r.order[i])
	}
	r.order, r.last = order, place
}

func (r *rr) Pick(_ Packet, servers []Server) int {
	for k := range servers {
		i := (r.last + 1 + k) % len(servers)
		if servers[i].Usable() {
			r.last = i
			return i
		}
	}
	return -1
}
