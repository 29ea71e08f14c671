// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
)

// TunnelType is how packets travel to a real server by tun.
type TunnelType uint8

// The types of tunnel.
const (
	TunnelIPIP = TunnelType(directorTunnelTypeTUNNEL_IPIP)
	TunnelGUE  = TunnelType(directorTunnelTypeTUNNEL_GUE)
	TunnelGRE  = TunnelType(directorTunnelTypeTUNNEL_GRE)
)

// Tunnel is one between a director and a real server. Source and Destination are
// of one family, Inner is an address of the packets inside, for theirs.
type Tunnel struct {
	Type                TunnelType
	Source, Destination netip.Addr
	Inner               netip.Addr
	Port                uint16 // GUE
	Checksum            bool   // GUE and GRE
}

// Overhead is how much longer packets become, in bytes.
func (t Tunnel) Overhead() int { return len(t.head()) }

// Row is the tunnel as packets need it.
func (t Tunnel) Row() (row RealTunnel) {
	row.Type = uint8(t.Type)
	if t.Destination.Is6() {
		row.Flags |= uint8(directorTunnelFlagTUNNEL_IPV6)
	}
	if t.Checksum {
		row.Flags |= uint8(directorTunnelFlagTUNNEL_CHECKSUM)
	}
	row.Size = uint8(copy(row.Head[:], t.head()))
	return row
}

// SameTunnel reports whether packets get the headers that the other row says,
// whatever either has learned of the path.
func (r *Real) SameTunnel(row RealTunnel) bool {
	row.Learned = r.Tunnel.Learned
	return r.Tunnel == row
}

// TunnelWritten is the tunnel that a row has, but for the family inside; false
// if it has none.
func (r *Real) TunnelWritten() (t Tunnel, ok bool) {
	row := &r.Tunnel
	head := row.Head[:min(int(row.Size), len(row.Head))]
	t.Type = TunnelType(row.Type)
	t.Checksum = row.Flags&uint8(directorTunnelFlagTUNNEL_CHECKSUM) != 0
	from, shim := 12, 20
	if row.Flags&uint8(directorTunnelFlagTUNNEL_IPV6) != 0 {
		from, shim = 8, 40
	}
	if len(head) < shim {
		return Tunnel{}, false
	}
	between := (shim - from) / 2
	t.Source, _ = netip.AddrFromSlice(head[from:][:between])
	t.Destination, _ = netip.AddrFromSlice(head[from+between:][:between])
	if t.Type == TunnelGUE && len(head) >= shim+4 {
		t.Port = binary.BigEndian.Uint16(head[shim+2:])
	}
	return t, true
}

// Protocols: IANA's numbers of IP protocols and EtherTypes.
const (
	protocolIPIP = 4
	protocolUDP  = 17
	protocolIPv6 = 41
	protocolGRE  = 47
	typeIPv4     = 0x0800
	typeIPv6     = 0x86dd
)

// head are the outer headers, 0 where packets differ.
func (t Tunnel) head() []byte {
	protocol, shim := t.shim()
	if t.Destination.Is6() {
		head := append([]byte{0x60, 0, 0, 0, 0, 0, protocol, 0}, t.Source.AsSlice()...)
		return append(append(head, t.Destination.AsSlice()...), shim...)
	}
	head := append([]byte{0x45, 8: 0, 9: protocol, 11: 0}, t.Source.AsSlice()...)
	return append(append(head, t.Destination.AsSlice()...), shim...)
}

// shim is what stands between the IP headers, and how the outer one calls it.
func (t Tunnel) shim() (protocol uint8, shim []byte) {
	family, ethernet := uint8(protocolIPIP), uint16(typeIPv4)
	if t.Inner.Is6() {
		family, ethernet = protocolIPv6, typeIPv6
	}
	switch t.Type {
	case TunnelGUE:
		shim = make([]byte, 12)
		binary.BigEndian.PutUint16(shim[2:], t.Port)
		shim[9] = family
		return protocolUDP, shim
	case TunnelGRE:
		shim = binary.BigEndian.AppendUint16([]byte{0, 0}, ethernet)
		if t.Checksum {
			shim[0] = 0x80
			shim = append(shim, 0, 0, 0, 0)
		}
		return protocolGRE, shim
	default:
		return family, nil
	}
}
