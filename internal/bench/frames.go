// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"net/netip"
)

var (
	vip4     = netip.MustParseAddr("192.0.2.10")
	nat4     = netip.MustParseAddr("192.0.2.11") // the service by nat
	fullnat4 = netip.MustParseAddr("192.0.2.12")
	nat6     = netip.MustParseAddr("2001:db8::11")
	own4     = netip.MustParseAddr("10.255.0.1") // the director, for full-NAT
	vip6     = netip.MustParseAddr("2001:db8::10")
	cookie4  = netip.MustParseAddr("192.0.2.15") // SYNs are answered with cookies
	tunVIP4  = netip.MustParseAddr("192.0.2.13")
	markVIP4 = netip.MustParseAddr("192.0.2.14") // known by a mark only
	source4  = netip.MustParseAddr("10.0.0.1")
	nobody4  = netip.MustParseAddr("198.51.100.7")
	client4  = netip.MustParseAddr("10.128.0.1")
	client6  = netip.MustParseAddr("2001:db8:1::1")
	frameMAC = [12]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
)

const (
	port       = 80
	clientPort = 1024
	tcpSYN     = 0x02
	tcpACK     = 0x10
	tcpSize    = 20
)

// frame is a TCP segment of the client's without payload, 60 bytes at least.
// Checksums are left out: no program that is measured looks at them.
func frame(dst netip.Addr, flags byte) []byte {
	client := client4
	if dst.Is6() {
		client = client6
	}
	return segment(netip.AddrPortFrom(client, clientPort), netip.AddrPortFrom(dst, port), flags)
}

func segment(src, dst netip.AddrPort, flags byte) []byte {
	f := append([]byte(nil), frameMAC[:]...)
	if dst.Addr().Is6() {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, tcpSize, 6, 64)
	} else {
		f = append(f, 0x08, 0x00, 0x45, 0, 0, 20+tcpSize, 0, 0, 0, 0, 64, 6, 0, 0)
	}
	f = append(f, src.Addr().AsSlice()...)
	f = append(f, dst.Addr().AsSlice()...)
	f = append(f, tcp(src.Port(), dst.Port(), flags)...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

// withOptions is an IPv4 SYN with the options that Linux sends.
func withOptions(syn []byte) []byte {
	const ip, size = 14, 14 + 20 + tcpSize
	options := []byte{2, 4, 1460 >> 8, 1460 & 0xff, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7}
	f := append(syn[:size:size], options...)
	binary.BigEndian.PutUint16(f[ip+2:], uint16(len(f)-ip))
	f[ip+20+12] = byte(tcpSize+len(options)) / 4 << 4
	return f
}

func tcp(src, dst uint16, flags byte) []byte {
	h := make([]byte, tcpSize)
	binary.BigEndian.PutUint16(h, src)
	binary.BigEndian.PutUint16(h[2:], dst)
	h[12], h[13] = tcpSize/4<<4, flags
	return h
}
