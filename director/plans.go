// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

// planLimit bounds the slots of one sequence plan. It holds every cycle of rr,
// and those of wrr whose weights, divided by their greatest common divisor, sum
// to no more; a longer cycle is cut off, and its plan renewed when half of it is
// used. A plan that follows the connections is made anew every some
// milliseconds: it begins with awareFirst slots, or two for each real server,
// and grows to awareLimit where that many connections arrive meanwhile.
const (
	planLimit  = 1 << 16
	awareFirst = 1 << 6
	awareLimit = 1 << 12

	defaultMHTable = 4093
)

// needs are the sizes of a service's regions, as if every real server could be
// reached: one that comes back finds room.
type needs struct {
	plan uint32 // of each of the two plans
	flow uint32
}

// total is in slots.
func (n needs) total() uint64 { return 2*uint64(n.plan) + uint64(n.flow) }

func needsOf(want *Service) needs {
	return needs{regionSize(want.planLength() + want.planHead()), flowRegion(len(want.Reals))}
}

// planLength is how many slots a plan of the service has, if it does not follow
// the connections: then it is how many it has at first.
func (s *Service) planLength() int {
	switch s.Scheduler {
	case "rr":
		return len(s.Reals)
	case "wrr":
		return min(s.wrrCycle(), planLimit)
	case "dh", "sh":
		return 256
	case "mh":
		return cmp.Or(s.MHTable, defaultMHTable)
	default:
		return firstLength(len(s.Reals))
	}
}

func firstLength(reals int) int { return max(awareFirst, 2*reals) }

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

// inForce is the plan that packets take, 0 or 1.
func (s *service) inForce() uint32 { return s.row.Current & 1 }

func (s *service) cursor() *uint64 { return &s.row.Cursor[s.inForce()] }

// settle moves the scheduler by what the plan in force has handed out, so that
// the next one goes on where this one is left. publish follows.
func (d *Director) settle(s *service) {
	if s.planned == nil {
		return
	}
	s.handed = atomic.LoadUint64(s.cursor())
	d.tallyPlan(s, s.handed)
	choices := s.handed
	if s.row.Plan[s.inForce()].Length == 0 && atomic.LoadUint64(&s.row.NoReal) != s.noReal {
		choices = 1 // a search in vain moves wrr, too; further ones do not
	}
	scheduler.Advance(s.sched, s.planned, s.counting(), choices)
	s.planned, s.settled = nil, true
}

// publish makes the plans for the list as it is, and lets them take effect with
// one store each. On error the old plan stays, and follow tries again.
func (d *Director) publish(s *service) error {
	if err := d.publishPlan(s); err != nil {
		return err
	}
	d.publishFlow(s, s.reachable())
	return nil
}

// publishPlan is the part of publish that follows the connections.
func (d *Director) publishPlan(s *service) error {
	d.settle(s)
	s.ease(time.Now())
	servers := s.servers()
	plan := scheduler.Forward(s.sched, servers, s.counting(), s.nextLength())
	head := s.want.planHead()
	r := d.spare(s, len(plan.Slots)+head)
	room := int(r.size) - head
	if len(plan.Slots) > room && plan.Kind == scheduler.Sequence && room > 0 {
		plan = scheduler.Forward(s.sched, servers, s.counting(), room)
	}
	if s.cut = len(plan.Slots) > room; s.cut {
		d.arena.give(r)
		return fmt.Errorf("take %d plan slots of %d, %d in use (raise limits.plan_slots): %w", len(plan.Slots), d.arena.end, d.arena.used, bpf.ErrFull)
	}
	next := 1 - s.inForce()
	s.regions[next] = r
	d.writePlan(s, next, plan)
	s.turn(next)
	s.planned, s.noReal = servers, atomic.LoadUint64(&s.row.NoReal)
	s.cut = !plan.Exact && !s.aware()
	d.seal(s)
	return nil
}

// nextLength is how many slots the next plan may have: twice as many as were wanted
// of this one, so that it does not come to its end.
func (s *service) nextLength() int {
	if !s.aware() && !s.easing {
		return planLimit
	}
	first := firstLength(len(s.reals))
	wanted := s.handed + atomic.LoadUint64(&s.row.NoReal) - s.noReal
	length := max(uint64(first), uint64(s.row.Plan[s.inForce()].Length), 2*min(wanted, awareLimit))
	return int(min(length, uint64(max(awareLimit, first))))
}

// aware reports whether the plan depends on the connections. That of fo does by
// thresholds: it says how many go to the best before the next one's turn.
func (s *service) aware() bool {
	return scheduler.CountAware(s.want.Scheduler) || s.want.Scheduler == "fo" && s.limited
}

func (d *Director) writePlan(s *service, which uint32, plan scheduler.Plan) {
	slots := plan.Slots
	if !slices.ContainsFunc(slots, func(id uint32) bool { return id != scheduler.NoServer }) {
		slots = nil
	}
	r := s.regions[which]
	base := r.base + uint32(s.want.planHead())
	d.writeRoster(s, d.tables.Plans[r.base:base])
	copy(d.tables.Plans[base:], slots)
	s.row.Plan[which] = bpf.Plan{
		Base: base, Length: uint32(len(slots)), Loop: uint32(plan.Loop), Kind: planKinds[s.want.Scheduler],
	}
}

// turn puts the other plan in force. What the old one has handed out since it was
// settled is left out of the new one, so that no choice is made twice.
func (s *service) turn(next uint32) {
	old := s.cursor()
	atomic.StoreUint64(&s.row.Cursor[next], 0)
	atomic.StoreUint32(&s.row.Current, next)
	if s.settled {
		atomic.AddUint64(&s.row.Cursor[next], atomic.LoadUint64(old)-s.handed)
	}
	s.settled, s.tallied = false, 0
}

// spare is a region for the plan that is not in force. What the service needs by
// its size there is; a plan that has grown beyond it must find room by itself.
func (d *Director) spare(s *service, slots int) region {
	size := max(s.needs.plan, regionSize(slots))
	if r := s.regions[1-s.inForce()]; r.size == size {
		s.regions[1-s.inForce()] = region{}
		return r
	}
	d.dropSpare(s)
	if size > s.needs.plan {
		if r, ok := d.arena.take(size); ok {
			return r
		}
	}
	return d.take(s.needs.plan)
}

// dropSpare gives up the plan that is not in force: its row first, so that a
// restarted daemon does not find it.
func (d *Director) dropSpare(s *service) {
	other := 1 - s.inForce()
	atomic.StoreUint32(&s.row.Plan[other].Length, 0)
	d.arena.give(s.regions[other])
	s.regions[other] = region{}
}

// take gives out a region of a size that somebody needs. If there is none in one
// piece the table is put in order. If it is full, as it can be for a moment while
// some plans are old and some are new, the region is smaller.
func (d *Director) take(size uint32) region {
	r, ok := d.arena.take(size)
	if !ok {
		d.compact()
		r, ok = d.arena.take(size)
	}
	for !ok && size > bpf.PlanAlign {
		size /= 2
		r, ok = d.arena.take(size)
	}
	return r
}

// flowShare is how many slots of the hash plan there are for each real server, at
// least.
const flowShare = 8

// primes just below the powers of two from 64 on: lengths of hash plans.
var primes = [...]int{61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521}

// flowRegion is the size of the region for the hash plan of so many real servers.
func flowRegion(servers int) uint32 {
	for _, p := range primes {
		if p >= flowShare*servers {
			return regionSize(p)
		}
	}
	return regionSize(primes[len(primes)-1])
}

// flowLength is the length of a hash plan in a region of the size; 0: there is
// not enough room for one.
func flowLength(size uint32) int {
	class := bits.Len32(size / 64)
	if class == 0 {
		return 0
	}
	return primes[class-1]
}

// publishFlow writes the hash plan. Where its size stays it is written in place:
// for the moment that the copy takes, packets may read the old and the new choice
// mixed, and both are real servers of the service.
func (d *Director) publishFlow(s *service, servers []scheduler.Server) {
	defer d.seal(s)
	if !slices.ContainsFunc(servers, scheduler.Server.Usable) {
		atomic.StoreUint32(&s.row.Flow.Length, 0)
		return
	}
	fresh := s.flow
	if fresh.size != s.needs.flow {
		fresh = d.take(s.needs.flow)
	}
	if flowLength(fresh.size) == 0 { // it is of no use
		d.arena.give(fresh)
		fresh = region{}
	}
	old := s.flow // only now: taking may have moved it
	s.flow = fresh
	slots := scheduler.FlowTable(servers, flowLength(fresh.size))
	copy(d.tables.Plans[fresh.base:], slots)
	s.row.Flow.Kind = bpf.PlanFlow
	atomic.StoreUint32(&s.row.Flow.Base, fresh.base)
	atomic.StoreUint32(&s.row.Flow.Length, uint32(len(slots)))
	if old != fresh {
		d.arena.give(old)
	}
}
