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
}

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
// outermost to innermost. The device is the link itself unless that is a VLAN device. fault says
// why no frame can leave.
func (t linkTable) below(l link) (base link, tags []tag, fault string) {
	base = l
	for base.fault() == "" && base.vlan {
		if len(tags) == maxTags {
			return base, tags, fmt.Sprintf("device %s needs more than %d VLAN tags", l.name, maxTags)
		}
		if base.foreign {
			return base, tags, fmt.Sprintf("parent of device %s is in another network namespace", base.name)
		}
		// The lower a device, the further out its tag.
		tags = append([]tag{base.tag}, tags...)
		parent, ok := t[base.parent]
		if !ok {
			return base, tags, fmt.Sprintf("parent of device %s is gone", base.name)
		}
		base = parent
	}
	return base, tags, base.fault()
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
