// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"xdplvs/scheduler"
)

func TestSlowStart(t *testing.T) {
	const most = 1<<32 - 1
	for _, c := range []struct {
		name              string
		weight            uint32
		elapsed, duration time.Duration
		want              uint32
	}{
		{"begins with 1", 100, 0, time.Minute, 1},
		{"before the beginning", 100, -time.Second, time.Minute, 1},
		{"half way", 100, 30 * time.Second, time.Minute, 50},
		{"just before the end", 100, time.Minute - 1, time.Minute, 100},
		{"at the end", 100, time.Minute, time.Minute, 100},
		{"long over", 100, time.Hour, time.Minute, 100},
		{"no slow start", 100, 0, 0, 100},
		{"negative duration", 100, 0, -1, 100},
		{"quiesced stays", 0, time.Second, time.Minute, 0},
		{"weight 1", 1, 0, time.Minute, 1},
		{"no overflow", most, 1<<63 - 2, 1<<63 - 1, most - most/256},
	} {
		s := scheduler.Server{Weight: c.weight, Held: scheduler.SlowStart(c.elapsed, c.duration)}
		expect(t, c.name, s.EffectiveWeight(), c.want)
	}
}

// TestElapsed: a slow start that is taken up again goes on where it was.
func TestElapsed(t *testing.T) {
	for _, duration := range []time.Duration{256, 1000, time.Second, time.Minute + 1, math.MaxInt64} {
		for elapsed := range 300 {
			held := scheduler.SlowStart(duration/300*time.Duration(elapsed), duration)
			if held > 0 {
				expect(t, "held", scheduler.SlowStart(scheduler.Elapsed(held, duration), duration), held)
			}
		}
	}
}

// shares are the shares of a plan's choices by server, over plans for all steps of
// a slow start around held.
func shares(v *service, n int) map[string]float64 {
	share := map[string]float64{}
	for range n {
		plan := scheduler.Forward(v.s, v.servers, scheduler.CountNothing, 1)
		share[letter(plan.At(0))] += 1 / float64(n)
		scheduler.Advance(v.s, v.servers, scheduler.CountNothing, 1)
		for i := range v.servers {
			if h := &v.servers[i].Held; *h > 0 {
				*h = 96 + (*h-96+1)%64 // around a half
			}
		}
	}
	return share
}

// TestSlowStartShares: with one choice to each plan, schedulers that do not look
// at load give a server its part of what it has otherwise; who has it instead
// depends on whose turn is next.
func TestSlowStartShares(t *testing.T) {
	const half = 0.5 * 193 / 192 // of the values of held that shares goes through
	for name, normal := range map[string]map[string]float64{
		"rr":  {"A": 0.25, "B": 0.25, "C": 0.25, "D": 0.25},
		"wrr": {"A": 0.25, "B": 0.25, "C": 0.25, "D": 0.25},
		"fo":  {"A": 1, "D": 0},
		"ovf": {"A": 1, "D": 0},
	} {
		v := newService(t, name, scheduler.Options{}, 5, 5, 5, 5)
		if normal["A"] == 1 {
			v.weigh("A", 6)
		}
		v.picks(4, scheduler.CountNothing) // wrr's first pass
		v.get("A").Held = 96
		got := shares(v, 64*100)
		for server, share := range normal {
			if server == "A" && math.Abs(got["A"]-half*share) > 0.03 || server != "A" && got[server] < share {
				t.Errorf("%s: shares %v, without a slow start they are %v", name, got, normal)
			}
		}
	}
}

// TestSlowStartLoads: schedulers that look at load fill a server up to its part of
// what the others have, and not beyond.
func TestSlowStartLoads(t *testing.T) {
	for name, counting := range map[string]scheduler.Counting{
		"lc": scheduler.CountActive, "wlc": scheduler.CountActive, "sed": scheduler.CountActive,
		"nq": scheduler.CountActive, "lblc": scheduler.CountInactive,
	} {
		v := newService(t, name, scheduler.Options{}, 1, 1, 1)
		v.get("A").Held = 192 // a quarter
		plan := scheduler.Forward(v.s, v.servers, counting, 900)
		got := map[string]int{}
		for position := range uint64(900) {
			got[letter(plan.At(position))]++
		}
		if got["A"] < 98 || got["A"] > 102 || got["B"] < 395 || got["C"] < 395 {
			t.Errorf("%s: %v, want a ninth for A", name, got)
		}
	}
}

func TestSlowStartTwos(t *testing.T) {
	o := scheduler.Options{Rand: rand.New(rand.NewPCG(3, 4))}
	v := newService(t, "twos", o, 1, 1, 1, 1)
	v.get("A").Held = 252
	plan := scheduler.Forward(v.s, v.servers, scheduler.CountNothing, 4000)
	n := 0
	for _, id := range plan.Slots {
		if letter(id) == "A" {
			n++
		}
	}
	if n > 80 || n == 0 {
		t.Errorf("%d of 4000 choices are of a server at a 64th of its weight, want about 20", n)
	}
}

// TestSlowStartTogether: servers that start at the same time are not held back.
func TestSlowStartTogether(t *testing.T) {
	for _, name := range []string{"rr", "wrr", "lc", "wlc", "sed", "fo", "dh", "sh", "mh"} {
		v := newService(t, name, scheduler.Options{}, 2, 2, 2)
		v.picks(3, scheduler.CountNothing)
		want := scheduler.Forward(v.s, v.servers, scheduler.CountActive, 60)
		for i := range v.servers {
			v.servers[i].Held = 200
		}
		got := scheduler.Forward(v.s, v.servers, scheduler.CountActive, 60)
		for position := range uint64(60) {
			if got.At(position) != want.At(position) {
				t.Errorf("%s: position %d is %s, want %s", name, position, letter(got.At(position)), letter(want.At(position)))
				break
			}
		}
	}
}

// TestSlowStartTables: of a hash plan a server has its part of its slots, gets more
// as it warms up, and nobody else's clients move.
func TestSlowStartTables(t *testing.T) {
	for _, name := range []string{"dh", "sh", "mh"} {
		v := newService(t, name, scheduler.Options{}, 4, 4, 4, 4)
		full := scheduler.Forward(v.s, v.servers, scheduler.CountActive, 1).Slots
		var before []uint32
		for held := 255; held >= 0; held-- {
			v.get("B").Held = uint8(held)
			slots := scheduler.Forward(v.s, v.servers, scheduler.CountActive, 1).Slots
			own, all := 0, 0
			for slot, id := range slots {
				if letter(full[slot]) == "B" {
					all++
				} else if id != full[slot] {
					t.Fatalf("%s held %d: slot %d of %s is %s", name, held, slot, letter(full[slot]), letter(id))
				}
				if letter(id) == "B" {
					own++
				} else if before != nil && letter(before[slot]) == "B" {
					t.Fatalf("%s held %d: slot %d is taken away again", name, held, slot)
				}
			}
			if part := float64(all) * float64(256-held) / 256; float64(own) < part-3 || float64(own) > part+3 {
				t.Errorf("%s held %d: %d of %d slots, want about %.1f", name, held, own, all, part)
			}
			before = slots
		}
		if !slices.Equal(before, full) {
			t.Errorf("%s: after the start the plan is another one", name)
		}
	}
}

// TestSlowStartAdvance: after some choices of a plan, turns go on from the last.
func TestSlowStartAdvance(t *testing.T) {
	random := seeded(t)
	for range 50 {
		v := newService(t, "rr", scheduler.Options{}, 1, 1, 1, 1)
		v.get("B").Held = uint8(1 + random.IntN(255))
		plan := scheduler.Forward(v.s, v.servers, scheduler.CountActive, 200)
		n := uint64(1 + random.IntN(100))
		scheduler.Advance(v.s, v.servers, scheduler.CountActive, n)
		v.get("B").Held = 0
		next := (v.at(letter(plan.At(n-1))) + 1) % len(v.servers)
		got := scheduler.Forward(v.s, v.servers, scheduler.CountActive, 10).At(0)
		expect(t, "next in turn", letter(got), letter(v.servers[next].ID))
	}
}

// TestSlowStartLBLC: a destination leaves a server that is at its effective weight.
func TestSlowStartLBLC(t *testing.T) {
	v := newService(t, "lblc", scheduler.Options{}, 8, 8)
	p := scheduler.Packet{Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1})}
	expect(t, "first", v.pick(p, scheduler.CountActive), "B")
	v.get("B").Active, v.get("B").Held = 3, 128
	expect(t, "below half its weight", v.pick(p, scheduler.CountActive), "B")
	v.get("B").Active = 5
	expect(t, "above", v.pick(p, scheduler.CountActive), "A")
}
