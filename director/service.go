// SPDX-License-Identifier: Apache-2.0

package director

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

// planLimit bounds the slots of one sequence plan. It holds every cycle of rr,
// and those of wrr whose weights, divided by their greatest common divisor, sum
// to no more. A plan that follows the connections is made anew every some
// milliseconds: it begins with awareFirst slots, or two for each real server,
// and grows to awareLimit where that many connections arrive meanwhile.
const (
	planLimit  = 1 << 16
	awareFirst = 1 << 6
	awareLimit = 1 << 12
)

// service is a virtual service and its row.
type service struct {
	id      uint32
	want    Service
	row     *bpf.Service
	sched   scheduler.Scheduler
	reals   []*real // IPVS's list order: the last added first
	planned []scheduler.Server
	handed  uint64    // by the plan before the one in force
	regions [2]region // of the two plans
	flow    region
	rate    estimator
}

func (d *Director) newService(want Service) (*service, error) {
	sched, err := newScheduler(want)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", want.Key, err)
	}
	s := &service{sched: sched}
	if old := d.ending[want.Key]; old != nil { // it comes back before its last connection has gone
		delete(d.ending, want.Key)
		s.id, s.row, s.rate = old.id, old.row, old.rate
	} else if !d.adoptService(s, want.Key) {
		s.id, _ = d.serviceIDs.take() // apply has seen that there are enough
		s.row = &d.tables.Services[s.id]
		*s.row = bpf.Service{Id: s.id}
	}
	s.setWant(want)
	return s, nil
}

func (s *service) setWant(want Service) {
	s.want = want
	s.want.Reals = slices.Clone(want.Reals) // the caller's may change
	s.row.Answer = uint8(want.Answer)
	s.row.Protocol = uint8(want.Key.Protocol)
	flags := bpf.ServiceReuse | bpf.ServiceReuseFin
	if want.OnePacket {
		flags |= bpf.ServiceOnePacket
	}
	if want.Flags&(scheduler.SHPort|scheduler.MHPort) != 0 {
		flags |= bpf.ServiceHashPort
	}
	if want.Flags&(scheduler.SHFallback|scheduler.MHFallback) != 0 {
		flags |= bpf.ServiceFallback
	}
	atomic.StoreUint32(&s.row.Flags, flags)
}

func (k ServiceKey) row() bpf.Key {
	return bpf.Key{Addr: k.Addr, Port: k.Port, Protocol: uint8(k.Protocol)}
}

// counting is what a new connection is to the scheduler.
func (s *service) counting() scheduler.Counting {
	switch {
	case s.want.OnePacket:
		return scheduler.CountNothing
	case s.want.Key.Protocol == TCP:
		return scheduler.CountActive
	default:
		return scheduler.CountInactive
	}
}

func (s *service) servers() []scheduler.Server {
	list := make([]scheduler.Server, len(s.reals))
	for i, r := range s.reals {
		list[i] = r.forScheduler()
	}
	return list
}

// settle moves the scheduler by what the current plan has handed out, so that
// the next plan goes on where this one is left.
func (s *service) settle() {
	if s.planned == nil {
		return
	}
	s.handed = atomic.LoadUint64(&s.row.Cursor[s.row.Current&1])
	scheduler.Advance(s.sched, s.planned, s.counting(), s.handed)
	s.planned = nil
}

// edited tells the scheduler of one change of the list.
func (s *service) edited() { s.sched.Edit(s.servers()) }

// publish makes the plans for the list as it is, and lets them take effect with
// one store. On error the old plans stay.
func (d *Director) publish(s *service) error {
	if err := d.publishPlan(s); err != nil {
		return err
	}
	return d.publishFlow(s, s.planned)
}

// publishPlan is the part of publish that follows the connections.
func (d *Director) publishPlan(s *service) error {
	s.settle()
	servers := s.servers()
	next := (s.row.Current + 1) & 1
	plan := scheduler.Forward(s.sched, servers, s.counting(), s.planLength())
	err := d.writePlan(s, next, plan)
	if err != nil && s.aware() {
		plan = scheduler.Forward(s.sched, servers, s.counting(), s.firstLength())
		err = d.writePlan(s, next, plan)
	}
	if err != nil {
		return err
	}
	atomic.StoreUint64(&s.row.Cursor[next], 0)
	atomic.StoreUint32(&s.row.Current, next)
	s.planned = servers
	return nil
}

// planLength is how many slots the next plan may have.
func (s *service) planLength() int {
	if !s.aware() {
		return planLimit
	}
	length := max(s.firstLength(), int(s.row.Plan[s.row.Current&1].Length))
	if s.handed > uint64(length)/2 {
		length *= 2
	}
	return min(length, max(awareLimit, s.firstLength()))
}

func (s *service) firstLength() int { return max(awareFirst, 2*len(s.reals)) }

// aware reports whether the plan depends on the connections.
func (s *service) aware() bool { return scheduler.CountAware(s.want.Scheduler) }

func (d *Director) writePlan(s *service, which uint32, plan scheduler.Plan) error {
	slots := plan.Slots
	if !slices.ContainsFunc(slots, func(id uint32) bool { return id != scheduler.NoServer }) {
		slots = nil
	}
	at := &s.regions[which]
	if err := d.refit(at, len(slots)); err != nil {
		return err
	}
	copy(d.tables.Plans[at.base:], slots)
	s.row.Plan[which] = bpf.Plan{
		Base: at.base, Length: uint32(len(slots)), Loop: uint32(plan.Loop), Kind: planKinds[s.want.Scheduler],
	}
	return nil
}

// planSlots is how many slots of the plans table the service needs.
func (s *Service) planSlots() int {
	slots := len(s.Reals)
	switch s.Scheduler {
	case "rr":
	case "wrr":
		slots = min(slots+s.wrrCycle(), planLimit)
	case "dh", "sh":
		slots = 256
	case "mh":
		slots = 4093
	default:
		slots = max(awareFirst, 2*slots)
	}
	return 2*int(regionSize(slots)) + int(regionSize(flowSize(len(s.Reals))))
}

// wrrCycle is the length of wrr's cycle: the sum of the weights over their
// greatest common divisor.
func (s *Service) wrrCycle() int {
	sum, divisor := 0, 0
	for _, r := range s.Reals {
		sum += int(r.Weight)
		for a, b := divisor, int(r.Weight); ; a, b = b, a%b {
			if b == 0 {
				divisor = a
				break
			}
		}
	}
	return sum / max(divisor, 1)
}

// refit makes the region one of the right size.
func (d *Director) refit(at *region, slots int) error {
	if regionSize(slots) == at.size {
		return nil
	}
	r, err := d.arena.take(slots)
	if err != nil {
		return err
	}
	d.arena.give(*at)
	*at = r
	return nil
}

// flowSizes are primes, as the flow table wants them.
var flowSizes = []int{61, 251, 1021, 4093, 16381, 65521}

func flowSize(servers int) int {
	for _, size := range flowSizes {
		if size >= 8*servers {
			return size
		}
	}
	return flowSizes[len(flowSizes)-1]
}

// publishFlow writes the hash plan. It has one place only: for the moment that
// the copy takes, packets may read the old and the new choice mixed, and both
// are usable real servers.
func (d *Director) publishFlow(s *service, servers []scheduler.Server) error {
	slots := scheduler.FlowTable(servers, flowSize(len(servers)))
	if slices.Index(slots, scheduler.NoServer) >= 0 {
		slots = nil
	}
	old := s.flow
	if err := d.refit(&s.flow, len(slots)); err != nil {
		return err
	}
	if s.flow != old || len(slots) == 0 {
		atomic.StoreUint32(&s.row.Flow.Length, 0)
	}
	copy(d.tables.Plans[s.flow.base:], slots)
	atomic.StoreUint32(&s.row.Flow.Base, s.flow.base)
	s.row.Flow.Kind = bpf.PlanFlow
	atomic.StoreUint32(&s.row.Flow.Length, uint32(len(slots)))
	return nil
}

// gone are the counters of real servers that were removed. They stand in the
// row, where they survive the daemon.
func (s *service) gone() Counters {
	g := s.row.Gone
	return Counters{Conns: g.Conns, InPkts: g.InPackets, OutPkts: g.OutPackets, InBytes: g.InBytes, OutBytes: g.OutBytes}
}

func (s *service) setGone(c Counters) {
	s.row.Gone = bpf.Counters{Conns: c.Conns, InPackets: c.InPkts, OutPackets: c.OutPkts, InBytes: c.InBytes, OutBytes: c.OutBytes}
}

func (s *service) counters() Counters {
	c := s.gone()
	for _, r := range s.reals {
		c.add(r.counters())
	}
	return c
}

func (s *service) state() ServiceState {
	state := ServiceState{
		Name:      s.want.Name,
		Key:       s.want.Key,
		Scheduler: s.want.Scheduler,
		Flags:     s.want.Flags.String(),
		OnePacket: s.want.OnePacket,
		Reals:     make([]RealState, len(s.reals)),
		NoReal:    atomic.LoadUint64(&s.row.NoReal),
		Untracked: atomic.LoadUint64(&s.row.Untracked),
		Counters:  s.counters(),
		Rates:     s.rate.rates(),
	}
	for i, r := range s.reals {
		state.Reals[i] = r.state()
	}
	return state
}

// planKinds are the kinds of plan of schedulers that hash; all others are taken in order.
var planKinds = map[string]uint32{"dh": bpf.PlanDH, "sh": bpf.PlanSH, "mh": bpf.PlanMH}

// notPlanned are schedulers that need more than a plan: a memory of destinations.
var notPlanned = []string{"lblc", "lblcr"}

// SchedulerNames are the schedulers that a service can have.
func SchedulerNames() []string {
	return slices.DeleteFunc(scheduler.Names(), func(name string) bool { return slices.Contains(notPlanned, name) })
}

func newScheduler(want Service) (scheduler.Scheduler, error) {
	s, err := scheduler.New(want.Scheduler, scheduler.Options{Flags: want.Flags})
	if err != nil && !slices.Contains(scheduler.Names(), want.Scheduler) || slices.Contains(notPlanned, want.Scheduler) {
		return nil, fmt.Errorf("unknown scheduler %q (known: %s)", want.Scheduler, strings.Join(SchedulerNames(), ", "))
	}
	return s, err
}

// equal reports whether nothing would change.
func (s *Service) equal(o *Service) bool {
	return s.Name == o.Name && s.Key == o.Key && s.Scheduler == o.Scheduler && s.Flags == o.Flags &&
		s.OnePacket == o.OnePacket && s.Answer == o.Answer && slices.Equal(s.Reals, o.Reals)
}

// SchedulerFlagNames are the flags that schedulers have, as ipvsadm names them.
func SchedulerFlagNames() []string {
	return []string{scheduler.SHFallback.String(), scheduler.SHPort.String(), scheduler.MHFallback.String(), scheduler.MHPort.String()}
}

// SchedulerFlags are the flags of those names; unknown ones are left out.
func SchedulerFlags(names ...string) (all scheduler.Flags) {
	for _, name := range names {
		if f, err := scheduler.ParseFlags(name); err == nil {
			all |= f
		}
	}
	return all
}
