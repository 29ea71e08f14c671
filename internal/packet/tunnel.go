// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// IP protocols that are tunnels.
const (
	ProtoIPIP = 4
	ProtoIPv6 = 41
	ProtoGRE  = 47
)

// GUE is the header of Generic UDP Encapsulation, variant 0 without options
// (draft-ietf-intarea-gue), inside UDP; IP follows.
type GUE struct{}

func (GUE) number([]Layer) uint16 { return ProtoNone } // UDP names nothing

func (GUE) encode(_, _ []Layer, body []byte) []byte {
	return append([]byte{0, ipInside(body, ProtoIPIP, ProtoIPv6)[1], 0, 0}, body...)
}

// GRE is the header of Generic Routing Encapsulation (RFC 2784); IP follows.
type GRE struct{ Checksum bool }

func (GRE) number([]Layer) uint16 { return ProtoGRE }

func (l GRE) encode(_, _ []Layer, body []byte) []byte {
	b := append([]byte{0, 0}, ipInside(body, TypeIPv4, TypeIPv6)...)
	if !l.Checksum {
		return append(b, body...)
	}
	b[0] = 0x80
	b = append(append(b, 0, 0, 0, 0), body...)
	binary.BigEndian.PutUint16(b[4:], Checksum(b))
	return b
}

// ipInside chooses by the IP version that the body begins with.
func ipInside(body []byte, v4, v6 uint16) []byte {
	if len(body) > 0 && body[0]>>4 == 6 {
		v4 = v6
	}
	return binary.BigEndian.AppendUint16(nil, v4)
}
