// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Options tune a Manager.
type Options struct {
	// Concurrency is how many probes run at a time, at most; others wait. 0: 256.
	Concurrency int
	// Random draws from [0, n), for the spread of first probes. nil: math/rand/v2.
	Random func(n int64) int64
}

// Manager runs checks. Its methods may be called from any goroutine. All times run on the time
// package's clock, so tests run under testing/synctest.
type Manager struct {
	options  Options
	wanted   chan map[string]Check // holds the latest set that Run has not taken yet
	wantedMu sync.Mutex
	poke     chan struct{} // there are triggers
	changed  chan struct{}

	mu        sync.RWMutex
	members   map[string]*member
	triggered map[string]bool
}

// member is one check: somebody who wants to know.
type member struct {
	check       Check // with default timing
	shared      *shared
	state       State
	transitions ring[Transition]
	results     ring[Result]
}

// NewManager is a manager without checks.
func NewManager(o Options) *Manager {
	o.Concurrency = orElse(o.Concurrency, 256)
	if o.Random == nil {
		o.Random = rand.Int64N
	}
	return &Manager{
		options: o,
		wanted:  make(chan map[string]Check, 1),
		poke:    make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		members: make(map[string]*member), triggered: make(map[string]bool),
	}
}

// Set replaces all checks; their names are the caller's. It takes effect soon after Run has begun. A
// check that is there already under its name keeps its state: one that asks the same goes on as if
// nothing had happened, one that asks something else keeps its verdict until results change it. The
// error names every check that makes no sense; then nothing changes.
func (m *Manager) Set(checks map[string]Check) error {
	var mistakes []error
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		if err := checks[name].validate(); err != nil {
			mistakes = append(mistakes, fmt.Errorf("check %q: %w", name, err))
		}
	}
	if len(mistakes) > 0 {
		return errors.Join(mistakes...)
	}
	m.wantedMu.Lock()
	defer m.wantedMu.Unlock()
	select {
	case <-m.wanted: // an older set that was not taken yet
	default:
	}
	m.wanted <- maps.Clone(checks)
	return nil
}

// Changed gets a value when states have changed in a way that matters since the last one was taken:
// verdict, drain, factor, reserve, lag, or whether probes can be sent. The counters of a State and its
// Last do not count.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

// States gives the latest states by the names of the checks.
func (m *Manager) States() map[string]State {
	m.mu.RLock()
	defer m.mu.RUnlock()
	states := make(map[string]State, len(m.members))
	for name, member := range m.members {
		states[name] = member.state
	}
	return states
}

// State gives the latest state of one check.
func (m *Manager) State(name string) (State, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if member, ok := m.members[name]; ok {
		return member.state, true
	}
	return State{}, false
}

// History gives the last transitions and the last results of a check, the oldest first.
func (m *Manager) History(name string) ([]Transition, []Result) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	member, ok := m.members[name]
	if !ok {
		return nil, nil
	}
	return member.transitions.list(), member.results.list()
}

// Trigger has a check made at once, because of a sign that something has changed; but not sooner
// after the last one than its fast interval. An unknown name is ignored: checks come and go.
func (m *Manager) Trigger(name string) {
	m.mu.Lock()
	if _, ok := m.members[name]; ok {
		m.triggered[name] = true
	}
	m.mu.Unlock()
	signal(m.poke)
}

// signal never waits.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run makes the checks until ctx ends; when it returns, so have all probes. It must be called once.
func (m *Manager) Run(ctx context.Context) error {
	r := newRunner(ctx, m)
	defer r.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(r.launch(time.Now()))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case checks := <-m.wanted:
			r.replace(checks)
		case done := <-r.results:
			r.finish(done)
		case <-m.poke:
			r.hurry()
		case <-timer.C:
		}
	}
}
