// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"xdplvs/scheduler"
)

// TestSequences: what each scheduler does with fresh servers.
func TestSequences(t *testing.T) {
	const tcp, udp, ops = scheduler.CountActive, scheduler.CountInactive, scheduler.CountNothing
	for _, c := range []struct {
		name, scheduler string
		weights         []uint32
		counting        scheduler.Counting
		want            string
	}{
		{"last added first", "rr", []uint32{1, 1, 1}, tcp, "C B A C B A"},
		{"weights do not matter", "rr", []uint32{1, 9, 3}, tcp, "C B A C B A"},
		{"quiesced is left out", "rr", []uint32{1, 0, 1}, tcp, "C A C A"},
		{"all quiesced", "rr", []uint32{0, 0}, tcp, "- -"},
		{"none", "rr", nil, tcp, "-"},
		{"each once, then by level", "wrr", []uint32{1, 2, 4}, tcp, "C B A C C C B C B A C C C B C B A"},
		{"common divisor", "wrr", []uint32{2, 4, 8}, tcp, "C B A C C C B C B A C C C B C B A"},
		{"one server", "wrr", []uint32{5}, tcp, "A A A"},
		{"heavy added first", "wrr", []uint32{4, 1}, tcp, "B A A A A B A A A A B"},
		{"quiesced is left out", "wrr", []uint32{2, 0, 1}, tcp, "C A A C A A C A"},
		{"all quiesced", "wrr", []uint32{0, 0}, tcp, "- -"},
		{"none", "wrr", nil, tcp, "-"},
		{"ties to the first", "lc", []uint32{1, 1, 1}, tcp, "C B A C B A"},
		{"weights do not matter", "lc", []uint32{9, 1, 5}, tcp, "C B A C B A"},
		{"one-packet never counts", "lc", []uint32{1, 1}, ops, "B B B"},
		{"inactive counts", "lc", []uint32{1, 1}, udp, "B A B A"},
		{"first whatever the weight, then by load", "wlc", []uint32{4, 2, 1}, tcp, "C B A A B A A C B A"},
		{"quiesced is left out", "wlc", []uint32{1, 0}, tcp, "A A"},
		{"counts the one to come", "sed", []uint32{1, 2, 4}, tcp, "C C B C C B A C C B"},
		{"inactive is free", "sed", []uint32{1, 2}, udp, "B B B B"},
		{"idle first", "nq", []uint32{4, 1, 1}, tcp, "C B A A A A A A A C B A"},
		{"udp is always idle", "nq", []uint32{4, 1, 1}, udp, "C C C"},
		{"heaviest", "fo", []uint32{1, 3, 2}, tcp, "B B B"},
		{"ties to the first", "fo", []uint32{3, 3, 2}, tcp, "B B"},
		{"weight plus one, then the next", "ovf", []uint32{1, 2, 1}, tcp, "B B B C C A A - -"},
		{"udp never flows over", "ovf", []uint32{1, 2}, udp, "B B B B B"},
		{"all quiesced", "twos", []uint32{0}, tcp, "-"},
		{"one server", "twos", []uint32{3, 0}, tcp, "A A A"},
		{"one destination stays", "lblc", []uint32{4, 4}, tcp, "B B B B B A A"},
		{"one destination spreads", "lblcr", []uint32{4, 4}, tcp, "B B B B B A A"},
	} {
		t.Run(c.scheduler+"/"+c.name, func(t *testing.T) {
			n := len(strings.Fields(c.want))
			v := newService(t, c.scheduler, scheduler.Options{}, c.weights...)
			plan := scheduler.Forward(v.s, v.servers, c.counting, n)
			expect(t, "picked", v.picks(n, c.counting), c.want)
			if _, ok := v.s.(scheduler.Based); ok || c.scheduler == "twos" {
				return
			}
			var planned []uint32
			for p := range n {
				planned = append(planned, plan.At(uint64(p)))
			}
			expect(t, "planned", letters(planned), c.want)
		})
	}
}

func TestOverloadedIsNeverChosen(t *testing.T) {
	for _, name := range scheduler.Names() {
		t.Run(name, func(t *testing.T) {
			v := newService(t, name, scheduler.Options{}, 3, 2, 5)
			v.get("C").Overloaded = true
			v.get("A").Overloaded = true
			for range 50 {
				if got := v.pick(scheduler.Packet{Src: serverAddr(7), Dst: serverAddr(9)}, scheduler.CountNothing); got != "B" && got != "-" {
					t.Fatalf("chose %s", got)
				}
			}
		})
	}
}

func TestRREdits(t *testing.T) {
	const tcp = scheduler.CountActive
	for _, c := range []struct {
		name   string
		before int // choices
		edit   func(*service)
		want   string
	}{
		{"removing the last choice: its successor is next", 2, func(v *service) { v.remove("C") }, "B A D B A"},
		{"removing the first: as from the beginning", 1, func(v *service) { v.remove("D") }, "C B A C"},
		{"removing another", 2, func(v *service) { v.remove("A") }, "B D C B"},
		{"removing the last choice and its predecessor", 3, func(v *service) { v.remove("B"); v.remove("C") }, "A D A"},
		{"editing does not move", 2, func(v *service) { v.weigh("C", 7) }, "B A D C"},
		{"adding does not move", 2, func(v *service) { v.add(1) }, "B A E D C B"},
		{"an overloaded one is passed over", 2, func(v *service) { v.get("B").Overloaded = true }, "A D C A"},
		{"all overloaded: the place is kept", 2, func(v *service) {
			for i := range v.servers {
				v.servers[i].Overloaded = true
			}
			v.picks(3, tcp)
			for i := range v.servers {
				v.servers[i].Overloaded = false
			}
		}, "B A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newService(t, "rr", scheduler.Options{}, 1, 1, 1, 1)
			v.picks(c.before, tcp)
			c.edit(v)
			expect(t, "then", v.picks(len(strings.Fields(c.want)), tcp), c.want)
		})
	}
}

func TestRRSeveralRemovedAtOnce(t *testing.T) {
	v := newService(t, "rr", scheduler.Options{}, 1, 1, 1, 1, 1)
	v.picks(4, scheduler.CountActive) // E D C B
	v.servers = append(v.servers[:2:2], v.servers[4:]...)
	v.s.Edit(v.servers)
	expect(t, "after E D C B without C and B", v.picks(3, scheduler.CountActive), "A E D")
}

func TestWRREdits(t *testing.T) {
	const tcp = scheduler.CountActive
	overload := func(v *service, yes bool) {
		for i := range v.servers {
			v.servers[i].Overloaded = yes
		}
	}
	for _, c := range []struct {
		name   string
		before int
		edit   func(*service)
		want   string
	}{
		{"an edit begins the level again", 5, func(v *service) { v.weigh("A", 1) }, "C C B C B A C"},
		{"within the cycle the level is kept", 7, func(v *service) { v.weigh("A", 1) }, "C B C B A C"},
		{"a smaller top lowers the level", 4, func(v *service) { v.weigh("C", 2) }, "C B C B A C B"},
		{"a larger step, too", 4, func(v *service) { v.weigh("A", 2) }, "C C B A C C B A"},
		{"all quiesced and back", 4, func(v *service) {
			for _, name := range []string{"A", "B", "C"} {
				v.weigh(name, 0)
			}
			v.weigh("A", 2)
		}, "A A A"},
		{"added at once: no first pass of ones", 0, func(v *service) {
			fresh := newService(v.t, "wrr", scheduler.Options{})
			fresh.s.Edit(v.servers)
			v.s = fresh.s
		}, "C C C B C B A C"},
		{"refusing at a higher level begins a new cycle", 4, func(v *service) {
			overload(v, true)
			v.picks(2, tcp)
			overload(v, false)
		}, "C C C B C B A"},
		{"refusing within the last pass keeps the place", 8, func(v *service) {
			overload(v, true)
			v.picks(2, tcp)
			overload(v, false)
		}, "B A C C C B"},
		{"empty levels are left out", 3, func(v *service) { v.get("C").Overloaded = true }, "B B A B B A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newService(t, "wrr", scheduler.Options{}, 1, 2, 4)
			v.picks(c.before, tcp)
			c.edit(v)
			expect(t, "then", v.picks(len(strings.Fields(c.want)), tcp), c.want)
		})
	}
}

// TestWRRStep: after an edit the level is one above a multiple of the new step.
func TestWRRStep(t *testing.T) {
	v := newService(t, "wrr", scheduler.Options{}, 1, 4, 8)
	expect(t, "down to level 6", v.picks(6, scheduler.CountActive), "C B A C C C")
	v.weigh("A", 2)
	expect(t, "from level 7 by 2", v.picks(8, scheduler.CountActive), "C C C B C B A C")
}

// TestWRRHugeWeights: levels nobody is at are not walked through one by one.
func TestWRRHugeWeights(t *testing.T) {
	v := newService(t, "wrr", scheduler.Options{}, 1, 1<<32-1)
	v.get("B").Overloaded = true
	start := time.Now()
	expect(t, "choices", v.picks(3, scheduler.CountActive), "A A A")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestHugeCountsAndWeights(t *testing.T) {
	const most = 1<<32 - 1
	for _, name := range []string{"wlc", "sed", "nq", "twos"} {
		v := newService(t, name, scheduler.Options{}, most, most-1)
		v.get("A").Active, v.get("A").Inactive = most, most
		v.get("B").Active, v.get("B").Inactive = most, most
		if name != "twos" { // most per most is less than most per most-1
			expect(t, name, v.picks(2, scheduler.CountActive), "A A")
		}
		v.picks(2, scheduler.CountInactive)
	}
}

func TestHashesKnownValues(t *testing.T) {
	one, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd99::5:0:0:7")
	folded := netip.AddrFrom4([4]byte{0xfd, 0x99 ^ 5, 0, 7})
	expect(t, "dh", scheduler.DHHash(one), 0x27) // 0x0a000001 × 0x61C88647 = 0x27C88647 modulo 2^32
	expect(t, "sh is dh of the source", scheduler.SHHash(one, 0), scheduler.DHHash(one))
	expect(t, "the port is added", scheduler.SHHash(one, 9), scheduler.SHHash(netip.MustParseAddr("10.0.0.10"), 0))
	expect(t, "IPv6 is folded", scheduler.DHHash(six), scheduler.DHHash(folded))
	expect(t, "IPv6 is folded", scheduler.MHHash(six, 1, 2), scheduler.MHHash(folded, 3, 0))
	expect(t, "no address", scheduler.DHHash(netip.Addr{}), 0)
}

// slots counts how many slots each server has.
func slots(table []uint32) map[string]int {
	n := map[string]int{}
	for _, id := range table {
		n[letter(id)]++
	}
	return n
}

func TestHashTables(t *testing.T) {
	for _, c := range []struct {
		scheduler string
		weights   []uint32
		want      map[string]int
	}{
		{"dh", []uint32{1, 5, 0}, map[string]int{"C": 86, "B": 85, "A": 85}},
		{"dh", nil, map[string]int{"-": 256}},
		{"sh", []uint32{1, 2, 4}, map[string]int{"C": 148, "B": 72, "A": 36}},
		{"sh", []uint32{1, 0, 1}, map[string]int{"C": 86, "B": 85, "A": 85}},
		{"sh", []uint32{3, 2, 1000}, map[string]int{"C": 256}},
		{"sh", nil, map[string]int{"-": 256}},
		{"mh", []uint32{0, 0}, map[string]int{"-": 4093}},
		{"mh", nil, map[string]int{"-": 4093}},
		{"mh", []uint32{2, 2}, map[string]int{"B": 2047, "A": 2046}},
		{"mh", []uint32{7, 0}, map[string]int{"A": 4093}},
	} {
		t.Run(fmt.Sprint(c.scheduler, c.weights), func(t *testing.T) {
			v := newService(t, c.scheduler, scheduler.Options{}, c.weights...)
			expect(t, "slots", fmt.Sprint(slots(v.s.(scheduler.Tabled).Table(v.servers))), fmt.Sprint(c.want))
		})
	}
}

// TestQuiescing: what a weight of 0 does to the tables.
func TestQuiescing(t *testing.T) {
	for _, name := range []string{"dh", "mh"} {
		v := newService(t, name, scheduler.Options{}, 1, 2, 4)
		before := letters(v.s.(scheduler.Tabled).Table(v.servers))
		v.weigh("B", 0)
		expect(t, name+" keeps all slots", letters(v.s.(scheduler.Tabled).Table(v.servers)) == before, true)
	}
	v := newService(t, "sh", scheduler.Options{}, 1, 2, 4)
	v.weigh("B", 0)
	expect(t, "sh slots", fmt.Sprint(slots(v.s.(scheduler.Tabled).Table(v.servers))), "map[A:42 B:42 C:172]")
}

// TestFallback: with the flag every client is served while one server is usable,
// and the others' clients stay.
func TestFallback(t *testing.T) {
	for name, flags := range map[string]scheduler.Flags{
		"sh": scheduler.SHFallback | scheduler.SHPort, "mh": scheduler.MHFallback | scheduler.MHPort,
	} {
		plain := newService(t, name, scheduler.Options{Flags: flags &^ (scheduler.SHFallback | scheduler.MHFallback)}, 1, 1, 1)
		fallback := newService(t, name, scheduler.Options{Flags: flags}, 1, 1, 1)
		for i := range 1000 {
			p := scheduler.Packet{Src: serverAddr(uint32(i)), SrcPort: uint16(i * 7)}
			plain.get("B").Overloaded, fallback.get("B").Overloaded = false, false
			at := plain.pick(p, scheduler.CountNothing)
			expect(t, "with and without flag", fallback.pick(p, scheduler.CountNothing), at)
			plain.get("B").Overloaded, fallback.get("B").Overloaded = true, true
			without, with := plain.pick(p, scheduler.CountNothing), fallback.pick(p, scheduler.CountNothing)
			if at == "B" && (without != "-" || with == "-") || at != "B" && (without != at || with != at) {
				t.Fatalf("%s: %s is overloaded: without fallback %s, with %s", name, at, without, with)
			}
		}
		for i := range fallback.servers {
			fallback.servers[i].Overloaded = true
		}
		expect(t, name+" with nobody left", fallback.picks(1, scheduler.CountNothing), "-")
	}
}

func TestLBLC(t *testing.T) {
	const tcp = scheduler.CountActive
	one, two := scheduler.Packet{Dst: serverAddr(1)}, scheduler.Packet{Dst: serverAddr(2)}
	for _, name := range []string{"lblc", "lblcr"} {
		t.Run(name, func(t *testing.T) {
			v := newService(t, name, scheduler.Options{}, 9, 9)
			expect(t, "first destination", v.pick(one, tcp), "B")
			expect(t, "second destination", v.pick(two, tcp), "A")
			v.get("B").Active = 9
			expect(t, "stays up to its weight", v.pick(one, tcp), "B")
			v.get("A").Active = 5
			expect(t, "stays while nobody has half of its weight free", v.pick(one, tcp), "B")
			v.get("A").Active = 4
			expect(t, "moves to a free one", v.pick(one, tcp), "A")

			v.get("A").Active, v.get("B").Active = 1, 1
			gone := v.remove("A")
			expect(t, "its server is gone", v.pick(two, tcp), "B")
			v.restore(gone)
			if name == "lblcr" {
				v.get("B").Active = 0
			}
			expect(t, "the memory was replaced", v.pick(two, tcp), "B")
			v.weigh("B", 0)
			expect(t, "its server is quiesced", v.pick(two, tcp), "A")
			v.weigh("A", 0)
			expect(t, "nobody is left", v.pick(two, tcp), "-")
		})
	}
}

func TestLBLCRemembersARemovedServer(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		v := newService(t, name, scheduler.Options{}, 9, 9)
		p := scheduler.Packet{Dst: serverAddr(1)}
		expect(t, name+" chooses", v.pick(p, scheduler.CountActive), "B")
		v.restore(v.remove("B"))
		v.get("B").ID = 25 // a new id: the address is what counts
		v.get("Z").Active = 2
		expect(t, name+" after return", v.pick(p, scheduler.CountActive), "Z")
	}
}

// TestLBLCIgnoresOverload: the flag stops new destinations, not known ones.
func TestLBLCIgnoresOverload(t *testing.T) {
	for name, want := range map[string]string{"lblc": "B", "lblcr": "A"} {
		v := newService(t, name, scheduler.Options{}, 9, 9)
		p := scheduler.Packet{Dst: serverAddr(1)}
		v.pick(p, scheduler.CountActive)
		v.get("B").Overloaded = true
		expect(t, name, v.pick(p, scheduler.CountActive), want)
	}
}

func TestLBLCRShrinks(t *testing.T) {
	const tcp = scheduler.CountActive
	v := newService(t, "lblcr", scheduler.Options{LBLCRExpiration: time.Minute}, 2, 2)
	now := time.Duration(0)
	pick := func() string { return v.pick(scheduler.Packet{Dst: serverAddr(1), Now: now}, tcp) }
	for range 3 {
		expect(t, "alone", pick(), "B")
	}
	expect(t, "the second joins", pick(), "A")
	v.get("A").Active, v.get("B").Active = 1, 0
	expect(t, "the least loaded of both", pick(), "B")
	v.get("A").Active, v.get("B").Active = 0, 2
	now = time.Minute
	expect(t, "not yet over", pick(), "A")
	now++
	expect(t, "over: the most loaded leaves", pick(), "A")
	v.get("A").Active, v.get("B").Active = 1, 0
	expect(t, "one is left", pick(), "A")
}

func TestLBLCMemoryIsBounded(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		t.Run(name, func(t *testing.T) {
			v := newService(t, name, scheduler.Options{}, 1000000, 1000000)
			v.weigh("A", 0)
			for i := range 30000 {
				v.pick(scheduler.Packet{Dst: destination(i)}, scheduler.CountNothing)
			}
			v.weigh("A", 1000000)
			v.get("B").Active = 1000 // who is not remembered now goes to A
			known := func(now time.Duration) (n int) {
				probe := &service{t: t, s: v.s.Clone(), servers: v.servers}
				for i := range 30000 {
					if probe.pick(scheduler.Packet{Dst: destination(i), Now: now}, scheduler.CountNothing) == "B" {
						n++
					}
				}
				return n
			}
			sweeper := v.s.(scheduler.Sweeper)
			expect(t, "remembered", known(0), 24576)
			sweeper.Sweep(6*time.Minute - 1)
			expect(t, "nothing is idle yet", known(0), 24576)
			sweeper.Sweep(6 * time.Minute)
			expect(t, "after one sweep", known(0), 24576-8192)
			for range 29 {
				sweeper.Sweep(23 * time.Hour)
			}
			expect(t, "no excess", known(0), 24576-8192)
			sweeper.Sweep(24 * time.Hour)
			expect(t, "after a day", known(0), 0)
		})
	}
}

func destination(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)})
}

// TestTwosDistribution compares Pick with the definition's chances.
func TestTwosDistribution(t *testing.T) {
	for name, c := range map[string]struct {
		weights []uint32
		active  []uint32 // by letter
	}{
		"no load":           {[]uint32{1, 2, 4}, []uint32{0, 0, 0}},
		"by weight":         {[]uint32{10, 20, 30}, []uint32{5, 5, 5}},
		"equal":             {[]uint32{1, 1, 1, 1}, []uint32{3, 2, 1, 0}},
		"with one quiesced": {[]uint32{3, 0, 2}, []uint32{1, 0, 1}},
		"heavy and light":   {[]uint32{65535, 1}, []uint32{70000, 1}},
	} {
		o := scheduler.Options{Rand: rand.New(rand.NewPCG(1, 2))}
		v := newService(t, "twos", o, c.weights...)
		for i, active := range c.active {
			v.get(letter(uint32(i))).Active = active
		}
		seen := newTally()
		for range 20000 {
			i := v.s.Pick(scheduler.Packet{}, v.servers)
			if _, err := seen.choose(scheduler.Packet{}, v.servers, scheduler.CountNothing, v.servers[i].ID); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		seen.check(t, name)
	}
}

func TestTwosIsSeeded(t *testing.T) {
	run := func(seed uint64) string {
		o := scheduler.Options{Rand: rand.New(rand.NewPCG(seed, 0))}
		return newService(t, "twos", o, 5, 5, 5, 5).picks(40, scheduler.CountActive)
	}
	expect(t, "same seed", run(1), run(1))
	expect(t, "other seed differs", run(1) != run(2), true)
}
