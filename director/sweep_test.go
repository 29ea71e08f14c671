// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"xdplvs/bpf"
)

// sweepOnce lets a whole pass go by.
func (w *world) sweepOnce(s *sweeper) {
	w.t.Helper()
	for range sweepPeriod / sweepTick {
		if err := s.slice(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// sweepTwice lets stranded connections go: a pass begins, and ends.
func (w *world) sweepTwice() {
	w.t.Helper()
	s := newSweeper(w.d)
	w.sweepOnce(s)
	w.sweepOnce(s)
}

// TestSweepExpires: in every state a connection lives for its timeout, and no
// longer than a sweep after it. Its real server's counts go with it.
func TestSweepExpires(t *testing.T) {
	set := timeouts("tcp", 600*time.Second, "tcpfin", 70*time.Second, "udp", 40*time.Second, "tcp_close", 3*time.Second)
	for _, s := range states {
		t.Run(s.setting, func(t *testing.T) {
			state, timeout := s.number, set.withDefaults()[s.number]
			w := newWorld(t, small)
			want := one("rr", real4(1, 1))
			want.Timeouts = set
			w.mustWant(want)
			w.resolve(real4(1, 1).Key.Addr)
			id := w.connect(key4(1), client(1))
			c := &w.tables.Conns4[0].C
			c.Word = uint32(state)
			if !isActive(state) {
				w.tables.Counts[id].Conns = inactive1
			}
			s := newSweeper(w.d)
			w.clock.advance(timeout)
			w.sweepOnce(s)
			expect(t, "its tag at the timeout", c.Tag&3, 2)
			w.clock.now.Add(1)
			w.sweepOnce(s)
			expect(t, "its tag after it", c.Tag&3, 0)
			expect(t, "connections of the real server", w.tables.Counts[id].Conns, 0)
		})
	}
}

// isActive are the states that IPVS counts as active.
func isActive(state uint8) bool {
	return state == 1 || state == 2 || state == 3 || state == 10 || state == 40
}

// TestSweepSlices: each tick looks at a hundredth; an odd size is no reason to
// leave out the end.
func TestSweepSlices(t *testing.T) {
	w := newWorld(t, bpf.Sizes{Conns4: 1 << 10, Conns6: 8, Overflow: 1, Services: 2, Reals: 2, Plans: 256, CPUs: 1})
	w.mustWant(one("rr", real4(1, 1)))
	w.resolve(real4(1, 1).Key.Addr)
	for i := range 1 << 10 {
		w.connect(key4(1), client(i))
	}
	w.clock.advance(901 * time.Second)
	s := newSweeper(w.d)
	left := func() int { return int(uint32(w.tables.Counts[0].Conns)) }
	for i := 1; left() > 0; i++ {
		if err := s.slice(); err != nil {
			t.Fatal(err)
		}
		if want := max(0, 1<<10-i*11); left() != want {
			t.Fatalf("%d connections after %d ticks, want %d", left(), i, want)
		}
	}
	expect(t, "sweeps of the overflow, one for each pass", w.plane.sweeps, 1)
}

// TestSweepHeals: a slot that a killed process or CPU left claimed is free after
// two passes.
func TestSweepHeals(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	w.resolve(real4(1, 1).Key.Addr)
	id := w.connect(key4(1), client(1))
	c := &w.tables.Conns4[0].C
	c.Tag = c.Tag&^3 | 1
	s := newSweeper(w.d)
	if err := s.slice(); err != nil {
		t.Fatal(err)
	}
	expect(t, "tag when it was seen once", c.Tag&3, 1)
	w.sweepOnce(s)
	w.sweepOnce(s)
	expect(t, "tag after two passes", c.Tag&3, 0)
	expect(t, "connections of the real server", w.tables.Counts[id].Conns, 0)
}

func TestSweepErrors(t *testing.T) {
	w := newWorld(t, small)
	s := newSweeper(w.d)
	w.clock.fault.Store(true)
	expectError(t, s.slice(), nil, "no clock")
	w.clock.fault.Store(false)
	w.plane.fault = func(what string) error { return fmt.Errorf("%s failed", what) }
	var err error
	for range sweepPeriod / sweepTick {
		err = errors.Join(err, s.slice())
	}
	expectError(t, err, nil, "sweep failed")
}

// TestTimeouts: as they are set, in jiffies; 0 is IPVS's.
func TestTimeouts(t *testing.T) {
	w := newWorld(t, small)
	want := Desired{Timeouts: timeouts("tcp", time.Hour, "udp", 3*time.Millisecond, "sctp_init1", 5*time.Second)}
	w.mustWant(want)
	got := w.tables.Settings.Timeout
	expect(t, "established", got[1], 3600*250)
	expect(t, "FIN_WAIT", got[4], 120*250)
	expect(t, "UDP, rounded up", got[bpf.StateUDP], 1)
	expect(t, "SYN_RECV", got[3], 60*250)
	expect(t, "SCTP's INIT1", got[33], 5*250)
	expect(t, "SCTP's CLOSED", got[45], 61*250)
	for _, bad := range []Timeouts{timeouts("tcp", time.Duration(-1)), timeouts("tcpfin", MaxTimeout+1), timeouts("sctp_closed", -time.Hour)} {
		expectError(t, w.d.apply(Desired{Timeouts: bad}), nil, "is not between 0 and 596h31m23.647s")
	}
	expect(t, "after refusals", w.tables.Settings.Timeout, got)
	w.mustWant(Desired{Timeouts: timeouts("tcp", MaxTimeout)})
	expect(t, "the longest", w.tables.Settings.Timeout[1], uint32(MaxTimeout/(4*time.Millisecond))+1)
}
