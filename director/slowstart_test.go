// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// slowly lets real servers start within so many seconds.
func slowly(seconds int, reals ...RealServer) []RealServer {
	for i := range reals {
		reals[i].SlowStart = time.Duration(seconds) * time.Second
	}
	return reals
}

// wait lets time pass, in which the director follows.
func (w *world) wait(d time.Duration) {
	w.t.Helper()
	for range 20 {
		time.Sleep(d / 20)
		w.follow()
		w.mustHold()
	}
}

// effective is the effective weight of the nth real server of the only service.
func (w *world) effective(n int) uint32 {
	w.t.Helper()
	s, err := w.d.snapshot()
	must(err)
	for _, r := range s.Services[0].Reals {
		if r.Key == real4(n, 1).Key {
			return r.EffectiveWeight
		}
	}
	w.t.Fatalf("real server %d is not listed", n)
	return 0
}

func (w *world) expectWeight(what string, n int, low, high uint32) {
	w.t.Helper()
	if got := w.effective(n); got < low || got > high {
		w.t.Errorf("%s: effective weight %d, want %d to %d", what, got, low, high)
	}
}

// TestSlowStartBegins: when a real server joins or comes back, and not when it comes
// with its service.
func TestSlowStartBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, medium)
		a, b, c := real4(1, 100), real4(2, 100), real4(3, 100)
		w.mustWant(one("wlc", slowly(100, a, b)...))
		w.resolve(a.Key.Addr, b.Key.Addr)
		w.expectWeight("came with its service", 1, 100, 100)

		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		w.expectWeight("not reached yet", 3, 100, 100)
		w.wait(50 * time.Second)
		w.resolve(c.Key.Addr)
		w.expectWeight("joined", 3, 1, 2)
		w.wait(50 * time.Second)
		w.expectWeight("half way", 3, 48, 52)
		w.expectWeight("the others", 1, 100, 100)
		w.wait(51 * time.Second)
		w.expectWeight("in the end", 3, 100, 100)
		if w.d.services[key4(1)].easing {
			t.Error("it is looked at for ever")
		}

		b.Weight = 0
		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		w.expectWeight("quiesced", 2, 0, 0)
		b.Weight = 10
		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		w.expectWeight("back from 0", 2, 1, 1)
		b.Weight = 40
		w.wait(50 * time.Second)
		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		w.expectWeight("another weight meanwhile", 2, 19, 21)

		w.wait(101 * time.Second)
		a.Weight = 99
		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		a.Weight = 0
		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		a.Weight = 100
		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		w.setHops(map[netip.Addr]NextHop{b.Key.Addr: hopFor(b.Key.Addr), c.Key.Addr: hopFor(c.Key.Addr), a.Key.Addr: {Reason: "no answer"}})
		if w.d.services[key4(1)].reals[2].since != (time.Time{}) {
			t.Error("one that cannot be reached is in a slow start")
		}
		w.resolve(a.Key.Addr)
		w.expectWeight("reached again", 1, 1, 2)
		w.wait(101 * time.Second)

		w.mustWant(one("wlc", slowly(100, b, c)...))
		w.mustWant(one("wlc", slowly(100, b, c, a)...))
		w.wait(10 * time.Second)
		w.expectWeight("removed and added", 1, 9, 11)
		a.SlowStart = 0
		w.mustWant(one("wlc", append(slowly(100, b, c), a)...))
		w.wait(time.Second)
		w.expectWeight("without a slow start any more", 1, 100, 100)
	})
}

// TestSlowStartRestart: another process goes on with a slow start, and begins none
// for real servers that were up.
func TestSlowStartRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, medium)
		a, b, c := real4(1, 100), real4(2, 1), real4(3, 100)
		w.mustWant(one("wlc", slowly(100, a)...))
		w.resolve(a.Key.Addr, b.Key.Addr, c.Key.Addr)
		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		w.wait(25 * time.Second)
		time.Sleep(time.Hour)
		w.restart()
		w.mustWant(one("wlc", slowly(100, a, b, c)...))
		w.expectWeight("was up", 1, 100, 100)
		w.expectWeight("goes on", 3, 24, 27)
		w.wait(25 * time.Second)
		w.expectWeight("and on", 3, 48, 52)
		if held := w.tables.Reals[w.d.services[key4(1)].byKey()[b.Key].id].Held; held < 120 || held > 136 {
			t.Errorf("of a weight of 1, %d of 256 parts are held back, want half of them", held)
		}
	})
}

// TestSlowStartPlans: what packets get, by schedulers of all kinds: at half of the
// time no more than the starting server's part, in the end its share.
func TestSlowStartPlans(t *testing.T) {
	for _, name := range []string{"rr", "wrr", "lc", "wlc", "sed", "lblc", "sh", "dh"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, medium)
				a, b, c := real4(1, 1), real4(2, 1), real4(3, 1)
				w.mustWant(one(name, slowly(100, a, b)...))
				w.resolve(a.Key.Addr, b.Key.Addr, c.Key.Addr)
				w.mustWant(one(name, slowly(100, a, b, c)...))
				w.wait(26 * time.Second)
				if n := w.planned(3); n < 0.04 || n > 0.17 {
					t.Errorf("at a quarter, planned share %.2f", n)
				}
				w.wait(80 * time.Second)
				if n := w.planned(3); n < 0.3 || n > 0.4 {
					t.Errorf("in the end, planned share %.2f", n)
				}
			})
		})
	}
}

// planned is the share of the plan in force that is the nth real server's.
func (w *world) planned(n int) float64 {
	s := w.d.services[key4(1)]
	return w.d.slotShares(s)[s.byKey()[real4(n, 1).Key].id]
}
