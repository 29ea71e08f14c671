// SPDX-License-Identifier: Apache-2.0

// Package vip sees to it that virtual addresses lead to the director: it adds them to interfaces, or has
// the data plane answer for them, tells the network, and finds other hosts that have them too.
//
// # Before an address is taken
//
// Hosts are asked who has it (RFC 5227, 2.1; RFC 4862, 5.4), some times. If one answers, or another asks
// the same, the address is not taken; it is tried again later. An address that is the director's already,
// because a former run took it, or that is on the interface anyway, is not asked for.
//
// # What others do
//
// An address of ours that somebody removed is added again, at most once a second, and that is said. Another
// host that is heard to have an address of ours does not get it: we announce it again (RFC 5227, 2.4, the
// host that must keep its address) and name the other.
//
// # What is never touched
//
// An address that the director did not add is not removed. Which it added is written to a file before it
// does so. Addresses that it adds carry a mark in the kernel (IFA_PROTO, ip-address(8)): one that somebody
// removed and added again is not ours any more.
//
// # What stays
//
// Addresses, group memberships and the table that the data plane answers from are the kernel's: they stay
// when the daemon ends. [Manager.Release] gives them up.
//
// # Goroutines
//
// One goroutine, the caller of [Manager.Run], owns all state. Beside it run one reader of notifications
// and one reader for each ARP or ND socket; all of them end before Run returns.
package vip
