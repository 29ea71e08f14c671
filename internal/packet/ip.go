// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// IPv4 is a header (RFC 791). Options are padded to a multiple of 4; Offset is in bytes.
type IPv4 struct {
	Src, Dst         netip.Addr
	TOS              uint8
	ID               uint16
	DontFragment     bool
	More             bool
	Offset           int
	Options          []byte
	TTL              *uint8 // 64
	Version, IHL     *uint8
	Protocol         *uint8
	Length, Checksum *uint16
}

func (IPv4) number(outer []Layer) uint16 { return inIP(outer, 4, TypeIPv4) }

func (l IPv4) encode(outer, inner []Layer, body []byte) []byte {
	b := append(make([]byte, 20), l.Options...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	b[0] = or(l.Version, 4)<<4 | or(l.IHL, uint8(len(b)/4))
	b[1], b[8], b[9] = l.TOS, or(l.TTL, 64), or(l.Protocol, uint8(next(append(outer, l), inner)))
	binary.BigEndian.PutUint16(b[2:], or(l.Length, uint16(len(b)+len(body))))
	binary.BigEndian.PutUint16(b[4:], l.ID)
	binary.BigEndian.PutUint16(b[6:], bit(l.DontFragment)<<14|bit(l.More)<<13|uint16(l.Offset/8))
	copy(b[12:], l.Src.AsSlice())
	copy(b[16:], l.Dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], or(l.Checksum, Checksum(b)))
	return append(b, body...)
}

// IPv6 is a header (RFC 8200).
type IPv6 struct {
	Src, Dst              netip.Addr
	TrafficClass          uint8
	FlowLabel             uint32
	HopLimit              *uint8 // 64
	Version, NextProtocol *uint8
	Length                *uint16 // of what follows
}

func (IPv6) number(outer []Layer) uint16 { return inIP(outer, 41, TypeIPv6) }

func (l IPv6) encode(outer, inner []Layer, body []byte) []byte {
	first := uint32(or(l.Version, 6))<<28 | uint32(l.TrafficClass)<<20 | l.FlowLabel&0xfffff
	b := binary.BigEndian.AppendUint32(nil, first)
	b = binary.BigEndian.AppendUint16(b, or(l.Length, uint16(len(body))))
	b = append(b, or(l.NextProtocol, uint8(next(append(outer, l), inner))), or(l.HopLimit, 64))
	return slices.Concat(b, l.Src.AsSlice(), l.Dst.AsSlice(), body)
}

// Extension is an extension header of IPv6 (hop-by-hop, routing, destination options), or AH
// in either family. Body, all but the first two bytes, is padded with zeros.
type Extension struct {
	Protocol             uint8
	Body                 []byte
	NextProtocol, Length *uint8
}

func (l Extension) number([]Layer) uint16 { return uint16(l.Protocol) }

func (l Extension) encode(outer, inner []Layer, body []byte) []byte {
	b := append([]byte{or(l.NextProtocol, uint8(next(append(outer, l), inner))), 0}, l.Body...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = or(l.Length, uint8(len(b)/8-1))
	if l.Protocol == ProtoAH {
		b[1] = or(l.Length, uint8(len(b)/4-2))
	}
	return append(b, body...)
}

// Fragment is the fragment header of IPv6; Offset is in bytes.
type Fragment struct {
	ID     uint32
	Offset int
	More   bool
}

func (Fragment) number([]Layer) uint16 { return ProtoFragment }

func (l Fragment) encode(outer, inner []Layer, body []byte) []byte {
	b := []byte{uint8(next(append(outer, l), inner)), 0}
	b = binary.BigEndian.AppendUint16(b, uint16(l.Offset&^7)|bit(l.More))
	return append(binary.BigEndian.AppendUint32(b, l.ID), body...)
}
