// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"slices"
)

// MAC is a link-layer address.
type MAC [6]byte

// Ethernet is the head of a frame. Short frames are padded to Pad bytes with 0xee.
type Ethernet struct {
	Dst, Src MAC
	Type     *uint16
	Pad      int
}

func (Ethernet) number([]Layer) uint16 { return 0 }

func (l Ethernet) encode(outer, inner []Layer, body []byte) []byte {
	b := slices.Concat(l.Dst[:], l.Src[:])
	b = binary.BigEndian.AppendUint16(b, or(l.Type, next(append(outer, l), inner)))
	b = append(b, body...)
	for len(b) < l.Pad {
		b = append(b, 0xee)
	}
	return b
}

// VLAN is a tag; TPID is the EtherType in front of it, TypeVLAN unless set.
type VLAN struct {
	TPID, TCI uint16
	Type      *uint16
}

func (l VLAN) number([]Layer) uint16 {
	if l.TPID == 0 {
		return TypeVLAN
	}
	return l.TPID
}

func (l VLAN) encode(outer, inner []Layer, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, l.TCI)
	b = binary.BigEndian.AppendUint16(b, or(l.Type, next(append(outer, l), inner)))
	return append(b, body...)
}
