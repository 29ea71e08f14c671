// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchBuffer is the size, in bytes, of the buffer for notifications: some ten thousand.
const watchBuffer = 8 << 20

// watchGroups are the multicast groups of rtnetlink that the resolver follows, on one socket, so
// that their order is kept.
var watchGroups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_NEXTHOP,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
}

// watch subscribes. The reader ends at stop, or with the inbox marked as lost.
func (t *tables) watch(in *inbox) (stop func(), err error) {
	var socket *nl.NetlinkSocket
	err = t.ns.do(func() (err error) {
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, watchGroups...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open notification socket: %w", err)
	}
	if socket.SetReceiveBufferSize(t.buffer, true) != nil {
		// Without CAP_NET_ADMIN: as large as net.core.rmem_max lets it be.
		_ = socket.SetReceiveBufferSize(t.buffer, false)
	}
	var reader sync.WaitGroup
	reader.Go(func() { follow(socket, in) })
	return func() { socket.Close(); reader.Wait() }, nil
}

// follow reads notifications until the socket fails: it was closed, or overran (ENOBUFS), after
// which nobody knows what was missed.
func follow(socket *nl.NetlinkSocket, in *inbox) {
	seen := make(linkStates)
	for {
		msgs, from, err := socket.Receive()
		if err != nil {
			in.put(func(n *news) { n.lost = true })
			return
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		in.put(func(n *news) {
			for _, m := range msgs {
				n.note(m, seen)
			}
		})
	}
}

// A linkState is what, of a link, decides on routes without their being announced: IPv4 drops next
// hops when their link goes down or loses its carrier, revives them when it comes back, and balances
// multipath routes over the living; a VRF as master means another table.
type linkState struct {
	up, carrier bool
	master      int // ifindex
}

// linkStates has the states by ifindex as they were last announced. They are compared with each
// other, not with what is read: a link that went down and came up again looks unchanged by then.
type linkStates map[int]linkState

// changed takes over an announced state and tells whether it is another than the last one.
func (s linkStates) changed(link int, state linkState) bool {
	last, known := s[link]
	s[link] = state
	return !known || state != last
}

// note adds what one notification means.
func (n *news) note(m syscall.NetlinkMessage, seen linkStates) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		n.noteLink(m, seen)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		n.noteAddress(m)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if p, ok := routePrefix(m.Data); ok {
			n.addPrefix(p)
		}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE, unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		n.routes = true
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n.noteNeighbor(m)
	}
}

// noteLink adds a changed link: a struct ifinfomsg and attributes.
func (n *news) noteLink(m syscall.NetlinkMessage, seen linkStates) {
	if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC { // a port of a bridge
		return
	}
	if m.Header.Type == unix.RTM_DELLINK {
		index := u32(m.Data[4:])
		delete(seen, index)
		n.addGone(index)
		return
	}
	header := unix.NlMsghdr(m.Header)
	row, err := netlink.LinkDeserialize(&header, m.Data)
	if err != nil {
		n.lost = true
		return
	}
	l := linkFrom(row)
	n.addLink(l)
	if seen.changed(l.index, linkState{l.up, l.carrier, l.master}) {
		n.routes = true
	}
}

// noteAddress adds a changed address: a struct ifaddrmsg and attributes. IFA_LOCAL is the address
// where the link is point-to-point and IFA_ADDRESS is the peer's.
func (n *news) noteAddress(m syscall.NetlinkMessage) {
	n.addresses = true
	if m.Header.Type != unix.RTM_DELADDR || len(m.Data) < unix.SizeofIfAddrmsg {
		return
	}
	link := u32(m.Data[4:])
	for kind, value := range attributes(m.Data[unix.SizeofIfAddrmsg:]) {
		if kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS {
			n.addWithdrawn(withdrawal{link, addr(value)})
		}
	}
}

// noteNeighbor adds a changed row of the neighbour table.
func (n *news) noteNeighbor(m syscall.NetlinkMessage) {
	if len(m.Data) < unix.SizeofNdMsg {
		return
	}
	row, err := netlink.NeighDeserialize(m.Data)
	if err != nil {
		n.lost = true
		return
	}
	k, e, ok := entryFrom(row)
	if !ok {
		return
	}
	if m.Header.Type == unix.RTM_DELNEIGH {
		e = entry{}
	}
	n.addEntry(k, e)
}
