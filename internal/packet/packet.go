// SPDX-License-Identifier: Apache-2.0

// Package packet builds frames out of layers, for tests and benchmarks:
//
//	packet.Build(
//		packet.Ethernet{Dst: director, Src: client},
//		packet.IPv4{Src: a, Dst: b, TTL: new(uint8(1))},
//		packet.TCP{SrcPort: 40000, DstPort: 80, Flags: packet.SYN},
//		packet.Data("hello"),
//	)
//
// Lengths, checksums and the numbers of the next protocols are computed. A
// field that is a pointer overrides what would be computed, or the default, so
// that a test can have any of them wrong.
package packet

import (
	"net/netip"
	"slices"
)

// EtherTypes and IP protocols that layers stand for.
const (
	TypeIPv4      = 0x0800
	TypeVLAN      = 0x8100
	TypeIPv6      = 0x86dd
	TypeQinQ      = 0x88a8
	ProtoHopByHop = 0
	ProtoICMP     = 1
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoRouting  = 43
	ProtoFragment = 44
	ProtoAH       = 51
	ProtoICMPv6   = 58
	ProtoNone     = 59
	ProtoDestOpts = 60
	ProtoSCTP     = 132
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Layer is one header with all that it computes about what is inside.
type Layer interface {
	// number is what the layer in front calls this one; outer are all in front.
	number(outer []Layer) uint16
	// encode returns header and body.
	encode(outer, inner []Layer, body []byte) []byte
}

// Build encodes layers, the outermost first.
func Build(layers ...Layer) []byte { return build(nil, layers) }

func build(outer, layers []Layer) []byte {
	var b []byte
	for i := len(layers) - 1; i >= 0; i-- {
		b = layers[i].encode(slices.Concat(outer, layers[:i]), layers[i+1:], b)
	}
	return b
}

// Fragments builds a packet whose IP payload is cut into pieces of at most size
// bytes, a multiple of 8. Fragment headers of IPv6 come after the extension
// headers that layers name. id identifies the packet.
func Fragments(id uint32, size int, layers ...Layer) [][]byte {
	n := slices.IndexFunc(layers, func(l Layer) bool { return !isOuter(l) })
	whole := Raw{layers[n].number(layers[:n]), build(layers[:n], layers[n:])}
	var frames [][]byte
	for offset := 0; offset < len(whole.Data); offset += size {
		end := min(offset+size, len(whole.Data))
		piece := Raw{whole.Protocol, whole.Data[offset:end]}
		frames = append(frames, Build(cut(layers[:n], Fragment{id, offset, end < len(whole.Data)}, piece)...))
	}
	return frames
}

func isOuter(l Layer) bool {
	switch l.(type) {
	case Ethernet, VLAN, IPv4, IPv6, Extension:
		return true
	}
	return false
}

func cut(outer []Layer, f Fragment, piece Raw) []Layer {
	outer = slices.Clone(outer)
	for i := range outer {
		if ip, ok := outer[i].(IPv4); ok {
			ip.ID, ip.Offset, ip.More = uint16(f.ID), f.Offset, f.More
			outer[i] = ip
			return append(outer, piece)
		}
	}
	return append(outer, f, piece)
}

// Data is what no header describes.
type Data []byte

func (Data) number(outer []Layer) uint16 { return inIP(outer, ProtoNone, 0x88b5) }

func (l Data) encode(_, _ []Layer, body []byte) []byte { return slices.Concat(l, body) }

// Raw is Data with a number: of an EtherType, or an IP protocol.
type Raw struct {
	Protocol uint16
	Data     []byte
}

func (l Raw) number([]Layer) uint16 { return l.Protocol }

func (l Raw) encode(_, _ []Layer, body []byte) []byte { return slices.Concat(l.Data, body) }

// addresses are those of the innermost IP header.
func addresses(outer []Layer) (src, dst netip.Addr, ok bool) {
	for _, l := range slices.Backward(outer) {
		switch ip := l.(type) {
		case IPv4:
			return ip.Src, ip.Dst, true
		case IPv6:
			return ip.Src, ip.Dst, true
		}
	}
	return src, dst, false
}

// inIP chooses by whether the layer in front of it belongs to IP.
func inIP(outer []Layer, inside, outside uint16) uint16 {
	if _, _, ok := addresses(outer); ok {
		return inside
	}
	return outside
}

func next(outer, inner []Layer) uint16 {
	if len(inner) == 0 {
		return Data(nil).number(outer)
	}
	return inner[0].number(outer)
}

func or[T any](value *T, otherwise T) T {
	if value == nil {
		return otherwise
	}
	return *value
}

func bit(b bool) uint16 {
	if b {
		return 1
	}
	return 0
}
