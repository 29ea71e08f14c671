// SPDX-License-Identifier: Apache-2.0

package director

import (
	"time"

	"xdplvs/bpf"
)

// resetSweeps is for how many sweeps a connection that is to be reset stays, so
// that a client which pauses finds it: a minute.
const resetSweeps = int(time.Minute / sweepPeriod)

// strand notes that a real server has connections that can never go on, or may
// have. They are freed by a sweep, so that they do not hold its row and its
// counts until their time is over.
func (d *Director) strand(r *real) {
	wait := 0
	if r.row.Stale == bpf.StaleReset {
		wait = resetSweeps
	}
	d.stranded[r.id] = wait
}

// staleSweep frees stranded connections. Where there are none it looks at nothing.
type staleSweep struct {
	d    *Director
	due  map[uint32]bool // real servers whose connections go in this pass
	next int             // slot of either table
}

// begin decides what the pass that begins frees.
func (s *staleSweep) begin() {
	s.next = 0
	s.due = nil
	for id, wait := range s.d.stranded {
		if wait > 0 {
			s.d.stranded[id]--
			continue
		}
		if s.due == nil {
			s.due = map[uint32]bool{}
		}
		s.due[id] = true
		delete(s.d.stranded, id)
	}
}

// slice looks at the next slots of each table.
func (s *staleSweep) slice(n4, n6 int) {
	if len(s.due) == 0 {
		return
	}
	t := s.d.tables
	for i := s.next * n4; i < min((s.next+1)*n4, len(t.Conns4)); i++ {
		if c, ok := bpf.ReadConn4(&t.Conns4[i]); ok && s.strays(&c.C) {
			t.Free4(i, &c.C)
		}
	}
	for i := s.next * n6; i < min((s.next+1)*n6, len(t.Conns6)); i++ {
		if c, ok := bpf.ReadConn6(&t.Conns6[i]); ok && s.strays(&c.C) {
			t.Free6(i, &c.C)
		}
	}
	s.next++
}

// strays reports whether the connection is one of a former generation.
func (s *staleSweep) strays(c *bpf.Conn) bool {
	return s.due[c.Real] && s.d.realAt(c.Real).holding() != c.Generation
}

// end is for the connections outside the tables.
func (s *staleSweep) end() error {
	if len(s.due) == 0 {
		return nil
	}
	var keys []bpf.ConnKey
	err := s.d.plane.Overflow(func(key *bpf.ConnKey, c *bpf.Conn) bool {
		if s.strays(c) {
			keys = append(keys, *key)
		}
		return true
	})
	for i := range keys {
		if err == nil {
			err = s.d.plane.FreeOverflow(&keys[i])
		}
	}
	return err
}
