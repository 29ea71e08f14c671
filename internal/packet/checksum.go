// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Checksum is the Internet checksum (RFC 1071) of b, and of everything in more,
// with the field itself as it stands. It is 0 over data whose checksum is right.
func Checksum(b []byte, more ...[]byte) uint16 {
	var sum uint32
	for _, b := range append([][]byte{b}, more...) {
		for i := range b {
			sum += uint32(b[i]) << (8 * (1 - i%2))
		}
		sum = sum>>16 + sum&0xffff
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum)
}

// TransportChecksum is the checksum of a TCP or UDP segment or an ICMPv6
// message between two addresses: with their pseudo header.
func TransportChecksum(src, dst netip.Addr, protocol uint8, segment []byte) uint16 {
	pseudo := binary.BigEndian.AppendUint32(slices.Concat(src.AsSlice(), dst.AsSlice()), uint32(len(segment)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	return Checksum(pseudo, segment)
}

func transportChecksum(outer []Layer, protocol uint8, segment []byte) uint16 {
	src, dst, _ := addresses(outer)
	return TransportChecksum(src, dst, protocol, segment)
}
