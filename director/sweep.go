// SPDX-License-Identifier: Apache-2.0

package director

import (
	"time"

	"xdplvs/bpf"
)

// A sweep passes over the tables in slices, so that it never holds up the
// owner: an expired connection is gone, and no longer counted, at most
// sweepPeriod later. (A packet that meets an expired one does not wait for it.)
// Of large tables a pass takes longer, since a tick looks at no more than
// sweepPlaces: that many cost some 200 microseconds.
const (
	sweepPeriod = 2 * time.Second
	sweepTick   = 20 * time.Millisecond
	sweepPlaces = 24_000
)

// sweepShares are how many places of the two tables a tick looks at, so that a
// pass ends with both at once.
func sweepShares(places4, places6 int) (share4, share6 int) {
	ticks := max(int(sweepPeriod/sweepTick), (places4+places6+sweepPlaces-1)/sweepPlaces)
	return (places4 + ticks - 1) / ticks, (places6 + ticks - 1) / ticks
}

type sweeper struct {
	d       *Director
	table4  *bpf.Sweep
	table6  *bpf.Sweep
	recount *bpf.Recount
	passed4 bool
	passed6 bool
	stale   staleSweep
}

func newSweeper(d *Director) *sweeper {
	s := &sweeper{d: d, table4: bpf.NewSweep4(d.tables), table6: bpf.NewSweep6(d.tables), stale: staleSweep{d: d}}
	s.recount = bpf.NewRecount(d.tables, s.table4, s.table6)
	return s
}

// slice does one tick's share.
func (s *sweeper) slice() error {
	now, err := s.d.clock.Now()
	if err != nil {
		return err
	}
	defer s.d.swept.worked(time.Now())
	share4, share6 := sweepShares(len(s.d.tables.Conns4), len(s.d.tables.Conns6))
	s.stale.slice(share4, share6)
	s.d.dropEntries(now)
	s.d.countSenders()
	if !s.passed4 {
		s.passed4 = s.next(s.table4, now, share4)
	}
	if !s.passed6 {
		s.passed6 = s.next(s.table6, now, share6)
	}
	if !s.passed4 || !s.passed6 {
		return nil
	}
	s.passed4, s.passed6 = false, false
	s.d.sweptLocals(s.table4, s.table6)
	s.d.defenses.used = [2]int{s.table4.Used(), s.table6.Used()}
	return s.passed()
}

func (s *sweeper) next(table *bpf.Sweep, now uint32, share int) (passed bool) {
	freed, passed := table.Next(now, share)
	s.d.swept.state.Freed += uint64(freed)
	return passed
}

// passed ends a pass over both tables.
func (s *sweeper) passed() error {
	err := s.stale.end()
	s.stale.begin()
	if err != nil {
		return err
	}
	if err := s.d.plane.SweepOverflow(); err != nil {
		return err
	}
	outside, overflow := map[uint32]uint64{}, uint64(0)
	err = s.d.plane.Overflow(func(_ *bpf.ConnKey, c *bpf.Conn) bool {
		outside[c.Real] += bpf.CountOf(c)
		overflow++
		return true
	})
	if err != nil {
		return err
	}
	n := s.recount.Pass(outside)
	s.d.swept.passed(s.table4, s.table6, overflow, n)
	if n > 0 {
		s.d.log.Warn("connection counts had drifted, and are repaired", "event", "counts_repaired", "real_servers", n)
	}
	return nil
}
