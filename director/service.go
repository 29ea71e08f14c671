// SPDX-License-Identifier: Apache-2.0

package director

import (
	"fmt"
	"slices"
	"sync/atomic"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

// service is a virtual service and its row.
type service struct {
	id      uint32
	want    Service
	row     *bpf.Service
	sched   scheduler.Scheduler
	reals   []*real // IPVS's list order: the last added first
	planned []scheduler.Server
	handed  uint64 // choices of a plan that sched has made, too
	settled bool   // and it is the plan in force
	noReal  uint64 // packets without a real server when the plan was made
	cut     bool   // the plan ends before the choices repeat, and will be renewed
	limited bool   // the plan must follow thresholds
	easing  bool   // some real server is in a slow start
	tallied uint64 // choices of the plan in force that were counted for somebody
	// founding: the service is new, and so are its real servers.
	founding bool
	needs    needs
	regions  [2]region // of the two plans
	flow     region
	rate     estimator
	seal     seal   // of the plans
	seen     uint64 // the comparison that found it wanted
}

// newService gives the service a row: its own if it ends and comes back, or a
// former process's. The scheduler is known: compare has seen to it.
func (d *Director) newService(want *Service) *service {
	s := &service{}
	s.sched, _ = newScheduler(*want)
	if old := d.ending[want.Key]; old != nil {
		delete(d.ending, want.Key)
		s.id, s.row, s.rate = old.id, old.row, old.rate
	} else if !d.adoptService(s, want.Key) {
		s.id, _ = d.serviceIDs.take() // compare has seen that there are enough
		s.row = &d.tables.Services[s.id]
		*s.row = bpf.Service{Id: s.id, Flags: bpf.ServiceRemoved} // until it has a plan
	}
	// What a former process's plan has handed out or refused is none of this one's business.
	s.noReal, s.tallied = atomic.LoadUint64(&s.row.NoReal), atomic.LoadUint64(s.cursor())
	d.services[want.Key] = s
	return s
}

// setWant notes what is wanted. A service that is marked as removed stays so, and
// one without quorum.
func (s *service) setWant(want *Service) {
	s.want = *want
	s.want.Reals = slices.Clone(want.Reals) // the caller's may change
	s.want.Sources = slices.Clone(want.Sources)
	s.want.VIPs = slices.Clone(want.VIPs)
	s.want.Guard = want.Guard.clone()
	s.needs = needsOf(want)
	// Where a packet chooses by a hash it looks at thresholds, too.
	s.limited = !want.hashes() && slices.ContainsFunc(s.want.Reals, func(r RealServer) bool { return r.Upper > 0 })
	s.writeRow(want)
}

// writeRow writes what the row says besides plans.
func (s *service) writeRow(want *Service) {
	s.setPersistence(want)
	s.row.Answer = uint8(want.Answer)
	s.row.Protocol = uint8(want.Key.Protocol)
	flags := want.Conns.Reuse.flags() | want.Persistence.flags()
	if want.Key.Sorry {
		flags |= bpf.ServiceSorry
	}
	if want.Conns.ExpireNodest {
		flags |= bpf.ServiceExpireNodest
	}
	if want.Conns.Sloppy {
		flags |= bpf.ServiceSloppy
	}
	if want.OnePacket {
		flags |= bpf.ServiceOnePacket
	}
	if want.Flags&(scheduler.SHPort|scheduler.MHPort) != 0 {
		flags |= bpf.ServiceHashPort
	}
	if want.Flags&(scheduler.SHFallback|scheduler.MHFallback) != 0 {
		flags |= bpf.ServiceFallback
	}
	atomic.StoreUint32(&s.row.Flags, flags|s.row.Flags&(bpf.ServiceRemoved|bpf.ServiceNoQuorum|bothCookieFlags))
}

func (k ServiceKey) row() bpf.Key {
	if k.Mark != 0 {
		return bpf.Key{Addr: k.Addr, Mark: k.Mark, Sorry: k.Sorry}
	}
	return bpf.Key{Addr: k.Addr, Port: k.Port, Protocol: uint8(k.Protocol), Sorry: k.Sorry}
}

// keyOf is the key of a row.
func keyOf(k bpf.Key) ServiceKey {
	key := ServiceKey{Protocol: Protocol(k.Protocol), Addr: k.Addr, Port: k.Port}
	if k.Mark != 0 {
		key = MarkKey(k.Mark, k.Addr.Is6())
	}
	key.Sorry = k.Sorry
	return key
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

// servers are the real servers as the scheduler sees them. What takes turns goes
// on in turn when a packet finds one at its threshold: there, a threshold ahead
// would only make an endless plan a short one.
func (s *service) servers() []scheduler.Server {
	_, turns := s.sched.(scheduler.Cyclic)
	list := make([]scheduler.Server, len(s.reals))
	for i, r := range s.reals {
		list[i] = r.forScheduler()
		if turns {
			list[i].Upper = 0
		}
	}
	return list
}

// reachable is servers, but for thresholds: those are looked at when a packet
// chooses, and a hash plan should not move by them.
func (s *service) reachable() []scheduler.Server {
	list := s.servers()
	for i, r := range s.reals {
		list[i].Overloaded = !r.present()
	}
	return list
}

// gone are the counters of real servers that were removed. They stand in the
// row, where they survive the daemon.
func (s *service) gone() Counters { return fromRow(s.row.Gone) }

func (s *service) setGone(c Counters) { s.row.Gone = c.row() }

func fromRow(c bpf.Counters) Counters {
	return Counters{Conns: c.Conns, InPkts: c.InPackets, OutPkts: c.OutPackets, InBytes: c.InBytes, OutBytes: c.OutBytes}
}

func (c Counters) row() bpf.Counters {
	return bpf.Counters{Conns: c.Conns, InPackets: c.InPkts, OutPackets: c.OutPkts, InBytes: c.InBytes, OutBytes: c.OutBytes}
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
		Name:        s.want.Name,
		Key:         s.want.Key,
		Scheduler:   s.want.Scheduler,
		Flags:       s.want.Flags.String(),
		OnePacket:   s.want.OnePacket,
		Persistence: s.want.Persistence,
		Reals:       make([]RealState, len(s.reals)),
		NoReal:      atomic.LoadUint64(&s.row.NoReal),
		Untracked:   atomic.LoadUint64(&s.row.Untracked),
		Counters:    s.gone(),
		Rates:       s.rate.rates(),
	}
	for i, r := range s.reals {
		state.Reals[i] = r.state()
		state.Counters.add(state.Reals[i].Counters)
	}
	return state
}

// planKinds are the kinds of plan of schedulers that look at the packet; those of
// all others are taken in order.
var planKinds = map[string]uint32{
	"dh": bpf.PlanDH, "sh": bpf.PlanSH, "mh": bpf.PlanMH, "lblc": bpf.PlanLBLC, "lblcr": bpf.PlanLBLCR,
}

// SchedulerNames are the schedulers that a service can have.
func SchedulerNames() []string { return scheduler.Names() }

// hashes reports whether packets look the plan up by a hash.
func (s *Service) hashes() bool {
	return s.Scheduler == "dh" || s.Scheduler == "sh" || s.Scheduler == "mh"
}

// newScheduler makes the algorithm. One of somebody's own can be any that plans a
// sequence: of hashes, and of what else looks at packets, the data plane knows IPVS's.
func newScheduler(want Service) (scheduler.Scheduler, error) {
	s, err := scheduler.New(want.Scheduler, scheduler.Options{Flags: want.Flags, MHTableSize: want.MHTable})
	if err != nil {
		return nil, err
	}
	_, based := s.(scheduler.Based)
	if _, known := planKinds[want.Scheduler]; !known && (based || s.Kind() != scheduler.Sequence) {
		return nil, fmt.Errorf("scheduler %s: the data plane has no such plan", want.Scheduler)
	}
	return s, nil
}

// equal reports whether nothing would change.
func (s *Service) equal(o *Service) bool {
	return s.Name == o.Name && s.Key == o.Key && s.Scheduler == o.Scheduler && s.Flags == o.Flags &&
		s.OnePacket == o.OnePacket && s.Persistence == o.Persistence && s.MHTable == o.MHTable && s.Expiration == o.Expiration &&
		s.Answer == o.Answer && s.Conns == o.Conns && s.MarkSource == o.MarkSource &&
		slices.Equal(s.Sources, o.Sources) && slices.Equal(s.VIPs, o.VIPs) && slices.Equal(s.Reals, o.Reals) &&
		slices.Equal(s.Sorry, o.Sorry) && s.Written == o.Written && s.Guard.equal(&o.Guard)
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
