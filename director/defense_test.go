// SPDX-License-Identifier: Apache-2.0

package director

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/bpf"
	"xdplvs/defense"
)

// defending is a world whose director runs, with memory that the test decides.
type defending struct {
	*world
	ctx   context.Context
	pages int64
	err   error
}

func startDefending(t *testing.T, want Desired) *defending {
	w := &defending{world: newWorld(t, small), ctx: t.Context(), pages: 1 << 20}
	opts := w.options()
	opts.Memory = func() (int64, error) { return w.pages, w.err }
	w.d = New(opts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := w.d.Set(w.ctx, want); err != nil {
		t.Fatal(err)
	}
	return w
}

// set changes what the director sees, and lets it see it.
func (w *defending) set(pages int64, err error) {
	w.t.Helper()
	if e := w.d.do(w.ctx, func() { w.pages, w.err = pages, err }); e != nil {
		w.t.Fatal(e)
	}
	time.Sleep(2 * defendTick)
}

// toldPlane is what the data plane was told.
func (w *defending) toldPlane() (settings bpf.Settings, left int32) {
	w.t.Helper()
	if err := w.d.do(w.ctx, func() { settings, left = *w.tables.Settings, w.tables.Defense.DropLeft }); err != nil {
		w.t.Fatal(err)
	}
	return settings, left
}

func (w *defending) state() DefenseState {
	w.t.Helper()
	s, err := w.d.Defense(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// TestDefensesFollowMemory: strategies begin and end with the pressure, the data plane is told,
// and the log has each change once.
func TestDefensesFollowMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := one("rr", real4(1, 1))
		want.Defense.Strategies = DefenseSettings{DropEntry: defense.Waiting, DropPacket: defense.Waiting, SecureTCP: defense.Waiting, MemThresh: 1024}
		w := startDefending(t, want)
		told := func(active string) int {
			return strings.Count(w.log.String(), "event=defense strategy=drop_packet active="+active)
		}
		expect(t, "transitions at first", told("true"), 0)
		w.set(512, nil)
		plane, left := w.toldPlane()
		expect(t, "what the data plane asks", plane.Defending, bpf.DefendRate|bpf.DefendSample)
		expect(t, "rate", plane.DropRate, 2)
		expect(t, "counter", left, 2)
		expect(t, "secure_tcp", plane.SecureTcp, 1)
		time.Sleep(10 * time.Second)
		expect(t, "transitions under pressure", told("true"), 1)
		expect(t, "cause", w.state().Cause, defense.Memory)
		w.set(1<<20, nil)
		plane, _ = w.toldPlane()
		expect(t, "what the data plane asks then", plane.Defending, bpf.DefendSample)
		expect(t, "secure_tcp then", plane.SecureTcp, 0)
		expect(t, "transitions back", told("false"), 1)
		w.set(0, context.DeadlineExceeded)
		time.Sleep(10 * time.Second)
		expect(t, "pages when they cannot be read", w.state().Pressure.Pages, UnknownPages)
		expect(t, "complaints", strings.Count(w.log.String(), "event=memory_unknown"), 1)
	})
}

// TestSetDefense: settings are changed by name until the next Set, and refused whole.
func TestSetDefense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := one("rr", real4(1, 1))
		want.Defense = DefaultDefense
		w := startDefending(t, want)
		s, err := w.d.SetDefense(w.ctx, DefenseChange{"drop_packet": "3", "net.ipv4.vs.am_droprate": "7"})
		if err != nil || s.Rate != 7 || w.tables.Settings.DropRate != 7 || w.tables.Settings.Defending != bpf.DefendRate|bpf.DefendSample {
			t.Errorf("state %+v, %v; the data plane drops one of %d", s, err, w.tables.Settings.DropRate)
		}
		if _, err := w.d.SetDefense(w.ctx, DefenseChange{"am_droprate": "8", "drop_entry": "7"}); err == nil {
			t.Error("mode 7 was taken")
		}
		expect(t, "rate after the refusal", w.state().Rate, 7)
		if err := w.d.Set(w.ctx, want); err != nil {
			t.Fatal(err)
		}
		expect(t, "rate after a reload", w.state().Rate, 0)
		want.Defense.Strategies.Occupancy = 100
		if err := w.d.Set(w.ctx, want); err == nil || !strings.Contains(err.Error(), "occupancy: expected a number from 0 to 99") {
			t.Errorf("occupancy of 100 %%: %v", err)
		}
	})
}

// TestDefensesFollowOccupancy: a table that fills up is pressure, too.
func TestDefensesFollowOccupancy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := one("rr", real4(1, 1))
		want.Defense.Strategies = DefenseSettings{DropPacket: defense.Waiting, Occupancy: 50}
		w := startDefending(t, want)
		w.d.SetNextHops(map[netip.Addr]NextHop{real4(1, 1).Key.Addr: hopFor(real4(1, 1).Key.Addr)})
		time.Sleep(time.Second)
		fill := func() {
			for i := range 48 { // of 64
				w.connect(key4(1), client(i))
			}
		}
		if err := w.d.do(w.ctx, fill); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * sweepPeriod)
		s := w.state()
		expect(t, "cause", s.Cause, defense.Occupancy)
		expect(t, "rate", s.Rate, 2) // 32 places should be free, 16 are
		expect(t, "places in use", s.Pressure.Used, 48)
	})
}

// TestDropEntry: half-open connections become fewer by 3 % each second, in both
// tables; those that are spared stay.
func TestDropEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := one("rr", real4(1, 1))
		want.Defense.Strategies = DefenseSettings{DropEntry: defense.Always}
		w := startDefending(t, want)
		w.d.SetNextHops(map[netip.Addr]NextHop{real4(1, 1).Key.Addr: hopFor(real4(1, 1).Key.Addr)})
		time.Sleep(time.Second)
		fill := func() {
			for i := range 40 {
				w.connect(key4(1), client(i))
			}
			for i := range w.tables.Conns4 {
				if c := &w.tables.Conns4[i].C; c.Tag&3 == 2 {
					c.Word = c.Word&^0xff | uint32([]uint8{3, 5}[i%2]) // SYN_RECV, TIME_WAIT
				}
			}
		}
		if err := w.d.do(w.ctx, fill); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // some 19 lives of 32 s
		evicted := w.state().Evicted
		count := map[uint8]int{}
		for i := range w.tables.Conns4 {
			if c, ok := bpf.ReadConn4(&w.tables.Conns4[i]); ok {
				count[bpf.ConnState(&c.C)]++
			}
		}
		if count[3] != 0 || count[5] == 0 || int(evicted)+count[5] != 40 {
			t.Errorf("%d were ended; by state there are %v", evicted, count)
		}
	})
}

// TestTemplatesAndDropEntry: an unassured template that controls nothing goes.
func TestTemplatesAndDropEntry(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	assured, none := uint32(51), uint32(50)
	for _, test := range []struct {
		name  string
		word  uint32
		holds uint64
		want  bool
	}{
		{"unassured", none, 0, true},
		{"assured", assured, 0, false},
		{"unassured, with connections", none, 2, false},
	} {
		c := &bpf.Conn{Word: test.word, Link: test.holds<<24 | 300}
		if got := w.d.drops(c, c.LastUse); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	w.d.tables.Services[0].Flags |= bpf.ServiceOnePacket
	if w.d.drops(&bpf.Conn{Word: none}, 0) {
		t.Error("a template of one-packet scheduling goes before it is idle")
	}
}
