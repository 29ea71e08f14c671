// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"fmt"
	"net/netip"

	"xdplvs/internal/arpnd"
)

// A kernel is what the manager needs of the operating system; the tests have one of their own. Only
// the engine's goroutine calls it.
type kernel interface {
	links() (map[int]link, error) // by ifindex
	addresses() ([]address, error)
	// groups are the IPv6 multicast groups that interfaces are members of.
	groups() (map[spot]bool, error)

	// add adds an address with our mark; for an IPv6 multicast group it joins that. One that is there is no error.
	add(link int, p netip.Prefix) error
	// remove undoes that. One that is not there is no error.
	remove(link int, p netip.Prefix) error
	// takesAlong tells of addresses that the kernel would remove with p, because they came later in the
	// same subnet (unless promote_secondaries is set, ip-sysctl.rst).
	takesAlong(link int, p netip.Prefix) ([]netip.Prefix, error)

	// watch merges what changes into the inbox until stop is called, which waits for the reader's end.
	watch(*inbox) (stop func(), err error)
	// listen opens a socket for one family on a link and merges what it hears into the inbox.
	listen(l link, v6 bool, into *inbox) (port, error)
}

// A port sends frames on an interface.
type port interface {
	Send(frame []byte) error
	close() // waits for the reader's end
}

// A link is a network device.
type link struct {
	index, parent int // parent: of a VLAN device
	name          string
	mac           arpnd.MAC // zero: it has none
	up            bool      // by the administrator's will, and with a carrier
	arp           bool      // hosts there answer
	vlan          uint16    // id; 0: it is no VLAN device
}

// asks tells whether somebody can be asked there who has an address.
func (l link) asks() bool { return l.arp && l.mac != arpnd.MAC{} }

// An address is one of an interface's.
type address struct {
	link   int
	prefix netip.Prefix
	marked bool // as those that the director adds
}

// A spot is an address on an interface.
type spot struct {
	link int
	addr netip.Addr
}

// group is the one that an interface must be member of for solicitations for an IPv6 address to come in.
func group(a netip.Addr) netip.Prefix {
	g, err := arpnd.SolicitedNode(a)
	if err != nil {
		panic(fmt.Sprintf("solicited-node group of %s: %v", a, err)) // cannot be: it is IPv6
	}
	return netip.PrefixFrom(g, g.BitLen())
}
