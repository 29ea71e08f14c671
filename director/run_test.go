// SPDX-License-Identifier: Apache-2.0

package director

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLatest: set never waits, whoever takes meanwhile; the last value stays.
func TestLatest(t *testing.T) {
	l := newLatest[int]()
	l.set(1)
	l.set(2)
	expect(t, "value", <-l, 2)

	const n = 20000
	var setters sync.WaitGroup
	for s := range 3 { // one is all that the director needs
		setters.Go(func() {
			for i := range n {
				l.set(s*n + i)
			}
		})
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-l:
			case <-stop:
				return
			}
		}
	}()
	setters.Wait()
	close(stop)
	<-done
	l.set(-1)
	expect(t, "last value", <-l, -1)
}

// TestLatestIsNotLost: of one setter's values a taker sees growing ones, and in
// the end the last.
func TestLatestIsNotLost(t *testing.T) {
	l := newLatest[int]()
	const n = 50000
	go func() {
		for i := range n {
			l.set(i)
		}
	}()
	seen := -1
	for seen < n-1 {
		v := <-l
		if v <= seen {
			t.Fatalf("%d after %d", v, seen)
		}
		seen = v
	}
}

func TestIDs(t *testing.T) {
	s := newIDs(4)
	s.claim(1)
	s.claim(1)
	var got []uint32
	for {
		id, ok := s.take()
		if !ok {
			break
		}
		got = append(got, id)
	}
	expect(t, "ids", fmt.Sprint(got), "[0 2 3]")
	expect(t, "free", s.free(), 0)
	s.give(2)
	s.give(2)
	s.give(1)
	expect(t, "free", s.free(), 2)
	id, _ := s.take()
	expect(t, "the lowest", id, 1)
}

// TestStopped: a director that has ended answers at once.
func TestStopped(t *testing.T) {
	w := newWorld(t, small)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.d.Run(ctx); err != nil {
		t.Fatal(err)
	}
	expect(t, "Set", w.d.Set(t.Context(), Desired{}), ErrStopped)
	s, err := w.d.Snapshot(t.Context())
	expect(t, "Snapshot", err, ErrStopped)
	expect(t, "the snapshot", s, nil)
	expect(t, "Connections", w.d.Connections(t.Context(), func(*Conn) error { return nil }), ErrStopped)
	for range 3 {
		w.d.SetNextHops(nil) // does not wait
	}
}

// TestNotRunning: a call waits no longer than its context.
func TestNotRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, small)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		expect(t, "Set", w.d.Set(ctx, Desired{}), context.DeadlineExceeded)
	})
}

// TestRunsByTheClock: estimates every 2 s, sweeps in 2 s, frees rows of removed
// real servers, and ends with its context.
func TestRunsByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, small)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.d.Run(ctx) }()
		set := func(want Desired) {
			t.Helper()
			if err := w.d.Set(ctx, want); err != nil {
				t.Fatal(err)
			}
		}
		cps := func() uint64 {
			t.Helper()
			s, err := w.d.Snapshot(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return s.Rates.CPS
		}
		set(one("rr", real4(1, 1), real4(2, 1)))
		w.d.SetNextHops(map[netip.Addr]NextHop{real4(1, 1).Key.Addr: hopFor(real4(1, 1).Key.Addr), real4(2, 1).Key.Addr: hopFor(real4(2, 1).Key.Addr)})
		expect(t, "rate", cps(), 0) // and the next hops are in force
		synctest.Wait()
		must(w.d.do(ctx, func() { // beside the sweep, as the race detector wants it
			for i := range 40 {
				w.connect(key4(1), client(i))
			}
		}))
		time.Sleep(1900 * time.Millisecond)
		expect(t, "rate before the first tick", cps(), 0)
		time.Sleep(200 * time.Millisecond)
		expect(t, "rate after it", cps(), 5)
		expect(t, "sweeps of the overflow", w.plane.sweeps, 1)

		set(one("rr", real4(1, 1)))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		expect(t, "rows in use", w.d.realIDs.n, 2)
		w.clock.advance(901 * time.Second)
		time.Sleep(4 * time.Second) // a sweep, and seen without connections once
		time.Sleep(2 * time.Second) // and again
		synctest.Wait()
		expect(t, "rows in use at last", w.d.realIDs.n, 1)
		w.mustHold()

		w.clock.fault.Store(true)
		time.Sleep(time.Second)
		if !strings.Contains(w.log.String(), "event=sweep_failed") {
			t.Errorf("log does not tell that sweeping failed:\n%s", w.log)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestHopsBeforeCalls: a call sees the next hops that were set before it.
func TestHopsBeforeCalls(t *testing.T) {
	w := newWorld(t, small)
	d := w.run(t)
	if err := d.Set(t.Context(), one("rr", real4(1, 1))); err != nil {
		t.Fatal(err)
	}
	a := real4(1, 1).Key.Addr
	for i := range 200 {
		d.SetNextHops(map[netip.Addr]NextHop{a: {Reason: "still down"}})
		d.SetNextHops(map[netip.Addr]NextHop{a: {Reason: fmt.Sprint("down ", i)}})
		s, err := d.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "reason", s.Services[0].Reals[0].Unreachable, fmt.Sprint("down ", i))
	}
}

// TestCallers: everything at once from many goroutines, some of which give up.
func TestCallers(t *testing.T) {
	w := newWorld(t, medium)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.d.Run(ctx) }()
	var callers sync.WaitGroup
	for caller := range 6 {
		callers.Go(func() { callEverything(t, w.d, rand.New(rand.NewPCG(uint64(caller), 1))) })
	}
	callers.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for range 100 { // goroutines that were told to end are given the time to
		if runtime.NumGoroutine() < 10 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.mustHold()
}

func callEverything(t *testing.T, d *Director, random *rand.Rand) {
	for range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(20))*time.Millisecond)
		var err error
		switch random.IntN(4) {
		case 0:
			want := randomDesired(random)
			if err = d.Set(ctx, want); err != nil && strings.Contains(err.Error(), "limits.") {
				err = nil
			}
		case 1:
			_, err = d.Snapshot(ctx)
		case 2:
			d.SetNextHops(randomHops(random))
			select {
			case <-d.Targets():
			default:
			}
		case 3:
			err = d.Connections(ctx, func(*Conn) error { return nil })
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
}

// TestCallerMayChangeItsState: what was set is the director's own.
func TestCallerMayChangeItsState(t *testing.T) {
	w := newWorld(t, small)
	want := one("rr", real4(1, 1), real4(2, 1))
	w.mustWant(want)
	want.Services[0].Reals[0] = real4(3, 7)
	w.mustHold()
	w.mustWant(want)
	expect(t, "the change is seen", w.d.services[key4(1)].reals[1].want.Weight, 7)
}

// TestPanickingPlane: a data plane whose calls break off in the middle, as a killed
// process does; what comes after finds whole rows.
func TestPanickingPlane(t *testing.T) {
	random := seeded(t)
	for range 40 {
		w := newWorld(t, medium)
		calls := random.IntN(12)
		w.plane.fault = func(what string) error {
			if calls--; calls < 0 {
				panic(what)
			}
			return nil
		}
		broken := false
		for range 4 {
			broken = broken || panics(func() {
				_ = w.d.apply(randomDesired(random))
				w.d.setHops(randomHops(random))
			})
			if broken {
				break
			}
		}
		w.plane.fault = nil
		w.restart()
		w.mustRestore()
		w.wantWhatFits(randomDesired(random))
	}
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}
