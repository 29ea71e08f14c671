// SPDX-License-Identifier: Apache-2.0

package nexthop

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
	typeAdvert  = 136
	adverMinLen = 24 // bytes of a neighbour advertisement without options (RFC 4861, 4.4)
)

// ndFrame builds a neighbour solicitation (RFC 4861, 4.3). A question to nobody in particular goes
// to the target's solicited-node group.
//
// It is a whole frame, not a message for a raw IPv6 socket, since through such a socket the kernel
// would resolve the recipient of a unicast solicitation itself, and send to whom it believes in.
func ndFrame(q question) ([]byte, error) {
	dst, err := recipient6(q)
	if err != nil {
		return nil, fmt.Errorf("build solicitation for %s: %w", q.target, err)
	}
	msg, err := ndp.MarshalMessageChecksum(&ndp.NeighborSolicitation{
		TargetAddress: q.target,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: q.mac[:]}},
	}, q.from, dst)
	if err != nil {
		return nil, fmt.Errorf("build solicitation for %s: %w", q.target, err)
	}
	to := net.HardwareAddr(q.to[:])
	if dst.IsMulticast() {
		group := dst.As16()
		to = append(net.HardwareAddr{0x33, 0x33}, group[12:]...) // RFC 2464, 7
	}
	f := ethernet.Frame{
		Destination: to, Source: q.mac[:], EtherType: ethernet.EtherTypeIPv6,
		Payload: append(ipv6Header(q.from, dst, len(msg)), msg...),
	}
	return f.MarshalBinary()
}

// recipient6 gives the IPv6 destination of a question.
func recipient6(q question) (netip.Addr, error) {
	if q.to != (mac{}) {
		return q.target, nil
	}
	return ndp.SolicitedNodeMulticast(q.target)
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

// readND reads an Ethernet frame with a neighbour advertisement. ok is false for what is not one
// that RFC 4861, 7.1.2 lets pass, or tells nothing.
func readND(frame []byte, own mac) (s sighting, ok bool) {
	dst, msg, ok := icmp6(frame)
	if !ok || len(msg) < adverMinLen || msg[0] != typeAdvert || msg[1] != 0 {
		return s, false
	}
	parsed, err := ndp.ParseMessage(msg)
	adv, is := parsed.(*ndp.NeighborAdvertisement)
	if err != nil || !is || adv.TargetAddress.IsMulticast() || adv.Solicited && dst.IsMulticast() {
		return s, false
	}
	s.key.addr, s.solicited, s.override = adv.TargetAddress, adv.Solicited, adv.Override
	for _, o := range adv.Options {
		if lla, is := o.(*ndp.LinkLayerAddress); is && lla.Direction == ndp.Target {
			s.mac, _ = macFrom(lla.Addr)
		}
	}
	tells := s.mac.unicast() && s.mac != own || s.mac == mac{} && s.solicited
	return s, tells
}

// icmp6 takes an ICMPv6 message out of its frame, when it came from this link (hop limit 255) and
// its checksum is right. Extension headers are not looked through: ND has none in practice, and
// the kernel's parser is there for the rest.
func icmp6(frame []byte) (dst netip.Addr, msg []byte, ok bool) {
	if len(frame) < etherSize+ipv6Size {
		return dst, nil, false
	}
	h, payload := frame[etherSize:etherSize+ipv6Size], frame[etherSize+ipv6Size:]
	size := int(binary.BigEndian.Uint16(h[4:]))
	if h[0]>>4 != 6 || h[6] != unix.IPPROTO_ICMPV6 || h[7] != ndp.HopLimit || size > len(payload) {
		return dst, nil, false
	}
	dst, msg = netip.AddrFrom16([16]byte(h[24:])), payload[:size]
	return dst, msg, checksum6(h[8:], msg) == 0
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
