// SPDX-License-Identifier: Apache-2.0

package director

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/bpf"
)

// checked lets real servers be what SetHealth says.
func checked(reals ...RealServer) []RealServer {
	for i := range reals {
		reals[i].Checked = true
	}
	return reals
}

// setHealth says what is known of the first, the second, … real server of the first service.
func (w *world) setHealth(conditions ...Condition) {
	w.t.Helper()
	all := map[HealthKey]Health{}
	for i, c := range conditions {
		health := Health{Condition: c}
		if c == Up {
			health.Factor = 100
		}
		all[HealthKey{key4(1), real4(i+1, 1).Key}] = health
	}
	w.d.setHealth(all)
	w.mustHold()
}

// takers are the last bytes of the real servers' addresses that the next n connections go to.
func (w *world) takers(n int) map[byte]int {
	got := map[byte]int{}
	for range n {
		id := pick(w.tables, findService(w.tables, key4(1)), 0)
		if id == bpf.NoReal {
			got[0]++
			continue
		}
		got[w.tables.Reals[id].Addr[15]]++
	}
	return got
}

func (w *world) expectTakers(what string, n int, want map[byte]int) {
	w.t.Helper()
	expect(w.t, what, fmt.Sprint(w.takers(n)), fmt.Sprint(want))
}

// TestHealthChooses: only who is up gets connections, and who is unknown is not up.
func TestHealthChooses(t *testing.T) {
	for _, inhibit := range []bool{false, true} {
		w := newWorld(t, small)
		want := one("rr", checked(real4(1, 1), real4(2, 1))...)
		for i := range want.Services[0].Reals {
			want.Services[0].Reals[i].InhibitOnFailure = inhibit
		}
		w.mustWant(want)
		w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
		w.expectTakers("nothing known", 4, map[byte]int{0: 4})
		w.setHealth(Up, Up)
		w.expectTakers("both up", 4, map[byte]int{1: 2, 2: 2})
		for _, c := range []Condition{Down, Draining, Unknown} {
			w.setHealth(c, Up)
			w.expectTakers(c.String(), 4, map[byte]int{2: 4})
		}
		w.setHealth(Up)
		w.expectTakers("the other is not named any more", 4, map[byte]int{1: 4})
		w.setHealth(Down, Down)
		w.expectTakers("both down", 2, map[byte]int{0: 2})

		w.mustWant(one("rr", real4(1, 1), real4(2, 1)))
		w.expectTakers("not checked any more", 4, map[byte]int{1: 2, 2: 2})
		w.mustWant(one("rr", checked(real4(1, 1), real4(2, 1))...))
		w.expectTakers("checked again", 2, map[byte]int{0: 2})
	}
}

// TestHealthShown: a listing has the health of those that are checked, and the weight that is in force.
func TestHealthShown(t *testing.T) {
	w := newWorld(t, small)
	reals := []RealServer{checked(real4(1, 10))[0], real4(2, 10)}
	reals[0].InhibitOnFailure = true
	w.mustWant(one("wrr", reals...))
	w.resolve(reals[0].Key.Addr, reals[1].Key.Addr)
	w.d.setHealth(map[HealthKey]Health{{key4(1), reals[0].Key}: {Condition: Up, Factor: 30, Evidence: "L7OK in 1ms"}})
	w.mustHold()
	w.expectWeight("30 %", 1, 3, 3)
	w.setHealth(Down)
	w.expectWeight("inhibited", 1, 0, 0)
	s, err := w.d.snapshot()
	must(err)
	for _, r := range s.Services[0].Reals {
		expect(t, r.Key.String()+" has a health", r.Health != nil, r.Key == reals[0].Key)
		if r.Health != nil {
			expect(t, "condition", r.Health.Condition, Down)
		}
	}
}

// TestFactor: of the new connections a real server gets the share that it can take.
func TestFactor(t *testing.T) {
	for _, scheduler := range []string{"rr", "wrr", "wlc"} {
		w := newWorld(t, medium)
		w.mustWant(one(scheduler, checked(real4(1, 1), real4(2, 1))...))
		w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
		w.d.setHealth(map[HealthKey]Health{
			{key4(1), real4(1, 1).Key}: {Condition: Up, Factor: 25},
			{key4(1), real4(2, 1).Key}: {Condition: Up, Factor: 100},
		})
		w.mustHold()
		got := 0
		for i := range 50 {
			if id := w.connect(key4(1), client(i)); id != bpf.NoReal && w.tables.Reals[id].Addr[15] == 1 {
				got++
			}
			w.follow()
		}
		if got < 8 || got > 14 {
			t.Errorf("%s: a quarter of the weight got %d of 50 connections", scheduler, got)
		}
	}
}

// TestDownFate: connections of who is down get what on_down says; those of who drains, is unknown,
// or is inhibited go on, and so do the others'.
func TestDownFate(t *testing.T) {
	for fate, text := range fates {
		if fate == FateDrop {
			continue
		}
		for _, c := range []struct {
			to      Condition
			inhibit bool
			want    string
		}{{Down, false, text}, {Down, true, "goes on"}, {Draining, false, "goes on"}, {Unknown, false, "goes on"}} {
			w := newWorld(t, small)
			want := one("rr", checked(real4(1, 1), real4(2, 1))...)
			want.Services[0].Conns.OnDown = fate
			want.Services[0].Reals[0].InhibitOnFailure = c.inhibit
			w.mustWant(want)
			w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
			w.setHealth(Up, Up)
			w.connect(key4(1), client(1))
			w.connect(key4(1), client(2))
			w.setHealth(c.to, Up)
			what := fmt.Sprintf("%s, inhibit %v, on_down %s", c.to, c.inhibit, fate)
			expect(t, what, w.verdicts(), fmt.Sprintf("1 %s: 1\n2 goes on: 1\n", c.want))
			expect(t, what+": flag for templates", w.d.services[key4(1)].find(real4(1, 1).Key).flagged(bpf.RealDown), c.to == Down && !c.inhibit)
			w.setHealth(Up, Up)
			w.setHealth(c.to, Up)
			w.setHealth(Up, Up)
			w.connect(key4(1), client(3))
			w.connect(key4(1), client(4))
			if got := w.verdicts(); got != "" && !c.inhibit && fate == FateKeep && got != "1 goes on: 2\n2 goes on: 2\n" {
				t.Errorf("%s, back again: %s", what, got)
			}
		}
	}
}

// TestHealthRestart: what a former process had found out holds, and nobody's connections are left twice.
func TestHealthRestart(t *testing.T) {
	w := newWorld(t, small)
	want := one("rr", checked(real4(1, 1), real4(2, 1))...)
	want.Services[0].Conns.OnDown = FateReset
	w.mustWant(want)
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
	w.setHealth(Down, Up)
	before := w.d.services[key4(1)].find(real4(1, 1).Key).row.Generation
	health := w.d.health
	w.restart()
	w.d.setHealth(health)
	w.mustWant(want)
	w.setHops(w.hops)
	w.expectTakers("after a restart", 4, map[byte]int{2: 4})
	expect(t, "generation", w.d.services[key4(1)].find(real4(1, 1).Key).row.Generation, before)
}

// TestSlowStartAfterDown: who comes back from being down starts slowly, and a restart in between
// does not end it, whatever share of the weight it can take.
func TestSlowStartAfterDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, medium)
		want := one("wlc", slowly(100, checked(real4(1, 100), real4(2, 100))...)...)
		w.mustWant(want)
		w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
		w.setHealth(Up, Up)
		w.expectWeight("came with its service", 1, 100, 100)
		w.setHealth(Down, Up)
		w.wait(time.Second)
		w.setHealth(Up, Up)
		w.expectWeight("back", 1, 1, 2)
		w.wait(50 * time.Second)
		w.expectWeight("half way", 1, 48, 52)
		half := map[HealthKey]Health{{key4(1), real4(1, 1).Key}: {Condition: Up, Factor: 50}, {key4(1), real4(2, 1).Key}: {Condition: Up, Factor: 100}}
		w.d.setHealth(half)
		w.mustHold()
		w.expectWeight("half way, at 50 %", 1, 23, 27)
		w.restart()
		w.d.setHealth(half)
		w.mustWant(want)
		w.setHops(w.hops)
		w.expectWeight("after a restart", 1, 22, 28)
		w.wait(51 * time.Second)
		w.expectWeight("in the end", 1, 50, 50)
	})
}

// TestHeldBack: of two reasons one can be told by the other.
func TestHeldBack(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			held := both(uint8(a), uint8(b))
			expect(t, "order", held, both(uint8(b), uint8(a)))
			again := both(other(held, uint8(b)), uint8(b))
			if diff := int(again) - int(held); diff < -1 || diff > 1 {
				t.Fatalf("%d and %d hold back %d, %d when it was taken apart", a, b, held, again)
			}
		}
		expect(t, "alone", other(both(uint8(a), 0), 0), uint8(a))
	}
}
