// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/arp"
	"golang.org/x/sys/unix"
)

var (
	own     = mac{2, 0, 0, 0, 0, 1}
	ip1     = netip.MustParseAddr("10.0.0.1")
	ip9     = netip.MustParseAddr("10.0.0.9")
	six9    = netip.MustParseAddr("fd00::9")
	six1    = netip.MustParseAddr("fe80::1")
	nodes   = netip.MustParseAddr("ff02::1")
	groupHW = mac{1, 0, 0x5e, 0, 0, 1}
)

func TestARPFrame(t *testing.T) {
	for _, c := range []struct {
		name string
		to   mac
		dst  string
	}{
		{"everybody", mac{}, "ffffffffffff"},
		{"unicast", macA, "02000000010a"},
	} {
		got, err := arpFrame(question{from: ip1, mac: own, target: ip9, to: c.to})
		want := c.dst + "020000000001" + "0806" + "0001080006040001" +
			"020000000001" + "0a000001" + "000000000000" + "0a000009" + strings.Repeat("00", 18)
		if hex.EncodeToString(got) != want || err != nil {
			t.Errorf("%s: %x, %v, want %s", c.name, got, err, want)
		}
	}
	if _, err := arpFrame(question{from: six1, mac: own, target: ip9}); err == nil {
		t.Error("a request from an IPv6 address was built")
	}
}

func TestReadARP(t *testing.T) {
	at9 := neighKey{0, ip9}
	for _, c := range []struct {
		name  string
		frame []byte
		want  sighting // zero: nothing is told
	}{
		{"answer to us", arpPacket(arp.OperationReply, macA, ip9, own, ip1), sighting{at9, macA, true, true}},
		{"announcement, request", arpPacket(arp.OperationRequest, macA, ip9, mac{}, ip9), sighting{at9, macA, false, true}},
		{"announcement, reply", arpPacket(arp.OperationReply, macA, ip9, mac{}, ip9), sighting{at9, macA, false, true}},
		{"question of another", arpPacket(arp.OperationRequest, macA, ip9, mac{}, ip1), sighting{at9, macA, false, true}},
		{"probe", arpPacket(arp.OperationRequest, macA, netip.IPv4Unspecified(), mac{}, ip9), sighting{}},
		{"our own", arpPacket(arp.OperationRequest, own, ip1, mac{}, ip9), sighting{}},
		{"group address", arpPacket(arp.OperationReply, groupHW, ip9, own, ip1), sighting{}},
		{"no address", arpPacket(arp.OperationReply, mac{}, ip9, own, ip1), sighting{}},
		{"cut off", arpPacket(arp.OperationReply, macA, ip9, own, ip1)[:41], sighting{}},
		{"empty", nil, sighting{}},
		{"advertisement", advertisement(macA, six9, six1, macA, true, true), sighting{}},
	} {
		if got, ok := readARP(c.frame, own); ok != (c.want != sighting{}) || ok && got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, ok, c.want)
		}
	}
}

func TestNDFrame(t *testing.T) {
	for _, c := range []struct {
		name   string
		to     mac
		header string // Ethernet and IPv6
	}{
		{"everybody", mac{}, "3333ff000009" + "020000000001" + "86dd" + "6000000000203aff" +
			"fe800000000000000000000000000001" + "ff0200000000000000000001ff000009"},
		{"unicast", macA, "02000000010a" + "020000000001" + "86dd" + "6000000000203aff" +
			"fe800000000000000000000000000001" + "fd000000000000000000000000000009"},
	} {
		got, err := ndFrame(question{from: six1, mac: own, target: six9, to: c.to})
		if err != nil {
			t.Fatal(err)
		}
		want := c.header + "8700" + hex.EncodeToString(got[56:58]) + "00000000" +
			"fd000000000000000000000000000009" + "0101" + "020000000001"
		if hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, want %s", c.name, got, want)
		}
		if _, _, ok := icmp6(got); !ok {
			t.Errorf("%s: the checksum is wrong", c.name)
		}
	}
	if _, err := ndFrame(question{from: six1, mac: own, target: ip9}); err == nil {
		t.Error("a solicitation for an IPv4 address was built")
	}
}

func TestReadND(t *testing.T) {
	at9 := neighKey{0, six9}
	good := func() []byte { return advertisement(macA, six9, six1, macA, true, true) }
	edit := func(change func([]byte)) []byte { b := good(); change(b); return b }
	for _, c := range []struct {
		name  string
		frame []byte
		want  sighting // zero: nothing is told
	}{
		{"answer", good(), sighting{at9, macA, true, true}},
		{"answer without override", advertisement(macA, six9, six1, macA, true, false), sighting{at9, macA, true, false}},
		{"answer without address", advertisement(macA, six9, six1, mac{}, true, false), sighting{at9, mac{}, true, false}},
		{"announcement", advertisement(macA, six9, nodes, macA, false, true), sighting{at9, macA, false, true}},
		{"announcement without address", advertisement(macA, six9, nodes, mac{}, false, true), sighting{}},
		{"solicited, to a group", advertisement(macA, six9, nodes, macA, true, true), sighting{}},
		{"our own", advertisement(own, six9, nodes, own, false, true), sighting{}},
		{"group address", advertisement(macA, six9, six1, groupHW, true, true), sighting{}},
		{"wrong checksum", edit(func(b []byte) { b[56]++ }), sighting{}},
		{"routed", edit(func(b []byte) { b[21] = 254 }), sighting{}},
		{"not IPv6", edit(func(b []byte) { b[14] = 0x45 }), sighting{}},
		{"solicitation", edit(func(b []byte) { b[54]--; b[56]++ }), sighting{}},
		{"with a code", edit(func(b []byte) { b[55]++; b[57]-- }), sighting{}},
		{"length beyond the frame", edit(func(b []byte) { b[19]++ }), sighting{}},
		{"cut off", good()[:60], sighting{}},
		{"empty", nil, sighting{}},
	} {
		if got, ok := readND(c.frame, own); ok != (c.want != sighting{}) || ok && got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, ok, c.want)
		}
	}
}

// FuzzReadFrames: what is taken from a frame is an address of the family and a station's MAC
// address other than ours, or a confirmation without one.
func FuzzReadFrames(f *testing.F) {
	f.Add(arpPacket(arp.OperationReply, macA, ip9, own, ip1))
	f.Add(advertisement(macA, six9, six1, macA, true, true))
	f.Add(advertisement(macA, six9, six1, mac{}, true, false))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if s, ok := readARP(frame, own); ok && (!s.key.addr.Is4() || !s.mac.unicast() || s.mac == own) {
			t.Errorf("ARP: %+v", s)
		}
		s, ok := readND(frame, own)
		if ok && (!s.key.addr.Is6() || s.mac == own || !s.mac.unicast() && (s.mac != mac{} || !s.solicited)) {
			t.Errorf("ND: %+v", s)
		}
	})
}

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
