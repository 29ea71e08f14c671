// SPDX-License-Identifier: Apache-2.0

package agenda

import (
	"math/rand/v2"
	"testing"
	"time"
)

type thing struct{ Place }

func TestOrder(t *testing.T) {
	var a Of[*thing]
	all := make([]*thing, 100)
	for i := range all {
		all[i] = new(thing)
	}
	epoch := time.Unix(0, 0)
	for range 5000 {
		e := all[rand.IntN(len(all))]
		if rand.IntN(4) == 0 {
			a.Drop(e)
			continue
		}
		at := epoch.Add(time.Duration(rand.IntN(1000)) * time.Second)
		if a.Set(e, at); !e.Listed() || e.Due() != at {
			t.Fatalf("set for %v: due at %v, listed %t", at, e.Due(), e.Listed())
		}
	}
	listed := 0
	for _, e := range all {
		if e.Listed() {
			listed++
		}
	}
	last := epoch
	for ; a.First() != nil; a.Drop(a.First()) {
		if a.First().Due().Before(last) {
			t.Fatalf("%v comes after %v", a.First().Due(), last)
		}
		last = a.First().Due()
		listed--
	}
	if listed != 0 {
		t.Errorf("%d more were listed than came", listed)
	}
	for _, e := range all {
		if e.Listed() {
			t.Error("one is listed on an empty agenda")
		}
	}
}

func TestTimes(t *testing.T) {
	var never time.Time
	now := time.Unix(1000, 0)
	for at, want := range map[time.Time]bool{never: false, now: true, now.Add(-1): true, now.Add(1): false} {
		if got := Due(at, now); got != want {
			t.Errorf("due at %v, now %v: %t", at, now, got)
		}
	}
	if got := Earliest(never, now.Add(2), now, never, now.Add(1)); got != now {
		t.Errorf("the earliest is %v, want %v", got, now)
	}
	if got := Earliest(never); got != never {
		t.Errorf("the earliest of none is %v", got)
	}
}
