// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"xdplvs/internal/agenda"
)

const (
	// lookupSlice is how many routes are looked up between two looks at everything else: some
	// milliseconds of work, so that a changed neighbour does not wait for 40,000 look-ups.
	lookupSlice = 1024
	// partialEvery is the time between two snapshots while look-ups are under way.
	partialEvery = 100 * time.Millisecond
	// manyTargets are so many that a snapshot takes a millisecond or more.
	manyTargets = 5000
	// lostPause is the shortest time from one complete reading to one that was asked for by a lost
	// subscription: under a storm of changes the director must not do only this.
	lostPause = 100 * time.Millisecond
)

// An engine owns the state of a Resolver while it runs; one goroutine.
type engine struct {
	log  *slog.Logger
	out  *Resolver
	opts Options
	k    kernel
	in   *inbox
	stop func() // ends the subscription; nil: there is none

	// What the kernel's tables were when last read.
	links     linkTable
	addresses addressTable
	entries   map[neighKey]entry

	targets   targetList
	byAddr    map[netip.Addr]*target
	todo      targetList // targets whose routes are to be looked up
	neighbors map[neighKey]*neighbor
	unused    []*neighbor // may have no users left
	probes    prober
	ports     ports

	applyAt  time.Time // when to apply the inbox; zero: it is empty
	resyncAt time.Time // when to read everything again
	readAt   time.Time // when everything was last read
	lookAt   time.Time // when routes may be looked up
	began    time.Time // when the present round of look-ups began; zero: none goes on

	all       bool // all hops are to be computed again
	dirty     bool // some hop changed since the snapshot
	urgent    bool // ... and not because of a look-up
	publishAt time.Time

	first  targetList // targets of the first SetTargets, from the first that is pending
	giveIn time.Time  // when Synced is closed anyway; zero: no targets yet, or closed
}

func newEngine(r *Resolver, k kernel) *engine {
	in := newInbox()
	return &engine{
		log: r.log, out: r, opts: r.opts, k: k, in: in,
		neighbors: make(map[neighKey]*neighbor),
		lookAt:    time.Now(),
		probes:    prober{log: r.log, opts: r.opts, random: rand.Float64, pace: newPace(r.opts.ProbeRate)},
		ports:     ports{k: k, in: in, log: r.log, retry: r.opts.Retry},
	}
}

// run works until ctx ends.
func (e *engine) run(ctx context.Context) error {
	defer e.close()
	if err := e.resync(time.Now()); err != nil {
		return fmt.Errorf("read kernel tables: %w", err)
	}
	e.all = false // there are no hops yet
	e.retarget(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(e.work(time.Now())))
		select {
		case <-ctx.Done():
			return nil
		case <-e.out.wake:
			e.retarget(time.Now())
		case <-e.in.ready:
			e.schedule()
		case <-timer.C:
		}
	}
}

// close ends all goroutines that run started.
func (e *engine) close() {
	e.unwatch()
	e.ports.closeAll()
}

// schedule makes the inbox be applied after a while, in which more may come in.
func (e *engine) schedule() {
	if e.applyAt.IsZero() {
		e.applyAt = time.Now().Add(e.opts.Coalesce)
	}
}

// work does what is due and tells when there is more to do.
func (e *engine) work(now time.Time) time.Time {
	if agenda.Due(e.applyAt, now) {
		e.applyAt = time.Time{}
		e.apply(e.in.take(), now)
	}
	if agenda.Due(e.resyncAt, now) {
		if err := e.resync(now); err != nil {
			e.log.Warn("cannot read the kernel's tables, will try again", "error", err)
		}
	}
	e.lookUp(now)
	e.sweep(now)
	e.probe(now)
	e.refresh()
	e.publish(now)
	e.settle(now)
	return agenda.Earliest(e.applyAt, e.resyncAt, e.lookUpAt(), e.probes.wake(), e.snapshotAt(), e.giveIn)
}

// retarget takes over the addresses of SetTargets.
func (e *engine) retarget(now time.Time) {
	addrs, given := e.out.wanted()
	if !given {
		return
	}
	old := e.byAddr
	e.targets, e.byAddr = makeTargets(addrs, old)
	for a, t := range old {
		if e.byAddr[a] == nil {
			e.forget(t)
		}
	}
	for _, t := range e.targets {
		if !t.asked {
			e.mark(t)
			e.compute(t)
		}
	}
	// Most answers come within a moment: no need to show that they are awaited.
	e.dirty, e.publishAt = true, later(e.publishAt, now.Add(e.partialEvery()))
	if old == nil {
		e.first, e.giveIn = e.targets, now.Add(e.opts.FirstWait)
	}
}

// forget drops a target.
func (e *engine) forget(t *target) {
	t.gone = true
	e.attach(t, nil)
}

// publish makes a snapshot, if there is a change to show. While look-ups are under way it shows
// their results from time to time, and all else at once.
func (e *engine) publish(now time.Time) {
	if !e.dirty || e.held(now) {
		return
	}
	hops := make(map[netip.Addr]Hop, len(e.targets))
	for _, t := range e.targets {
		hops[t.addr] = t.hop
	}
	e.out.publish(hops)
	e.dirty, e.urgent = false, false
	e.publishAt = now.Add(e.partialEvery())
}

// held tells whether a snapshot waits for more. Before all targets were looked at for the first time nobody needs
// one: who starts waits for Synced.
func (e *engine) held(now time.Time) bool {
	starting := !e.giveIn.IsZero() && now.Before(e.giveIn)
	return now.Before(e.publishAt) && (len(e.todo) > 0 && !e.urgent || starting && len(e.targets) > manyTargets)
}

// partialEvery grows with the targets: a snapshot is as large as they are many, whatever has changed.
func (e *engine) partialEvery() time.Duration {
	return partialEvery * time.Duration(1+len(e.targets)/manyTargets)
}

// snapshotAt tells when a held back snapshot is to be made.
func (e *engine) snapshotAt() time.Time {
	if e.dirty {
		return e.publishAt
	}
	return time.Time{}
}

// settle closes Synced when the time has come.
func (e *engine) settle(now time.Time) {
	if e.giveIn.IsZero() {
		return
	}
	for len(e.first) > 0 && (e.first[0].gone || !e.first[0].hop.Pending) {
		e.first = e.first[1:]
	}
	if len(e.first) == 0 && !e.dirty || agenda.Due(e.giveIn, now) {
		e.giveIn, e.first = time.Time{}, nil
		close(e.out.synced)
	}
}
