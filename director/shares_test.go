// SPDX-License-Identifier: Apache-2.0

package director

import (
	"math"
	"slices"
	"strings"
	"testing"

	"xdplvs/bpf"
)

// sharesOf lists planned and measured shares by the real servers' numbers.
func (w *world) sharesOf() (planned, measured map[int]float64, state ServiceState) {
	w.t.Helper()
	s, err := w.d.snapshot()
	must(err)
	planned, measured = map[int]float64{}, map[int]float64{}
	for _, r := range s.Services[0].Reals {
		n := int(r.Key.Addr.As4()[3])
		planned[n], measured[n] = r.PlannedShare, r.MeasuredShare
	}
	return planned, measured, s.Services[0]
}

func expectShare(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 0.005 {
		t.Errorf("%s: share %.3f, want %.3f", what, got, want)
	}
}

// come lets n clients come, each to the real server that its packet gets.
func (w *world) come(n int) {
	w.t.Helper()
	s := findService(w.tables, key4(1))
	for i := range n {
		if id := pick(w.tables, s, uint32(i)); id != bpf.NoReal {
			w.count(id, 1, 60)
		}
		if i%100 == 99 {
			w.d.follow()
		}
	}
	w.tick()
}

// TestShares: what plans hand out, round after round and from one plan to the next,
// and what comes of it.
func TestShares(t *testing.T) {
	for _, name := range []string{"rr", "wrr", "wlc"} {
		w := newWorld(t, medium)
		w.mustWant(one(name, real4(1, 3), real4(2, 1)))
		w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
		want := map[string]float64{"rr": 0.5, "wrr": 0.75, "wlc": 0.5}[name] // wlc: no connection is counted here
		planned, _, state := w.sharesOf()
		if name != "wlc" {
			expectShare(t, name+" before anybody came", planned[1], want)
		}
		w.come(999)
		planned, measured, state := w.sharesOf()
		if name != "wlc" {
			expectShare(t, name+" planned", planned[1], want)
		}
		expectShare(t, name+" measured", measured[1], planned[1])
		expectShare(t, name+" all", planned[1]+planned[2], 1)
		expect(t, "connections", state.Reals[0].WindowConns+state.Reals[1].WindowConns, 999)
		expect(t, "apart", state.SharesApart, false)
	}
}

// TestTallies: choices are counted for whom they were, however many at once.
func TestTallies(t *testing.T) {
	random := seeded(t)
	for range 200 {
		w := newWorld(t, medium)
		w.mustWant(one("wrr", real4(1, uint32(1+random.IntN(5))), real4(2, uint32(1+random.IntN(5))), real4(3, 1)))
		w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr, real4(3, 1).Key.Addr)
		s := w.d.services[key4(1)]
		want := make([]float64, len(w.d.planned))
		for range 4 {
			for range random.IntN(60) {
				want[pick(w.tables, s.row, 0)]++
			}
			if random.IntN(2) == 0 {
				w.d.tallyPlan(s, *s.cursor())
			} else {
				must(w.d.publish(s)) // settles the plan that was in force
			}
		}
		w.d.tallyPlan(s, *s.cursor())
		if !slices.Equal(w.d.planned, want) {
			t.Fatalf("counted %v, handed out %v", w.d.planned[:4], want[:4])
		}
	}
}

// TestSharesApart: it is said once that a real server does not get what is planned.
func TestSharesApart(t *testing.T) {
	w := newWorld(t, medium)
	w.mustWant(one("rr", real4(1, 1), real4(2, 1)))
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
	skewed := func(n, of int) {
		s := w.d.services[key4(1)]
		for i := range of {
			pick(w.tables, s.row, 0)
			w.count(s.reals[min(i/n, 1)].id, 1, 60)
		}
	}
	skewed(35, 50)
	_, _, state := w.sharesOf()
	expect(t, "few connections, apart", state.SharesApart, false)
	skewed(700, 1000)
	_, measured, state := w.sharesOf()
	expectShare(t, "measured", measured[2], 735.0/1050)
	expect(t, "apart", state.SharesApart, true)
	for range 2 * shareSpan {
		w.tick()
	}
	if n := strings.Count(w.log.String(), "shares_apart"); n != 2 {
		t.Errorf("%d warnings, want one for each of both: %s", n, w.log)
	}
	if text := w.log.String(); !strings.Contains(text, "planned_percent=50 measured_percent=70") {
		t.Errorf("warning %s", text)
	}
	for range shareSpan {
		w.tick()
	}
	_, _, state = w.sharesOf()
	expect(t, "long ago, apart", state.SharesApart, false)
	expect(t, "connections in the window", state.Reals[0].WindowConns, 0)
}

// TestSharesOfHash: clients that are not spread as the slots are show.
func TestSharesOfHash(t *testing.T) {
	w := newWorld(t, medium)
	w.mustWant(one("sh", real4(1, 1), real4(2, 1)))
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
	w.come(512)
	planned, measured, state := w.sharesOf()
	expectShare(t, "planned", planned[1], 0.5)
	expectShare(t, "measured", measured[1], 0.5)
	expect(t, "apart", state.SharesApart, false)
	s := w.d.services[key4(1)]
	for range 512 {
		w.count(s.reals[0].id, 1, 60) // one client
	}
	w.tick()
	_, _, state = w.sharesOf()
	expect(t, "apart", state.SharesApart, true)
}
