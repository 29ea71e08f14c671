// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"xdplvs/bpf"
)

// errTooManyLinks is returned for interfaces beyond the size of the map.
var errTooManyLinks = fmt.Errorf("more than %d interfaces to transmit on", bpf.TxPorts)

// publishTargets says whose next hops are wanted now.
func (d *Director) publishTargets() {
	set := map[netip.Addr]struct{}{}
	for _, s := range d.services {
		for _, r := range s.reals {
			set[r.want.Key.Addr] = struct{}{}
		}
	}
	for _, r := range d.leaving {
		set[r.want.Key.Addr] = struct{}{}
	}
	d.targets.set(slices.Collect(maps.Keys(set)))
}

// setHops writes the next hops that changed, and makes new plans where a real
// server became reachable or unreachable.
func (d *Director) setHops(hops map[netip.Addr]NextHop) {
	d.nextHops = hops
	for _, s := range d.services {
		was := s.reachable()
		for _, r := range s.reals {
			d.hopTo(r)
		}
		if slices.Equal(was, s.reachable()) {
			continue
		}
		if err := d.publish(s); err != nil {
			d.log.Error("make plan", "event", "plan_failed", "service", s.want.Key, "error", err)
		}
	}
	for _, r := range d.leaving {
		d.hopTo(r)
	}
}

func (s *service) reachable() []bool {
	list := make([]bool, len(s.reals))
	for i, r := range s.reals {
		list[i] = r.hop.Resolved
	}
	return list
}

// hopTo writes a real server's next hop if it is another one than before.
func (d *Director) hopTo(r *real) {
	hop, ok := d.nextHops[r.want.Key.Addr]
	if !ok {
		hop = NextHop{Reason: "its link-layer address is being resolved", Pending: true}
	}
	if hop.Pending && r.hop.Resolved {
		return // what a former process or answer said holds until there is another
	}
	if hop.Resolved {
		if err := hop.valid(); err != nil {
			hop = NextHop{Reason: err.Error()}
		}
	}
	if r.hop.equal(hop) {
		return
	}
	port, err := d.txPort(hop)
	if err != nil {
		hop = NextHop{Reason: err.Error()}
	}
	if r.hop.Resolved != hop.Resolved && !hop.Pending {
		d.logReach(r, hop)
	}
	r.setHop(hop, port)
}

func (h NextHop) valid() error {
	if len(h.VLAN) > 2 || len(h.VLAN) != len(h.TPID) {
		return fmt.Errorf("%d VLAN tags are more than the data plane writes", len(h.VLAN))
	}
	if h.DstMAC == [6]byte{} {
		return errors.New("is this host itself: direct routing goes to another one")
	}
	return nil
}

func (h NextHop) equal(o NextHop) bool {
	return h.Resolved == o.Resolved && h.Reason == o.Reason && h.Pending == o.Pending && h.Link == o.Link && h.MTU == o.MTU &&
		h.SrcMAC == o.SrcMAC && h.DstMAC == o.DstMAC &&
		slices.Equal(h.VLAN, o.VLAN) && slices.Equal(h.TPID, o.TPID)
}

func (d *Director) logReach(r *real, hop NextHop) {
	if hop.Resolved {
		d.log.Info("real server is reachable", "event", "real_reachable", "real", r.want.Key.String())
	} else {
		d.log.Warn("real server is not reachable", "event", "real_unreachable", "real", r.want.Key.String(), "reason", hop.Reason)
	}
}

// txPort is the place of the hop's interface in the map of interfaces that
// packets may be redirected to.
func (d *Director) txPort(hop NextHop) (uint16, error) {
	if !hop.Resolved {
		return 0, nil
	}
	if port, ok := d.txPorts[hop.Link]; ok {
		return port, nil
	}
	port, ok := d.formerTxPorts[hop.Link]
	if !ok {
		if port, ok = d.freeTxPort(); !ok {
			return 0, errTooManyLinks
		}
	}
	if err := d.plane.SetTxPort(port, hop.Link); err != nil {
		return 0, err
	}
	d.txPorts[hop.Link] = port
	return port, nil
}

// freeTxPort is a place that no interface has.
func (d *Director) freeTxPort() (uint16, bool) {
	used := map[uint16]bool{}
	for _, ports := range []map[int]uint16{d.txPorts, d.formerTxPorts} {
		for _, port := range ports {
			used[port] = true
		}
	}
	for port := range uint16(bpf.TxPorts) {
		if !used[port] {
			return port, true
		}
	}
	return 0, false
}
