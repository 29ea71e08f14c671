// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// attributes walks over netlink attributes (struct nlattr: length, type, value, padding to 4).
// It stops at the first that does not fit.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min(aligned(size), len(b)):]
		}
	}
}

// aligned rounds a length up to netlink's alignment.
func aligned(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// appendAttr appends one attribute.
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, aligned(len(value))-len(value))...)
}

// u32 reads a number of four bytes; 0 when there are fewer.
func u32(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b))
}

// addr reads an address of 4 or 16 bytes; invalid for any other length.
func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// routePrefix reads the destination of a route notification. ok is false for what cannot change
// the answer to a query: other families and cached clones.
func routePrefix(b []byte) (p netip.Prefix, ok bool) {
	if len(b) < unix.SizeofRtMsg || binary.NativeEndian.Uint32(b[8:])&unix.RTM_F_CLONED != 0 {
		return p, false
	}
	var dst netip.Addr // without RTA_DST the route is the default
	switch b[0] {
	case unix.AF_INET:
		dst = netip.IPv4Unspecified()
	case unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	default:
		return p, false
	}
	for kind, value := range attributes(b[unix.SizeofRtMsg:]) {
		if kind == unix.RTA_DST {
			dst = addr(value)
		}
	}
	p, _ = dst.Prefix(int(b[1]))
	return p, p.IsValid()
}

// decodeRoute reads the answer to a query: a struct rtmsg and its attributes.
func decodeRoute(b []byte) (route, error) {
	if len(b) < unix.SizeofRtMsg {
		return route{}, fmt.Errorf("decode route: %d bytes are too few", len(b))
	}
	r := route{kind: b[7]}
	for kind, value := range attributes(b[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_OIF:
			r.link = u32(value)
		case unix.RTA_GATEWAY:
			r.gateway = addr(value)
		case unix.RTA_VIA: // a gateway of the other family (RFC 8950): family, then address
			r.gateway = addr(value[min(2, len(value)):])
		case unix.RTA_PREFSRC:
			r.source = addr(value)
		case unix.RTA_METRICS:
			r.mtu = metricMTU(value)
		case unix.RTA_ENCAP_TYPE:
			r.encap = true
		}
	}
	return r, nil
}

// metricMTU finds the MTU among a route's metrics; 0: none.
func metricMTU(metrics []byte) int {
	for kind, value := range attributes(metrics) {
		if kind == unix.RTAX_MTU {
			return u32(value)
		}
	}
	return 0
}
