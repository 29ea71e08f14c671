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
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

// Options are what a Director works with.
type Options struct {
	Log    *slog.Logger // nil: discards
	Tables *bpf.Tables
	Plane  Plane
	Clock  Clock
	Links  LinkByName
	Tags   ShowTags     // nil: nothing is done
	Merges FindMerging  // nil: none does
	Own    OwnAddresses // nil: every address is taken for one of this host's
	// Memory is how many pages are available, for automatic defenses; nil: they do not look at it.
	Memory func() (pages int64, err error)
	// Defending is told that a strategy begins to act, or ends; nil: nobody is. It must not wait, nor ask the director.
	Defending func(strategy string, active bool, cause string)
}

// Director keeps the tables as they should be. Its methods may be called from
// any goroutine while Run runs.
type Director struct {
	log          *slog.Logger
	tables       *bpf.Tables
	plane        Plane
	clock        Clock
	links        LinkByName
	tags         ShowTags
	merges       FindMerging
	ownAddresses OwnAddresses
	memoryPages  func() (int64, error)
	defending    func(strategy string, active bool, cause string)

	calls   chan func()
	stopped chan struct{}
	hops    latest[map[netip.Addr]NextHop]
	targets latest[[]netip.Addr]
	healths latest[map[HealthKey]Health]

	suspects latest[[]HealthKey]

	keys       *bpf.KeyTable
	serviceIDs *ids
	realIDs    *ids
	arena      *arena
	reserved   uint64 // plan slots that the services need
	services   map[ServiceKey]*service
	ending     map[ServiceKey]*service // removed, with connections left
	leaving    []*real                 // removed, with connections left
	followed   []*service              // that follow has still to look at in this round
	nextHops   map[netip.Addr]NextHop
	health     map[HealthKey]Health
	hopsFailed bool                // one could not be written
	watched    map[netip.Addr]int  // real servers of an address
	retarget   bool                // there are others than were published
	told       map[netip.Addr]bool // whose next hop was logged since they changed
	txPorts    map[int]uint16      // by interface
	portsSet   map[int]bool        // those written since the next hops changed
	portsFreed bool                // and unused ones were looked for
	vips       map[bpf.Key]bool    // stored keys of virtual addresses
	interfaces []attached
	timeouts   Timeouts
	marks      *bpf.Marks // in force
	marked     bool       // this process has set them
	markRules  []MarkRule
	door       string       // interface of packets with the firewall's marks
	probes     string       // interface of health checks as a client's
	local      []netip.Addr // virtual addresses that this host has, and the firewall's marks are in vain for
	locals     locals
	stranded   map[uint32]int // real servers with connections of former generations; the sweeps that these still stay
	generation uint64
	round      uint64   // comparisons
	total      Counters // of services that were removed
	rate       estimator
	heritage   heritage
	inherited  bool             // a former process may have attached interfaces
	memory     scheduler.Memory // of destinations
	planned    []float64        // by real server id: choices that plans have handed out
	estimates  uint64
	swept      swept
	defenses   defenses
	guards     guarding
	senders    senders
	audits     auditing
}

// ErrStopped is returned when Run has ended.
var ErrStopped = errors.New("director has stopped")

// New takes over what the tables hold. It starts nothing.
func New(opts Options) *Director {
	d := &Director{
		log:          opts.Log,
		tables:       opts.Tables,
		plane:        opts.Plane,
		clock:        opts.Clock,
		links:        opts.Links,
		tags:         opts.Tags,
		merges:       opts.Merges,
		ownAddresses: opts.Own,
		memoryPages:  opts.Memory,
		defending:    opts.Defending,
		calls:        make(chan func()),
		stopped:      make(chan struct{}),
		hops:         newLatest[map[netip.Addr]NextHop](),
		targets:      newLatest[[]netip.Addr](),
		healths:      newLatest[map[HealthKey]Health](),
		suspects:     newLatest[[]HealthKey](),
		keys:         bpf.NewKeyTable(opts.Tables),
		serviceIDs:   newIDs(len(opts.Tables.Services)),
		realIDs:      newIDs(len(opts.Tables.Reals)),
		arena:        newArena(len(opts.Tables.Plans)),
		services:     map[ServiceKey]*service{},
		ending:       map[ServiceKey]*service{},
		watched:      map[netip.Addr]int{},
		retarget:     true, // that there are none must be said as well
		told:         map[netip.Addr]bool{},
		txPorts:      map[int]uint16{},
		portsSet:     map[int]bool{},
		vips:         map[bpf.Key]bool{},
		timeouts:     DefaultTimeouts,
		locals:       newLocals(opts.Tables),
		stranded:     map[uint32]int{},
		memory:       scheduler.Memory{Limit: opts.Tables.Destinations},
		audits:       newAuditing(),
		planned:      make([]float64, len(opts.Tables.Reals)),
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.restore()
	d.senders.seen = d.tables.SamplesSeen()
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
	forget := time.NewTicker(scheduler.SweepInterval)
	defer forget.Stop()
	defend := time.NewTicker(defendTick)
	defer defend.Stop()
	suspect := time.NewTicker(suspectTick)
	defer suspect.Stop()
	sweeper := newSweeper(d)
	d.sealSettings()
	for {
		var work func()
		select {
		case <-ctx.Done():
			return nil
		case f := <-d.calls:
			work = func() { d.takeNews(); f() }
		case hops := <-d.hops:
			work = func() { d.setHops(hops) }
		case health := <-d.healths:
			work = func() { d.setHealth(health) }
		case <-estimate.C:
			work = d.follows
		case <-follow.C:
			work = d.follow
		case <-suspect.C:
			work = d.suspect
		case <-forget.C:
			work = d.forgetIdle
		case <-defend.C:
			work = d.defend
		case <-sweep.C:
			work = func() { d.sweep(sweeper) }
		}
		d.auditSettings()
		work()
		d.sealSettings()
	}
}

// follows is what is done every two seconds.
func (d *Director) follows() {
	d.estimate()
	d.reap()
	d.forgetPaths()
	d.followOwn()
	d.retryHops()
	d.watchPorts()
	d.publishTargets()
	d.followInterfaces()
	d.tellDoor()
	d.followMarks()
	d.followLocal()
	d.followClosed()
}

func (d *Director) sweep(s *sweeper) {
	if err := s.slice(); err != nil {
		d.log.Error("sweep connections", "event", "sweep_failed", "error", err)
	}
	d.audit()
}

// takeNews takes up next hops and health that wait: a call sees what was set before it.
func (d *Director) takeNews() {
	select {
	case health := <-d.healths:
		d.setHealth(health)
	default:
	}
	select {
	case hops := <-d.hops:
		d.setHops(hops)
	default:
	}
}

// do runs f in Run's goroutine and waits for it.
func (d *Director) do(ctx context.Context, f func()) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
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

// Prepare is Set without the interfaces, which stay as they are: for tables that
// no packet comes to yet, so that the first one finds them filled. Set follows.
func (d *Director) Prepare(ctx context.Context, want Desired) error {
	var err error
	if e := d.do(ctx, func() { err = d.prepare(want) }); e != nil {
		return e
	}
	return err
}

// SetNextHops says how real servers are reached: all of them, the latest call
// wins. It does not wait.
func (d *Director) SetNextHops(hops map[netip.Addr]NextHop) { d.hops.set(hops) }

// Targets gives the addresses whose next hops are wanted, whenever they change.
func (d *Director) Targets() <-chan []netip.Addr { return d.targets }

// Timeouts returns those in force.
func (d *Director) Timeouts(ctx context.Context) (t Timeouts, err error) {
	err = d.do(ctx, func() { t = d.timeouts })
	return t, err
}

// SetTimeouts changes those that are not 0 in the change, until the next Set, and
// returns all that are in force then. Connections that exist follow at once.
func (d *Director) SetTimeouts(ctx context.Context, change Timeouts) (t Timeouts, err error) {
	if err := change.validate(); err != nil {
		return t, err
	}
	err = d.do(ctx, func() {
		d.applyTimeouts(change.or(func(s state) time.Duration { return d.timeouts[s.number] }))
		t = d.timeouts
	})
	return t, err
}

// Generation is that of the desired state, counted from 1.
func (d *Director) Generation(ctx context.Context) (n uint64, err error) {
	err = d.do(ctx, func() { n = d.generation })
	return n, err
}

// Snapshot returns the state as it is; ErrStopped when the director has stopped.
func (d *Director) Snapshot(ctx context.Context) (*Snapshot, error) {
	var s *Snapshot
	var err error
	if e := d.do(ctx, func() { s, err = d.snapshot() }); e != nil {
		return nil, e
	}
	return s, err
}

// apply changes what is to what is wanted. What can fail comes first, and is
// undone if something does.
func (d *Director) apply(want Desired) error {
	c, err := d.compare(want)
	if err != nil {
		return err
	}
	undo, err := d.reserveKeys(c)
	if err != nil {
		return err
	}
	attaching, err := d.attachInterfaces(want.Interfaces)
	if err != nil {
		undo()
		return err
	}
	d.put(c)
	attaching.finish()
	d.door, d.probes = want.Door, want.Probes
	d.tellDoor()
	d.generation++
	d.publishTargets()
	return nil
}

func (d *Director) prepare(want Desired) error {
	c, err := d.compare(want)
	if err != nil {
		return err
	}
	if _, err := d.reserveKeys(c); err != nil {
		return err
	}
	d.put(c)
	d.publishTargets()
	return nil
}

// put puts in force what cannot fail any more.
func (d *Director) put(c *change) {
	d.applyTimeouts(c.want.Timeouts)
	d.applyDefense(c.want.Defense.Strategies)
	d.applyLists(c.lists)
	d.setLocals(c.want.Locals)
	d.applyServices(c)
	d.guardAll(&c.want)
	d.applyClosed(c.want.Closed)
	d.applyMarks(c)
	d.resource()
	d.sealSets()
}

// applyServices removes first, and makes plans larger last: so there is room at
// every moment.
func (d *Director) applyServices(c *change) {
	isFirst := d.generation == 0
	for _, s := range c.removed {
		d.forsake(s)
		d.removeService(s)
	}
	if isFirst {
		d.dropServices(c)
	}
	grows := func(w *Service) bool { return needsOf(w).total() > d.services[w.Key].needs.total() }
	for _, w := range c.edited {
		if !grows(w) {
			d.editService(w)
		}
	}
	for _, w := range c.edited {
		if grows(w) { // and those done above do not any more
			d.editService(w)
		}
	}
	for _, w := range c.added {
		d.addService(w)
	}
	d.tellPorts()
	d.tellSorry()
	if isFirst {
		d.dropReals()
		d.dropVIPs()
		d.inherited = false
		d.rate.last = d.counters() // what a former process counted is no rate
	} else if len(c.edited) > 0 {
		d.dropVIPs()
	}
}

// addService makes a service that packets find when it is whole.
func (d *Director) addService(want *Service) {
	_, inherited := d.heritage.services[want.Key]
	s := d.newService(want)
	d.setWant(s, want)
	s.founding = !inherited
	d.applyReals(s, want.Reals)
	s.founding = false
	s.rate.last = s.counters()
	d.mustPublish(s)
	atomic.AndUint32(&s.row.Flags, ^bpf.ServiceRemoved)
	if err := d.keys.Set(want.Key.row(), s.id); err != nil { // cannot be: its place is reserved
		d.log.Error("store service key", "event", "key_failed", "service", want.Key.String(), "error", err)
	}
}

// editService brings a service to what is wanted. A real server that is not
// changed is not touched, and where the scheduler sees no difference the plan stays.
func (d *Director) editService(want *Service) {
	s := d.services[want.Key]
	if s.schedulesLike(want) {
		d.setWant(s, want)
		for i, w := range want.Reals { // their names may be others
			s.reals[len(s.reals)-1-i].want = w
		}
		return
	}
	d.settle(s)
	if !s.sameScheduler(want) {
		d.changeScheduler(s, want)
	}
	d.setWant(s, want)
	d.applyReals(s, want.Reals)
	d.mustPublish(s)
}

// schedulesLike reports whether a plan for what is wanted would be the plan that there is.
func (s *service) schedulesLike(want *Service) bool {
	same := func(a, b RealServer) bool {
		return a.Key == b.Key && a.Method == b.Method && a.Tunnel == b.Tunnel && a.Weight == b.Weight && a.Upper == b.Upper && a.Lower == b.Lower &&
			a.Checked == b.Checked && a.InhibitOnFailure == b.InhibitOnFailure
	}
	return s.sameScheduler(want) && s.want.OnePacket == want.OnePacket && s.want.Expiration == want.Expiration &&
		slices.EqualFunc(s.want.Reals, want.Reals, same)
}

func (s *service) sameScheduler(want *Service) bool {
	return s.want.Scheduler == want.Scheduler && s.want.Flags == want.Flags && s.want.MHTable == want.MHTable
}

// setWant notes what is wanted and how much room it needs.
func (d *Director) setWant(s *service, want *Service) {
	d.reserved -= s.needs.total()
	d.locals.moved = d.locals.moved || !slices.Equal(s.want.Sources, want.Sources)
	s.setWant(want)
	for _, r := range s.reals {
		r.obey(&s.want)
	}
	d.reserved += s.needs.total()
	d.guard(&d.tables.Guards[s.id+1], want.Key, &want.Guard)
}

// mustPublish is for plans that there is room for, since compare has seen to it.
func (d *Director) mustPublish(s *service) {
	if err := d.publish(s); err != nil {
		d.log.Error("make plan", "event", "plan_failed", "service", s.want.Key.String(), "error", err)
	}
}

func (s *service) find(key RealKey) *real {
	for _, r := range s.reals {
		if r.want.Key == key {
			return r
		}
	}
	return nil
}

// retire takes a real server out of use. What becomes of its connections the
// service says; its row is free when none is left. What it counts is the
// service's from here on. One that is marked as removed was left to its fate
// before, by a former process.
func (d *Director) retire(s *service, r *real) {
	r.setFlag(bpf.RealUsable, false)
	if atomic.LoadUint32(&r.row.Flags)&bpf.RealRemoved == 0 {
		d.abandon(r, s.want.Conns.OnRemove)
	}
	r.setFlag(bpf.RealRemoved, true)
	r.setFlag(bpf.RealDown, false)
	d.passOn(r)
	r.former, r.idle = s.want.Name, false
	r.wasUp, r.founder, r.since, r.row.Held = false, false, time.Time{}, 0
	d.leaving = append(d.leaving, r)
}

// comeBack takes back a real server that was removed and still has connections;
// nil if there is none. As with IPVS they count for it again, and those go on
// that were kept, or waited for it.
func (d *Director) comeBack(service uint32, want RealServer) *real {
	for i, r := range d.leaving {
		if r.row.Service == service && r.want.Key == want.Key && r.want.Method == want.Method {
			d.leaving = slices.Delete(d.leaving, i, i+1)
			d.unretire(r)
			r.comeHome()
			r.lastWeight = 0
			r.setWant(want)
			return r
		}
	}
	return nil
}

// passOn lets the service have what a removed real server has counted since the
// last time.
func (d *Director) passOn(r *real) {
	s := &service{row: &d.tables.Services[r.row.Service]}
	now, total := r.counters(), s.gone()
	total.add(now)
	total.sub(fromRow(r.row.Retired))
	r.row.Retired = now.row()
	s.setGone(total)
}

// unretire gives a real server its counters back.
func (d *Director) unretire(r *real) {
	s := &service{row: &d.tables.Services[r.row.Service]}
	total := s.gone()
	total.sub(fromRow(r.row.Retired))
	s.setGone(total)
	r.row.Retired = bpf.Counters{}
	r.setFlag(bpf.RealRemoved, false)
}

// reap frees the rows of removed real servers and services that have no
// connections left. It must have seen none of a real server's twice: a packet may
// have chosen it just before.
func (d *Director) reap() {
	d.leaving = slices.DeleteFunc(d.leaving, func(r *real) bool {
		active, inactive := r.conns()
		wasIdle := r.idle
		r.idle = active+inactive+atomic.LoadUint32(&r.counts.Templates) == 0
		if !r.idle || !wasIdle {
			return false
		}
		d.passOn(r)
		r.setFlag(bpf.RealNextHop, false)
		d.keys.UnmarkReal(r.row)
		r.row.Addr, r.row.Pool = [16]byte{}, 0
		d.realIDs.give(r.id)
		d.unwatch(r)
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
	d.dropVIPs()
	d.tellPorts()
}

// removeService lets a service end: from now on it takes no new connection, but
// packets of those it has are still its. When none is left, reap forgets it.
func (d *Director) removeService(s *service) {
	atomic.OrUint32(&s.row.Flags, bpf.ServiceRemoved)
	for _, r := range s.reals {
		d.retire(s, r)
	}
	s.reals = nil
	d.reserved -= s.needs.total()
	delete(d.services, s.want.Key)
	d.end(s)
}

// end gives the plans of a removed service back; its row stays until the last
// connection has gone.
func (d *Director) end(s *service) {
	atomic.AndUint32(&s.row.Flags, ^bpf.ServiceNoQuorum)
	atomic.StoreUint32(&s.row.Sorry, 0)
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
	d.bequeath(s)
	*s.row = bpf.Service{Id: s.id}
	d.tables.Guards[s.id+1] = bpf.Guard{}
	d.serviceIDs.give(s.id)
	delete(d.ending, s.want.Key)
}

func (d *Director) applyTimeouts(t Timeouts) {
	d.timeouts = t.withDefaults()
	atomic.StoreUint32(&d.tables.Settings.Hz, d.clock.Jiffies(time.Second))
	atomic.StoreUint32(&d.tables.Settings.CookiePeriod, d.clock.Jiffies(cookiePeriod))
	for _, s := range states {
		atomic.StoreUint32(&d.tables.Settings.Timeout[s.number], d.clock.Jiffies(d.timeouts[s.number]))
	}
}

// estimate is done every two seconds.
func (d *Director) estimate() {
	d.estimateShares()
	d.passAllOn()
	total := d.removed()
	for _, s := range d.services {
		c := s.gone()
		for _, r := range s.reals {
			now := r.counters()
			r.rate.update(now)
			c.add(now)
		}
		s.rate.update(c)
		total.add(c)
	}
	d.rate.update(total)
}

func (d *Director) passAllOn() {
	for _, r := range d.leaving {
		d.passOn(r)
	}
}

// removed are the counters of services that are no more, those that end included.
func (d *Director) removed() Counters {
	total := d.total
	for _, s := range d.ending {
		total.add(s.gone())
	}
	return total
}

// counters are those of all services, removed ones included.
func (d *Director) counters() Counters {
	total := d.removed()
	for _, s := range d.services {
		total.add(s.counters())
	}
	return total
}

func (d *Director) snapshot() (*Snapshot, error) {
	d.passAllOn()
	s := &Snapshot{
		Time:       time.Now(),
		Generation: d.generation,
		TableSize:  uint32(len(d.tables.Conns4)),
		Total:      d.removed(),
		Rates:      d.rate.rates(),
		Interfaces: make([]InterfaceState, 0, len(d.interfaces)),
		Services:   make([]ServiceState, 0, len(d.services)),
		Sources:    d.sourceStates(),
		Tables:     d.tableStates(),
		Sweep:      d.swept.state,
		Drift:      d.driftStates(),
	}
	use := d.portUse()
	for i := range d.interfaces {
		s.Interfaces = append(s.Interfaces, d.interfaces[i].state())
	}
	for _, key := range slices.SortedFunc(maps.Keys(d.services), ServiceKey.Compare) {
		if key.Sorry {
			continue // its service has them
		}
		state := d.services[key].state()
		d.addShares(d.services[key], &state)
		d.addSorry(d.services[key], &state)
		state.tellPorts(use)
		s.Total.add(state.Counters)
		state.Counters.add(d.formerSorry(key))
		s.Services = append(s.Services, state)
	}
	var err error
	s.Verdicts, err = d.plane.Verdicts()
	return s, err
}

// Compare is ipvsadm's order: family, protocol, address, port; then firewall marks.
func (k ServiceKey) Compare(o ServiceKey) int {
	return cmp.Or(
		cmp.Compare(min(k.Mark, 1), min(o.Mark, 1)),
		cmp.Compare(k.Addr.BitLen(), o.Addr.BitLen()),
		cmp.Compare(k.Protocol, o.Protocol),
		k.Addr.Compare(o.Addr),
		cmp.Compare(k.Port, o.Port),
		cmp.Compare(k.Mark, o.Mark),
	)
}
