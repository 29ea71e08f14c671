// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// A Resolver follows the kernel's tables and keeps a snapshot of the Hops of its targets. Its
// methods may be called from any goroutine.
type Resolver struct {
	log  *slog.Logger
	opts Options

	started atomic.Bool
	wake    chan struct{} // capacity 1: SetTargets was called

	mu      sync.Mutex
	given   bool // SetTargets was called at all
	targets []netip.Addr

	hops    atomic.Pointer[map[netip.Addr]Hop]
	changed chan struct{}
	synced  chan struct{}
}

// New makes a Resolver. It does nothing until Run. A nil logger discards.
func New(log *slog.Logger, opts Options) *Resolver {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Resolver{
		log: log, opts: opts.withDefaults(),
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1), synced: make(chan struct{}),
	}
	r.hops.Store(&map[netip.Addr]Hop{})
	return r
}

// Run resolves until ctx ends, and returns nil then. It fails when the kernel's tables cannot be
// read or watched at the start; later failures are logged and tried again. It may be called once.
//
// All sockets are opened in the network namespace of the thread that calls Run. A caller in another
// namespace than the process's must have locked its goroutine to the thread
// (runtime.LockOSThread); sockets that are needed later are opened there too, from other threads,
// which takes CAP_SYS_ADMIN only if the namespace is not the process's. Needed in any case are
// CAP_NET_RAW, for the probes, and CAP_NET_ADMIN for large receive buffers.
func (r *Resolver) Run(ctx context.Context) error {
	k, err := openKernel(watchBuffer)
	if err != nil {
		return fmt.Errorf("open kernel tables: %w", err)
	}
	return r.run(ctx, k)
}

// run is Run on any kernel, which it closes.
func (r *Resolver) run(ctx context.Context, k kernel) error {
	defer k.close()
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("run resolver: it ran already")
	}
	return newEngine(r, k).run(ctx)
}

// SetTargets says which addresses to resolve: all of them, the latest call wins. An IPv6
// link-local address needs its zone. It may be called before Run.
func (r *Resolver) SetTargets(addrs []netip.Addr) {
	r.mu.Lock()
	r.given, r.targets = true, slices.Clone(addrs)
	r.mu.Unlock()
	signal(r.wake)
}

// Hops gives the latest snapshot: a Hop for each target that Run knows of, by the address as given
// to SetTargets. It is shared and must not be changed. After Run has returned it is what was last
// known.
func (r *Resolver) Hops() map[netip.Addr]Hop { return *r.hops.Load() }

// Changed has a value when Hops gives another snapshot than at the last receive. Its capacity is 1,
// so changes that nobody waited for come as one.
func (r *Resolver) Changed() <-chan struct{} { return r.changed }

// Synced is closed when every target of the first SetTargets has an answer, resolved or a definite
// reason, or is no target any more; at the latest Options.FirstWait after Run took those up.
func (r *Resolver) Synced() <-chan struct{} { return r.synced }

// wanted gives the targets, and whether there were any set.
func (r *Resolver) wanted() ([]netip.Addr, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.targets, r.given
}

// publish replaces the snapshot.
func (r *Resolver) publish(hops map[netip.Addr]Hop) {
	r.hops.Store(&hops)
	signal(r.changed)
}
