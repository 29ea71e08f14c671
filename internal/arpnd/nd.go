// SPDX-License-Identifier: Apache-2.0

package arpnd

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

const (
	etherSize   = 14 // bytes of an Ethernet header
	ipv6Size    = 40 // bytes of an IPv6 header
	typeSolicit = 135
	typeAdvert  = 136
	minMessage  = 24 // bytes of a solicitation or an advertisement without options (RFC 4861, 4.3 and 4.4)
)

var allNodes = netip.IPv6LinkLocalAllNodes()

// solicitation builds a neighbour solicitation (RFC 4861, 4.3). A question to nobody in particular goes
// to the target's solicited-node group. One without a sender's address has no link-layer address either.
//
// It is a whole frame, not a message for a raw IPv6 socket, since through such a socket the kernel
// would resolve the recipient of a unicast solicitation itself, and send to whom it believes in.
func (q Question) solicitation() ([]byte, error) {
	dst, err := q.recipient6()
	if err != nil {
		return nil, fmt.Errorf("build solicitation for %s: %w", q.Target, err)
	}
	msg := &ndp.NeighborSolicitation{TargetAddress: q.Target}
	if !q.From.IsUnspecified() {
		msg.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: q.MAC[:]}}
	}
	b, err := ndFrame(q.To, q.MAC, msg, q.From, dst)
	if err != nil {
		return nil, fmt.Errorf("build solicitation for %s: %w", q.Target, err)
	}
	return b, nil
}

// recipient6 gives the IPv6 destination of a question.
func (q Question) recipient6() (netip.Addr, error) {
	if q.To != (MAC{}) {
		return q.Target, nil
	}
	return SolicitedNode(q.Target)
}

// SolicitedNode is the group that solicitations for an IPv6 address are sent to (RFC 4291, 2.7.1).
func SolicitedNode(a netip.Addr) (netip.Addr, error) { return ndp.SolicitedNodeMulticast(a) }

// unsolicited builds an advertisement that nobody asked for, which replaces what is known (RFC 4861, 7.2.6).
func unsolicited(addr netip.Addr, at MAC) ([][]byte, error) {
	b, err := ndFrame(MAC{}, at, &ndp.NeighborAdvertisement{
		Override: true, TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: at[:]}},
	}, addr, allNodes)
	if err != nil {
		return nil, fmt.Errorf("build announcement of %s: %w", addr, err)
	}
	return [][]byte{b}, nil
}

// ndFrame builds a message in its frame, to a station or, zero, to the group that dst is.
func ndFrame(to, from MAC, m ndp.Message, src, dst netip.Addr) ([]byte, error) {
	msg, err := ndp.MarshalMessageChecksum(m, src, dst)
	if err != nil {
		return nil, err
	}
	if dst.IsMulticast() {
		group := dst.As16()
		to = MAC(append([]byte{0x33, 0x33}, group[12:]...)) // RFC 2464, 7
	}
	f := ethernet.Frame{
		Destination: net.HardwareAddr(to[:]), Source: from[:], EtherType: ethernet.EtherTypeIPv6,
		Payload: append(ipv6Header(src, dst, len(msg)), msg...),
	}
	return f.MarshalBinary()
}

// ipv6Header builds the header of an ND message of so many bytes.
func ipv6Header(src, dst netip.Addr, payload int) []byte {
	h := make([]byte, 8, ipv6Size+payload)
	h[0] = 6 << 4
	binary.BigEndian.PutUint16(h[4:], uint16(payload))
	h[6], h[7] = unix.IPPROTO_ICMPV6, ndp.HopLimit
	h = append(h, src.AsSlice()...)
	return append(h, dst.AsSlice()...)
}

// readND reads an Ethernet frame with a neighbour advertisement, or with the solicitation of one who has
// no address yet. ok is false for what RFC 4861, 7.1 does not let pass, or what tells nothing.
func readND(frame []byte) (h Heard, ok bool) {
	src, dst, msg, ok := icmp6(frame)
	if !ok || len(msg) < minMessage || msg[1] != 0 {
		return h, false
	}
	parsed, err := ndp.ParseMessage(msg)
	if err != nil {
		return h, false
	}
	h.From = MAC(frame[6:12])
	switch m := parsed.(type) {
	case *ndp.NeighborAdvertisement:
		return h.advertised(m, dst)
	case *ndp.NeighborSolicitation:
		h.Addr, h.MAC, h.Probe, h.Override = m.TargetAddress, h.From, true, true
		return h, src.IsUnspecified() && !m.TargetAddress.IsMulticast() && h.From.Unicast()
	}
	return h, false
}

// advertised adds what an advertisement says.
func (h Heard) advertised(adv *ndp.NeighborAdvertisement, dst netip.Addr) (Heard, bool) {
	if adv.TargetAddress.IsMulticast() || adv.Solicited && dst.IsMulticast() {
		return h, false
	}
	h.Addr, h.Solicited, h.Override = adv.TargetAddress, adv.Solicited, adv.Override
	for _, o := range adv.Options {
		if lla, is := o.(*ndp.LinkLayerAddress); is && lla.Direction == ndp.Target {
			h.MAC, _ = MACFrom(lla.Addr)
		}
	}
	return h, h.MAC.Unicast() || h.MAC == MAC{} && h.Solicited
}

// icmp6 takes an ICMPv6 message out of its frame, when it came from this link (hop limit 255) and
// its checksum is right. Extension headers are not looked through: ND has none in practice, and
// the kernel's parser is there for the rest.
func icmp6(frame []byte) (src, dst netip.Addr, msg []byte, ok bool) {
	if len(frame) < etherSize+ipv6Size {
		return src, dst, nil, false
	}
	h, payload := frame[etherSize:etherSize+ipv6Size], frame[etherSize+ipv6Size:]
	size := int(binary.BigEndian.Uint16(h[4:]))
	if h[0]>>4 != 6 || h[6] != unix.IPPROTO_ICMPV6 || h[7] != ndp.HopLimit || size > len(payload) {
		return src, dst, nil, false
	}
	src, dst = netip.AddrFrom16([16]byte(h[8:])), netip.AddrFrom16([16]byte(h[24:]))
	msg = payload[:size]
	return src, dst, msg, checksum6(h[8:], msg) == 0
}

// checksum6 sums up an ICMPv6 message and its pseudo-header (RFC 8200, 8.1), the checksum field
// included: 0 when that is right. addrs are the source and the destination.
func checksum6(addrs, msg []byte) uint16 {
	sum := uint32(len(msg)) + unix.IPPROTO_ICMPV6
	for _, b := range [][]byte{addrs, msg} {
		for i, octet := range b {
			sum += uint32(octet) << (8 * (1 - uint(i)%2)) // even octets are the high ones
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
