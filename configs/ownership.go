// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"net/netip"
	"slices"
	"time"

	"xdplvs/director"
)

// ownership is who has a virtual address, as written.
type ownership struct {
	address setting[netip.Addr]
	mode    setting[director.AddressMode]
	iface   setting[string]
	prefix  setting[uint32]
	force   setting[bool]
	closed  setting[director.ClosedPorts]
}

var ownershipObject = object[ownership]{
	what: "a mapping with address and mode",
	fields: []field[ownership]{
		key("address", address(), func(o *ownership) *setting[netip.Addr] { return &o.address },
			"Virtual IP address of one or more services.").must(),
		key("mode", enumeration[director.AddressMode]("address mode"), func(o *ownership) *setting[director.AddressMode] { return &o.mode },
			"interface: the director adds it to the interface; answer: it is no interface's, and the XDP program answers ARP and neighbour solicitations for it; none: somebody else sees to it, as to addresses that are not listed.").must(),
		key("interface", interfaceName(), func(o *ownership) *setting[string] { return &o.iface },
			"Where the address is; with mode answer one of interfaces. If absent, the only one of interfaces."),
		key("prefix_length", number(1, 128), func(o *ownership) *setting[uint32] { return &o.prefix },
			"With mode interface: length of the prefix that the address has there; 32 or 128 if absent."),
		key("force", boolean(), func(o *ownership) *setting[bool] { return &o.force },
			"Take the address even if another host has it."),
		key("closed_ports", enumeration[director.ClosedPorts]("treatment of closed ports"), func(o *ownership) *setting[director.ClosedPorts] { return &o.closed },
			"What becomes of TCP connections and UDP packets to ports of the address that no service has: pass leaves them to the local stack; drop; reset answers at once, UDP with port unreachable; pass if absent."),
	},
}

// announcing is director.Announcing as written.
type announcing struct {
	burst   setting[uint32]
	refresh setting[time.Duration]
}

const (
	mostBurst      = 100
	leastRefresh   = time.Second
	longestRefresh = 24 * time.Hour
)

var announcingObject = object[announcing]{
	what: "a mapping with burst and refresh",
	fields: []field[announcing]{
		key("burst", number(1, mostBurst), func(a *announcing) *setting[uint32] { return &a.burst },
			"How many times, once a second, an address is announced when it was taken or its interface came up; 5 if absent."),
		key("refresh", duration(0, longestRefresh), func(a *announcing) *setting[time.Duration] { return &a.refresh },
			"Time between two later announcements; 1m if absent, 0: there are none."),
	},
}

// ownershipBuilder makes the addresses that the director holds.
type ownershipBuilder struct {
	*builder
	fine       bool // nothing was wrong before: what the addresses refer to is known
	interfaces []string
	services   []string            // their addresses, in order
	marked     map[netip.Addr]bool // of those, whose packets the firewall marks
	places     registry[place]
	addresses  registry[netip.Addr]
	several    map[netip.Addr]bool // may be listed more than once
}

// place is an address on an interface.
type place struct {
	addr  netip.Addr
	iface string
}

func (b *builder) ownerships(all list[ownership]) {
	o := ownershipBuilder{builder: b, fine: len(b.doc.errs) == 0, several: map[netip.Addr]bool{}}
	for _, i := range b.config.Desired.Interfaces {
		o.interfaces = append(o.interfaces, i.Name)
	}
	o.services, o.marked = b.serviceAddresses()
	for _, s := range all.all {
		if s.ok && s.value.address.ok && s.value.mode.ok {
			o.add(&s.value)
		}
	}
}

// add checks one, and adds it to the Config.
func (b *ownershipBuilder) add(o *ownership) {
	a := o.address.value
	if _, known := slices.BinarySearch(b.services, a.String()); b.fine && !known {
		o.address.at.failf("%s is no service's address%s", a, knownNote(a.String(), someOf(b.services)))
		return
	}
	b.checkKeys(o)
	b.checkMarked(o)
	b.closePorts(o)
	built := director.Address{
		Addr: a, Mode: o.mode.value, Interface: o.iface.value, Prefix: b.prefixLength(o), Force: o.force.value,
	}
	if built.Mode != director.AddressNone && !b.place(o, &built) {
		return
	}
	if b.isNew(o, built) {
		b.config.Addresses = append(b.config.Addresses, built)
	}
}

// closePorts notes what becomes of packets to closed ports.
func (b *ownershipBuilder) closePorts(o *ownership) {
	if !o.closed.ok {
		return
	}
	if b.config.Desired.Closed == nil {
		b.config.Desired.Closed = map[netip.Addr]director.ClosedPorts{}
	}
	b.config.Desired.Closed[o.address.value] = o.closed.value
}

// checkKeys finds keys that have no meaning with the mode.
func (b *ownershipBuilder) checkKeys(o *ownership) {
	mode := o.mode.value
	if mode == director.AddressNone && o.iface.given() {
		o.iface.at.failf("with mode none the address is on no interface that the director looks after")
	}
	if mode == director.AddressNone && o.force.given() {
		o.force.at.failf("with mode none nothing is taken")
	}
	if mode != director.AddressInterface && o.prefix.given() {
		o.prefix.at.failf("only with mode interface the address has a prefix, the mode is %s", mode)
	}
}

func (b *ownershipBuilder) prefixLength(o *ownership) int {
	bits := o.address.value.BitLen()
	if o.mode.value != director.AddressInterface {
		return 0
	}
	if o.prefix.ok && int(o.prefix.value) > bits {
		o.prefix.at.failf("prefix length %d is above %d, which is all of %s", o.prefix.value, bits, o.address.value)
	}
	return int(o.prefix.or(uint32(bits)))
}

// place finds the interface.
func (b *ownershipBuilder) place(o *ownership, a *director.Address) (ok bool) {
	switch listed := slices.Contains(b.interfaces, a.Interface); {
	case o.iface.wrong() || !b.fine:
		return false
	case !o.iface.given() && len(b.interfaces) != 1:
		o.address.at.failf("key interface is missing%s", knownNote("", b.interfaces))
		return false
	case !o.iface.given():
		a.Interface = b.interfaces[0]
	case a.Mode == director.AddressAnswer && !listed:
		o.iface.at.failf("%s is none of interfaces, so no program answers there%s", a.Interface, knownNote(a.Interface, b.interfaces))
		return false
	}
	return true
}

// someOf is as much of a list as fits a message.
func someOf(list []string) []string {
	const most = 8
	if len(list) > most {
		return append(slices.Clone(list[:most]), "…")
	}
	return list
}

// isNew finds what is listed twice: an address can be answered for on several interfaces, and is
// otherwise in one place.
func (b *ownershipBuilder) isNew(o *ownership, a director.Address) bool {
	if line, taken := b.places.taken(place{a.Addr, a.Interface}, o.address.at); taken {
		o.address.at.failf("address %s is already in line %d", a.Addr, line)
		return false
	}
	line, taken := b.addresses.taken(a.Addr, o.address.at)
	if taken && !(b.several[a.Addr] && a.Mode == director.AddressAnswer) {
		o.address.at.failf("address %s is already in line %d: only with mode answer it can be on several interfaces", a.Addr, line)
		return false
	}
	b.several[a.Addr] = a.Mode == director.AddressAnswer
	return true
}

func (b *builder) announcing(a announcing) {
	if r := a.refresh; r.ok && r.value > 0 && r.value < leastRefresh {
		r.at.failf("%s between two announcements is less than %s (0: there are none)", r.value, leastRefresh)
	}
	b.config.Announce = director.Announcing{
		Burst:   int(a.burst.or(uint32(director.DefaultAnnouncing.Burst))),
		Refresh: a.refresh.or(director.DefaultAnnouncing.Refresh),
	}
}
