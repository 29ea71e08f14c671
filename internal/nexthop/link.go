// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"cmp"
	"fmt"
	"strconv"
)

// A link is a network device.
type link struct {
	index  int
	parent int // ifindex of the device below a VLAN device
	master int // ifindex of the bridge, bond or VRF it belongs to
	name   string
	mac    mac
	ether  bool // mac is an Ethernet address
	mtu    int  // bytes
	// up: switched on by the administrator. carrier: operational. noARP: nobody answers there.
	up, carrier, noARP bool

	vlan    bool // a VLAN device: tag is the tag it adds
	tag     tag
	foreign bool // parent is in another network namespace

	kind   string // as rtnetlink has it: "bond", "bridge", "vlan"; that of a card is "device"
	mode   bondMode
	active int // ifindex of the slave that a bond with one active slave sends by
}

// A bondMode is how a bond chooses the slave that sends.
type bondMode uint8

// The modes, as far as they differ for us: those that XDP frames can be sent in, and others.
const (
	bondAny       bondMode = iota // any slave, or the active one: the kernel knows how (bond_xdp_get_xmit_slave)
	bondAdaptive                  // balance-tlb, balance-alb
	bondBroadcast                 // all slaves at once
)

// A tag is a VLAN tag, without priority.
type tag struct {
	id   uint16
	tpid uint16 // EtherType
}

// fault says why no frame leaves through the link; empty: frames do.
func (l link) fault() string {
	if !l.ether { // first, as it will not change
		return fmt.Sprintf("device %s has no link-layer address", l.label())
	}
	return l.down()
}

// down says why the link does not work at the moment; empty: it does.
func (l link) down() string {
	switch {
	case !l.up:
		return fmt.Sprintf("link %s is down", l.label())
	case !l.carrier:
		return fmt.Sprintf("link %s has no carrier", l.label())
	}
	return ""
}

// label is what to call the link.
func (l link) label() string { return cmp.Or(l.name, strconv.Itoa(l.index)) }

// A linkTable has the links by ifindex.
type linkTable map[int]link

// below finds the device that carries the link's frames and the tags that they have there, from
// outermost to innermost. The device is the link itself unless that is a VLAN device, or a bond of
// some modes. fault says why no frame can leave.
func (t linkTable) below(l link) (base link, tags []tag, fault string) {
	base = l
	for base.fault() == "" && base.vlan {
		if len(tags) == maxTags {
			return base, tags, fmt.Sprintf("device %s needs more than %d VLAN tags", l.name, maxTags)
		}
		parent, fault := t.parentOf(base)
		if fault != "" {
			return base, tags, fault
		}
		// The lower a device, the further out its tag.
		tags = append([]tag{base.tag}, tags...)
		base = parent
	}
	if fault = base.fault(); fault != "" {
		return base, tags, fault
	}
	base, fault = t.sender(base)
	return base, tags, fault
}

// parentOf finds the device that a VLAN device is on; fault says why it cannot.
func (t linkTable) parentOf(vlan link) (parent link, fault string) {
	if vlan.foreign {
		return link{}, fmt.Sprintf("parent of device %s is in another network namespace", vlan.name)
	}
	parent, ok := t[vlan.parent]
	if !ok {
		return link{}, fmt.Sprintf("parent of device %s is gone", vlan.name)
	}
	return parent, ""
}

// sender finds the device that XDP sends by instead of one that works: itself, but for bonds whose
// mode the kernel has for packets of its own only.
func (t linkTable) sender(l link) (sender link, fault string) {
	switch l.mode {
	case bondBroadcast:
		return l, fmt.Sprintf("bond %s sends by all its slaves at once (broadcast), which XDP cannot", l.name)
	case bondAdaptive:
		active, ok := t[l.active]
		if !ok {
			return l, fmt.Sprintf("bond %s has no active slave", l.name)
		}
		return active, active.fault()
	}
	return l, ""
}

// named finds a link by its name, or by its index in decimal, as zones of addresses name it.
func (t linkTable) named(zone string) (link, bool) {
	for _, l := range t {
		if l.name == zone {
			return l, true
		}
	}
	i, err := strconv.Atoi(zone)
	l, ok := t[i]
	return l, ok && err == nil
}
