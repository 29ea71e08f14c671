// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"sync"
	"time"

	"xdplvs/internal/agenda"
)

// shared is a probe and all who want its results. Only the goroutine of Manager.Run looks at it.
type shared struct {
	agenda.Place
	key     sharedKey
	checker Checker
	members []*member
	begun   time.Time // of the latest run; zero before the first
	last    Result    // of the latest run that ended
	running bool
	cancel  context.CancelFunc
	again   bool // triggered during a run
	stuck   bool // said to be so
}

// sharedKey is what makes two probes the same.
type sharedKey struct {
	target  Target
	checker string
	timeout time.Duration
}

func (c Check) key() sharedKey {
	return sharedKey{c.Target, c.Checker.Identity(), c.Timing.Timeout}
}

// outcome is a probe that ended.
type outcome struct {
	shared *shared
	result Result
}

// runner is what Manager.Run owns.
type runner struct {
	*Manager
	ctx     context.Context
	cancel  context.CancelFunc
	origin  time.Time          // when Run began; slots count from it
	agenda  agenda.Of[*shared] // of probes that wait
	watch   agenda.Of[*shared] // of those that run: when they should have ended at the latest
	probes  map[sharedKey]*shared
	running int
	results chan outcome
	workers sync.WaitGroup
}

func newRunner(ctx context.Context, m *Manager) *runner {
	r := &runner{Manager: m, origin: time.Now(), probes: make(map[sharedKey]*shared), results: make(chan outcome, m.options.Concurrency)}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// stop ends all probes and waits for them.
func (r *runner) stop() {
	r.cancel()
	r.workers.Wait()
}

// overdue is how long after its timeout a probe that did not end is said to be stuck.
const overdue = time.Second

// launch starts what is due, and gives the time until something is.
func (r *runner) launch(now time.Time) time.Duration {
	for s := r.watch.First(); s != nil && !s.Due().After(now); s = r.watch.First() {
		r.watch.Drop(s)
		s.stuck = true
		r.deliver(s, unsent("the checker did not end in time").finish(s.begun))
	}
	for r.running < r.options.Concurrency {
		s := r.agenda.First()
		if s == nil || s.Due().After(now) {
			return min(until(s, now), until(r.watch.First(), now))
		}
		r.agenda.Drop(s)
		r.start(s, now)
	}
	return until(r.watch.First(), now) // a result wakes us too
}

// until is how long it is to a probe's time; long, if there is none.
func until(s *shared, now time.Time) time.Duration {
	if s == nil {
		return time.Hour
	}
	return s.Due().Sub(now)
}

// start runs a probe in a goroutine of its own.
func (r *runner) start(s *shared, now time.Time) {
	var ctx context.Context
	ctx, s.cancel = context.WithTimeout(r.ctx, s.key.timeout)
	s.begun, s.running, s.stuck = now, true, false
	r.running++
	r.watch.Set(s, now.Add(s.key.timeout+overdue))
	r.workers.Go(func() {
		r.results <- outcome{s, check(ctx, s.checker, s.key.target)} // has room for all
	})
}

// check survives a checker that panics: the libraries below parse what anybody may have sent.
func check(ctx context.Context, c Checker, t Target) (result Result) {
	begin := time.Now()
	defer func() {
		if failure := recover(); failure != nil {
			result = unsent("the checker failed: %v", failure).finish(begin)
		}
	}()
	result = c.Check(ctx, t)
	if result.Begin.IsZero() {
		return result.finish(begin)
	}
	return result
}

// finish takes the outcome of a probe and makes it due again.
func (r *runner) finish(done outcome) {
	s := done.shared
	r.running--
	s.running = false
	s.cancel()
	r.watch.Drop(s)
	if len(s.members) == 0 { // nobody wants it any more
		return
	}
	if !s.stuck { // else its result is of long ago, and it was told already
		r.deliver(s, done.result)
	}
	r.schedule(s)
	if s.again {
		s.again = false
		r.advance(s)
	}
}

// deliver tells all members of a result.
func (r *runner) deliver(s *shared, result Result) {
	s.last = result
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range s.members {
		r.note(m, result)
	}
}

// note changes a member's state, under the lock.
func (r *runner) note(m *member, result Result) {
	old := m.state
	m.state = old.after(result, m.check.Timing)
	m.results.add(result)
	if m.state.level() != old.level() {
		m.transitions.add(Transition{m.state.Since, old.Verdict, m.state.Verdict, old.Drain, m.state.Drain, result})
	}
	if m.state.differs(old) {
		signal(r.changed)
	}
}

// schedule makes a probe due when the first of its members wants it.
func (r *runner) schedule(s *shared) {
	if s.running {
		return
	}
	delay := s.wish(func(m *member) time.Duration { return m.state.interval(m.check.Timing) })
	due := s.begun.Add(delay)
	// Never later than wished for: the time to a verdict is a promise.
	r.agenda.Set(s, due.Add(-(due.Sub(r.origin) % min(maxSlot, delay/slotsPerInterval))))
}

// Probes begin in slots of time, some at once: one by one, each with its own waking up and cold caches, they
// cost half as much again. The slots are fixed, else probes would gather in one.
const (
	maxSlot          = 100 * time.Millisecond
	slotsPerInterval = 20
)

// advance makes a probe due as soon as its fast interval allows.
func (r *runner) advance(s *shared) {
	if s.running {
		s.again = true
		return
	}
	due := s.begun.Add(s.wish(func(m *member) time.Duration { return m.check.Timing.Fast }))
	if !s.Listed() || due.Before(s.Due()) {
		r.agenda.Set(s, due)
	}
}

// wish is the shortest of the members' times.
func (s *shared) wish(of func(*member) time.Duration) time.Duration {
	shortest := of(s.members[0])
	for _, m := range s.members[1:] {
		shortest = min(shortest, of(m))
	}
	return shortest
}

// hurry serves the triggers.
func (r *runner) hurry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.triggered {
		if m, ok := r.members[name]; ok {
			r.advance(m.shared)
		}
	}
	clear(r.triggered)
}

// replace makes these the checks.
func (r *runner) replace(checks map[string]Check) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.members
	for _, s := range r.probes {
		s.members = nil
	}
	r.members = make(map[string]*member, len(checks))
	for name, c := range checks {
		r.members[name] = r.adopt(old[name], c, now)
	}
	r.tidy(now)
	for name, m := range old {
		if kept, ok := r.members[name]; !ok || kept.state.differs(m.state) {
			signal(r.changed)
		}
	}
	if len(r.members) > len(old) {
		signal(r.changed)
	}
}

// adopt makes a check a member; before is who had its name, or nil.
func (r *runner) adopt(before *member, c Check, now time.Time) *member {
	c.Timing = c.Timing.WithDefaults()
	s, shares := r.probes[c.key()]
	if !shares {
		s = &shared{key: c.key(), checker: c.Checker}
		r.probes[s.key] = s
	}
	m := &member{check: c, shared: s, state: initialState(c.Initial, now)}
	if c.Former.Verdict != Unknown {
		m.state = c.Former.anew()
	}
	if before != nil {
		m.state, m.transitions, m.results = before.state, before.transitions, before.results
	}
	s.members = append(s.members, m)
	if before != nil && before.shared == s {
		return m
	}
	m.state.Pending = 0
	if shares && !s.begun.IsZero() && !s.last.Begin.IsZero() {
		r.note(m, s.last) // the others know it already
	}
	return m
}

// tidy ends the probes that nobody wants, and makes the others due as their members now wish.
func (r *runner) tidy(now time.Time) {
	for key, s := range r.probes {
		switch {
		case len(s.members) == 0:
			delete(r.probes, key)
			if s.running {
				s.cancel()
			} else {
				r.agenda.Drop(s)
			}
		case s.begun.IsZero() && !s.Listed():
			r.first(s, now)
		case s.begun.IsZero(): // as new as before
		default:
			r.schedule(s)
		}
	}
}

// first makes a new probe due.
func (r *runner) first(s *shared, now time.Time) {
	spread := s.wish(func(m *member) time.Duration { return m.check.Timing.Spread })
	if spread > 0 {
		now = now.Add(time.Duration(r.options.Random(int64(spread))))
	}
	r.agenda.Set(s, now)
}
