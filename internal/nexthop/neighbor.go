// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net/netip"

	"xdplvs/internal/agenda"
)

// A neighbor is a next hop on a link, and what is known of its link-layer address.
type neighbor struct {
	key   neighKey
	where string     // the link's name when the neighbour was new, for the log
	from  netip.Addr // the source address that a route by this neighbour prefers
	users int        // targets that are reached by it

	mac     mac
	known   bool   // mac is believed
	static  bool   // by order of the kernel's table: not to be probed
	settled bool   // it was known, or did not answer: the first resolution is over
	fault   string // why the last question could not be sent

	agenda.Place      // due: when to ask next, or to stop waiting
	waiting      bool // a question is out, its time ends at due
	misses       int  // questions in a row that nobody answered
	doubt        bool // the address may be wrong: ask everybody, not only its owner

	changed bool // hops that lead here are to be computed again
}

func newNeighbor(key neighKey, where string) *neighbor {
	return &neighbor{key: key, where: where}
}

// reason says why the neighbour is not known.
func (n *neighbor) reason(linkName string) string {
	switch {
	case n.known:
		return ""
	case n.fault != "":
		return fmt.Sprintf("ask for %s on %s: %s", n.key.addr, linkName, n.fault)
	case n.settled:
		return fmt.Sprintf("no answer to %s for %s on %s", n.protocol(), n.key.addr, linkName)
	}
	return fmt.Sprintf("waiting for an answer to %s for %s on %s", n.protocol(), n.key.addr, linkName)
}

// protocol names the one that asks for the address: ARP (RFC 826) or ND (RFC 4861).
func (n *neighbor) protocol() string {
	if n.key.addr.Is4() {
		return "ARP"
	}
	return "ND"
}

// recipient is who gets the next question: the owner of the address as far as it is known, else
// the zero address, everybody.
func (n *neighbor) recipient() mac {
	if n.known && n.misses == 0 && !n.doubt {
		return n.mac
	}
	return mac{}
}
