// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"math/bits"
	"time"
)

// whole is a weight of which nothing is held back.
const whole = 256

// SlowStart returns Server.Held for a server that has been up for elapsed, while
// its weight grows over duration in a straight line. It is below 256 from the
// first moment on, so that the server is usable; a duration of 0 or less holds
// nothing back.
func SlowStart(elapsed, duration time.Duration) uint8 {
	if duration <= 0 || elapsed >= duration {
		return 0
	}
	// 64 bits times 9: the product needs 128.
	hi, lo := bits.Mul64(whole, uint64(max(elapsed, 0)))
	grown, _ := bits.Div64(hi, lo, uint64(duration))
	return uint8(whole - max(grown, 1))
}

// Elapsed is SlowStart's inverse: for how long a server has been up at least of
// which held is held back.
func Elapsed(held uint8, duration time.Duration) time.Duration {
	hi, lo := bits.Mul64(uint64(whole-int(held)), uint64(max(duration, 0)))
	elapsed, rest := bits.Div64(hi, lo, whole)
	if rest > 0 {
		elapsed++ // or a little less would be grown
	}
	return time.Duration(elapsed)
}

// EffectiveWeight is the weight less what a slow start holds back, rounded up.
func (s Server) EffectiveWeight() uint32 { return uint32((s.share() + whole - 1) / whole) }

// share is the effective weight in 256ths.
func (s Server) share() uint64 { return uint64(s.Weight) * s.part() }

// part is how much of the weight there is, in 256ths.
func (s Server) part() uint64 { return whole - uint64(s.Held) }

// starting reports whether a slow start holds back a server that could be chosen.
func starting(servers []Server) bool {
	for i := range servers {
		if servers[i].Held > 0 && servers[i].Usable() {
			return true
		}
	}
	return false
}

// eases reports whether a scheduler itself heeds what is held back. Of the others
// the choices are thinned out.
func eases(s Scheduler) bool {
	switch s := s.(type) {
	case *ranked:
		return s.eases
	case *twos:
		return true
	}
	return false
}

// thinning lets servers that start slowly have their part of the choices that
// fall to them; the rest is chosen anew among the others. Where all start, the
// one that is up for longest has all of its.
type thinning struct {
	credit []uint64 // by server
	full   uint64   // a choice
	masked []int
}

// newThinning begins at another place of the series for each value of Held, or
// plans of which one choice is used would always withhold it.
func newThinning(servers []Server) *thinning {
	t := &thinning{credit: make([]uint64, len(servers))}
	for i := range servers {
		if servers[i].Usable() {
			t.full = max(t.full, servers[i].part())
		}
	}
	for i := range servers {
		t.credit[i] = spread(int(servers[i].Held)) * t.full / whole
	}
	return t
}

// spread is a series of numbers below 256 each of whose parts is even: multiples
// of the golden section.
func spread(i int) uint64 { return uint64(i) * 159 % whole }

func (t *thinning) pick(s Scheduler, servers []Server) int {
	chosen := s.Pick(Packet{}, servers)
	for chosen >= 0 && !t.grants(chosen, servers[chosen]) {
		servers[chosen].Overloaded = true
		t.masked = append(t.masked, chosen)
		if !anyUsable(servers) { // those that could have it are full by now
			break
		}
		chosen = s.Pick(Packet{}, servers)
	}
	for _, i := range t.masked {
		servers[i].Overloaded = false
	}
	t.masked = t.masked[:0]
	return chosen
}

func (t *thinning) grants(i int, s Server) bool {
	t.credit[i] += s.part()
	if t.credit[i] < t.full {
		return false
	}
	t.credit[i] -= t.full
	return true
}

// thinTable gives slots of servers that start slowly to those that would have
// them without: more of them come back as the weight grows, and none moves twice.
func thinTable(s Tabled, servers []Server) []uint32 {
	ids := s.Table(servers)
	held, others := map[uint32]*Server{}, []Server{}
	for i := range servers {
		if servers[i].Held > 0 {
			held[servers[i].ID] = &servers[i]
		} else {
			others = append(others, servers[i])
		}
	}
	if len(held) == 0 || !anyUsable(others) {
		return ids
	}
	without, ok := s.Clone().(Tabled)
	if !ok {
		return ids // cannot be: a clone is of the same type
	}
	without.Edit(others)
	instead, slots := without.Table(others), map[uint32]int{}
	for slot, id := range ids {
		if h := held[id]; h != nil {
			if spread(slots[id]) >= h.part() {
				ids[slot] = instead[slot]
			}
			slots[id]++
		}
	}
	return ids
}
