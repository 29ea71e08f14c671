// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"hash/crc32"
)

// TCP is a header (RFC 9293). Options are padded to a multiple of 4.
type TCP struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            uint8
	Window           uint16
	Options          []byte
	Offset           *uint8 // in 4 bytes
	Checksum         *uint16
}

func (TCP) number([]Layer) uint16 { return ProtoTCP }

func (l TCP) encode(outer, _ []Layer, body []byte) []byte {
	b := append(make([]byte, 20), l.Options...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.BigEndian.PutUint16(b, l.SrcPort)
	binary.BigEndian.PutUint16(b[2:], l.DstPort)
	binary.BigEndian.PutUint32(b[4:], l.Seq)
	binary.BigEndian.PutUint32(b[8:], l.Ack)
	b[12], b[13] = or(l.Offset, uint8(len(b)/4))<<4, l.Flags
	binary.BigEndian.PutUint16(b[14:], l.Window)
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[16:], or(l.Checksum, transportChecksum(outer, ProtoTCP, b)))
	return b
}

// UDP is a header (RFC 768).
type UDP struct {
	SrcPort, DstPort uint16
	Length, Checksum *uint16
}

func (UDP) number([]Layer) uint16 { return ProtoUDP }

func (l UDP) encode(outer, _ []Layer, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, l.SrcPort)
	b = binary.BigEndian.AppendUint16(b, l.DstPort)
	b = binary.BigEndian.AppendUint16(b, or(l.Length, uint16(8+len(body))))
	b = append(append(b, 0, 0), body...)
	sum := transportChecksum(outer, ProtoUDP, b)
	if sum == 0 {
		sum = 0xffff // 0 means that there is none
	}
	binary.BigEndian.PutUint16(b[6:], or(l.Checksum, sum))
	return b
}

// SCTP is the common header (RFC 9260); the chunks are its body.
type SCTP struct {
	SrcPort, DstPort uint16
	Tag              uint32
	Checksum         *uint32 // as the bytes stand
}

func (SCTP) number([]Layer) uint16 { return ProtoSCTP }

func (l SCTP) encode(_, _ []Layer, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, l.SrcPort)
	b = binary.BigEndian.AppendUint16(b, l.DstPort)
	b = binary.BigEndian.AppendUint32(b, l.Tag)
	b = append(append(b, 0, 0, 0, 0), body...)
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[8:], sum)
	if l.Checksum != nil {
		binary.BigEndian.PutUint32(b[8:], *l.Checksum)
	}
	return b
}

// ICMP is ICMP or, inside IPv6, ICMPv6: number and checksum are the family's.
// Rest is the second word of the header.
type ICMP struct {
	Type, Code uint8
	Rest       uint32
	Checksum   *uint16
}

func (ICMP) number(outer []Layer) uint16 {
	if _, dst, ok := addresses(outer); ok && dst.Is6() {
		return ProtoICMPv6
	}
	return ProtoICMP
}

func (l ICMP) encode(outer, _ []Layer, body []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{l.Type, l.Code, 0, 0}, l.Rest)
	b = append(b, body...)
	sum := Checksum(b)
	if l.number(outer) == ProtoICMPv6 {
		sum = transportChecksum(outer, ProtoICMPv6, b)
	}
	binary.BigEndian.PutUint16(b[2:], or(l.Checksum, sum))
	return b
}
