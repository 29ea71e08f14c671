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

// watch counts the real servers that have an address: one more, or one less.
func (d *Director) watch(a netip.Addr, by int) {
	before := d.watched[a]
	if d.watched[a] += by; d.watched[a] == 0 {
		delete(d.watched, a)
	}
	d.retarget = d.retarget || before == 0 || before+by == 0
}

// publishTargets says whose next hops are wanted now, if others than before.
func (d *Director) publishTargets() {
	if d.retarget {
		d.retarget = false
		d.targets.set(slices.Collect(maps.Keys(d.watched)))
	}
}

// setHops writes the next hops that changed, and makes new plans where a real
// server became reachable or unreachable.
func (d *Director) setHops(hops map[netip.Addr]NextHop) {
	d.nextHops = hops
	clear(d.portsSet)
	clear(d.told)
	d.hopsFailed, d.portsFreed = false, false
	for _, s := range d.services {
		turned := false
		for _, r := range s.reals {
			was := r.hop.Resolved
			d.hopTo(r)
			turned = turned || r.hop.Resolved != was
		}
		if turned {
			d.mustPublish(s)
		}
	}
	for _, r := range d.leaving {
		d.hopTo(r)
	}
	d.publishTargets() // a real server that is this host itself needs its service's address, too
}

// retryHops tries again what did not work.
func (d *Director) retryHops() {
	if d.hopsFailed {
		d.setHops(d.nextHops)
	}
}

// hopTo writes a real server's next hop if it is another one than before.
func (d *Director) hopTo(r *real) {
	hop := d.hopOf(r)
	if r.hop.equal(hop) && r.tunnelStands(hop) {
		return
	}
	port, err := d.txPort(hop)
	if err != nil {
		d.hopsFailed = true
		hop = NextHop{Reason: err.Error()}
	}
	if r.hop.Resolved != hop.Resolved && !hop.Pending {
		d.logReach(r, hop)
	}
	lost := !hop.Resolved && !hop.Pending && (r.hop.Resolved || r.hop.Pending)
	r.setHop(hop, port)
	if lost { // or it was found lost by a process that came no further
		d.abandon(r, r.onDown)
	}
}

// hopOf is what is known of a real server's next hop.
func (d *Director) hopOf(r *real) NextHop {
	hop, ok := d.nextHops[r.want.Key.Addr]
	if !ok {
		hop = NextHop{Reason: "its link-layer address is being resolved", Pending: true}
	}
	hop = d.fit(r, hop)
	if hop.Pending && r.hop.Resolved {
		return r.hop // what a former process or answer said holds until there is another
	}
	if hop.Resolved && !hop.Local {
		if err := hop.valid(); err != nil {
			return NextHop{Reason: err.Error()}
		}
	}
	return d.sourced(r, hop)
}

func (h NextHop) valid() error {
	if len(h.VLAN) > 2 || len(h.VLAN) != len(h.TPID) {
		return fmt.Errorf("%d VLAN tags are more than the data plane writes", len(h.VLAN))
	}
	if h.DstMAC == [6]byte{} {
		return errors.New("its link-layer address is 0")
	}
	return nil
}

// equal compares what rows hold; of nat and fullnat they do not hold the source, see sourced.
func (h NextHop) equal(o NextHop) bool {
	return h.Resolved == o.Resolved && h.Reason == o.Reason && h.Pending == o.Pending && h.Local == o.Local &&
		h.Link == o.Link && h.MTU == o.MTU && h.Source == o.Source &&
		h.SrcMAC == o.SrcMAC && h.DstMAC == o.DstMAC &&
		slices.Equal(h.VLAN, o.VLAN) && slices.Equal(h.TPID, o.TPID)
}

// logReach tells of an address once for each set of next hops, however many
// services have a real server there.
func (d *Director) logReach(r *real, hop NextHop) {
	addr := r.want.Key.Addr
	if d.told[addr] {
		return
	}
	d.told[addr] = true
	if hop.Resolved {
		d.log.Info("real server is reachable", "event", "real_reachable", "real", addr.String())
	} else {
		d.log.Warn("real server is not reachable", "event", "real_unreachable", "real", addr.String(), "reason", hop.Reason)
	}
}

// txPort is the place of the hop's interface in the map of interfaces that
// packets may be redirected to. The kernel empties the place when the interface
// goes, so it is written once for each set of next hops.
func (d *Director) txPort(hop NextHop) (uint16, error) {
	if !hop.Resolved || hop.Local {
		return 0, nil
	}
	port, ok := d.txPorts[hop.Link]
	if ok && d.portsSet[hop.Link] {
		return port, nil
	}
	if !ok {
		if port, ok = d.freePort(); !ok {
			return 0, errTooManyLinks
		}
	}
	if err := d.plane.SetTxPort(port, hop.Link); err != nil {
		return 0, err
	}
	d.txPorts[hop.Link], d.portsSet[hop.Link] = port, true
	return port, nil
}

// freePort is the lowest place that no interface has. If there is none, those of
// interfaces that no real server is behind any more become free.
func (d *Director) freePort() (uint16, bool) {
	if len(d.txPorts) == bpf.TxPorts && !d.portsFreed {
		d.portsFreed = true
		used := d.usedLinks()
		maps.DeleteFunc(d.txPorts, func(link int, _ uint16) bool { return !used[link] })
	}
	taken := [bpf.TxPorts]bool{}
	for _, port := range d.txPorts {
		if int(port) < len(taken) {
			taken[port] = true
		}
	}
	i := slices.Index(taken[:], false)
	return uint16(max(i, 0)), i >= 0
}

func (d *Director) usedLinks() map[int]bool {
	used := map[int]bool{}
	for _, r := range d.everyReal() {
		used[r.hop.Link] = used[r.hop.Link] || r.hop.Resolved && !r.hop.Local
	}
	return used
}
