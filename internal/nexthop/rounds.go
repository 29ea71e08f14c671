// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net/netip"
	"time"

	"xdplvs/internal/agenda"
)

// mark has a target's route looked up again.
func (e *engine) mark(t *target) {
	if !t.stale {
		t.stale = true
		e.todo = append(e.todo, t)
	}
}

func (e *engine) markAll() {
	for _, t := range e.targets {
		e.mark(t)
	}
}

// markIf marks, if the condition holds at all, the targets that it concerns.
func (e *engine) markIf(condition bool, concerns func(*target) bool) {
	if !condition {
		return
	}
	for _, t := range e.targets {
		if concerns(t) {
			e.mark(t)
		}
	}
}

func (e *engine) markWithin(p netip.Prefix) {
	for t := range e.targets.within(p) {
		e.mark(t)
	}
}

// lookUpAt tells when look-ups go on; zero: there are none. After a long round there is a rest as
// long as it took, so that a routing table in motion costs half a core at most.
func (e *engine) lookUpAt() time.Time {
	if len(e.todo) == 0 {
		return time.Time{}
	}
	return e.lookAt
}

// lookUp looks up one slice of the routes that are to be looked up.
func (e *engine) lookUp(now time.Time) {
	if !agenda.Due(e.lookUpAt(), now) {
		return
	}
	if e.began.IsZero() {
		e.began = now
	}
	slice := e.todo[:min(lookupSlice, len(e.todo))]
	if err := e.ask(slice, now); err != nil {
		e.log.Warn("cannot look up routes, will try again", "error", err)
		e.lookAt = now.Add(e.opts.Retry)
		return
	}
	if e.todo = e.todo[len(slice):]; len(e.todo) == 0 {
		end := time.Now()
		e.todo, e.lookAt, e.began = nil, end.Add(end.Sub(e.began)), time.Time{}
	}
}

// ask looks up the routes of some targets.
func (e *engine) ask(list targetList, now time.Time) error {
	queries := make([]query, 0, len(list))
	faults := make([]string, len(list))
	for i, t := range list {
		var q query
		if q, faults[i] = t.query(e.links); faults[i] == "" {
			queries = append(queries, q)
		}
	}
	answers := make([]route, len(queries))
	if err := e.k.routes(queries, answers); err != nil {
		return err
	}
	for i, t := range list {
		var r route
		if faults[i] == "" {
			r, answers = answers[0], answers[1:]
		}
		e.answered(t, r, faults[i], now)
	}
	return nil
}

// answered takes over a target's new route, or why there is none to be had.
func (e *engine) answered(t *target, r route, fault string, now time.Time) {
	t.stale, t.asked, t.route, t.fault = false, true, r, fault
	if t.gone {
		return
	}
	var n *neighbor
	if k, ok := t.next(); ok {
		t.last = e.links[r.link]
		t.last.index = r.link // even if the link is not known yet
		n = e.neighbor(k, t.route.source, now)
	}
	e.attach(t, n)
	e.compute(t)
}

// neighbor gives the neighbour with the key, a new one if need be.
func (e *engine) neighbor(k neighKey, from netip.Addr, now time.Time) *neighbor {
	n := e.neighbors[k]
	if n == nil {
		n = newNeighbor(k, e.links[k.link].name)
		e.neighbors[k] = n
		e.probes.begin(n, e.entries[k], now)
		e.ports.want(n)
	}
	n.from = from
	return n
}

// attach makes n the neighbour that a target is reached by; nil: none.
func (e *engine) attach(t *target, n *neighbor) {
	if t.via == n {
		return
	}
	if n != nil {
		n.users++
	}
	if t.via != nil {
		t.via.users--
		e.unused = append(e.unused, t.via)
	}
	t.via = n
}

// sweep forgets the neighbours that nobody needs any more, and closes the ports that they leave.
func (e *engine) sweep(now time.Time) {
	for _, n := range e.unused {
		if n.users == 0 && e.neighbors[n.key] == n {
			delete(e.neighbors, n.key)
			e.probes.end(n)
			e.ports.release(n)
		}
	}
	e.unused = e.unused[:0]
	e.ports.tend(e.links, now)
}
