// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	own     = mac{2, 0, 0, 0, 0, 1}
	ip1     = netip.MustParseAddr("10.0.0.1")
	ip9     = netip.MustParseAddr("10.0.0.9")
	six9    = netip.MustParseAddr("fd00::9")
	six1    = netip.MustParseAddr("fe80::1")
	groupHW = mac{1, 0, 0x5e, 0, 0, 1}
)

// rtmsg builds a route message.
func rtmsg(family, bits, kind byte, flags uint32, attrs ...[]byte) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1], b[7] = family, bits, kind
	b[8], b[9] = byte(flags), byte(flags>>8)
	return append(b, bytes.Join(attrs, nil)...)
}

func attr(kind uint16, value ...byte) []byte { return appendAttr(nil, kind, value) }

func TestDecodeRoute(t *testing.T) {
	gateway := netip.MustParseAddr("10.0.0.254")
	for _, c := range []struct {
		name string
		msg  []byte
		want route
	}{
		{"all there is", rtmsg(unix.AF_INET, 32, unix.RTN_UNICAST, unix.RTM_F_CLONED,
			attr(unix.RTA_DST, 10, 0, 0, 9), attr(unix.RTA_OIF, 3, 0, 0, 0), attr(unix.RTA_GATEWAY, 10, 0, 0, 254),
			attr(unix.RTA_PREFSRC, 10, 0, 0, 1), attr(unix.RTA_METRICS|unix.NLA_F_NESTED, append(attr(unix.RTAX_HOPLIMIT, 9, 0, 0, 0), attr(unix.RTAX_MTU, 0x78, 5, 0, 0)...)...)),
			route{kind: unix.RTN_UNICAST, link: 3, gateway: gateway, source: ip1, mtu: 1400}},
		{"gateway of the other family", rtmsg(unix.AF_INET, 32, unix.RTN_UNICAST, 0,
			attr(unix.RTA_VIA, append([]byte{unix.AF_INET6, 0}, six1.AsSlice()...)...)),
			route{kind: unix.RTN_UNICAST, gateway: six1}},
		{"encapsulation", rtmsg(unix.AF_INET, 32, unix.RTN_UNICAST, 0, attr(unix.RTA_ENCAP_TYPE, 1, 0)),
			route{kind: unix.RTN_UNICAST, encap: true}},
		{"short attributes", rtmsg(unix.AF_INET, 32, unix.RTN_LOCAL, 0, attr(unix.RTA_OIF, 1), attr(unix.RTA_VIA)),
			route{kind: unix.RTN_LOCAL}},
	} {
		if got, err := decodeRoute(c.msg); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
	if _, err := decodeRoute(make([]byte, unix.SizeofRtMsg-1)); err == nil {
		t.Error("a short message was decoded")
	}
}

func TestRoutePrefix(t *testing.T) {
	for _, c := range []struct {
		name string
		msg  []byte
		want string // empty: of no interest
	}{
		{"IPv4", rtmsg(unix.AF_INET, 24, 1, 0, attr(unix.RTA_DST, 10, 0, 0, 0)), "10.0.0.0/24"},
		{"IPv4 default", rtmsg(unix.AF_INET, 0, 1, 0), "0.0.0.0/0"},
		{"IPv6", rtmsg(unix.AF_INET6, 64, 1, 0, attr(unix.RTA_DST, six9.AsSlice()...)), "fd00::/64"},
		{"IPv6 default", rtmsg(unix.AF_INET6, 0, 1, 0), "::/0"},
		{"clone", rtmsg(unix.AF_INET6, 128, 1, unix.RTM_F_CLONED, attr(unix.RTA_DST, six9.AsSlice()...)), ""},
		{"MPLS", rtmsg(unix.AF_MPLS, 20, 1, 0), ""},
		{"impossible length", rtmsg(unix.AF_INET, 33, 1, 0), ""},
		{"short", make([]byte, 4), ""},
	} {
		p, ok := routePrefix(c.msg)
		if ok != (c.want != "") || ok && p.String() != c.want {
			t.Errorf("%s: %v, %v, want %q", c.name, p, ok, c.want)
		}
	}
}

// FuzzRoutes: reading a message of any content ends, and gives prefixes that are in order.
func FuzzRoutes(f *testing.F) {
	f.Add(rtmsg(unix.AF_INET, 24, 1, 0, attr(unix.RTA_DST, 10, 0, 0, 0), attr(unix.RTA_METRICS, attr(unix.RTAX_MTU, 1)...)))
	f.Add(rtmsg(unix.AF_INET6, 64, 1, 0, attr(unix.RTA_VIA, 1, 2, 3)))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if p, ok := routePrefix(msg); ok && (!p.IsValid() || p != p.Masked()) {
			t.Errorf("prefix %v", p)
		}
		if _, err := decodeRoute(msg); err != nil && len(msg) >= unix.SizeofRtMsg {
			t.Errorf("decode: %v", err)
		}
	})
}
