// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net"

	"xdplvs/director"
	"xdplvs/internal/packet"
)

// neighbor is where the packet comes from: a link-layer address that is no host's (RFC 7042: locally administered).
var neighbor = packet.MAC{0x02, 0, 0, 0, 0, 0x01}

// segments are the kinds of TCP segment that can be asked about.
var segments = map[string]uint8{
	"": packet.SYN, "syn": packet.SYN, "ack": packet.ACK, "fin": packet.FIN | packet.ACK, "rst": packet.RST,
}

// frame is the packet of the question, as it comes to an interface.
func frame(q *director.Question, to net.HardwareAddr) ([]byte, error) {
	eth := packet.Ethernet{Src: neighbor}
	copy(eth.Dst[:], to)
	var transport packet.Layer
	src, dst := q.Client.Port(), q.Virtual.Port()
	switch q.Protocol {
	case director.TCP:
		flags, ok := segments[q.Segment]
		if !ok {
			return nil, fmt.Errorf("unknown segment %q (known: syn, ack, fin, rst)", q.Segment)
		}
		transport = packet.TCP{SrcPort: src, DstPort: dst, Flags: flags, Window: 65535}
	case director.UDP:
		return build(eth, q, packet.UDP{SrcPort: src, DstPort: dst}, packet.Data("explain")), nil
	case director.SCTP:
		return build(eth, q, packet.SCTP{SrcPort: src, DstPort: dst}, packet.Data(sctpInit)), nil
	default:
		return nil, fmt.Errorf("unknown protocol %s (known: tcp, udp, sctp)", q.Protocol)
	}
	return build(eth, q, transport), nil
}

// sctpInit is an INIT chunk without parameters (RFC 9260 section 3.3.2).
var sctpInit = []byte{1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1}

func build(eth packet.Ethernet, q *director.Question, inside ...packet.Layer) []byte {
	var ip packet.Layer = packet.IPv4{Src: q.Client.Addr(), Dst: q.Virtual.Addr(), DontFragment: true}
	if q.Client.Addr().Is6() {
		ip = packet.IPv6{Src: q.Client.Addr(), Dst: q.Virtual.Addr()}
	}
	return packet.Build(append([]packet.Layer{eth, ip}, inside...)...)
}
