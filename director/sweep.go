// SPDX-License-Identifier: Apache-2.0

package director

import (
	"time"

	"xdplvs/bpf"
)

// A sweep passes over the tables in slices, so that it never holds up the
// owner: an expired connection is gone, and no longer counted, at most
// sweepPeriod later. (A packet that meets an expired one does not wait for it.)
const (
	sweepPeriod = 2 * time.Second
	sweepTick   = 20 * time.Millisecond
)

type sweeper struct {
	d       *Director
	table4  *bpf.Sweep
	table6  *bpf.Sweep
	recount *bpf.Recount
	passed4 bool
	passed6 bool
}

func newSweeper(d *Director) *sweeper {
	s := &sweeper{d: d, table4: bpf.NewSweep4(d.tables), table6: bpf.NewSweep6(d.tables)}
	s.recount = bpf.NewRecount(d.tables, s.table4, s.table6)
	return s
}

// slice does one tick's share.
func (s *sweeper) slice() error {
	const shares = int(sweepPeriod / sweepTick)
	now, err := s.d.clock.Now()
	if err != nil {
		return err
	}
	if !s.passed4 {
		_, s.passed4 = s.table4.Next(now, (len(s.d.tables.Conns4)+shares-1)/shares)
	}
	if !s.passed6 {
		_, s.passed6 = s.table6.Next(now, (len(s.d.tables.Conns6)+shares-1)/shares)
	}
	if !s.passed4 || !s.passed6 {
		return nil
	}
	s.passed4, s.passed6 = false, false
	return s.passed()
}

// passed ends a pass over both tables.
func (s *sweeper) passed() error {
	if err := s.d.plane.SweepOverflow(); err != nil {
		return err
	}
	outside := map[uint32]uint64{}
	err := s.d.plane.Overflow(func(_ *bpf.ConnKey, c *bpf.Conn) bool {
		outside[c.Real] += bpf.CountOf(c)
		return true
	})
	if err != nil {
		return err
	}
	if n := s.recount.Pass(outside); n > 0 {
		s.d.log.Warn("connection counts had drifted, and are repaired", "event", "counts_repaired", "real_servers", n)
	}
	return nil
}
