// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"xdplvs/director"
	"xdplvs/internal/agenda"
	"xdplvs/internal/arpnd"
)

// defendEvery is the shortest time between two announcements because of another host (RFC 5227, 1.1,
// DEFEND_INTERVAL).
const defendEvery = 10 * time.Second

// step does what is due for a holding, up to the point where its address may be taken.
func (e *engine) step(h *holding, now time.Time) (take bool) {
	l, fault := e.linkOf(h)
	if fault != "" {
		e.wait(h, l, fault, now)
		return false
	}
	e.arrive(h, l, now)
	again := h.settled() && !h.taken && agenda.Due(h.due, now)
	if (again || h.status == director.AddressWaiting) && e.begin(h, now) {
		return true
	}
	switch {
	case h.taken:
		return e.keep(h, now)
	case h.status == director.AddressChecking && agenda.Due(h.due, now):
		return e.check(h, now)
	}
	return false
}

// wait puts a holding off until its interface works. What is taken stays so, unless the interface is gone.
func (e *engine) wait(h *holding, l link, fault string, now time.Time) {
	if l.index != h.link.index {
		h.lose()
		h.link = l
	}
	h.due, h.announceAt = time.Time{}, time.Time{}
	if e.status(h, director.AddressWaiting, fault, now) {
		e.log.Warn("virtual address waits for its interface", note(h, "address_waiting", "reason", fault)...)
	}
}

// arrive notes what became of the link: an address on one that is another now, or has another
// link-layer address, is announced.
func (e *engine) arrive(h *holding, l link, now time.Time) {
	switch {
	case h.link.index != l.index:
		h.lose()
		h.status = director.AddressWaiting
	case h.taken && h.link.mac != l.mac:
		h.announce(e.announce.Burst, now)
	}
	h.link = l
}

// begin asks whether an address is free, if that is a question.
func (e *engine) begin(h *holding, now time.Time) (take bool) {
	if h.taken || h.want.Force || !h.link.asks() || e.has(h) {
		return true
	}
	h.probes, h.due = 0, now
	e.status(h, director.AddressChecking, "", now)
	return false
}

// has tells whether the address is already where it should be, in whatever mode.
func (e *engine) has(h *holding) bool {
	if len(e.addresses[h.spot()]) > 0 || e.record.answered[h.spot()] {
		return true
	}
	_, answered := e.table[places(e.links, h.link, h.want.Addr)[0]]
	return answered && e.opts.Answering
}

// check asks once more, or is done with asking.
func (e *engine) check(h *holding, now time.Time) (take bool) {
	if h.probes >= e.opts.Probes {
		return true
	}
	if !e.pace.allow(now) {
		return false
	}
	h.due = now.Add(e.opts.ProbeWait)
	if err := e.ask(h, now); err != nil {
		h.due = now.Add(soon)
		e.status(h, director.AddressChecking, err.Error(), now)
		return false
	}
	h.probes++
	e.status(h, director.AddressChecking, "", now)
	return false
}

// ask asks everybody who has the address, without saying that we have one.
func (e *engine) ask(h *holding, now time.Time) error {
	from := netip.IPv6Unspecified()
	if h.want.Addr.Is4() {
		from = netip.IPv4Unspecified()
	}
	frame, err := arpnd.Question{From: from, MAC: h.link.mac, Target: h.want.Addr}.Frame()
	if err != nil {
		return err
	}
	return e.send(h, now, frame)
}

// hear takes what was heard of an address: it belongs to another host, or is about to.
func (e *engine) hear(s sighting, now time.Time) {
	if e.macs[s.mac] {
		return
	}
	for _, h := range e.holdings {
		switch {
		case h.spot() != s.spot:
		case h.status == director.AddressChecking && h.probes > 0:
			e.conflict(h, s.mac, now)
		case h.taken && !s.probe:
			e.challenge(h, s.mac, now)
		}
	}
}

// conflict leaves an address to the host that has it, and tries again later.
func (e *engine) conflict(h *holding, mac arpnd.MAC, now time.Time) {
	news := h.rival != mac
	h.rival, h.rivalSeen = mac, now
	h.due = now.Add(e.opts.Retry + rand.N(e.opts.Retry/4+1))
	e.status(h, director.AddressConflict, "another host has it: "+e.named(mac), now)
	if news {
		e.log.Error("virtual address is not taken: another host has it (force: true takes it nevertheless)",
			note(h, "address_conflict", e.who(mac)...)...)
	}
}

// challenge defends an address that we have.
func (e *engine) challenge(h *holding, mac arpnd.MAC, now time.Time) {
	if h.rival != mac {
		e.log.Error("another host has a virtual address, too", note(h, "address_rival", e.who(mac)...)...)
	}
	h.rival, h.rivalSeen, e.dirty = mac, now, true
	if now.Sub(h.defended) >= defendEvery {
		h.defended = now
		h.announce(1, now)
	}
}

// named is a host in a text.
func (e *engine) named(mac arpnd.MAC) string {
	if who := e.opts.Identify(mac); who != "" {
		return mac.String() + ", " + who
	}
	return mac.String()
}

// who is a host in the log.
func (e *engine) who(mac arpnd.MAC) []any {
	if who := e.opts.Identify(mac); who != "" {
		return []any{"mac", mac.String(), "host", who}
	}
	return []any{"mac", mac.String()}
}

// keep announces an address that we have, and tells whether it is to be taken once more.
func (e *engine) keep(h *holding, now time.Time) (take bool) {
	if !e.complete(h) {
		h.announceAt = time.Time{} // it is announced when it is there again
		if h.due.IsZero() {
			h.due = h.repairedAt.Add(soon)
		}
		return !h.due.After(now)
	}
	if foreign := e.foreign(h); foreign != h.foreign {
		h.foreign, e.dirty = foreign, true
	}
	if agenda.Due(h.announceAt, now) && e.pace.allow(now) {
		e.tell(h, now)
	}
	return false
}

// tell announces the address once, and from time to time asks who else has it.
func (e *engine) tell(h *holding, now time.Time) {
	h.burst = max(h.burst-1, 0)
	h.announceAt = time.Time{}
	if h.burst > 0 {
		h.announceAt = now.Add(soon)
	} else if e.announce.Refresh > 0 {
		h.announceAt = now.Add(e.announce.Refresh)
	}
	if !h.link.asks() {
		return
	}
	frames, err := arpnd.Announcement(h.want.Addr, h.link.mac)
	if err == nil {
		err = e.send(h, now, frames...)
	}
	if err == nil && h.burst == 0 {
		e.forgive(h)
		h.asked = now
		err = e.ask(h, now)
	}
	if err != nil {
		e.log.Warn("cannot announce a virtual address", note(h, "address_unannounced", "error", err)...)
		return
	}
	h.announced, e.dirty = now, true
	h.count++
}

// forgive forgets a host that did not answer the last time.
func (e *engine) forgive(h *holding) {
	if h.rival != (arpnd.MAC{}) && h.rivalSeen.Before(h.asked) {
		e.log.Info("the other host is not heard any more", note(h, "address_rival_gone", e.who(h.rival)...)...)
		h.rival = arpnd.MAC{}
	}
}
