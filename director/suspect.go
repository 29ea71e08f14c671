// SPDX-License-Identifier: Apache-2.0

package director

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// A real server that takes connections gets at least two packets of each: SYN and
// ACK. Where it is silent, resets, or its host says that it cannot be reached, a
// client sends one, and for a second no other. So new connections with hardly more
// packets than there are of them are a sign, with every method, that shows sooner
// than a check's interval. A flood of SYNs gives the same sign: it is a reason to ask,
// not to believe.
const (
	suspectTick   = 100 * time.Millisecond
	suspectTicks  = 3 // a window
	suspectConns  = 8 // in a window, fewer say nothing
	suspectPeriod = time.Second
)

// growth is what a real server has counted at the ends of the last ticks.
type growth struct {
	conns, packets [suspectTicks + 1]uint64
	ticks          int // since it began to be looked at
	quiet          int // ticks for which no other sign is given
}

// Suspects gives real servers that are checked, and whose connections seem to come to
// nothing: all since the last time.
func (d *Director) Suspects() <-chan []HealthKey { return d.suspects }

// suspect looks at what checked real servers have counted.
func (d *Director) suspect() {
	found := map[HealthKey]bool{}
	for _, s := range d.services {
		if s.want.Key.Protocol != TCP && s.want.Key.Protocol != SCTP {
			continue
		}
		for _, r := range s.reals {
			if r.want.Checked && r.well() && r.growth.shows(r.traffic()) {
				found[HealthKey{s.want.Key, r.want.Key}] = true
			}
		}
	}
	if len(found) == 0 {
		return
	}
	select {
	case untold := <-d.suspects:
		for _, key := range untold {
			found[key] = true
		}
	default:
	}
	d.suspects.set(slices.Collect(maps.Keys(found)))
}

// traffic is how many connections and packets came so far.
func (r *real) traffic() (conns, packets uint64) {
	for i := range r.stats {
		conns += atomic.LoadUint64(&r.stats[i].N.Conns)
		packets += atomic.LoadUint64(&r.stats[i].N.InPackets)
	}
	return conns, packets
}

// shows takes the newest counts, and reports whether those of the window are a sign.
func (g *growth) shows(conns, packets uint64) bool {
	if g.ticks == 0 || conns < g.conns[g.ticks%len(g.conns)] { // or the row is another one's
		*g = growth{}
	}
	g.ticks++
	now := g.ticks % len(g.conns)
	if g.ticks == 1 {
		for i := range g.conns {
			g.conns[i], g.packets[i] = conns, packets
		}
		return false
	}
	g.conns[now], g.packets[now] = conns, packets
	before := (now + 1) % len(g.conns)
	newConns, newPackets := conns-g.conns[before], packets-g.packets[before]
	if g.quiet > 0 {
		g.quiet--
		return false
	}
	if newConns < suspectConns || 2*newPackets >= 3*newConns {
		return false
	}
	g.quiet = int(suspectPeriod / suspectTick)
	return true
}
