// SPDX-License-Identifier: Apache-2.0

package bpf

import "sync/atomic"

// Recount compares the counters of real servers with the connections that
// sweeps have found, and repairs what drifted: a process that was killed
// between freeing a connection and uncounting it leaves one counted for ever.
// Packets change the counters during a sweep, so a difference is believed only
// when it was the same in recountPasses passes one after the other, or in
// movingPasses if the counter moved meanwhile: a few connections that come with
// each pass make the same difference by chance now and then.
type Recount struct {
	t      *Tables
	sweeps []*Sweep
	fired  *firedTemplates
	conns  []drift // by real server
	templs []drift
}

// drift is what a counter had too many, and how often in a row.
type drift struct {
	by     uint64
	count  uint64 // the counter itself, at the last pass
	times  uint8
	moving bool // it was another one at a pass before
}

const (
	recountPasses = 3
	movingPasses  = 16
)

// NewRecount compares with what the sweeps find together.
func NewRecount(t *Tables, sweeps ...*Sweep) *Recount {
	fired := &firedTemplates{t: t}
	for _, s := range sweeps {
		s.fired = fired
	}
	return &Recount{t: t, sweeps: sweeps, fired: fired, conns: make([]drift, len(t.Reals)), templs: make([]drift, len(t.Reals))}
}

// Pass is called when every sweep has finished a pass. extra are connections
// that lie outside the tables, by real server. It returns how many counters it
// repaired.
func (r *Recount) Pass(extra map[uint32]uint64) (repaired int) {
	for real := range r.t.Counts {
		n := &r.t.Counts[real]
		conns, templates := extra[uint32(real)], uint32(0)
		for _, s := range r.sweeps {
			conns += s.last.conns[real]
			templates += s.last.templates[real]
		}
		if by := r.conns[real].settle(atomic.LoadUint64(&n.Conns), conns); by != 0 {
			atomic.AddUint64(&n.Conns, -by)
			repaired++
		}
		if by := r.templs[real].settle(uint64(atomic.LoadUint32(&n.Templates)), uint64(templates)); by != 0 {
			atomic.AddUint32(&n.Templates, -uint32(by))
			repaired++
		}
	}
	r.fired.pass()
	return repaired
}

// settle is told what a pass has counted and found, and returns what has to be
// repaired: 0 until the difference was the same often enough.
func (d *drift) settle(count, found uint64) uint64 {
	by := count - found
	if by == 0 || by != d.by {
		*d = drift{by: by, count: count}
		return 0
	}
	d.moving = d.moving || count != d.count
	d.count = count
	d.times++
	if d.times < recountPasses-1 || d.moving && d.times < movingPasses-1 {
		return 0
	}
	*d = drift{}
	return by
}

// CountOf is what a connection adds to RealCounts.Conns.
func CountOf(c *Conn) uint64 { return countOf(c.Word) }
