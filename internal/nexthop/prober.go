// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"log/slog"
	"time"

	"xdplvs/internal/agenda"
)

// A prober keeps what is known of neighbours true: it decides when to ask, whom, and what to make
// of what is heard. It sends nothing itself and reads no clock.
type prober struct {
	log     *slog.Logger
	lines   lineBudget
	opts    Options
	random  func() float64 // in [0, 1)
	agenda  agenda.Of[*neighbor]
	pace    pace
	touched []*neighbor // those with changed set
}

// touch notes that hops by n are to be computed again.
func (p *prober) touch(n *neighbor) {
	if !n.changed {
		n.changed = true
		p.touched = append(p.touched, n)
	}
}

// begin takes up a new neighbour, of which the kernel says e. Reachable ones are first probed some
// time within Refresh, so that thousands do not fall due together.
func (p *prober) begin(n *neighbor, e entry, now time.Time) {
	n.changed = true // its first target's hop is computed after this anyway, and it has no other
	p.agenda.Set(n, now)
	p.kernelSays(n, entry{}, e, now)
	n.changed = false
	if n.known && e.reachable && !n.static {
		p.agenda.Set(n, now.Add(scale(p.opts.Refresh, p.random())))
	}
}

// end forgets a neighbour.
func (p *prober) end(n *neighbor) { p.agenda.Drop(n) }

// kernelSays takes over a change of the kernel's entry. What did not change there is no news: the
// kernel may well repeat an address that is older than what was heard since.
func (p *prober) kernelSays(n *neighbor, was, is entry, now time.Time) {
	switch {
	case is.static:
		p.pin(n, is.mac, now)
	case n.static:
		p.unpin(n, is, now)
	case is.valid && (!was.valid || was.mac != is.mac || is.reachable && !was.reachable):
		p.told(n, is.mac, is.reachable, now)
	case is.failed && !was.failed:
		p.verify(n, now)
	}
}

// pin believes an address without probing.
func (p *prober) pin(n *neighbor, m mac, now time.Time) {
	p.adopt(n, m, "permanent entry", now)
	n.static, n.fault = true, ""
	p.agenda.Drop(n)
}

// unpin goes back to probing. The old address serves until everybody was asked: whoever removes a
// permanent entry may do so because it is wrong.
func (p *prober) unpin(n *neighbor, is entry, now time.Time) {
	n.static = false
	if is.valid {
		p.adopt(n, is.mac, "kernel", now)
	}
	n.doubt = true
	p.agenda.Set(n, now)
}

// told takes an address from the kernel's table.
func (p *prober) told(n *neighbor, m mac, reachable bool, now time.Time) {
	same := n.known && n.mac == m
	p.adopt(n, m, "kernel", now)
	switch {
	case reachable:
		p.confirm(n, now)
	case !same:
		p.verify(n, now)
	}
}

// saw takes what was heard from the neighbour itself (RFC 826; RFC 4861, 7.2.5).
func (p *prober) saw(n *neighbor, s sighting, now time.Time) {
	same := n.known && (s.mac == n.mac || s.mac == mac{})
	switch {
	case n.static, s.mac == mac{} && !n.known:
	case same && (s.solicited || s.override):
		p.confirm(n, now)
	case same:
	case n.known && !s.override:
		p.verify(n, now) // somebody, as a proxy, offers another way: is the known one still there?
	default:
		p.learn(n, s, now)
	}
}

// learn takes an address that the neighbour told. One that nobody asked for is used at once and
// verified: should it be a lie or a mistake, then the true owner's answer brings the old one back.
func (p *prober) learn(n *neighbor, s sighting, now time.Time) {
	p.adopt(n, s.mac, "neighbour", now)
	if s.solicited {
		p.confirm(n, now)
		return
	}
	p.verify(n, now)
}

// adopt believes an address.
func (p *prober) adopt(n *neighbor, m mac, source string, now time.Time) {
	if n.known && n.mac == m {
		return
	}
	p.tellResolved(n, m, source, now)
	n.mac, n.known, n.settled, n.fault = m, true, true, ""
	n.waiting, n.misses, n.doubt = false, 0, false
	p.touch(n)
}

// confirm notes a sign of life and puts the next probe off.
func (p *prober) confirm(n *neighbor, now time.Time) {
	n.waiting, n.misses, n.doubt = false, 0, false
	p.agenda.Set(n, now.Add(scale(p.opts.Refresh, 0.8+0.2*p.random())))
}

// verify asks soon, unless an answer is being waited for.
func (p *prober) verify(n *neighbor, now time.Time) {
	if !n.waiting && !n.static {
		p.agenda.Set(n, now)
	}
}

// restart asks at once and counts from the start: the link came back.
func (p *prober) restart(n *neighbor, now time.Time) {
	if n.static {
		return
	}
	n.waiting, n.misses = false, 0
	p.agenda.Set(n, now)
}

// next gives a neighbour that is due, if the rate allows it, else nil.
func (p *prober) next(now time.Time) *neighbor {
	n := p.agenda.First()
	if n == nil || n.Due().After(now) || !p.pace.allow(now) {
		return nil
	}
	return n
}

// wake tells when next has something to give; zero: never.
func (p *prober) wake() time.Time {
	n := p.agenda.First()
	if n == nil {
		return time.Time{}
	}
	if p.pace.next.After(n.Due()) {
		return p.pace.ready()
	}
	return n.Due()
}

// expire ends the wait for an answer, which a due neighbour may be in.
func (p *prober) expire(n *neighbor, now time.Time) {
	if !n.waiting {
		return
	}
	n.waiting = false
	n.misses++
	if n.misses == p.opts.Fails {
		p.giveUp(n, now)
	}
}

// giveUp makes a neighbour unresolved.
func (p *prober) giveUp(n *neighbor, now time.Time) {
	if n.known || !n.settled {
		p.tell(slog.LevelWarn, n, now, "next hop does not answer", "probes", n.misses)
		p.touch(n)
	}
	n.known, n.settled = false, true
}

// asked notes that a question was sent.
func (p *prober) asked(n *neighbor, now time.Time) {
	if n.fault != "" {
		n.fault = ""
		p.touch(n)
	}
	n.waiting = true
	p.agenda.Set(n, now.Add(p.patience(n.misses)))
}

// unasked notes that a question could not be sent, which says nothing about the neighbour.
func (p *prober) unasked(n *neighbor, err error, now time.Time) {
	if n.fault != err.Error() {
		p.tell(slog.LevelWarn, n, now, "cannot probe next hop", "error", err)
		n.fault = err.Error()
		p.touch(n)
	}
	p.agenda.Set(n, now.Add(p.opts.Retry))
}

// rest puts a neighbour off whose link cannot carry a question: there is nothing to wait for.
func (p *prober) rest(n *neighbor, now time.Time) {
	n.waiting, n.misses = false, 0
	p.agenda.Set(n, now.Add(p.opts.Refresh))
}

// patience is how long to wait for an answer after so many misses: Retry until the neighbour is
// given up, then twice as long each time, up to Refresh.
func (p *prober) patience(misses int) time.Duration {
	d := p.opts.Retry
	for i := p.opts.Fails; i <= misses && d < p.opts.Refresh; i++ {
		d *= 2
	}
	return min(d, max(p.opts.Refresh, p.opts.Retry))
}

// scale multiplies a duration.
func scale(d time.Duration, f float64) time.Duration { return time.Duration(float64(d) * f) }
