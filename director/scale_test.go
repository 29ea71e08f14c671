// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/bpf"
)

// crowd is so many services with so many real servers each, and their next hops.
func crowd(services, reals int) (Desired, map[netip.Addr]NextHop) {
	want, hops := Desired{}, map[netip.Addr]NextHop{}
	for i := range services {
		s := Service{Key: key4(i), Scheduler: "wrr"}
		for j := range reals {
			r := real4((i*reals+j)%60000, uint32(1+j%4))
			s.Reals = append(s.Reals, r)
			hops[r.Key.Addr] = hopFor(r.Key.Addr)
		}
		want.Services = append(want.Services, s)
	}
	return want, hops
}

// tablesFor are those of the default limits, unless more real servers are needed.
func tablesFor(reals int) bpf.Sizes {
	l := DefaultLimits
	return bpf.Sizes{Conns4: 1 << 10, Conns6: 1 << 10, Overflow: 1, Services: l.Services, Reals: max(l.RealServers, uint32(2*reals)), Plans: l.PlanSlots, CPUs: 2}
}

// reweigh is a copy of the state with another weight of one real server.
func reweigh(want Desired, weight uint32) Desired {
	want.Services = slices.Clone(want.Services)
	s := &want.Services[len(want.Services)/2]
	s.Reals = slices.Clone(s.Reals)
	s.Reals[0].Weight = weight
	return want
}

// cpuTime is what the process has worked, which other processes have no part in.
func cpuTime() time.Duration {
	var usage unix.Rusage
	must(unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// TestTenThousandServices: what it takes to load them and to change one. The
// bounds are those of the specification, ten times what is measured here.
func TestTenThousandServices(t *testing.T) {
	want, hops := crowd(10000, 4)
	w := newWorld(t, tablesFor(40000))
	limit := func(what string, most time.Duration, f func()) {
		t.Helper()
		if raceDetector {
			most *= 10
		}
		begin := cpuTime()
		f()
		took := cpuTime() - begin
		t.Logf("%-22s %v", what, took.Round(time.Microsecond))
		if took > most {
			t.Errorf("%s took %v, more than %v", what, took, most)
		}
	}
	apply := func(want Desired) {
		t.Helper()
		if err := w.d.apply(want); err != nil {
			t.Fatal(err)
		}
	}
	limit("apply", 2*time.Second, func() { apply(want) })
	limit("next hops", 2*time.Second, func() { w.d.setHops(hops) })
	limit("the same again", 50*time.Millisecond, func() { apply(want) })
	other := reweigh(want, 9)
	limit("one weight", 50*time.Millisecond, func() { apply(other) })
	limit("snapshot", time.Second, func() {
		if _, err := w.d.snapshot(); err != nil {
			t.Fatal(err)
		}
	})
	limit("estimate", 200*time.Millisecond, func() { w.d.estimate() })
	limit("restart", 2*time.Second, func() {
		w.restart()
		apply(other)
	})
	w.mustHold()
	expect(t, "slots in use and reserved", w.d.arena.used <= w.d.arena.end/2, true)
}

func BenchmarkApply10000x4(b *testing.B) {
	want, _ := crowd(10000, 4)
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b, tablesFor(40000))
		b.StartTimer()
		if err := w.d.apply(want); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkOneWeight(b *testing.B, services, reals int) {
	want, hops := crowd(services, reals)
	w := newWorld(b, tablesFor(services*reals))
	if err := w.d.apply(want); err != nil {
		b.Fatal(err)
	}
	w.d.setHops(hops)
	states := []Desired{reweigh(want, 9), want}
	for i := 0; b.Loop(); i++ {
		if err := w.d.apply(states[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOneWeight10000x4(b *testing.B)  { benchmarkOneWeight(b, 10000, 4) }
func BenchmarkOneWeight10000x10(b *testing.B) { benchmarkOneWeight(b, 10000, 10) }
func BenchmarkOneWeight1x1000(b *testing.B)   { benchmarkOneWeight(b, 1, 1000) }

func BenchmarkNextHops10000x4(b *testing.B) {
	want, hops := crowd(10000, 4)
	w := newWorld(b, tablesFor(40000))
	if err := w.d.apply(want); err != nil {
		b.Fatal(err)
	}
	w.d.setHops(hops)
	for b.Loop() {
		w.d.setHops(hops) // one changed of 40,000 costs the same
	}
}

func BenchmarkSnapshot10000x4(b *testing.B) {
	want, _ := crowd(10000, 4)
	w := newWorld(b, tablesFor(40000))
	if err := w.d.apply(want); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := w.d.snapshot(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApply1x1000(b *testing.B) {
	want, _ := crowd(1, 1000)
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b, tablesFor(1000))
		b.StartTimer()
		if err := w.d.apply(want); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConnections(b *testing.B) {
	w := newWorld(b, bpf.Sizes{Conns4: 1 << 18, Conns6: 8, Overflow: 1, Services: 4, Reals: 16, Plans: 512, CPUs: 1})
	want := one("rr", real4(1, 1), real4(2, 1))
	if err := w.d.apply(want); err != nil {
		b.Fatal(err)
	}
	for i := range w.tables.Conns4 {
		c := &w.tables.Conns4[i]
		c.C.Tag, c.C.Word, c.C.Generation, c.C.LastUse = 6<<8|2, stateEstablished, 1, w.clock.now.Load()
	}
	l := w.d.lister(w.clock.now.Load())
	l.yield = func(*Conn) error { return nil }
	for b.Loop() {
		for i := range w.tables.Conns4 {
			if err := l.slot4(i); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(w.tables.Conns4)), "ns/conn")
}
