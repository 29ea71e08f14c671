// SPDX-License-Identifier: Apache-2.0

package director

import (
	"fmt"
	"testing"

	"xdplvs/bpf"
)

// TestKeyTableFull: a key that finds no place refuses the whole state, also when
// it is the last of several.
func TestKeyTableFull(t *testing.T) {
	for room := range 4 {
		t.Run(fmt.Sprint("room for ", room), func(t *testing.T) {
			w := newWorld(t, small)
			w.mustWant(one("rr", real4(1, 1)))
			junk := w.stuffKeys(room)
			want := one("rr", real4(2, 1))
			for i := range 2 { // four keys
				want.Services = append(want.Services, Service{Key: key4(10 + i), Scheduler: "rr"})
			}
			before := w.everything()
			expectError(t, w.d.apply(want), bpf.ErrFull, "raise limits.services")
			if after := w.everything(); after != before {
				t.Errorf("changed:\n%s", difference(before, after, " "))
			}
			for _, k := range junk {
				*k = bpf.ServiceKey{}
			}
			w.mustHold()
			w.mustWant(want)
		})
	}
}

// stuffKeys leaves room for n keys in each bucket at most, and returns the slots
// that it filled. (With n of 4 buckets left somewhere a key may still find none.)
func (w *world) stuffKeys(n int) (filled []*bpf.ServiceKey) {
	free := 0
	for b := range w.tables.Keys {
		for i := range w.tables.Keys[b].Key {
			k := &w.tables.Keys[b].Key[i]
			if k.Id != 0 {
				continue
			}
			if free++; free <= n {
				continue
			}
			*k = bpf.ServiceKey{Addr: addr("203.0.113.1").As16(), Port: uint16(b), Protocol: uint8(i), Id: noService + 1}
			filled = append(filled, k)
		}
	}
	return filled
}

// TestPacketsDoNotFindReservedKeys: a key that is reserved names no service, and a
// process that comes after one that was killed then deletes it.
func TestPacketsDoNotFindReservedKeys(t *testing.T) {
	w := newWorld(t, small)
	c, err := w.d.compare(one("rr", real4(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.d.reserveKeys(c); err != nil {
		t.Fatal(err)
	}
	if findService(w.tables, key4(1)) != nil {
		t.Error("packets find the service")
	}
	w.restart()
	w.mustWant(Desired{})
	expect(t, "keys", len(storedKeys(w.tables)), 0)
}

// TestRestoreOfNonsense: rows that nobody can have written, as after a change of
// the program, are left out and overwritten.
func TestRestoreOfNonsense(t *testing.T) {
	w := newWorld(t, small)
	want := Desired{}
	for i := range 3 {
		want.Services = append(want.Services, Service{Key: key4(i), Scheduler: "rr", Reals: []RealServer{real4(1, 1), real4(2, 1)}})
	}
	w.mustWant(want)
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
	rows := w.tables.Services
	rows[1].Plan = rows[0].Plan    // one place, two services
	rows[2].Plan[0].Base = 7       // not where plans begin
	rows[2].Plan[1].Base = 1 << 30 // not in the table
	rows[2].Flow.Length = 1 << 31
	w.restart()
	w.mustWant(want)
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
}

// TestNoRoomForAHashPlan: the service works without one.
func TestNoRoomForAHashPlan(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	w.resolve(real4(1, 1).Key.Addr)
	s := w.d.services[key4(1)]
	var taken []region
	for {
		r, ok := w.d.arena.take(16)
		if !ok {
			break
		}
		taken = append(taken, r)
	}
	s.needs.flow = 128
	must(w.d.publish(s))
	expect(t, "length of the hash plan", s.row.Flow.Length, 0)
	expect(t, "choice without any", w.chosen(key4(1)), 1)
	for _, r := range taken {
		w.d.arena.give(r)
	}
	must(w.d.publish(s))
	expect(t, "length of the hash plan in the end", s.row.Flow.Length, 127)
	w.d.reserved += 64 // as setWant would have
	w.mustHold()
}
