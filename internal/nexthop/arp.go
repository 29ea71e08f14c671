// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
)

// arpFrame builds an ARP request (RFC 826). The destination of a question to nobody in particular
// is the broadcast address; the target's hardware address in the packet is left zero, as unknown.
func arpFrame(q question) ([]byte, error) {
	p, err := arp.NewPacket(arp.OperationRequest, q.mac[:], q.from, make(net.HardwareAddr, 6), q.target)
	if err != nil {
		return nil, fmt.Errorf("build ARP request for %s: %w", q.target, err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build ARP request for %s: %w", q.target, err)
	}
	f := ethernet.Frame{
		Destination: ethernet.Broadcast, Source: q.mac[:], EtherType: ethernet.EtherTypeARP, Payload: payload,
	}
	if q.to != (mac{}) {
		f.Destination = q.to[:]
	}
	return f.MarshalBinary()
}

// readARP reads an Ethernet frame with an ARP packet about IPv4 over Ethernet. What it tells is the
// sender's address, whether the packet asks, answers or announces (RFC 826, "Packet Reception";
// RFC 5227, 3: an announcement may be either). An answer to a question is unicast. ok is false for what tells nothing: malformed
// packets, and probes, which have no sender address.
func readARP(frame []byte, own mac) (s sighting, ok bool) {
	var f ethernet.Frame
	var p arp.Packet
	if f.UnmarshalBinary(frame) != nil || f.EtherType != ethernet.EtherTypeARP || p.UnmarshalBinary(f.Payload) != nil {
		return s, false
	}
	m, ok := macFrom(p.SenderHardwareAddr)
	if !ok || !m.unicast() || m == own || p.ProtocolType != uint16(ethernet.EtherTypeIPv4) ||
		!p.SenderIP.Is4() || p.SenderIP.IsUnspecified() {
		return s, false
	}
	to, _ := macFrom(f.Destination)
	s.key.addr, s.mac, s.override = p.SenderIP, m, true
	s.solicited = p.Operation == arp.OperationReply && to.unicast()
	return s, true
}
