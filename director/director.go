// SPDX-License-Identifier: Apache-2.0

// Package director is the domain: virtual services and real servers as they
// should be, compiled to rows of the data plane's tables and kept true there.
//
// One goroutine, Run's, owns all of it. Whoever wants something hands it a
// function and waits; readers get values of their own. The tables are memory
// that packets read at the same time, so every store leaves them valid.
package director

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
)

// Options are what a Director works with.
type Options struct {
	Log    *slog.Logger
	Tables *bpf.Tables
	Plane  Plane
	Clock  Clock
	Links  LinkByName
}

// Director keeps the tables as they should be. Its methods may be called from
// any goroutine while Run runs.
type Director struct {
	log    *slog.Logger
	tables *bpf.Tables
	plane  Plane
	clock  Clock
	links  LinkByName

	calls   chan func()
	stopped chan struct{}
	hops    latest[map[netip.Addr]NextHop]
	targets latest[[]netip.Addr]

	keys          *bpf.KeyTable
	serviceIDs    *ids
	realIDs       *ids
	arena         *arena
	txPorts       map[int]uint16 // by interface
	formerTxPorts map[int]uint16 // as a former process left them
	nextHops      map[netip.Addr]NextHop
	services      map[ServiceKey]*service
	leaving       []*real                 // removed, with connections left
	ending        map[ServiceKey]*service // removed, with connections left
	interfaces    []attached
	timeouts      Timeouts
	generation    uint64
	total         Counters // of services that were removed
	rate          estimator
	vips          map[bpf.Key]bool // stored keys of virtual addresses
	followed      []*service       // that follow has still to look at in this round
	heritage      heritage
}

// ErrStopped is returned when Run has ended.
var ErrStopped = errors.New("director has stopped")

// New takes over what the tables hold. It starts nothing.
func New(opts Options) *Director {
	d := &Director{
		log:           opts.Log,
		tables:        opts.Tables,
		plane:         opts.Plane,
		clock:         opts.Clock,
		links:         opts.Links,
		calls:         make(chan func()),
		stopped:       make(chan struct{}),
		hops:          newLatest[map[netip.Addr]NextHop](),
		targets:       newLatest[[]netip.Addr](),
		keys:          bpf.NewKeyTable(opts.Tables),
		serviceIDs:    newIDs(len(opts.Tables.Services)),
		realIDs:       newIDs(len(opts.Tables.Reals)),
		arena:         newArena(len(opts.Tables.Plans)),
		txPorts:       map[int]uint16{},
		formerTxPorts: map[int]uint16{},
		services:      map[ServiceKey]*service{},
		vips:          map[bpf.Key]bool{},
		ending:        map[ServiceKey]*service{},
	}
	d.restore()
	return d
}

// Run keeps the tables true until ctx ends. The data plane goes on without it.
func (d *Director) Run(ctx context.Context) error {
	defer close(d.stopped)
	estimate := time.NewTicker(estimateEvery)
	defer estimate.Stop()
	sweep := time.NewTicker(sweepTick)
	defer sweep.Stop()
	follow := time.NewTicker(followTick)
	defer follow.Stop()
	sweeper := newSweeper(d)
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-d.calls:
			f()
		case hops := <-d.hops:
			d.setHops(hops)
		case <-estimate.C:
			d.estimate()
		case <-follow.C:
			d.follow()
		case <-sweep.C:
			if err := sweeper.slice(); err != nil {
				d.log.Error("sweep connections", "event", "sweep_failed", "error", err)
			}
		}
	}
}

// do runs f in Run's goroutine and waits for it.
func (d *Director) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case d.calls <- func() { defer close(done); f() }:
	case <-ctx.Done():
		return ctx.Err()
	case <-d.stopped:
		return ErrStopped
	}
	<-done
	return nil
}

// Set makes the desired state the given one. On error nothing was changed.
func (d *Director) Set(ctx context.Context, want Desired) error {
	var err error
	if e := d.do(ctx, func() { err = d.apply(want) }); e != nil {
		return e
	}
	return err
}

// SetNextHops says how real servers are reached: all of them, the latest call
// wins. It does not wait.
func (d *Director) SetNextHops(hops map[netip.Addr]NextHop) { d.hops.set(hops) }

// Targets gives the addresses whose next hops are wanted, whenever they change.
func (d *Director) Targets() <-chan []netip.Addr { return d.targets }

// Snapshot returns the state as it is; nil when the director has stopped.
func (d *Director) Snapshot(ctx context.Context) (*Snapshot, error) {
	var s *Snapshot
	var err error
	if e := d.do(ctx, func() { s, err = d.snapshot() }); e != nil {
		return nil, e
	}
	return s, err
}

// apply changes what is to what is wanted. What can fail is looked at first.
func (d *Director) apply(want Desired) error {
	if err := d.check(want); err != nil {
		return err
	}
	if err := d.applyInterfaces(want.Interfaces); err != nil {
		return err
	}
	d.applyTimeouts(want.Timeouts)
	wanted := make(map[ServiceKey]bool, len(want.Services))
	for i := range want.Services {
		wanted[want.Services[i].Key] = true
	}
	for key, s := range d.services {
		if !wanted[key] {
			d.removeService(s)
		}
	}
	var errs []error
	for i := range want.Services {
		errs = append(errs, d.applyService(want.Services[i]))
	}
	errs = append(errs, d.applyVIPs())
	d.dropHeritage()
	d.generation++
	d.publishTargets()
	return errors.Join(errs...)
}

// check finds out whether the wanted state fits the tables.
func (d *Director) check(want Desired) error {
	var errs []error
	seen := make(map[ServiceKey]bool, len(want.Services))
	services, reals := 0, 0
	for i := range want.Services {
		s := &want.Services[i]
		errs = append(errs, s.Validate())
		if seen[s.Key] {
			errs = append(errs, fmt.Errorf("service %s twice", s.Key))
		}
		seen[s.Key] = true
		if d.services[s.Key] == nil && !d.known(s.Key) {
			services++
		}
		reals += d.missingReals(s)
	}
	slots := 0
	for i := range want.Services {
		slots += want.Services[i].planSlots()
	}
	if have := len(d.tables.Plans); slots > have {
		errs = append(errs, fmt.Errorf("plans need %d slots, limits.plan_slots allows %d: %w", slots, have, bpf.ErrFull))
	}
	if free := d.serviceIDs.free(); services > free {
		errs = append(errs, fmt.Errorf("%d new services, room for %d (raise limits.services): %w", services, free, bpf.ErrFull))
	}
	if free := d.realIDs.free(); reals > free {
		errs = append(errs, fmt.Errorf("%d new real servers, room for %d (raise limits.real_servers): %w", reals, free, bpf.ErrFull))
	}
	return errors.Join(errs...)
}

// known reports whether a service that is not in force has a row still.
func (d *Director) known(key ServiceKey) bool {
	_, left := d.heritage.services[key]
	return left || d.ending[key] != nil
}

// missingReals counts the real servers of the wanted service that have no row.
func (d *Director) missingReals(want *Service) int {
	s := d.services[want.Key]
	if s == nil {
		return len(want.Reals) - len(d.heritage.reals[d.heritage.services[want.Key]])
	}
	n := 0
	for i := range want.Reals {
		if s.find(want.Reals[i].Key) == nil {
			n++
		}
	}
	return n
}

func (s *service) find(key RealKey) *real {
	for _, r := range s.reals {
		if r.want.Key == key {
			return r
		}
	}
	return nil
}

// applyService brings one service to what is wanted. A real server that is not
// changed is not touched.
func (d *Director) applyService(want Service) error {
	s := d.services[want.Key]
	if s != nil && s.want.equal(&want) {
		return nil
	}
	if s != nil && (s.want.Scheduler != want.Scheduler || s.want.Flags != want.Flags) {
		if err := d.changeScheduler(s, want); err != nil {
			return err
		}
	}
	isNew := s == nil
	if isNew {
		var err error
		if s, err = d.newService(want); err != nil {
			return err
		}
		d.services[want.Key] = s
	}
	s.settle()
	s.setWant(want)
	d.applyReals(s, want.Reals)
	err := d.publish(s)
	if isNew && err == nil {
		err = d.keys.Set(want.Key.row(), s.id)
	}
	if err != nil {
		return fmt.Errorf("service %s: %w", want.Key, err)
	}
	return nil
}

// changeScheduler lets another algorithm choose from now on.
func (d *Director) changeScheduler(s *service, want Service) error {
	fresh, err := newScheduler(want)
	if err != nil {
		return fmt.Errorf("service %s: %w", s.want.Key, err)
	}
	s.sched, s.planned = fresh, nil
	servers := s.servers()
	for i := len(servers) - 1; i >= 0; i-- {
		s.sched.Edit(servers[i:]) // as if they had been added one by one
	}
	return nil
}

// applyReals adds, changes and removes real servers. Each step is one edit to
// the scheduler, as each ipvsadm command is to the kernel's.
func (d *Director) applyReals(s *service, want []RealServer) {
	wanted := make(map[RealKey]bool, len(want))
	for i := range want {
		wanted[want[i].Key] = true
	}
	for i := len(s.reals) - 1; i >= 0; i-- {
		if r := s.reals[i]; !wanted[r.want.Key] {
			s.reals = slices.Delete(s.reals, i, i+1)
			d.retire(s, r)
			s.edited()
		}
	}
	have := make(map[RealKey]*real, len(s.reals))
	for _, r := range s.reals {
		have[r.want.Key] = r
	}
	for _, w := range want {
		r := have[w.Key]
		if r != nil && r.want == w {
			continue
		}
		if r != nil && r.want.Method == w.Method {
			r.setWant(w)
		} else {
			if r != nil { // another method is another way to the server: its connections stay with the old one
				s.reals = slices.DeleteFunc(s.reals, func(x *real) bool { return x == r })
				d.retire(s, r)
			}
			if r = d.adoptReal(s.id, w); r == nil {
				r = d.comeBack(s.id, w)
			}
			if r == nil {
				r = d.newReal(s.id, w)
			}
			d.hopTo(r)
			s.reals = slices.Insert(s.reals, 0, r)
		}
		s.edited()
	}
}

// retire takes a real server out of use. Its connections go on; its row is free
// when none is left. Its counters are the service's from here on.
func (d *Director) retire(s *service, r *real) {
	r.setFlag(bpf.RealUsable, false)
	if atomic.LoadUint32(&r.row.Flags)&bpf.RealRemoved == 0 {
		r.retired = r.counters()
		total := s.gone()
		total.add(r.retired)
		s.setGone(total)
		r.setFlag(bpf.RealRemoved, true)
	}
	d.leaving = append(d.leaving, r)
}

// comeBack takes back a real server that was removed and still has connections;
// nil if there is none. As with IPVS they count for it again.
func (d *Director) comeBack(service uint32, want RealServer) *real {
	for i, r := range d.leaving {
		if r.row.Service == service && r.want.Key == want.Key && r.want.Method == want.Method {
			d.leaving = slices.Delete(d.leaving, i, i+1)
			d.unretire(r)
			r.lastWeight = 0
			r.setWant(want)
			return r
		}
	}
	return nil
}

// unretire gives a real server its counters back.
func (d *Director) unretire(r *real) {
	if atomic.LoadUint32(&r.row.Flags)&bpf.RealRemoved == 0 {
		return
	}
	s := &service{row: &d.tables.Services[r.row.Service]}
	total := s.gone()
	total.sub(r.retired)
	s.setGone(total)
	r.setFlag(bpf.RealRemoved, false)
}

// reap frees the rows of removed real servers and services that have no
// connections left.
func (d *Director) reap() {
	d.leaving = slices.DeleteFunc(d.leaving, func(r *real) bool {
		if active, inactive := r.conns(); active+inactive > 0 {
			return false
		}
		r.setFlag(bpf.RealNextHop, false)
		r.row.Addr = [16]byte{}
		d.realIDs.give(r.id)
		return true
	})
	if len(d.ending) == 0 {
		return
	}
	in := map[uint32]bool{}
	for _, r := range d.leaving {
		in[r.row.Service] = true
	}
	for _, s := range d.ending {
		if !in[s.id] {
			d.forget(s)
		}
	}
	if err := d.applyVIPs(); err != nil {
		d.log.Error("update virtual addresses", "event", "vips_failed", "error", err)
	}
}

// removeService lets a service end: from now on it takes no new connection, but
// packets of those it has are still its. When none is left, reap forgets it.
func (d *Director) removeService(s *service) {
	atomic.OrUint32(&s.row.Flags, bpf.ServiceRemoved)
	for _, r := range s.reals {
		d.retire(s, r)
	}
	s.reals = nil
	delete(d.services, s.want.Key)
	d.end(s)
}

// end gives the plans of a removed service back; its row stays until the last
// connection has gone.
func (d *Director) end(s *service) {
	s.row.Plan = [2]bpf.Plan{}
	s.row.Flow = bpf.Plan{}
	for _, r := range []*region{&s.regions[0], &s.regions[1], &s.flow} {
		d.arena.give(*r)
		*r = region{}
	}
	d.ending[s.want.Key] = s
}

// forget frees what a service had whose last connection has gone.
func (d *Director) forget(s *service) {
	d.keys.Delete(s.want.Key.row())
	d.total.add(s.gone())
	*s.row = bpf.Service{Id: s.id}
	d.serviceIDs.give(s.id)
	delete(d.ending, s.want.Key)
}

func (d *Director) applyTimeouts(t Timeouts) {
	d.timeouts = t
	for state, timeout := range t.byState() {
		d.tables.Settings.Timeout[state] = d.clock.Jiffies(timeout)
	}
}

func (d *Director) estimate() {
	total := d.total
	for _, s := range d.services {
		for _, r := range s.reals {
			r.rate.update(r.counters())
		}
		c := s.counters()
		s.rate.update(c)
		total.add(c)
	}
	d.rate.update(total)
	d.reap()
}

func (d *Director) snapshot() (*Snapshot, error) {
	s := &Snapshot{
		Time:       time.Now(),
		Generation: d.generation,
		TableSize:  uint32(len(d.tables.Conns4)),
		Total:      d.total,
		Rates:      d.rate.rates(),
		Services:   make([]ServiceState, 0, len(d.services)),
	}
	for _, a := range d.interfaces {
		s.Interfaces = append(s.Interfaces, a.state())
	}
	for _, key := range slices.SortedFunc(maps.Keys(d.services), ServiceKey.compare) {
		state := d.services[key].state()
		s.Total.add(state.Counters)
		s.Services = append(s.Services, state)
	}
	var err error
	s.Verdicts, err = d.plane.Verdicts()
	return s, err
}

// compare is ipvsadm's order: family, protocol, address, port.
func (k ServiceKey) compare(o ServiceKey) int {
	return cmp.Or(
		cmp.Compare(k.Addr.BitLen(), o.Addr.BitLen()),
		cmp.Compare(k.Protocol, o.Protocol),
		k.Addr.Compare(o.Addr),
		cmp.Compare(k.Port, o.Port),
	)
}
