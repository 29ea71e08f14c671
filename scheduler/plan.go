// SPDX-License-Identifier: Apache-2.0

package scheduler

// Plan is what the data plane executes. A hash plan is indexed by a hash of the
// packet. A sequence plan is taken in order: see At.
type Plan struct {
	Kind  Kind
	Slots []uint32 // real-server ids; NoServer refuses the connection; never empty
	Loop  int      // sequence: where to go on after the last slot; below len(Slots)
	// Exact: right for ever, as long as nothing is edited and no Overloaded flag
	// changes. Otherwise right for the first pass, if no connection ends meanwhile;
	// going round after that is better than refusing, but should not last.
	Exact bool
}

// At returns the slot at position p of a sequence plan, a counter from 0: the
// slots in order, then from Loop on again and again. A hash plan has len(Slots)
// positions that repeat.
func (p Plan) At(position uint64) uint32 {
	n, loop := uint64(len(p.Slots)), uint64(p.Loop)
	if position < n {
		return p.Slots[position]
	}
	return p.Slots[loop+(position-loop)%(n-loop)]
}

// Forward returns the plan of s for servers as they are: its next choices, at
// most limit of them (at least 1), if connections arrive, none ends, and each
// counts for its server as counting says, until Server.Upper is reached. s itself
// does not move. The plan stops early where the choices begin to repeat.
//
// For dh, sh and mh it is the whole table, whatever the limit. For lblc and lblcr
// it is what they choose for destinations they do not remember.
//
// Servers in a slow start get less, whatever the scheduler: those that weigh load
// do it by the effective weight; of the others, choices that fall to such a server
// are withheld, and of a hash plan slots.
func Forward(s Scheduler, servers []Server, counting Counting, limit int) Plan {
	if b, ok := s.(Based); ok {
		s = b.Base()
	}
	if t, ok := s.(Tabled); ok {
		return Plan{Kind: Hash, Slots: thinTable(t, servers), Exact: true}
	}
	f := newForesight(servers, counting, max(limit, 1))
	if starting(servers) && !eases(s) {
		f.thinned(s.Clone())
		return f.plan(false)
	}
	switch s := s.Clone().(type) {
	case *ranked:
		f.ranked(s)
	case Cyclic:
		f.cyclic(s)
	case *twos:
		f.twos(s)
	default:
		f.plain(s)
	}
	return f.plan(!countAware(s))
}

// replayLimit bounds what Advance replays of a scheduler whose state cannot be
// skipped through. Only twos is one here, and its further choices are as random
// as those before.
const replayLimit = 1 << 16

// Advance moves s by the first n choices of the plan that Forward made of it for
// the same servers and counting: those the data plane has handed out. It changes
// nothing but s. The time it takes is bounded by the length of the cycle, not by n.
func Advance(s Scheduler, servers []Server, counting Counting, n uint64) {
	f := newForesight(servers, counting, int(min(n, replayLimit)))
	cyclic, cycles := s.(Cyclic)
	switch s.(type) {
	case Based, Tabled, *ranked:
		return // their state does not move with the choices of a plan
	}
	switch {
	case starting(servers) && !eases(s):
		f.thinned(s)
	case cycles:
		newSkipper(cyclic, servers, counting).advance(n)
	default:
		for range f.limit {
			f.take(s.Pick(Packet{}, f.servers))
		}
	}
}
