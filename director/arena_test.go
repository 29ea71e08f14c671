// SPDX-License-Identifier: Apache-2.0

package director

import (
	"math/rand/v2"
	"slices"
	"testing"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

func TestRegionSize(t *testing.T) {
	for slots, want := range map[int]uint32{0: 16, 1: 16, 16: 16, 17: 32, 64: 64, 65: 128, 65521: 65536, 65536: 65536} {
		expect(t, "size", regionSize(slots), want)
	}
}

// TestArenaSizes: an arena of any size gives out all of itself, and gets it back.
func TestArenaSizes(t *testing.T) {
	for _, slots := range []int{16, 48, 100, 512, 1000, 1 << 16, 3 << 14} {
		a := newArena(slots)
		var given []region
		for {
			r, ok := a.take(bpf.PlanAlign)
			if !ok {
				break
			}
			given = append(given, r)
		}
		expect(t, "regions", len(given), slots/int(bpf.PlanAlign))
		for _, r := range given {
			a.give(r)
		}
		if err := a.broken(nil); err != nil {
			t.Errorf("%d slots: %v", slots, err)
		}
	}
}

// TestArenaRandom gives and takes at random; nothing overlaps, nothing is lost.
func TestArenaRandom(t *testing.T) {
	random := seeded(t)
	a := newArena(1<<12 + 1<<8)
	var given []region
	for range 3000 {
		if random.IntN(2) == 0 || len(given) == 0 {
			if r, ok := a.take(16 << random.IntN(6)); ok {
				given = append(given, r)
			}
		} else {
			i := random.IntN(len(given))
			a.give(given[i])
			given = slices.Delete(given, i, i+1)
		}
		if err := a.broken(given); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range given {
		a.give(r)
	}
	if err := a.broken(nil); err != nil {
		t.Error(err)
	}
}

// TestArenaClaim: a second arena with the same regions claimed has the rest free.
func TestArenaClaim(t *testing.T) {
	random := seeded(t)
	a := newArena(1 << 12)
	var given []region
	for {
		r, ok := a.take(16 << random.IntN(5))
		if !ok {
			break
		}
		given = append(given, r)
	}
	random.Shuffle(len(given), func(i, j int) { given[i], given[j] = given[j], given[i] })
	kept := given[:len(given)/2]
	b := newArena(1 << 12)
	for _, r := range kept {
		if !b.claim(r) {
			t.Errorf("claim %v: refused", r)
		}
	}
	if err := b.broken(kept); err != nil {
		t.Error(err)
	}
	for _, r := range []region{kept[0], {8, 16}, {16, 32}, {1 << 12, 16}, {0, 1 << 13}, {0xfffffff0, 16}, {0, 8}} {
		if b.claim(r) {
			t.Errorf("claim %v: taken twice, or no region", r)
		}
	}
}

// TestPlansNeverLackRoom fills the plans table with small plans, removes most of
// them at random, and asks for large ones: while what is needed is less than the
// table, there is room, however what is left lies scattered. Meanwhile every
// service goes on where it was.
func TestPlansNeverLackRoom(t *testing.T) {
	random := seeded(t)
	const services = 200
	w := newWorld(t, bpf.Sizes{Conns4: 8, Conns6: 8, Overflow: 1, Services: 16 * services, Reals: 2*services + 100, Plans: services * 96, CPUs: 1})
	want := Desired{}
	for i := range services {
		want.Services = append(want.Services, Service{Key: key4(i), Scheduler: "rr", Reals: []RealServer{real4(0, 1)}})
	}
	w.mustWant(want)
	w.resolve(real4(0, 1).Key.Addr, real4(1, 1).Key.Addr)
	for round := range 8 {
		scatter(w, random, &want, services/2)
		if free := services*96 - int(w.d.reserved); free < 4096 {
			t.Fatalf("round %d: only %d slots are free", round, free)
		}
		// Two plans of 1024 slots and one of 32.
		large := Service{Key: key4(1000), Scheduler: "wrr", Reals: []RealServer{real4(0, 1), real4(1, 1000)}}
		with := Desired{Services: append(slices.Clone(want.Services), large)}
		w.mustWant(with)
		must(w.d.publish(w.d.services[large.Key])) // the second of the two
		w.mustHold()
		expect(t, "slots of the large plan", w.d.services[large.Key].row.Plan[w.d.services[large.Key].inForce()].Length, 1001)
		w.mustWant(want)
		for len(want.Services) < services {
			want.Services = append(want.Services, Service{Key: key4(2000 + round*services + len(want.Services)), Scheduler: "rr", Reals: []RealServer{real4(0, 1)}})
		}
		w.tick()
		w.tick()
		w.mustWant(want)
	}
}

// scatter leaves n services, taken at random, and lets all of them make new plans.
func scatter(w *world, random *rand.Rand, want *Desired, n int) {
	list := slices.Clone(want.Services)
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	want.Services = list[:n]
	w.mustWant(*want)
	for _, s := range w.d.services {
		must(w.d.publish(s))
	}
	w.mustHold()
	w.tick()
	w.tick()
}

// TestCompactMovesNobody: a plan that is moved goes on with the next choice.
func TestCompactMovesNobody(t *testing.T) {
	w := newWorld(t, bpf.Sizes{Conns4: 1024, Conns6: 8, Overflow: 1, Services: 8, Reals: 64, Plans: 1024, CPUs: 1})
	want := Desired{}
	for i := range 4 {
		want.Services = append(want.Services, Service{Key: key4(i), Scheduler: "rr", Reals: []RealServer{real4(1, 1), real4(2, 1), real4(3, 1)}})
	}
	w.mustWant(want)
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr, real4(3, 1).Key.Addr)
	base := func(s Service) uint32 { x := w.d.services[s.Key]; return x.regions[x.inForce()].base }
	slices.SortFunc(want.Services, func(a, b Service) int { return int(base(a)) - int(base(b)) })
	last := want.Services[3].Key // the one whose plan lies highest
	first := w.connect(last, client(1))
	second := w.connect(last, client(2))
	w.mustWant(Desired{Services: want.Services[3:]})
	before := w.d.services[last].regions[w.d.services[last].inForce()].base
	w.d.compact()
	w.mustHold()
	after := w.d.services[last].regions[w.d.services[last].inForce()].base
	if after >= before {
		t.Errorf("the plan lies at %d, before at %d", after, before)
	}
	third := w.connect(last, client(3))
	if third == first || third == second {
		t.Errorf("choices %d %d, then %d: one was made twice", first, second, third)
	}
	expect(t, "fourth choice", w.connect(last, client(4)), first)
	// And the scheduler knows of all four.
	must(w.d.publish(w.d.services[last]))
	expect(t, "fifth choice", w.connect(last, client(5)), second)
}

// TestCycle: what is reserved for a plan holds the plan.
func TestCycle(t *testing.T) {
	random := seeded(t)
	for range 300 {
		name := randomOf(random, sequential...)
		s, err := newScheduler(Service{Scheduler: name})
		if err != nil {
			t.Fatal(err)
		}
		var reals []RealServer
		var servers []scheduler.Server
		for i := range random.IntN(8) {
			r := real4(i, uint32(random.IntN(40)*random.IntN(3)))
			reals = append(reals, r)
			servers = slices.Insert(servers, 0, scheduler.Server{ID: uint32(i), Addr: r.Key.Addr, Port: 80, Weight: r.Weight})
			s.Edit(servers)
		}
		scheduler.Advance(s, servers, scheduler.CountActive, uint64(random.IntN(200)))
		plan := scheduler.Forward(s, servers, scheduler.CountActive, planLimit)
		want := len(plan.Slots)
		if !slices.ContainsFunc(servers, scheduler.Server.Usable) {
			want = 0
		}
		service := Service{Scheduler: name, Reals: reals}
		if got := service.planLength(); got < want || name == "wrr" && got != want {
			t.Errorf("%s with %v: %d slots are reserved, the plan has %d", name, reals, got, want)
		}
	}
	long := Service{Scheduler: "wrr", Reals: []RealServer{real4(1, 65535), real4(2, 65534)}}
	expect(t, "cycle of weights that have no common divisor", long.planLength(), planLimit)
}

func TestFlowSizes(t *testing.T) {
	for servers, want := range map[int]uint32{0: 64, 1: 64, 7: 64, 8: 128, 10: 128, 1000: 8192, 8000: 65536, 100000: 65536} {
		expect(t, "region of the hash plan", flowRegion(servers), want)
	}
	expect(t, "length in too small a region", flowLength(32), 0)
	for size := uint32(64); size <= 1<<16; size *= 2 {
		expect(t, "region of its length", regionSize(flowLength(size)), size)
	}
}
