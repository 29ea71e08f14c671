// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"xdplvs/bpf"
)

// Traced is one packet: as it came, what became of it, and as it left.
type Traced struct {
	Number   uint64    `json:"number,omitempty"` // in a capture that is replayed, from 1
	Time     time.Time `json:"time"`
	Protocol string    `json:"protocol"` // tcp, udp, sctp, icmp, ...; of what is no IP its EtherType
	// Source and Destination are the packet's, as it came; port 0 where there is none.
	Source      netip.AddrPort `json:"source,omitzero"`
	Destination netip.AddrPort `json:"destination,omitzero"`
	Flags       string         `json:"flags,omitempty"` // of TCP, as syn,ack
	// Client and Virtual are the connection's ends, whoever has sent the packet; of a packet of no connection
	// those that it has itself.
	Client   netip.AddrPort `json:"client,omitzero"`
	Virtual  netip.AddrPort `json:"virtual,omitzero"`
	Real     netip.AddrPort `json:"real,omitzero"` // the real server that it went to, or came from
	RealName string         `json:"real_name,omitempty"`
	Service  string         `json:"service,omitempty"` // name, or protocol and address where it has none
	Mark     uint32         `json:"mark,omitempty"`    // firewall mark
	Verdict  string         `json:"verdict"`
	Action   string         `json:"action"`           // pass, drop, transmit or redirect
	Ingress  string         `json:"interface"`        // that it came in by
	Egress   string         `json:"egress,omitempty"` // that it left by
	Length   int            `json:"length"`           // bytes of the frame, as it came
	Left     int            `json:"left,omitempty"`   // and as it left
	Before   []byte         `json:"before,omitempty"` // the first bytes of the frame, as it came
	After    []byte         `json:"after,omitempty"`  // and as it left
}

// TraceLine is a packet, or news of such as are missing: Lost counts them since the trace began.
type TraceLine struct {
	Packet *Traced `json:"packet,omitempty"`
	Lost   uint64  `json:"lost,omitempty"`
	// Skipped is a packet of a capture that could not be replayed.
	Skipped *SkippedPacket `json:"skipped,omitempty"`
}

// SkippedPacket is one by its number in its capture, from 1.
type SkippedPacket struct {
	Number uint64 `json:"number"`
	Why    string `json:"why"`
}

// VerdictNames are the names of all verdicts.
func VerdictNames() []string { return bpf.VerdictNames() }

// TracedBytes is how much of a frame a trace can show.
const TracedBytes = bpf.TraceBytes

// Naming is what the numbers in packets meant at one moment.
type Naming struct {
	reals    map[uint32]listed
	services map[ServiceKey]string
	links    func(index int) string
}

// Naming is that of now; links names interfaces.
func (d *Director) Naming(ctx context.Context, links func(index int) string) (*Naming, error) {
	n := &Naming{services: map[ServiceKey]string{}, links: links}
	err := d.do(ctx, func() {
		n.reals = d.lister(0).reals
		for key, s := range d.services {
			n.services[key] = cmp.Or(s.want.Name, key.String())
		}
	})
	return n, err
}

// Service is the key of a service that is called so; false if none is.
func (n *Naming) Service(name string) (ServiceKey, bool) {
	for key, known := range n.services {
		if known == name && !key.Sorry {
			return key, true
		}
	}
	return ServiceKey{}, false
}

// Describe tells of a packet that came at some time. Its frames are those of p.
func (n *Naming) Describe(p *bpf.Traced, at time.Time) Traced {
	t := Traced{
		Time: at, Protocol: protocolOf(p), Source: p.Source, Destination: p.Destination, Client: p.Client, Virtual: p.Virtual,
		Mark: p.Mark, Verdict: p.Verdict, Action: bpf.ActionNames[p.Action], Ingress: n.links(p.Ingress),
		Length: p.Length, Left: p.Left, Before: p.Before, After: p.After,
	}
	if p.Left > 0 {
		t.Egress = n.links(p.Egress)
	}
	if Protocol(p.Protocol) == TCP && !p.Later {
		t.Flags = tcpFlags(p.TCP)
	}
	if r, ok := n.reals[p.Real]; ok && p.Real != bpf.NoReal {
		t.Real, t.RealName, t.Service = netip.AddrPortFrom(r.key.Addr, r.port(p.Virtual.Port())), r.name, r.service
	}
	t.Service = cmp.Or(t.Service, n.serviceOf(p))
	return t
}

// serviceOf is the service of a packet by its address and port, or its mark.
func (n *Naming) serviceOf(p *bpf.Traced) string {
	if !p.Virtual.IsValid() {
		return ""
	}
	addr := p.Virtual.Addr()
	for _, key := range []ServiceKey{
		{Protocol: Protocol(p.Protocol), Addr: addr, Port: p.Virtual.Port()},
		{Protocol: Protocol(p.Protocol), Addr: addr},
		MarkKey(p.Mark, addr.Is6()),
	} {
		if name, ok := n.services[key]; ok {
			return name
		}
	}
	return ""
}

// protocols are those of IP that have a name here.
var protocols = map[uint8]string{1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah",
	58: "ipv6-icmp", 112: "vrrp", 132: "sctp"}

// ProtocolNames are the names of protocols that Traced may have, but for those that are numbers.
func ProtocolNames() []string {
	return append(slices.Sorted(maps.Values(protocols)), slices.Sorted(maps.Values(etherTypes))...)
}

// ProtocolName is the name of a protocol of IP.
func ProtocolName(number uint8) string {
	return cmp.Or(protocols[number], fmt.Sprintf("protocol %d", number))
}

// ProtocolNumber is the number of a protocol of IP that has a name; false if it is none.
func ProtocolNumber(name string) (uint8, bool) {
	for number, known := range protocols {
		if known == name {
			return number, true
		}
	}
	return 0, false
}

// etherTypes are those of packets that are no IP.
var etherTypes = map[uint16]string{0x0800: "broken-ipv4", 0x0806: "arp", 0x86dd: "broken-ipv6", 0x88cc: "lldp"}

func protocolOf(p *bpf.Traced) string {
	if p.Source.IsValid() {
		return ProtocolName(p.Protocol)
	}
	kind := etherType(p.Before)
	return cmp.Or(etherTypes[kind], fmt.Sprintf("ethertype %#04x", kind))
}

// etherType is the one behind a frame's tags.
func etherType(frame []byte) uint16 {
	for at := 12; at+2 <= len(frame); at += 4 {
		if kind := binary.BigEndian.Uint16(frame[at:]); kind != 0x8100 && kind != 0x88a8 {
			return kind
		}
	}
	return 0
}

// tcpFlagNames are the bits of the flags byte of a TCP header (RFC 9293 section 3.1).
var tcpFlagNames = []string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"}

func tcpFlags(bits uint8) string {
	var set []string
	for i, name := range tcpFlagNames {
		if bits>>i&1 != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, ",")
}
