// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
)

func destinationKey(service uint32, n int) bpf.DestinationKey {
	return bpf.DestinationKey{Addr: [16]byte{14: byte(n >> 8), 15: byte(n)}, Service: service}
}

// TestForgetting: destinations that are not used go by IPVS's rules, those of
// services that remember nothing any more go at once.
func TestForgetting(t *testing.T) {
	sizes := medium
	sizes.Destinations = 300
	w := newWorld(t, sizes)
	short, long, other := one("lblc", real4(1, 1)), one("lblcr", real4(1, 1)), one("wlc", real4(1, 1))
	short.Services[0].Expiration = time.Hour
	long.Services[0].Key.Port, other.Services[0].Key.Port = 81, 82
	want := short
	want.Services = append(want.Services, long.Services[0], other.Services[0])
	for i := range want.Services {
		for j := range want.Services[i].Reals {
			want.Services[i].Reals[j].Key.Port = want.Services[i].Key.Port
		}
	}
	w.mustWant(want)
	ids := make([]uint32, 3)
	for i := range ids {
		ids[i] = w.d.services[want.Services[i].Key].id
	}
	remember := func(n int, idle time.Duration) {
		w.plane.destinations = map[bpf.DestinationKey]bpf.Destination{}
		for i := range n {
			for _, id := range ids {
				w.plane.destinations[destinationKey(id, i)] = bpf.Destination{LastUse: w.clock.now.Load() - w.clock.Jiffies(idle)}
			}
		}
	}
	count := func(i int) (n int) {
		for key := range w.plane.destinations {
			if key.Service == ids[i] {
				n++
			}
		}
		return n
	}
	remember(90, 23*time.Hour) // fewer than two thirds of 300
	w.d.forgetIdle()
	expect(t, "wlc's", count(2), 0)
	expect(t, "lblc's and lblcr's, no excess", count(0)+count(1), 180)
	for range 28 {
		w.d.forgetIdle()
	}
	expect(t, "not yet", count(0)+count(1), 180)
	w.d.forgetIdle()
	expect(t, "after an hour, lblc's", count(0), 0)
	expect(t, "of a day, lblcr's", count(1), 90)

	remember(140, 5*time.Minute)
	w.d.forgetIdle()
	expect(t, "in excess, but in use", count(0)+count(1), 280)
	remember(140, 6*time.Minute)
	w.d.forgetIdle() // 280 are 80 above 200, and none of the third service's is left
	expect(t, "in excess", count(0)+count(1)+count(2), 280-100)

	w.plane.fault = func(what string) error {
		if what == "destinations" {
			return errors.New("no such map")
		}
		return nil
	}
	w.d.forgetIdle()
	if text := w.log.String(); !strings.Contains(text, "no such map") {
		t.Errorf("logged %s", text)
	}
}

// TestForgetOnChange: another scheduler, or another kind of it, begins with nothing.
func TestForgetOnChange(t *testing.T) {
	w := newWorld(t, medium)
	w.mustWant(one("lblc", real4(1, 1)))
	id := w.d.services[key4(1)].id
	w.plane.destinations = map[bpf.DestinationKey]bpf.Destination{destinationKey(id, 1): {}, destinationKey(id+1, 1): {}}
	w.mustWant(one("lblc", real4(1, 2)))
	expect(t, "after another weight", len(w.plane.destinations), 2)
	w.mustWant(one("lblcr", real4(1, 2)))
	expect(t, "after another scheduler", len(w.plane.destinations), 1)
}

// TestLocalityRestart: a new process leaves the plan in force alone, and what lies
// before it, until it has made another one.
func TestLocalityRestart(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		w := newWorld(t, medium)
		w.mustWant(one(name, real4(1, 1), real4(2, 1)))
		w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
		row := w.d.services[key4(1)].row
		before := row.Plan[row.Current&1]
		w.restart()
		expect(t, name+": plan", row.Plan[row.Current&1], before)
		for r, ok := w.d.arena.take(16); ok; r, ok = w.d.arena.take(16) {
			if r.base+r.size > before.Base-uint32(bpf.RosterSlots) && r.base < before.Base+before.Length {
				t.Errorf("%s: slots %d to %d are given away, the plan begins at %d", name, r.base, r.base+r.size, before.Base)
			}
		}
	}
}

// TestRoster: packets are told of those with the most to spare, and of lblcr's time.
func TestRoster(t *testing.T) {
	w := newWorld(t, bpf.Sizes{Conns4: 64, Conns6: 64, Overflow: 1, Services: 4, Reals: 64, Plans: 4096, CPUs: 1})
	var reals []RealServer
	for i := range 40 {
		reals = append(reals, real4(i+1, uint32(i)))
	}
	want := one("lblcr", reals...)
	want.Services[0].Expiration = time.Minute
	w.mustWant(want)
	s := w.d.services[key4(1)]
	w.resolve(reals[20].Key.Addr)
	for i := range s.reals {
		s.reals[i].counts.Conns = 0
	}
	must(w.d.publish(s))
	at := s.regions[s.inForce()].base
	roster := w.tables.Plans[at:][:bpf.RosterSlots]
	expect(t, "expiration", roster[bpf.RosterExpiration], w.clock.Jiffies(time.Minute))
	expect(t, "count", roster[bpf.RosterCount], uint32(30))
	for i, id := range roster[bpf.RosterFirst:] {
		expect(t, "weight", w.tables.Reals[id].Weight, uint16(39-i))
	}
	expect(t, "plan", s.row.Plan[s.inForce()].Base, at+uint32(bpf.RosterSlots))

	w.d.dropSpare(s)
	before := slices.Clone(roster)
	to, ok := w.d.arena.take(s.regions[s.inForce()].size)
	if !ok {
		t.Fatal("no room to move the plan")
	}
	w.d.movePlan(s, to)
	if !slices.Equal(w.tables.Plans[to.base:][:bpf.RosterSlots], before) {
		t.Error("the plan was moved without its roster")
	}
	w.mustHold()
}
