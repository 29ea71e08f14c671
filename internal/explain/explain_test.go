// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/packet"
)

var device = net.HardwareAddr{2, 0, 0, 0, 0, 9}

func asked(protocol director.Protocol, client, virtual string) director.Question {
	return director.Question{Protocol: protocol, Client: netip.MustParseAddrPort(client), Virtual: netip.MustParseAddrPort(virtual)}
}

// TestFrames: the packet that is made is the one that was asked about.
func TestFrames(t *testing.T) {
	for name, c := range map[string]struct {
		protocol        director.Protocol
		client, virtual string
		segment         string
		length          int
		flags           byte // of TCP
	}{
		"syn":       {director.TCP, "198.51.100.7:40000", "192.0.2.1:80", "", 54, packet.SYN},
		"said syn":  {director.TCP, "198.51.100.7:40000", "192.0.2.1:80", "syn", 54, packet.SYN},
		"ack":       {director.TCP, "198.51.100.7:40000", "192.0.2.1:80", "ack", 54, packet.ACK},
		"fin, IPv6": {director.TCP, "[2001:db8::7]:40000", "[2001:db8::1]:80", "fin", 74, packet.FIN | packet.ACK},
		"rst":       {director.TCP, "198.51.100.7:40000", "192.0.2.1:80", "rst", 54, packet.RST},
		"udp":       {director.UDP, "198.51.100.7:40000", "192.0.2.1:53", "", 49, 0},
		"sctp":      {director.SCTP, "[2001:db8::7]:40000", "[2001:db8::1]:36412", "", 86, 0},
	} {
		t.Run(name, func(t *testing.T) {
			q := asked(c.protocol, c.client, c.virtual)
			q.Segment = c.segment
			b, err := frame(&q, device)
			if err != nil || len(b) != c.length {
				t.Fatalf("%d bytes (%v), want %d: %x", len(b), err, c.length, b)
			}
			addrs, transport := b[26:34], b[34:]
			protocol := b[23]
			if q.Client.Addr().Is6() {
				addrs, transport, protocol = b[22:54], b[54:], b[20]
			}
			half := len(addrs) / 2
			src, _ := netip.AddrFromSlice(addrs[:half])
			dst, _ := netip.AddrFromSlice(addrs[half:])
			sport, dport := binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])
			if got := asked(director.Protocol(protocol), netip.AddrPortFrom(src, sport).String(), netip.AddrPortFrom(dst, dport).String()); got != asked(c.protocol, c.client, c.virtual) {
				t.Errorf("the frame is of %+v", got)
			}
			if net.HardwareAddr(b[:6]).String() != device.String() {
				t.Errorf("the frame is to %x", b[:6])
			}
			if c.protocol == director.TCP && transport[13] != c.flags {
				t.Errorf("flags %#x, want %#x", transport[13], c.flags)
			}
		})
	}
}

func TestUnknownSegment(t *testing.T) {
	q := asked(director.TCP, "198.51.100.7:40000", "192.0.2.1:80")
	q.Segment = "urg"
	want := `unknown segment "urg" (known: syn, ack, fin, rst)`
	if _, err := frame(&q, device); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// attachedTo is a state with interfaces, and a persistent service that knows clients by their networks.
func attachedTo(list ...director.InterfaceState) *director.Snapshot {
	key := director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	return &director.Snapshot{Interfaces: list, Services: []director.ServiceState{
		{Key: key, Persistence: director.Persistence{Timeout: time.Minute, Prefix: 24}},
		{Key: director.MarkKey(7, false), Persistence: director.Persistence{Timeout: time.Minute}},
	}}
}

func TestEntrance(t *testing.T) {
	state := attachedTo(director.InterfaceState{Name: "gone", Error: "why"},
		director.InterfaceState{Name: "eth0.100", Device: "eth0", Index: 2}, director.InterfaceState{Name: "eth1", Device: "eth1", Index: 3})
	for name, want := range map[string]int{"": 2, "eth0.100": 2, "eth0": 2, "eth1": 3} {
		if got, err := entrance(state, name); err != nil || got.Index != want {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{"gone": "the program is not attached to interface gone (known: eth0.100, eth1)"} {
		if _, err := entrance(state, name); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", name, err, want)
		}
	}
	if _, err := entrance(attachedTo(), ""); err == nil || err.Error() != "the program is not attached to any interface" {
		t.Errorf("without any: %v", err)
	}
}

// TestTemplates: which of them is the client's.
func TestTemplates(t *testing.T) {
	of := func(client, virtual string, protocol director.Protocol, mark uint32) director.Conn {
		return director.Conn{Protocol: protocol, Client: netip.MustParseAddrPort(client), Virtual: netip.MustParseAddrPort(virtual), Mark: mark}
	}
	byAddress, byMark := asked(director.TCP, "198.51.100.7:40000", "192.0.2.1:80"), asked(director.UDP, "198.51.100.7:40000", "203.0.113.9:53")
	byMark.Mark = 7
	for name, c := range map[string]struct {
		q        director.Question
		template director.Conn
		want     bool
	}{
		"the network's":      {byAddress, of("198.51.100.0:0", "192.0.2.1:80", director.TCP, 0), true},
		"of all ports":       {byAddress, of("198.51.100.0:0", "192.0.2.1:0", director.TCP, 0), true},
		"of another network": {byAddress, of("198.51.101.0:0", "192.0.2.1:80", director.TCP, 0), false},
		"of another port":    {byAddress, of("198.51.100.0:0", "192.0.2.1:443", director.TCP, 0), false},
		"another address's":  {byAddress, of("198.51.100.0:0", "192.0.2.2:80", director.TCP, 0), false},
		"another protocol's": {byAddress, of("198.51.100.0:0", "192.0.2.1:80", director.UDP, 0), false},
		"the mark's":         {byMark, of("198.51.100.7:0", "0.0.0.0:0", 0, 7), true},
		"another mark's":     {byMark, of("198.51.100.7:0", "0.0.0.0:0", 0, 8), false},
		"another client's":   {byMark, of("198.51.100.8:0", "0.0.0.0:0", 0, 7), false},
	} {
		a := answer{state: attachedTo()}
		a.Question = c.q
		if got := a.serviceOf(&c.template); (got != nil) != c.want || c.want && got.Key.Mark != c.template.Mark {
			t.Errorf("%s: %+v, want one: %v", name, got, c.want)
		}
	}
}
