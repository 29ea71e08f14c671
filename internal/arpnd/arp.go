// SPDX-License-Identifier: Apache-2.0

package arpnd

import (
	"fmt"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
)

// arp builds an ARP request (RFC 826). The destination of a question to nobody in particular is the
// broadcast address; the target's hardware address in the packet is left zero, as unknown.
func (q Question) arp() ([]byte, error) {
	b, err := arpFrame(q.To, arp.OperationRequest, q.MAC, q.From, MAC{}, q.Target)
	if err != nil {
		return nil, fmt.Errorf("build ARP request for %s: %w", q.Target, err)
	}
	return b, nil
}

// gratuitous builds an announcement as a request and as a reply: there are hosts and switches that
// believe only the one or the other (RFC 5227, 3).
func gratuitous(addr netip.Addr, at MAC) ([][]byte, error) {
	request, err := arpFrame(MAC{}, arp.OperationRequest, at, addr, MAC{}, addr)
	if err != nil {
		return nil, fmt.Errorf("build announcement of %s: %w", addr, err)
	}
	reply, err := arpFrame(MAC{}, arp.OperationReply, at, addr, at, addr) // RFC 5944, 4.6
	if err != nil {
		return nil, fmt.Errorf("build announcement of %s: %w", addr, err)
	}
	return [][]byte{request, reply}, nil
}

// arpFrame builds a packet in its frame, to a station or, zero, to everybody.
func arpFrame(to MAC, op arp.Operation, sender MAC, from netip.Addr, target MAC, about netip.Addr) ([]byte, error) {
	p, err := arp.NewPacket(op, sender[:], from, target[:], about)
	if err != nil {
		return nil, err
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	f := ethernet.Frame{
		Destination: ethernet.Broadcast, Source: sender[:], EtherType: ethernet.EtherTypeARP, Payload: payload,
	}
	if to != (MAC{}) {
		f.Destination = to[:]
	}
	return f.MarshalBinary()
}

// readARP reads an Ethernet frame with an ARP packet about IPv4 over Ethernet. What it tells is the
// sender's address, whether the packet asks, answers or announces (RFC 826, "Packet Reception";
// RFC 5227, 3: an announcement may be either). An answer to a question is unicast. A packet without a
// sender's address is a probe, if it is a request.
func readARP(frame []byte) (h Heard, ok bool) {
	var f ethernet.Frame
	var p arp.Packet
	if f.UnmarshalBinary(frame) != nil || f.EtherType != ethernet.EtherTypeARP || p.UnmarshalBinary(f.Payload) != nil {
		return h, false
	}
	m, ok := MACFrom(p.SenderHardwareAddr)
	if !ok || !m.Unicast() || p.ProtocolType != uint16(ethernet.EtherTypeIPv4) || !p.SenderIP.Is4() {
		return h, false
	}
	from, _ := MACFrom(f.Source)
	to, _ := MACFrom(f.Destination)
	h = Heard{Addr: p.SenderIP, MAC: m, From: from, Override: true}
	h.Solicited = p.Operation == arp.OperationReply && to.Unicast()
	if p.SenderIP.IsUnspecified() {
		h.Addr, h.Probe = p.TargetIP, true
		return h, p.Operation == arp.OperationRequest && p.TargetIP.Is4() && !p.TargetIP.IsUnspecified()
	}
	return h, true
}
