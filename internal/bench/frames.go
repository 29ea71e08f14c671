// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"net/netip"
)

var (
	vip4     = netip.MustParseAddr("192.0.2.10")
	vip6     = netip.MustParseAddr("2001:db8::10")
	tunVIP4  = netip.MustParseAddr("192.0.2.11")
	source4  = netip.MustParseAddr("10.0.0.1")
	nobody4  = netip.MustParseAddr("198.51.100.7")
	client4  = netip.MustParseAddr("10.128.0.1")
	client6  = netip.MustParseAddr("2001:db8:1::1")
	frameMAC = [12]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
)

const (
	port    = 80
	tcpSYN  = 0x02
	tcpACK  = 0x10
	tcpSize = 20
)

// frame is a TCP segment without payload, 60 bytes at least. Checksums are
// left out: no program that is measured looks at them.
func frame(dst netip.Addr, flags byte) []byte {
	if dst.Is4() {
		return frame4(dst, flags)
	}
	f := append([]byte(nil), frameMAC[:]...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, tcpSize, 6, 64)
	f = append(f, client6.AsSlice()...)
	f = append(f, dst.AsSlice()...)
	return append(f, tcp(flags)...)
}

func frame4(dst netip.Addr, flags byte) []byte {
	f := append([]byte(nil), frameMAC[:]...)
	f = append(f, 0x08, 0x00, 0x45, 0, 0, 20+tcpSize, 0, 0, 0, 0, 64, 6, 0, 0)
	f = append(f, client4.AsSlice()...)
	f = append(f, dst.AsSlice()...)
	f = append(f, tcp(flags)...)
	return append(f, make([]byte, 60-len(f))...)
}

func tcp(flags byte) []byte {
	h := make([]byte, tcpSize)
	binary.BigEndian.PutUint16(h, 1024)
	binary.BigEndian.PutUint16(h[2:], port)
	h[12], h[13] = tcpSize/4<<4, flags
	return h
}
