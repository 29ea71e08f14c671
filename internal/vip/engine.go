// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"xdplvs/director"
	"xdplvs/internal/agenda"
	"xdplvs/internal/arpnd"
)

const (
	// coalesce is how long notifications are gathered before the tables are read again.
	coalesce = 20 * time.Millisecond
	// soon is after what time something that failed is tried again where nobody else is asked for it.
	soon = time.Second
)

// An engine owns the state of a Manager while it runs; one goroutine.
type engine struct {
	log  *slog.Logger
	out  *Manager
	opts Options
	k    kernel
	in   *inbox
	stop func() // ends the subscription; nil: there is none

	// What the kernel and the data plane have, as last read or written.
	links     map[int]link
	byName    map[string]link
	macs      map[arpnd.MAC]bool // our own
	addresses map[spot][]address
	groups    map[spot]bool
	table     map[Place]arpnd.MAC
	record    *record

	given    uint64 // the latest call of Set that was taken up; 0: there was none
	announce director.Announcing
	holdings []*holding
	plain    []director.AddressState // of what is not managed, by the place in Set's order
	order    []int                   // of each address of Set: index in holdings; -1: the next of plain
	ports    map[portKey]*slot
	pace     pace

	applyAt  time.Time // when to apply the inbox; zero: it is empty
	resyncAt time.Time
	strayAt  time.Time // when to try again to give up what could not be; zero: nothing is left
	stale    bool      // the kernel's tables changed since they were read
	dirty    bool      // states changed since they were shown
}

func newEngine(m *Manager, k kernel) (*engine, error) {
	e := &engine{log: m.opts.Log, out: m, opts: m.opts, k: k, in: newInbox(), ports: map[portKey]*slot{}}
	var err error
	if e.record, err = readRecord(m.opts.File); err != nil {
		return nil, err
	}
	if !m.opts.Answering {
		clear(e.record.answered)
	}
	if err = e.resync(time.Now()); err == nil {
		err = e.read()
	}
	if err != nil {
		e.close()
		return nil, err
	}
	e.retarget()
	return e, nil
}

// close ends all goroutines that the engine started.
func (e *engine) close() {
	e.unwatch()
	for _, s := range e.ports {
		s.close()
	}
}

func (e *engine) unwatch() {
	if e.stop != nil {
		e.stop()
		e.stop = nil
	}
}

// applySoon makes the inbox be applied after a while, in which more may come in.
func (e *engine) applySoon(now time.Time) {
	if e.applyAt.IsZero() {
		e.applyAt = now.Add(coalesce)
	}
}

// work does what is due and tells when there is more to do.
func (e *engine) work(now time.Time) time.Time {
	if agenda.Due(e.applyAt, now) {
		e.applyAt = time.Time{}
		e.apply(e.in.take(), now)
	}
	if agenda.Due(e.resyncAt, now) {
		if err := e.resync(now); err != nil {
			e.log.Warn("cannot watch the kernel's tables, will try again", "event", "address_watch_failed", "error", err)
		}
	}
	e.freshen(now)
	e.tendPorts(now)
	var taking []*holding
	for _, h := range e.holdings {
		if e.step(h, now) {
			taking = append(taking, h)
		}
	}
	e.take(taking, now)
	e.giveUpOthers(now)
	e.publish()
	e.out.begin(e.given)
	return e.next()
}

// next is when something is due again.
func (e *engine) next() time.Time {
	at := agenda.Earliest(e.applyAt, e.resyncAt, e.strayAt)
	for _, h := range e.holdings {
		at = agenda.Earliest(at, e.pace.notBefore(h.due), e.pace.notBefore(h.announceAt))
	}
	return at
}

// apply brings the state up to date with the news.
func (e *engine) apply(n news, now time.Time) {
	if n.lost {
		e.unwatch()
		e.resyncAt = now
		return
	}
	e.stale = e.stale || n.changed
	e.wentDown(n.downs, now)
	for s := range n.sightings {
		e.hear(s, now)
	}
}

// wentDown sees to what depends on links that were down: switches may have forgotten us, and the socket
// may have been another device's.
func (e *engine) wentDown(links map[int]bool, now time.Time) {
	for k, s := range e.ports {
		if links[k.link] {
			s.close()
		}
	}
	for _, h := range e.holdings {
		if h.taken && links[h.link.index] {
			h.announce(e.announce.Burst, now)
		}
	}
}

// resync makes everything be read again, after subscribing if there is no subscription, so that
// nothing is missed.
func (e *engine) resync(now time.Time) error {
	e.resyncAt = now.Add(soon)
	if e.stop == nil {
		stop, err := e.k.watch(e.in)
		if err != nil {
			return err
		}
		e.stop = stop
	}
	table, err := e.opts.Answers.Answered()
	if err != nil {
		return err
	}
	e.table, e.stale = table, true
	e.resyncAt = now.Add(e.opts.Resync)
	return nil
}

// freshen reads the kernel's tables, if something changed and anything depends on it: there are hosts
// whose interfaces come and go all the time.
func (e *engine) freshen(now time.Time) {
	if !e.stale || len(e.holdings)+len(e.record.added)+len(e.table) == 0 {
		return
	}
	if err := e.read(); err != nil {
		e.log.Warn("cannot read the kernel's tables, will try again", "event", "address_read_failed", "error", err)
		e.resyncAt = agenda.Earliest(e.resyncAt, now.Add(soon))
	}
}

// read reads the kernel's tables.
func (e *engine) read() error {
	links, err := e.k.links()
	if err != nil {
		return err
	}
	addresses, err := e.k.addresses()
	if err != nil {
		return err
	}
	if e.groups, err = e.k.groups(); err != nil {
		return err
	}
	e.stale = false
	e.links, e.byName, e.macs = links, map[string]link{}, map[arpnd.MAC]bool{}
	for _, l := range links {
		e.byName[l.name], e.macs[l.mac] = l, true
	}
	e.addresses = map[spot][]address{}
	for _, a := range addresses {
		s := spot{a.link, a.prefix.Addr()}
		e.addresses[s] = append(e.addresses[s], a)
	}
	return nil
}

// retarget takes over the addresses of Set.
func (e *engine) retarget() {
	want := e.out.desired()
	if want.number == 0 {
		return
	}
	old := map[holdingKey]*holding{}
	for _, h := range e.holdings {
		old[keyOf(h.want)] = h
	}
	e.given, e.announce, e.dirty = want.number, want.announce, true
	e.holdings, e.plain, e.order = nil, nil, nil
	watched := map[netip.Addr]bool{}
	for _, a := range want.addresses {
		if a.Mode == director.AddressNone {
			e.order = append(e.order, -1)
			e.plain = append(e.plain, director.AddressState{Addr: a.Addr, Mode: a.Mode, Interface: a.Interface})
			continue
		}
		h := old[keyOf(a)]
		if h == nil {
			h = &holding{status: director.AddressWaiting}
		}
		h.rewrite(a, time.Now())
		watched[a.Addr] = true
		e.order = append(e.order, len(e.holdings))
		e.holdings = append(e.holdings, h)
	}
	e.in.watch(watched)
}

// publish shows the states, if they changed.
func (e *engine) publish() {
	if !e.dirty {
		return
	}
	e.dirty = false
	states, plain := make([]director.AddressState, 0, len(e.order)), e.plain
	for _, i := range e.order {
		if i >= 0 {
			states = append(states, e.holdings[i].state(e.opts.Identify))
			continue
		}
		states, plain = append(states, plain[0]), plain[1:]
	}
	e.out.states.Store(&states)
}

// note is what a change of an address is logged with.
func note(h *holding, event string, args ...any) []any {
	return append([]any{"event", event, "address", h.want.Addr, "mode", h.want.Mode.String(), "interface", h.want.Interface}, args...)
}

// status changes a holding's.
func (e *engine) status(h *holding, s director.AddressStatus, reason string, now time.Time) (changed bool) {
	changed = h.set(s, reason, now)
	e.dirty = e.dirty || changed
	return changed
}

// linkOf finds a holding's link, or says why it cannot be used.
func (e *engine) linkOf(h *holding) (l link, fault string) {
	l, ok := e.byName[h.want.Interface]
	switch {
	case !ok:
		names := slices.Sorted(maps.Keys(e.byName))
		return l, fmt.Sprintf("no such interface (there are %s)", joined(names))
	case !l.up:
		return l, "interface is down"
	case h.want.Mode == director.AddressAnswer && !l.asks():
		return l, "nobody asks for addresses on this interface: it has no link-layer address, or no ARP"
	}
	return l, ""
}

// joined lists names, not all where there are very many.
func joined(names []string) string {
	const most = 16
	text := ""
	for i, name := range names {
		if i == most {
			return text + ", …"
		}
		if i > 0 {
			text += ", "
		}
		text += name
	}
	return text
}
