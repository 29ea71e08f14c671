// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"cmp"
	"fmt"

	"golang.org/x/sys/unix"
)

// refresh computes the hops anew that what happened can have changed.
func (e *engine) refresh() {
	if !e.all && len(e.probes.touched) == 0 {
		return
	}
	for _, t := range e.targets {
		if e.all || t.via != nil && t.via.changed {
			e.compute(t)
		}
	}
	e.urgent, e.all = e.dirty, false
	for _, n := range e.probes.touched {
		n.changed = false
	}
	e.probes.touched = nil
}

// compute computes a target's hop.
func (e *engine) compute(t *target) {
	if hop := e.hop(t); !hop.Equal(t.hop) {
		t.hop, e.dirty = hop, true
	}
}

// hop computes how a target is reached from what is known.
func (e *engine) hop(t *target) Hop {
	if !t.asked {
		return Hop{Reason: fmt.Sprintf("route to %s was not looked up yet", t.addr), Pending: true}
	}
	if fault := e.fault(t); fault != "" {
		return Hop{Reason: fault}
	}
	r := t.route
	l := e.links[r.link]
	h := Hop{Link: l.index, LinkName: l.name, Source: r.source, MTU: r.mtu}
	if h.MTU == 0 {
		h.MTU = l.mtu
	}
	if r.own() {
		h.Local, h.Resolved = true, true
		return h
	}
	return e.reach(h, t, l)
}

// fault says why a target has no route that can be used. A route that vanished with its link is
// explained by the link.
func (e *engine) fault(t *target) string {
	if t.fault != "" {
		return t.fault
	}
	fault := t.route.fault(t.dst)
	vanished := t.route.errno == unix.ENETUNREACH && t.last.index != 0
	if t.via == nil && !vanished {
		return fault
	}
	l, ok := e.links[t.last.index]
	if !ok {
		return fmt.Sprintf("link %s is gone", t.last.label())
	}
	if vanished {
		return cmp.Or(l.down(), fault)
	}
	return "" // what else there may be is for reach to tell
}

// reach completes a hop by the neighbour that t's frames go to on l.
func (e *engine) reach(h Hop, t *target, l link) Hop {
	n := t.via
	h.Gateway = n.key.addr
	if h.Gateway.Is6() && h.Gateway.IsLinkLocalUnicast() {
		h.Gateway = h.Gateway.WithZone(l.name)
	}
	base, tags, fault := e.links.below(l)
	h.Link, h.LinkName = base.index, base.name
	for _, tag := range tags {
		h.VLAN, h.TPID = append(h.VLAN, tag.id), append(h.TPID, tag.tpid)
	}
	switch {
	case fault != "":
		h.Reason = fault
	case !n.known && l.noARP:
		h.Reason = fmt.Sprintf("device %s does no address resolution", l.name)
	case !n.known:
		h.Reason = n.reason(l.name)
		h.Pending = !n.settled && n.fault == ""
	default:
		h.Resolved, h.SrcMAC, h.DstMAC = true, l.mac, n.mac
	}
	return h
}
