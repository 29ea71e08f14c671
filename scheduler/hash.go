// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// buckets is the table size of dh and sh: Debian builds both with 2^8.
const buckets = 256

// golden is Linux's GOLDEN_RATIO_32.
const golden = 0x61C88647

// DHHash returns the bucket, 0 to 255, of a destination address in dh's table.
func DHHash(dst netip.Addr) uint32 { return fold(dst) * golden >> 24 }

// SHHash returns the bucket, 0 to 255, of a source in sh's table; port is 0
// without sh-port.
func SHHash(src netip.Addr, port uint16) uint32 { return (fold(src) + uint32(port)) * golden >> 24 }

// MHHash returns the hash of a source for mh, to be taken modulo the table size;
// port is 0 without mh-port, offset is 0 except for mh-fallback's further tries.
// It is SipHash-1-3 as on 64-bit kernels; 32-bit ones use another hash.
func MHHash(src netip.Addr, port uint16, offset uint32) uint32 {
	return sip32(mhKey1, fold(src)+uint32(port)+offset)
}

// fold makes one word of an address, in host order: IPv6's four words are
// combined by exclusive or, no address is 0.
func fold(a netip.Addr) uint32 {
	if !a.Is6() {
		return v4Word(a)
	}
	b := a.As16()
	return binary.BigEndian.Uint32(b[0:]) ^ binary.BigEndian.Uint32(b[4:]) ^
		binary.BigEndian.Uint32(b[8:]) ^ binary.BigEndian.Uint32(b[12:])
}

func v4Word(a netip.Addr) uint32 {
	if !a.IsValid() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// sip is SipHash-1-3 (one round per word, three at the end).
type sip struct{ v0, v1, v2, v3 uint64 }

// newSip starts with both halves of the key equal, as mh has them.
func newSip(key uint64) sip {
	return sip{
		v0: key ^ 0x736f6d6570736575,
		v1: key ^ 0x646f72616e646f6d,
		v2: key ^ 0x6c7967656e657261,
		v3: key ^ 0x7465646279746573,
	}
}

func (s *sip) round() {
	s.v0 += s.v1
	s.v1 = bits.RotateLeft64(s.v1, 13) ^ s.v0
	s.v0 = bits.RotateLeft64(s.v0, 32)
	s.v2 += s.v3
	s.v3 = bits.RotateLeft64(s.v3, 16) ^ s.v2
	s.v0 += s.v3
	s.v3 = bits.RotateLeft64(s.v3, 21) ^ s.v0
	s.v2 += s.v1
	s.v1 = bits.RotateLeft64(s.v1, 17) ^ s.v2
	s.v2 = bits.RotateLeft64(s.v2, 32)
}

// write takes eight bytes of the message in little-endian order; the last word
// carries the message's length in its top byte.
func (s *sip) write(word uint64) {
	s.v3 ^= word
	s.round()
	s.v0 ^= word
}

func (s *sip) sum() uint64 {
	s.v2 ^= 0xff
	s.round()
	s.round()
	s.round()
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3
}

// sip32 is the hash of a 4-byte message, cut to 32 bits.
func sip32(key uint64, v uint32) uint32 {
	s := newSip(key)
	s.write(4<<56 | uint64(v))
	return uint32(s.sum())
}
