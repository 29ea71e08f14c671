// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"net/netip"
	"time"

	"xdplvs/director"
	"xdplvs/internal/arpnd"
)

// A holding is one address on one interface, and how far we are with it.
type holding struct {
	want   director.Address
	link   link // where it is, as last read; index 0: not found yet
	taken  bool // it was taken, and not given up since
	status director.AddressStatus
	since  time.Time
	reason string

	foreign bool      // was on the interface already
	probes  int       // sent
	due     time.Time // of the next probe or attempt; of a repair

	rival     arpnd.MAC // another host that has it; zero: none
	rivalSeen time.Time
	asked     time.Time // when it was last asked who has it, while we have it
	defended  time.Time

	burst      int // announcements still to come, once a second
	announceAt time.Time
	announced  time.Time
	count      uint64

	repaired   uint64
	repairedAt time.Time
}

// A holdingKey is what stays the same of a holding.
type holdingKey struct {
	addr  netip.Addr
	iface string
	mode  director.AddressMode
}

func keyOf(a director.Address) holdingKey { return holdingKey{a.Addr, a.Interface, a.Mode} }

// spot is where it is.
func (h *holding) spot() spot { return spot{h.link.index, h.want.Addr} }

// prefix is the address as it is on an interface.
func (h *holding) prefix() netip.Prefix { return netip.PrefixFrom(h.want.Addr, h.want.Prefix) }

// rewrite takes over what is wanted now. What was not taken is tried at once.
func (h *holding) rewrite(a director.Address, now time.Time) {
	if h.taken && h.want.Prefix != a.Prefix {
		h.status = director.AddressWaiting
	}
	if !h.taken && h.settled() {
		h.due = now
	}
	h.want = a
}

// set changes the status.
func (h *holding) set(s director.AddressStatus, reason string, now time.Time) (changed bool) {
	if h.status == s && h.reason == reason {
		return false
	}
	if h.status != s {
		h.since = now
	}
	h.status, h.reason = s, reason
	return true
}

// lose notes that nothing is known any more of where the address is.
func (h *holding) lose() {
	h.taken, h.foreign, h.burst = false, false, 0
	h.due, h.announceAt = time.Time{}, time.Time{}
}

// settled tells whether it is decided who has the address.
func (h *holding) settled() bool {
	return h.status != director.AddressWaiting && h.status != director.AddressChecking
}

// announce begins a burst of announcements.
func (h *holding) announce(times int, now time.Time) {
	h.burst, h.announceAt = max(h.burst, times), now
}

// state is the holding as users see it.
func (h *holding) state(identify func(arpnd.MAC) string) director.AddressState {
	s := director.AddressState{
		Addr: h.want.Addr, Mode: h.want.Mode, Interface: h.want.Interface,
		Status: h.status, Since: h.since, Reason: h.reason, Foreign: h.foreign,
		Announced: h.announced, Announcements: h.count, Repaired: h.repaired, RepairedAt: h.repairedAt,
	}
	if h.rival != (arpnd.MAC{}) {
		s.Rival = &director.Rival{MAC: h.rival.String(), Who: identify(h.rival), Seen: h.rivalSeen}
	}
	return s
}
