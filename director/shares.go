// SPDX-License-Identifier: Apache-2.0

package director

import (
	"math"
	"slices"
	"sync/atomic"

	"xdplvs/bpf"
)

// Of a service's new connections each real server has a planned share, by what
// plans have handed out, and a measured one, by the connections that it got. They
// are taken over a window of one to two spans.
const shareSpan = 15 // estimates: 30 seconds

// Shares are apart by more than this, if so many connections were seen that it is
// no chance: a deviation of four standard ones comes by chance once in 16,000 times.
const (
	apartPoints     = 0.05
	apartDeviations = 4
	apartConns      = 100
)

// tally is what a real server has got, at some time.
type tally struct {
	planned float64
	conns   uint64
}

func (t tally) since(o tally) tally { return tally{t.planned - o.planned, t.conns - o.conns} }

// shareWindow remembers where the span that runs and the one before began.
type shareWindow struct {
	began, before tally
	apart         bool // as was logged
}

func (d *Director) tallyOf(r *real) tally { return tally{d.planned[r.id], r.counters().Conns} }

// beginShares is for a real server that joins a service.
func (d *Director) beginShares(r *real) {
	now := d.tallyOf(r)
	r.window = shareWindow{began: now, before: now}
}

// tallyPlan counts for whom the choices were that the plan in force has handed out
// up to a position.
func (d *Director) tallyPlan(s *service, handed uint64) {
	p := &s.row.Plan[s.inForce()]
	from := s.tallied
	s.tallied = handed
	if s.want.hashes() || p.Length == 0 {
		return
	}
	slots, loop := d.tables.Plans[p.Base:][:p.Length], uint64(p.Loop)
	for ; from < handed && from < uint64(p.Length); from++ {
		d.tallySlot(slots[from], 1)
	}
	if from >= handed {
		return
	}
	cycle := slots[loop:]
	turns := (handed - from) / uint64(len(cycle))
	for i, id := range cycle {
		// Of the last turn, which is not whole, the slots from where the last whole one ended.
		extra := (uint64(i) + uint64(len(cycle)) - (from-loop)%uint64(len(cycle))) % uint64(len(cycle))
		n := turns
		if extra < (handed-from)%uint64(len(cycle)) {
			n++
		}
		d.tallySlot(id, float64(n))
	}
}

func (d *Director) tallySlot(id uint32, n float64) {
	if int(id) < len(d.planned) {
		d.planned[id] += n
	}
}

// tallyHash distributes a service's new connections as the slots of its hash plan
// are, supposing that clients are as many as slots.
func (d *Director) tallyHash(s *service, conns uint64) {
	if !s.want.hashes() || conns == 0 {
		return
	}
	for id, share := range d.slotShares(s) {
		d.tallySlot(id, share*float64(conns))
	}
}

// slotShares are the real servers' shares of the slots of the plan in force, of
// those that take connections.
func (d *Director) slotShares(s *service) map[uint32]float64 {
	p := &s.row.Plan[s.inForce()]
	shares, all := map[uint32]float64{}, 0.0
	for _, id := range d.tables.Plans[p.Base:][p.Loop:p.Length] {
		if int(id) < len(d.tables.Reals) && takesNew(&d.tables.Reals[id]) {
			shares[id]++
			all++
		}
	}
	for id := range shares {
		shares[id] /= all
	}
	return shares
}

// takesNew is real_takes_new of plan.h.
func takesNew(r *bpf.Real) bool {
	const wanted = bpf.RealUsable | bpf.RealNextHop
	return atomic.LoadUint32(&r.Flags)&(wanted|bpf.RealOverloaded) == wanted
}

// share is a real server's part of its service's new connections.
type share struct {
	planned, measured float64
	conns             uint64 // its own
	apart             bool
}

// shares are those of the service's real servers. Where nobody came, the plan
// itself says what is planned.
func (d *Director) shares(s *service) []share {
	list, sum := make([]tally, len(s.reals)), tally{}
	for i, r := range s.reals {
		list[i] = d.tallyOf(r).since(r.window.before)
		sum.planned += list[i].planned
		sum.conns += list[i].conns
	}
	shares := make([]share, len(list))
	var slots map[uint32]float64
	if sum.planned == 0 {
		slots = d.slotShares(s)
	}
	for i, t := range list {
		shares[i] = share{planned: slots[s.reals[i].id], conns: t.conns}
		if sum.planned > 0 {
			shares[i].planned = t.planned / sum.planned
		}
		if sum.conns > 0 {
			shares[i].measured = float64(t.conns) / float64(sum.conns)
		}
		shares[i].apart = sum.planned > 0 && !s.want.remembers() && shares[i].differ(sum.conns)
	}
	return shares
}

// differ reports whether the two shares of so many connections are too far apart.
func (s share) differ(conns uint64) bool {
	off := math.Abs(s.planned - s.measured)
	deviation := math.Sqrt(s.planned * (1 - s.planned) / float64(conns))
	return conns >= apartConns && off > apartPoints && off > apartDeviations*deviation
}

// endSpan warns once of shares that are apart, and lets the next span begin.
func (d *Director) endSpan() {
	for _, s := range d.services {
		for i, v := range d.shares(s) {
			r := s.reals[i]
			if v.apart && !r.window.apart {
				d.log.Warn("a real server's share of new connections is not the planned one", "event", "shares_apart",
					"service", s.want.Key.String(), "real", r.want.Key.String(),
					"planned_percent", math.Round(100*v.planned), "measured_percent", math.Round(100*v.measured))
			}
			r.window = shareWindow{began: d.tallyOf(r), before: r.window.began, apart: v.apart}
		}
	}
}

// estimateShares is done with each estimate, before it takes over the counters.
func (d *Director) estimateShares() {
	for _, s := range d.services {
		d.tallyPlan(s, atomic.LoadUint64(s.cursor()))
		fresh := uint64(0)
		for _, r := range s.reals {
			fresh += r.counters().Conns - r.rate.last.Conns
		}
		d.tallyHash(s, fresh)
	}
	if d.estimates++; d.estimates%shareSpan == 0 {
		d.endSpan()
	}
}

// addShares completes a service's state.
func (d *Director) addShares(s *service, state *ServiceState) {
	d.tallyPlan(s, atomic.LoadUint64(s.cursor()))
	for i, v := range d.shares(s) {
		r := &state.Reals[i]
		r.EffectiveWeight = s.reals[i].forScheduler().EffectiveWeight()
		r.PlannedShare, r.MeasuredShare, r.WindowConns, r.SharesApart = v.planned, v.measured, v.conns, v.apart
	}
	state.SharesApart = slices.ContainsFunc(state.Reals, func(r RealState) bool { return r.SharesApart })
}
