// SPDX-License-Identifier: Apache-2.0

package nexthop

import "net/netip"

// A kernel is what the resolver needs of the operating system; the tests have one of their own.
// Only the engine's goroutine calls it.
type kernel interface {
	// watch starts to merge change notifications into the inbox, until stop is called, which waits
	// for the reader's end. A subscription that fails later marks the inbox as lost and is dead.
	watch(*inbox) (stop func(), err error)

	links() (linkTable, error)
	addresses() (addressTable, error)
	neighbors() (map[neighKey]entry, error)

	// routes asks for the route to each query's address. It fills answers, of the same length.
	routes(queries []query, answers []route) error

	// listen opens a socket that can ask for addresses of one family on a link and merges what it
	// hears there into the inbox.
	listen(l link, v6 bool, into *inbox) (port, error)

	close()
}

// A port asks for link-layer addresses on one interface, in one family: ARP or neighbour discovery.
type port interface {
	// ask sends one question and does not wait: neither for an answer nor for room in the queue.
	ask(question) error
	// close waits for the end of the reader.
	close()
}

// A question is an ARP request or a neighbour solicitation.
type question struct {
	from   netip.Addr // our address; for ARP 0.0.0.0 when we have none (RFC 5227 probe)
	mac    mac        // our link-layer address
	target netip.Addr
	to     mac // zero: to everybody (broadcast, or the solicited-node group)
}

// A query is one look-up of a route.
type query struct {
	dst  netip.Addr // without zone
	link int        // ifindex that the way out must have: for link-local addresses; 0: any
}

// A neighKey names a neighbour: an address, without zone, on a link.
type neighKey struct {
	link int
	addr netip.Addr
}

// An entry is what the kernel's neighbour table says. The zero entry is an absent one.
type entry struct {
	mac   mac
	valid bool // mac may be used: the entry is reachable, stale, in delay, probed or permanent
	// reachable: confirmed a short time ago. failed: the kernel asked and nobody answered.
	reachable, failed bool
	// static: never verified by the kernel. Permanent entries, and those a control plane installed
	// without wanting verification (NOARP with "extern_learn", as EVPN daemons do).
	static bool
}
