// SPDX-License-Identifier: Apache-2.0

// Package nexthop tells, for each real server address, how a frame reaches it (interface, VLAN
// tags, MAC addresses, MTU, source address), and keeps that true while routes, links, addresses and
// neighbours change.
//
// # Who decides
//
// The route of a target is the kernel's own decision: every target is asked for with RTM_GETROUTE,
// so policy rules, metrics, multipath and VRFs need no second implementation here. Requests are
// batched (many messages to one system call), which makes 40,000 answers a matter of a fifth of a second,
// and an answer is kept until something happens that can change it: see [engine.apply] for which
// event invalidates which targets. Not followed is what the kernel itself only caches and announces
// to nobody, path MTUs learnt from ICMP and redirects; the periodic resync picks it up.
//
// The neighbour (MAC address) is the kernel's when the entry is permanent. Otherwise it is the
// newest thing heard: a change in the kernel's table, an answer to our own probes, a gratuitous ARP
// or an unsolicited neighbour advertisement. Probes are our own because traffic that XDP forwards
// never confirms the kernel's entries: they would go stale and vanish. The kernel's tables are
// read, never written.
//
// # How it stays true
//
// State is a value to converge to. A notification only marks what to read again or, for
// neighbours, replaces the last value of one key; notifications are merged in an inbox of bounded
// size and applied in batches. One that was lost (the socket overran, ENOBUFS) makes the
// subscription be opened anew and everything be read again; the same happens slowly all the time.
//
// # Goroutines
//
// One goroutine, the caller of [Resolver.Run], owns all state. Beside it run one reader of
// notifications and one reader for each ARP or ND socket; all of them end before Run returns.
package nexthop
