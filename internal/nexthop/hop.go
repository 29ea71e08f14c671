// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net/netip"
	"slices"

	"xdplvs/internal/arpnd"
)

// maxTags is how many VLAN tags the fast path writes on a frame.
const maxTags = 2

// EtherTypes of VLAN tags, for Hop.TPID (IEEE 802.1Q-2018, table 9-1).
const (
	TPIDCustomer = 0x8100 // 802.1Q
	TPIDService  = 0x88a8 // 802.1ad
)

// A Hop is how frames reach an address. The zero Hop is unresolved. Hops in a snapshot are shared:
// do not change VLAN and TPID in place.
//
// An unresolved Hop has a Reason, and what else is known (link, gateway, source, MTU) for display.
type Hop struct {
	// Resolved says that frames can be sent: DstMAC is valid, or Local is set.
	Resolved bool
	// Reason says why the address is not resolved, as "no route to 10.9.0.1" or
	// "no answer to ARP for 10.0.0.9 on eth1"; empty when Resolved.
	Reason string
	// Pending says that it is not resolved only because an answer is awaited still: the first to
	// this question, by this route. Whoever has an older Hop may go on with that.
	Pending bool
	// Local says that the address is one of this host's own. Such a Hop is Resolved and has no
	// MAC addresses: hand the packet to the local stack.
	Local bool
	// Link is the ifindex to transmit on: the device XDP works on. For a VLAN device that is its
	// parent; bonds and bridges are themselves, but for bonds of balance-tlb and balance-alb, where it
	// is the active slave.
	Link     int
	LinkName string
	// VLAN lists the tags, from outermost to innermost, that the frame needs on Link; nil: untagged.
	// TPID has the EtherType of each.
	VLAN []uint16
	TPID []uint16
	// SrcMAC is the address of the interface that the route names, the VLAN device's own included.
	SrcMAC, DstMAC [6]byte
	// Gateway is the next hop's address: the target itself when on-link. A link-local one has its
	// interface as zone.
	Gateway netip.Addr
	// Source is the preferred source address of the route; invalid when there is none.
	Source netip.Addr
	// MTU in bytes: the route's, else that of the interface that the route names.
	MTU int
}

// Equal tells whether two Hops say the same.
func (h Hop) Equal(o Hop) bool {
	if !slices.Equal(h.VLAN, o.VLAN) || !slices.Equal(h.TPID, o.TPID) {
		return false
	}
	return h.Resolved == o.Resolved && h.Reason == o.Reason && h.Pending == o.Pending && h.Local == o.Local &&
		h.Link == o.Link && h.LinkName == o.LinkName && h.SrcMAC == o.SrcMAC && h.DstMAC == o.DstMAC &&
		h.Gateway == o.Gateway && h.Source == o.Source && h.MTU == o.MTU
}

// String gives the Hop in one line, for logs and tests.
func (h Hop) String() string {
	switch {
	case !h.Resolved:
		return "unresolved: " + h.Reason
	case h.Local:
		return "local"
	}
	return fmt.Sprintf("%s on %s vlan %v from %s, via %s src %s mtu %d", mac(h.DstMAC), h.LinkName,
		h.VLAN, mac(h.SrcMAC), h.Gateway, h.Source, h.MTU)
}

// mac is an Ethernet address.
type mac = arpnd.MAC
