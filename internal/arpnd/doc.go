// SPDX-License-Identifier: Apache-2.0

// Package arpnd speaks ARP (RFC 826, RFC 5227) and IPv6 neighbour discovery (RFC 4861): it builds
// questions and announcements, reads what others send, and has the packet sockets that frames go over.
//
// Who asks who has an address sends a [Question] over a [Socket] and reads with [Read] what comes back. The
// packages that it is made of have clients of their own, which are not used: those want an address on
// the interface when opened, which an unnumbered interface never has, and another one not yet.
package arpnd

import (
	"fmt"
	"net"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC [6]byte

// String gives the usual notation, 02:00:00:00:00:01.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Unicast tells whether a single station can have the address: not zero, group bit clear.
func (m MAC) Unicast() bool { return m != MAC{} && m[0]&1 == 0 }

// MACFrom takes an address of six bytes; other lengths (Infiniband, tunnels) are not Ethernet.
func MACFrom(b []byte) (m MAC, ok bool) {
	if len(b) != len(m) {
		return MAC{}, false
	}
	return MAC(b), true
}

// A Question is an ARP request or a neighbour solicitation.
type Question struct {
	// From is our address. Unspecified, the question is a probe, which asks whether an address is free
	// before it is taken, and changes nobody's tables (RFC 5227, 2.1.1; RFC 4862, 5.4.2).
	From   netip.Addr
	MAC    MAC // our link-layer address
	Target netip.Addr
	To     MAC // zero: to everybody (broadcast, or the solicited-node group)
}

// Frame builds the question of the target's family.
func (q Question) Frame() ([]byte, error) {
	if q.From.Is4() != q.Target.Is4() {
		return nil, fmt.Errorf("ask for %s from %s: not of one family", q.Target, q.From)
	}
	if q.Target.Is4() {
		return q.arp()
	}
	return q.solicitation()
}

// Announcement builds the frames that tell everybody that an address is at a link-layer address.
func Announcement(addr netip.Addr, at MAC) ([][]byte, error) {
	if addr.Is4() {
		return gratuitous(addr, at)
	}
	return unsolicited(addr, at)
}

// Heard is what an ARP packet or a message of neighbour discovery tells.
type Heard struct {
	Addr netip.Addr // that it is about
	MAC  MAC        // where Addr is; zero: not told (RFC 4861, 4.4: may be left out in answers to a unicast solicitation)
	From MAC        // the source of the frame
	// Probe: the sender does not have the address, but is about to take it.
	Probe bool
	// Solicited: an answer to a question.
	Solicited bool
	// Override: replace a different address that is known (RFC 4861, 7.2.5). Always set for ARP.
	Override bool
}

// Read reads a frame. ok is false for what is malformed, or tells nothing: among others ordinary
// solicitations, which speak of their sender only in an option.
func Read(frame []byte) (h Heard, ok bool) {
	if len(frame) < etherSize {
		return h, false
	}
	if frame[12] == 0x08 {
		return readARP(frame)
	}
	return readND(frame)
}
