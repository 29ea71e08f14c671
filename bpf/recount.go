// SPDX-License-Identifier: Apache-2.0

package bpf

import "sync/atomic"

// Recount compares the counters of real servers with the connections that
// sweeps have found, and repairs what drifted: a process that was killed
// between freeing a connection and uncounting it leaves one counted for ever.
// Packets change the counters during a sweep, so a difference is believed only
// when it was the same in recountPasses passes one after the other.
type Recount struct {
	t      *Tables
	sweeps []*Sweep
	drift  []uint64 // by real server: what the counter had too many
	times  []uint8  // how often in a row
}

const recountPasses = 3

// NewRecount compares with what the sweeps find together.
func NewRecount(t *Tables, sweeps ...*Sweep) *Recount {
	return &Recount{t: t, sweeps: sweeps, drift: make([]uint64, len(t.Reals)), times: make([]uint8, len(t.Reals))}
}

// Pass is called when every sweep has finished a pass. extra are connections
// that lie outside the tables, by real server. It returns how many counters it
// repaired.
func (r *Recount) Pass(extra map[uint32]uint64) (repaired int) {
	for real := range r.t.Counts {
		found := extra[uint32(real)]
		for _, s := range r.sweeps {
			found += s.last[real]
		}
		if r.settle(real, atomic.LoadUint64(&r.t.Counts[real].Conns)-found) {
			repaired++
		}
	}
	return repaired
}

func (r *Recount) settle(real int, drift uint64) bool {
	if drift == 0 || drift != r.drift[real] {
		r.drift[real], r.times[real] = drift, 0
		return false
	}
	if r.times[real]++; r.times[real] < recountPasses-1 {
		return false
	}
	atomic.AddUint64(&r.t.Counts[real].Conns, -drift)
	r.drift[real], r.times[real] = 0, 0
	return true
}

// CountOf is what a connection adds to RealCounts.Conns.
func CountOf(c *Conn) uint64 { return countOf(c.Word) }
