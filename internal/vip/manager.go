// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"xdplvs/director"
	"xdplvs/internal/arpnd"
)

// Place is where ARP or neighbour solicitations are answered for an address: on an interface, and
// there in a VLAN.
type Place struct {
	Addr netip.Addr
	Link int       // ifindex
	VLAN [2]uint16 // ids, outermost first; 0: no tag
}

// Answers is the table that the data plane answers from. It outlives the process.
type Answers interface {
	Answered() (map[Place]arpnd.MAC, error)
	SetAnswered(Place, arpnd.MAC) error
	DeleteAnswered(Place) error
}

// Options are what a Manager works with. All times run on the time package's clock, so tests run under
// testing/synctest.
type Options struct {
	Log     *slog.Logger // nil: nothing is logged
	Answers Answers
	// File is where is written what was added.
	File string
	// Answering says that a data plane of a former process has answered all the time. Otherwise the
	// addresses that it answered for may be another host's by now.
	Answering bool
	// Identify names the host with a link-layer address, where it is known; may be nil.
	Identify func(arpnd.MAC) string

	// Probes is how often hosts are asked before an address is taken; 0: 3.
	Probes int
	// ProbeWait is the time between two questions, and after the last one; 0: 0.5 s.
	ProbeWait time.Duration
	// Retry is after what time an address that could not be taken is tried again; up to a quarter more
	// is added at random, so that two directors that wait for each other do not meet again. 0: 30 s.
	Retry time.Duration
	// Resync is the time between two complete readings of the kernel's tables; 0: 1 min.
	Resync time.Duration
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Identify == nil {
		o.Identify = func(arpnd.MAC) string { return "" }
	}
	if o.Probes == 0 {
		o.Probes = 3
	}
	o.ProbeWait = or(o.ProbeWait, 500*time.Millisecond)
	o.Retry = or(o.Retry, 30*time.Second)
	o.Resync = or(o.Resync, time.Minute)
	return o
}

func or(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// A Manager holds virtual addresses. Its methods may be called from any goroutine.
type Manager struct {
	opts    Options
	started atomic.Bool
	wake    chan struct{} // capacity 1: Set was called

	mu     sync.Mutex
	wanted desired
	begun  uint64        // number of the latest Set that was taken up
	taken  chan struct{} // closed, and made anew, when begun changes
	ended  chan struct{} // closed when Run returns

	states atomic.Pointer[[]director.AddressState]
}

// desired is what Set said.
type desired struct {
	addresses []director.Address
	announce  director.Announcing
	number    uint64 // of the call; 0: there was none
}

// New makes a Manager. It does nothing until Run.
func New(opts Options) *Manager {
	m := &Manager{opts: opts.withDefaults(), wake: make(chan struct{}, 1),
		taken: make(chan struct{}), ended: make(chan struct{})}
	m.states.Store(&[]director.AddressState{})
	return m
}

// Set says which addresses to hold: all of them, the latest call wins. Before the first call nothing
// is changed that a former process has left. It returns when those are given up that are not wanted any
// more, and those are held that need no asking; it waits for that until ctx or Run ends.
func (m *Manager) Set(ctx context.Context, addresses []director.Address, announce director.Announcing) error {
	m.mu.Lock()
	number := m.wanted.number + 1
	m.wanted = desired{slices.Clone(addresses), announce, number}
	m.mu.Unlock()
	signal(m.wake)
	for {
		begun, taken := m.progress()
		if begun >= number {
			return nil
		}
		select {
		case <-taken:
		case <-m.ended:
			return errors.New("hold addresses: Run has ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Manager) desired() desired {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wanted
}

// progress is how far Run is with the calls of Set, and a channel that is closed when that changes.
func (m *Manager) progress() (begun uint64, taken <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.begun, m.taken
}

// begin tells those who wait for a call of Set that it was taken up.
func (m *Manager) begin(number uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.begun != number {
		m.begun = number
		close(m.taken)
		m.taken = make(chan struct{})
	}
}

// States tells how the addresses are held, in the order of Set. It must not be changed.
func (m *Manager) States() []director.AddressState { return *m.states.Load() }

// Run holds the addresses until ctx ends, and returns nil then; they stay held. It fails when the
// kernel's tables cannot be read or watched at the start; later failures are logged and tried again. It
// may be called once.
//
// All sockets are opened in the network namespace of the thread that calls Run. A caller in another
// namespace than the process's must have locked its goroutine to the thread (runtime.LockOSThread).
// Needed are CAP_NET_RAW and CAP_NET_ADMIN.
func (m *Manager) Run(ctx context.Context) error { return m.run(ctx, tables{}) }

// run is Run on any kernel.
func (m *Manager) run(ctx context.Context, k kernel) error {
	if !m.started.CompareAndSwap(false, true) {
		return errors.New("hold addresses: Run was called before")
	}
	defer close(m.ended)
	e, err := newEngine(m, k)
	if err != nil {
		return fmt.Errorf("hold addresses: %w", err)
	}
	defer e.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(e.work(time.Now())))
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
			e.retarget()
		case <-e.in.ready:
			e.applySoon(time.Now())
		case <-timer.C:
		}
	}
}

// Release gives up what this Manager, and those of former processes, took. It is for the time after Run.
func (m *Manager) Release() error { return m.release(tables{}) }

func (m *Manager) release(k kernel) error {
	e, err := newEngine(m, k)
	if err != nil {
		return fmt.Errorf("give up addresses: %w", err)
	}
	defer e.close()
	if err := e.releaseAll(); err != nil {
		return fmt.Errorf("give up addresses: %w", err)
	}
	return nil
}

// signal sets a flag that is a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
