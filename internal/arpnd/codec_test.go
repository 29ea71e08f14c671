// SPDX-License-Identifier: Apache-2.0

package arpnd

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

var (
	own     = MAC{2, 0, 0, 0, 0, 1}
	macA    = MAC{2, 0, 0, 0, 1, 10}
	ip1     = netip.MustParseAddr("10.0.0.1")
	ip9     = netip.MustParseAddr("10.0.0.9")
	six9    = netip.MustParseAddr("fd00::9")
	six1    = netip.MustParseAddr("fe80::1")
	nodes   = netip.MustParseAddr("ff02::1")
	any4    = netip.IPv4Unspecified()
	any6    = netip.IPv6Unspecified()
	groupHW = MAC{1, 0, 0x5e, 0, 0, 1}
)

func TestARPFrame(t *testing.T) {
	for _, c := range []struct {
		name string
		to   MAC
		dst  string
	}{
		{"everybody", MAC{}, "ffffffffffff"},
		{"unicast", macA, "02000000010a"},
	} {
		got, err := Question{From: ip1, MAC: own, Target: ip9, To: c.to}.Frame()
		want := c.dst + "020000000001" + "0806" + "0001080006040001" +
			"020000000001" + "0a000001" + "000000000000" + "0a000009" + strings.Repeat("00", 18)
		if hex.EncodeToString(got) != want || err != nil {
			t.Errorf("%s: %x, %v, want %s", c.name, got, err, want)
		}
	}
	if _, err := (Question{From: six1, MAC: own, Target: ip9}).Frame(); err == nil {
		t.Error("a request from an IPv6 address was built")
	}
}

// TestProbeFrames: a probe tells nobody an address of ours.
func TestProbeFrames(t *testing.T) {
	got, err := Question{From: any4, MAC: own, Target: ip9}.Frame()
	want := "ffffffffffff" + "020000000001" + "0806" + "0001080006040001" +
		"020000000001" + "00000000" + "000000000000" + "0a000009" + strings.Repeat("00", 18)
	if hex.EncodeToString(got) != want || err != nil {
		t.Errorf("IPv4: %x, %v, want %s", got, err, want)
	}
	got, err = Question{From: any6, MAC: own, Target: six9}.Frame()
	if err != nil {
		t.Fatal(err)
	}
	want = "3333ff000009" + "020000000001" + "86dd" + "6000000000183aff" + strings.Repeat("00", 16) +
		"ff0200000000000000000001ff000009" + "8700" + hex.EncodeToString(got[56:58]) + "00000000" +
		"fd000000000000000000000000000009"
	if hex.EncodeToString(got) != want {
		t.Errorf("IPv6: %x, want %s", got, want)
	}
	if _, _, _, ok := icmp6(got); !ok {
		t.Error("IPv6: the checksum is wrong")
	}
}

// TestAnnouncement: both forms of IPv4, and one of IPv6 that replaces what is known.
func TestAnnouncement(t *testing.T) {
	arps := func(op string, target string) string {
		return "ffffffffffff" + "020000000001" + "0806" + "000108000604" + op +
			"020000000001" + "0a000009" + target + "0a000009" + strings.Repeat("00", 18)
	}
	got, err := Announcement(ip9, own)
	if err != nil || len(got) != 2 || hex.EncodeToString(got[0]) != arps("0001", "000000000000") ||
		hex.EncodeToString(got[1]) != arps("0002", "020000000001") {
		t.Errorf("IPv4: %x, %v", got, err)
	}
	got, err = Announcement(six9, own)
	if err != nil || len(got) != 1 {
		t.Fatalf("IPv6: %x, %v", got, err)
	}
	want := "333300000001" + "020000000001" + "86dd" + "6000000000203aff" +
		"fd000000000000000000000000000009" + "ff020000000000000000000000000001" +
		"8800" + hex.EncodeToString(got[0][56:58]) + "20000000" + "fd000000000000000000000000000009" + "0201" + "020000000001"
	if hex.EncodeToString(got[0]) != want {
		t.Errorf("IPv6: %x, want %s", got[0], want)
	}
}

func TestReadARP(t *testing.T) {
	at9 := Heard{Addr: ip9, MAC: macA, From: macA, Override: true}
	answered, probed := at9, at9
	answered.Solicited, probed.Probe = true, true
	for _, c := range []struct {
		name  string
		frame []byte
		want  Heard // zero: nothing is told
	}{
		{"answer", arpPacket(arp.OperationReply, macA, ip9, own, ip1), answered},
		{"announcement, request", arpPacket(arp.OperationRequest, macA, ip9, MAC{}, ip9), at9},
		{"announcement, reply", arpPacket(arp.OperationReply, macA, ip9, MAC{}, ip9), at9},
		{"question", arpPacket(arp.OperationRequest, macA, ip9, MAC{}, ip1), at9},
		{"probe", arpPacket(arp.OperationRequest, macA, any4, MAC{}, ip9), probed},
		{"probe for nothing", arpPacket(arp.OperationRequest, macA, any4, MAC{}, any4), Heard{}},
		{"answer without address", arpPacket(arp.OperationReply, macA, any4, own, ip9), Heard{}},
		{"group address", arpPacket(arp.OperationReply, groupHW, ip9, own, ip1), Heard{}},
		{"no hardware address", arpPacket(arp.OperationReply, MAC{}, ip9, own, ip1), Heard{}},
		{"cut off", arpPacket(arp.OperationReply, macA, ip9, own, ip1)[:41], Heard{}},
		{"empty", nil, Heard{}},
	} {
		if got, ok := Read(c.frame); ok != (c.want != Heard{}) || ok && got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, ok, c.want)
		}
	}
}

func TestNDFrame(t *testing.T) {
	for _, c := range []struct {
		name   string
		to     MAC
		header string // Ethernet and IPv6
	}{
		{"everybody", MAC{}, "3333ff000009" + "020000000001" + "86dd" + "6000000000203aff" +
			"fe800000000000000000000000000001" + "ff0200000000000000000001ff000009"},
		{"unicast", macA, "02000000010a" + "020000000001" + "86dd" + "6000000000203aff" +
			"fe800000000000000000000000000001" + "fd000000000000000000000000000009"},
	} {
		got, err := Question{From: six1, MAC: own, Target: six9, To: c.to}.Frame()
		if err != nil {
			t.Fatal(err)
		}
		want := c.header + "8700" + hex.EncodeToString(got[56:58]) + "00000000" +
			"fd000000000000000000000000000009" + "0101" + "020000000001"
		if hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, want %s", c.name, got, want)
		}
		if _, _, _, ok := icmp6(got); !ok {
			t.Errorf("%s: the checksum is wrong", c.name)
		}
	}
	if _, err := (Question{From: ip1, MAC: own, Target: six9}).Frame(); err == nil {
		t.Error("a solicitation from an IPv4 address was built")
	}
}

func TestReadND(t *testing.T) {
	heard := func(m MAC, solicited, override bool) Heard {
		return Heard{Addr: six9, MAC: m, From: macA, Solicited: solicited, Override: override}
	}
	good := func() []byte { return advertisement(macA, six9, six1, macA, true, true) }
	edit := func(change func([]byte)) []byte { b := good(); change(b); return b }
	question := func(from netip.Addr) []byte {
		b, err := Question{From: from, MAC: macA, Target: six9}.Frame()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name  string
		frame []byte
		want  Heard // zero: nothing is told
	}{
		{"answer", good(), heard(macA, true, true)},
		{"answer without override", advertisement(macA, six9, six1, macA, true, false), heard(macA, true, false)},
		{"answer without address", advertisement(macA, six9, six1, MAC{}, true, false), heard(MAC{}, true, false)},
		{"announcement", advertisement(macA, six9, nodes, macA, false, true), heard(macA, false, true)},
		{"probe", question(any6), Heard{Addr: six9, MAC: macA, From: macA, Probe: true, Override: true}},
		{"question", question(six1), Heard{}},
		{"announcement without address", advertisement(macA, six9, nodes, MAC{}, false, true), Heard{}},
		{"solicited, to a group", advertisement(macA, six9, nodes, macA, true, true), Heard{}},
		{"group address", advertisement(macA, six9, six1, groupHW, true, true), Heard{}},
		{"wrong checksum", edit(func(b []byte) { b[56]++ }), Heard{}},
		{"routed", edit(func(b []byte) { b[21] = 254 }), Heard{}},
		{"not IPv6", edit(func(b []byte) { b[14] = 0x45 }), Heard{}},
		{"with a code", edit(func(b []byte) { b[55]++; b[57]-- }), Heard{}},
		{"length beyond the frame", edit(func(b []byte) { b[19]++ }), Heard{}},
		{"cut off", good()[:60], Heard{}},
	} {
		if got, ok := Read(c.frame); ok != (c.want != Heard{}) || ok && got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, ok, c.want)
		}
	}
}

// FuzzRead: what is taken from a frame is an address and a station's MAC address, or a confirmation
// without one.
func FuzzRead(f *testing.F) {
	f.Add(arpPacket(arp.OperationReply, macA, ip9, own, ip1))
	f.Add(arpPacket(arp.OperationRequest, macA, any4, MAC{}, ip9))
	f.Add(advertisement(macA, six9, six1, macA, true, true))
	f.Add(advertisement(macA, six9, six1, MAC{}, true, false))
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, ok := Read(frame)
		if !ok {
			return
		}
		told := h.MAC.Unicast() || h.MAC == MAC{} && h.Solicited && h.Addr.Is6()
		if !h.Addr.IsValid() || h.Addr.IsMulticast() && h.Addr.Is6() || !told || h.Probe && h.Solicited {
			t.Errorf("%+v", h)
		}
	})
}

// arpPacket builds a frame with an ARP packet, to the target's hardware address or everybody.
func arpPacket(op arp.Operation, hw MAC, sender netip.Addr, targetHW MAC, target netip.Addr) []byte {
	p, err := arp.NewPacket(op, hw[:], sender, targetHW[:], target)
	if err != nil {
		panic(err)
	}
	payload, _ := p.MarshalBinary()
	f := ethernet.Frame{Destination: ethernet.Broadcast, Source: hw[:], EtherType: ethernet.EtherTypeARP, Payload: payload}
	if targetHW != (MAC{}) {
		f.Destination = targetHW[:]
	}
	b, _ := f.MarshalBinary()
	return b
}

// advertisement builds a frame with a neighbour advertisement; a zero offer is left out.
func advertisement(hw MAC, target, dst netip.Addr, offer MAC, solicited, override bool) []byte {
	adv := &ndp.NeighborAdvertisement{TargetAddress: target, Solicited: solicited, Override: override}
	if offer != (MAC{}) {
		adv.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: offer[:]}}
	}
	msg, err := ndp.MarshalMessageChecksum(adv, target, dst)
	if err != nil {
		panic(err)
	}
	f := ethernet.Frame{
		Destination: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, Source: hw[:], EtherType: ethernet.EtherTypeIPv6,
		Payload: append(ipv6Header(target, dst, len(msg)), msg...),
	}
	b, _ := f.MarshalBinary()
	return b
}
