// SPDX-License-Identifier: Apache-2.0

package director

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

// sequential are the schedulers whose plans hold for ever.
var sequential = []string{"rr", "wrr"}

// reference is the scheduler run directly, without plans, on the same edits.
type reference struct {
	sched   scheduler.Scheduler
	servers []scheduler.Server // ID is the number of the real server
}

func newReference(t testing.TB, name string) *reference {
	s, err := scheduler.New(name, scheduler.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &reference{sched: s}
}

func (r *reference) add(n int, weight uint32, reachable bool) {
	k := real4(n, weight).Key
	r.servers = slices.Insert(r.servers, 0, scheduler.Server{ID: uint32(n), Addr: k.Addr, Port: k.Port, Weight: weight, Overloaded: !reachable})
	r.sched.Edit(r.servers)
}

func (r *reference) at(n int) int {
	return slices.IndexFunc(r.servers, func(s scheduler.Server) bool { return s.ID == uint32(n) })
}

func (r *reference) remove(n int) {
	i := r.at(n)
	r.servers = slices.Delete(r.servers, i, i+1)
	r.sched.Edit(r.servers)
}

func (r *reference) weigh(n int, weight uint32) {
	r.servers[r.at(n)].Weight = weight
	r.sched.Edit(r.servers)
}

// pick is the number of the real server, -1 for none.
func (r *reference) pick() int {
	i := r.sched.Pick(scheduler.Packet{}, r.servers)
	if i < 0 {
		return -1
	}
	r.servers[i].Active++
	return int(r.servers[i].ID)
}

// chosen is what a packet gets, in the same terms.
func (w *world) chosen(key ServiceKey) int {
	s := findService(w.tables, key)
	id := pick(w.tables, s, 0)
	if id == bpf.NoReal {
		s.NoReal++
		return -1
	}
	return int(w.tables.Reals[id].Addr[15])
}

// TestPlansAgree: what packets get is what the scheduler would have chosen, one by
// one, across additions, removals, weights, next hops that come and go, and plans
// that are made anew for no reason.
func TestPlansAgree(t *testing.T) {
	for _, name := range sequential {
		t.Run(name, func(t *testing.T) {
			random := seeded(t)
			for range 12 {
				agree(t, name, random)
			}
		})
	}
}

func agree(t *testing.T, name string, random *rand.Rand) {
	w := newWorld(t, bpf.Sizes{Conns4: 8, Conns6: 8, Overflow: 1, Services: 2, Reals: 128, Plans: 1 << 12, CPUs: 1})
	want := one(name)
	w.mustWant(want)
	ref := newReference(t, name)
	reachable := map[int]bool{}
	next := 1
	var did []string
	for range 30 {
		reals := want.Services[0].Reals
		switch n := random.IntN(6); {
		case n == 0 || len(reals) == 0:
			weight := uint32(random.IntN(5))
			reals = append(slices.Clone(reals), real4(next, weight))
			ref.add(next, weight, reachable[next])
			did = append(did, fmt.Sprintf("add %d weight %d", next, weight))
			next++
		case n == 1:
			i := random.IntN(len(reals))
			ref.remove(int(reals[i].Key.Addr.As4()[3]))
			did = append(did, fmt.Sprintf("remove %s", reals[i].Key))
			reals = slices.Delete(slices.Clone(reals), i, i+1)
		case n == 2:
			i := random.IntN(len(reals))
			reals = slices.Clone(reals)
			if weight := uint32(random.IntN(5)); weight != reals[i].Weight {
				reals[i].Weight = weight
				ref.weigh(int(reals[i].Key.Addr.As4()[3]), weight)
			}
			did = append(did, fmt.Sprintf("weigh %v", reals[i]))
		case n == 3:
			must(w.d.publish(w.d.services[key4(1)]))
			did = append(did, "publish")
		default:
			i := 1 + random.IntN(next)
			reachable[i] = !reachable[i]
			turn(w, ref, i, reachable[i])
			did = append(did, fmt.Sprintf("reachable %d %v", i, reachable[i]))
		}
		want = one(name, reals...)
		w.mustWant(want)
		for range random.IntN(12) {
			got, should := w.chosen(key4(1)), ref.pick()
			did = append(did, fmt.Sprint(got))
			if got != should {
				t.Fatalf("%v: chose %d, the scheduler %d", did, got, should)
			}
		}
	}
}

// turn makes a real server reachable or not.
func turn(w *world, ref *reference, n int, reachable bool) {
	a := real4(n, 0).Key.Addr
	if reachable {
		w.resolve(a)
	} else {
		hops := maps.Clone(w.hops)
		hops[a] = NextHop{Reason: "no answer"}
		w.setHops(hops)
	}
	if i := ref.at(n); i >= 0 {
		ref.servers[i].Overloaded = !reachable
	}
}

// TestLongCycle: weights whose cycle is longer than a plan: the plan is renewed
// before it ends, and nobody notices.
func TestLongCycle(t *testing.T) {
	w := newWorld(t, bpf.Sizes{Conns4: 8, Conns6: 8, Overflow: 1, Services: 2, Reals: 8, Plans: 1 << 18, CPUs: 1})
	ref := newReference(t, "wrr")
	weights := []uint32{65535, 30001}
	var reals []RealServer
	for i, weight := range weights {
		reals = append(reals, real4(i+1, weight))
		ref.add(i+1, weight, true)
	}
	w.mustWant(one("wrr", reals...))
	w.resolve(reals[0].Key.Addr, reals[1].Key.Addr)
	s := findService(w.tables, key4(1))
	counts := map[int]int{}
	const picks = 3 * (65535 + 30001)
	for i := range picks {
		id := pick(w.tables, s, 0)
		got, should := int(w.tables.Reals[id].Addr[15]), ref.pick()
		if got != should {
			t.Fatalf("choice %d is %d, the scheduler's %d", i, got, should)
		}
		counts[got]++
		if i%5000 == 0 { // 500,000 new connections per second
			w.d.follow()
		}
	}
	w.mustHold()
	expect(t, "connections of the first", counts[1], 3*65535)
	expect(t, "connections of the second", counts[2], 3*30001)
}

// TestHandedOutMeanwhile: choices that the old plan hands out between the moment
// its cursor is read and the moment the new plan is in force are not made again.
func TestHandedOutMeanwhile(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1), real4(2, 1), real4(3, 1)))
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr, real4(3, 1).Key.Addr)
	key := key4(1)
	expect(t, "first", w.chosen(key), 3)
	s := w.d.services[key]
	w.d.settle(s)
	expect(t, "second, from the old plan", w.chosen(key), 2)
	must(w.d.publish(s))
	expect(t, "third, from the new plan", w.chosen(key), 1)
	must(w.d.publish(s))
	expect(t, "fourth", w.chosen(key), 3)
}

// TestShortOfSlots: where there is no room for a whole plan, as cannot be once a
// state was accepted, there is a part of one, and it is renewed.
func TestShortOfSlots(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("wrr", real4(1, 60), real4(2, 1)))
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
	s := w.d.services[key4(1)]
	taken := []region{}
	for { // somebody else has it all
		r, ok := w.d.arena.take(16)
		if !ok {
			break
		}
		taken = append(taken, r)
	}
	w.d.arena.give(taken[0])
	w.d.dropSpare(s)
	for {
		if _, ok := w.d.arena.take(32); !ok {
			break
		}
	}
	must(w.d.publish(s))
	row := s.row.Plan[s.inForce()]
	if row.Length == 0 || row.Length > 32 {
		t.Errorf("plan has %d slots", row.Length)
	}
	for range 100 {
		if n := w.chosen(key4(1)); n < 1 {
			t.Fatalf("chose %d", n)
		}
	}
	for _, r := range taken[1:] {
		w.d.arena.give(r)
	}
	w.follow()
	expect(t, "slots of the renewed plan", s.row.Plan[s.inForce()].Length, 61)
}
