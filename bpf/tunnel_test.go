// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"xdplvs/internal/packet"
)

// tunnelTypes are all that there are.
var tunnelTypes = []struct {
	name string
	Tunnel
	overhead int // without the outer IP header
}{
	{"ipip", Tunnel{Type: TunnelIPIP}, 0},
	{"gue", Tunnel{Type: TunnelGUE, Port: 6080}, 12},
	{"gue with checksum", Tunnel{Type: TunnelGUE, Port: 6080, Checksum: true}, 12},
	{"gre", Tunnel{Type: TunnelGRE}, 4},
	{"gre with checksum", Tunnel{Type: TunnelGRE, Checksum: true}, 8},
}

// tunnelReal makes a real server one by tun; outer6: over IPv6.
func (r *rig) tunnelReal(name string, t Tunnel, outer6 bool) Tunnel {
	t.Source, t.Destination, t.Inner = addr("10.2.0.254"), netip.AddrFrom4([4]byte{10, 2, 0, name[0]}), r.f.vip
	if outer6 {
		t.Source, t.Destination = addr("fd02::fe"), netip.AddrFrom16([16]byte{0xfd, 2, 15: name[0]})
	}
	row := r.real(name)
	row.Method = uint8(directorForwardMethodMETHOD_TUN)
	row.Addr = t.Destination.As16()
	row.Tunnel = t.Row()
	r.keys.MarkReal(row)
	return t
}

// outer is what the outer headers of one packet say.
type outer struct {
	tos, ttl uint8
	df       bool
	ident    uint16
	hash     uint32 // of the flow
}

// packed is the frame that leaves when a frame arrives, built from nothing but
// what it should be.
func packed(in []byte, row *Real, t Tunnel, o outer) ([]byte, error) {
	v, err := look(in)
	if err != nil {
		return nil, err
	}
	inner, err := forwarded(in, &Real{})
	if err != nil {
		return nil, err
	}
	inner = inner[14:]
	layers := []packet.Layer{packet.Ethernet{Dst: packet.MAC(row.Mac[:6]), Src: packet.MAC(row.Mac[6:])}}
	for i := range row.Vlans {
		layers = append(layers, packet.VLAN{TPID: be16(row.Tpid[i]), TCI: be16(row.Vlan[i])})
	}
	if t.Destination.Is6() {
		layers = append(layers, packet.IPv6{Src: t.Source, Dst: t.Destination, TrafficClass: o.tos, HopLimit: &o.ttl, FlowLabel: o.hash & 0xfffff})
	} else {
		layers = append(layers, packet.IPv4{Src: t.Source, Dst: t.Destination, TOS: o.tos, TTL: &o.ttl, DontFragment: o.df, ID: o.ident})
	}
	switch udp := (packet.UDP{SrcPort: flowPort(o.hash), DstPort: t.Port}); {
	case t.Type == TunnelGUE && t.Checksum:
		layers = append(layers, udp, packet.GUE{})
	case t.Type == TunnelGUE:
		udp.Checksum = new(uint16)
		layers = append(layers, udp, packet.GUE{})
	case t.Type == TunnelGRE:
		layers = append(layers, packet.GRE{Checksum: t.Checksum})
	}
	protocol := uint16(packet.ProtoIPIP)
	if v.v6 {
		protocol = packet.ProtoIPv6
	}
	out := packet.Build(append(layers, packet.Raw{Protocol: protocol, Data: inner[:v.length]})...)
	return append(out, inner[v.length:]...), nil // and the frame's padding
}

// flowPort is a flow's source port, in Linux's default range of local ports.
func flowPort(hash uint32) uint16 { return uint16(32768 + uint64(hash)*(60999-32768+1)>>32) }

// identOf is the identification of an outer IPv4 header.
func identOf(frame []byte, row *Real) uint16 {
	return binary.BigEndian.Uint16(frame[14+4*int(row.Vlans)+4:])
}

// tunnelShapes are packets of known connections, and what the outer header says of each.
var tunnelShapes = []struct {
	name    string
	send    func(...change) send
	changes []change
	tos     uint8
	ttl     uint8
	df      bool
}{
	{name: "a segment", send: ackSegment, tos: 0xb8, ttl: 63},
	{name: "a datagram", send: udp, tos: 0xb8, ttl: 63},
	{name: "padding", send: ackSegment, changes: []change{noData, padded}, tos: 0xb8, ttl: 63},
	{name: "nothing but headers", send: udp, changes: []change{noData}, tos: 0xb8, ttl: 63},
	{name: "odd length", send: ackSegment, changes: []change{longer(1301)}, tos: 0xb8, ttl: 63},
	{name: "whole blocks", send: ackSegment, changes: []change{dataOf(1024)}, tos: 0xb8, ttl: 63},
	{name: "large", send: udp, changes: []change{dataOf(3000)}, tos: 0xb8, ttl: 63},
	{name: "options and extension headers", send: ackSegment, changes: []change{options}, tos: 0xb8, ttl: 63},
	{name: "the last TTL", send: ackSegment, changes: []change{ttl(2)}, tos: 0xb8, ttl: 1},
	{name: "congestion experienced", send: ackSegment, changes: []change{trafficClass(0xbb)}, tos: 0xba, ttl: 63},
	{name: "ECT(1)", send: ackSegment, changes: []change{trafficClass(0xb9)}, tos: 0xb9, ttl: 63},
	{name: "ECT(0)", send: ackSegment, changes: []change{trafficClass(0x02)}, tos: 0x02, ttl: 63},
	{name: "don't fragment", send: ackSegment, changes: []change{dontFragment}, tos: 0xb8, ttl: 63, df: true},
	{name: "a tag", send: ackSegment, changes: []change{tag(0x8100, 0x2064)}, tos: 0xb8, ttl: 63},
	{name: "two tags", send: udp, changes: []change{tag(0x88a8, 7), tag(0x8100, 8)}, tos: 0xb8, ttl: 63},
	{name: "a checksum of 0", send: udp, changes: []change{withUDP(func(l4 *packet.UDP) { l4.Checksum = new(uint16) })}, tos: 0xb8, ttl: 63},
}

func ackSegment(changes ...change) send { return tcp(ack, changes...) }

// trafficClass sets DSCP and ECN, with the IPv4 header's checksum right.
func trafficClass(tos uint8) change {
	return edit(func(b []byte) []byte {
		if b[12] == 0x86 {
			b[14], b[15] = 0x60|tos>>4, tos<<4|b[15]&15
			return b
		}
		b[15] = tos
		return checked4(b)
	})
}

// dontFragment is IPv4's.
func dontFragment(m *message) {
	m.edits = append(m.edits, func(b []byte) []byte {
		if b[12] == 0x86 {
			return b
		}
		b[14+6] |= 0x40
		return checked4(b)
	})
}

// checked4 gives the IPv4 header of an untagged frame its checksum.
func checked4(b []byte) []byte {
	b[24], b[25] = 0, 0
	binary.BigEndian.PutUint16(b[24:], packet.Checksum(b[14:14+int(b[14]&15)*4]))
	return b
}

// TestTunnels compares every byte of what leaves by tun, in each type and
// combination of families, with a packet that was built for it.
func TestTunnels(t *testing.T) {
	for _, f := range families {
		for _, tt := range tunnelTypes {
			for _, outer6 := range []bool{false, true} {
				for tags := range uint8(3) {
					t.Run(fmt.Sprintf("%s/%s/outer IPv6 %v/%d tags", f.name, tt.name, outer6, tags), func(t *testing.T) {
						r := smallRig(t, f)
						r.plan("web", 0, "a")
						r.plan("dns", 0, "d")
						tunnels := map[string]Tunnel{}
						for _, name := range []string{"a", "d"} {
							tunnels[name] = r.tunnelReal(name, tt.Tunnel, outer6)
							wantTags(r.real(name), tags)
						}
						r.tunnelShapes(t, tunnels)
						r.check(t)
						r.checkTraffic(t)
					})
				}
			}
		}
	}
}

// tunnelShapes begins a connection with each service, then sends all shapes twice.
func (r *rig) tunnelShapes(t *testing.T, tunnels map[string]Tunnel) {
	t.Helper()
	idents := map[uint16]bool{}
	mustPack := func(what, real, verdict string, in []byte, o outer, conns uint64) {
		t.Helper()
		row := r.real(real)
		p := need(look(in))(t)
		r.account(real, uint64(p.length), conns)
		got := r.send(t, bytes.Clone(in))
		mustVerdict(t, what, got, verdict)
		o.hash = uint32(r.flowHash(map[string]flow{
			"a": r.webFlow(clientPort), "d": {r.f.client, r.f.vip, clientPort, dnsPort, udpProto},
		}[real]) >> 32)
		o.df = o.df && !r.f.v6()
		if !tunnels[real].Destination.Is6() && !o.df {
			o.ident = identOf(got.out, row)
			if idents[o.ident] {
				t.Errorf("%s: identification %d again", what, o.ident)
			}
			idents[o.ident] = true
		}
		if want := need(packed(in, row, tunnels[real], o))(t); !bytes.Equal(got.out, want) {
			t.Errorf("%s:\n got %x\nwant %x", what, got.out, want)
		}
	}
	mustPack("SYN", "a", "tx_new", tcp(syn)(r.f), outer{tos: 0xb8, ttl: 63}, 1)
	mustPack("first datagram", "d", "tx_new", udp()(r.f), outer{tos: 0xb8, ttl: 63}, 1)
	for range 2 {
		for _, s := range tunnelShapes {
			in := s.send(s.changes...)(r.f)
			real := "a"
			if need(look(in))(t).protocol == udpProto {
				real = "d"
			}
			mustPack(s.name, real, "tx_forward", in, outer{tos: s.tos, ttl: s.ttl, df: s.df}, 0)
		}
	}
}

// TestTunnelFragments: the pieces of a datagram travel each in an outer packet of its own.
func TestTunnelFragments(t *testing.T) {
	f := families[0]
	r := smallRig(t, f)
	r.plan("dns", 0, "d")
	tunnel := r.tunnelReal("d", Tunnel{Type: TunnelGUE, Port: 6080}, false)
	first := udp(func(m *message) { m.more, m.data = true, make([]byte, 1472) })(f)
	later := raw(udpProto, []byte("the rest"), func(m *message) { m.offset = 1480 })(f)
	hash := uint32(r.flowHash(flow{f.client, f.vip, clientPort, dnsPort, udpProto}) >> 32)
	for i, in := range [][]byte{first, later} {
		got := r.send(t, bytes.Clone(in))
		mustVerdict(t, "fragment", got, []string{"tx_new", "tx_forward"}[i])
		o := outer{tos: 0xb8, ttl: 63, hash: hash, ident: identOf(got.out, r.real("d"))}
		if want := need(packed(in, r.real("d"), tunnel, o))(t); !bytes.Equal(got.out, want) {
			t.Errorf("fragment %d:\n got %x\nwant %x", i, got.out, want)
		}
	}
	r.check(t)
}

// TestTunnelPorts: the flows of a tunnel have source ports all over the range.
func TestTunnelPorts(t *testing.T) {
	f := families[0]
	r := smallRig(t, f)
	r.plan("dns", 0, "d")
	r.service("dns").Flags |= ServiceOnePacket // the small table would be full
	r.tunnelReal("d", Tunnel{Type: TunnelGUE, Port: 6080}, false)
	seen := map[uint16]bool{}
	const flows = 1000
	for i := range uint16(flows) {
		got := r.send(t, udp(from(1000+i))(f))
		port := binary.BigEndian.Uint16(got.out[34:])
		if port < 32768 || port > 60999 {
			t.Fatalf("source port %d", port)
		}
		seen[port] = true
	}
	if len(seen) < flows*9/10 {
		t.Errorf("%d flows have %d source ports", flows, len(seen))
	}
}

// tooBig is the answer to a packet that does not fit: it quotes it as it would have been sent on.
func tooBig(mtu uint32) func(*rig, []byte) []byte {
	return func(r *rig, in []byte) []byte {
		v, err := look(in)
		if err != nil {
			panic(err)
		}
		sent, err := forwarded(in, &Real{})
		if err != nil {
			panic(err)
		}
		in = slices.Concat(in[:v.l3], sent[14:])
		return complaint(r, in, both(r.f, packet.ICMP{Type: 3, Code: 4, Rest: mtu}, packet.ICMP{Type: 2, Rest: mtu}))
	}
}

// ofLength makes the whole packet that long.
func ofLength(n int) change {
	return func(m *message) {
		header := both(m.f, 20, 40) + 20
		if _, isUDP := m.transport.(packet.UDP); isUDP {
			header -= 12
		}
		dataOf(n - header)(m)
	}
}

func narrow(mtu uint16) func(*rig) {
	return func(r *rig) {
		for _, name := range []string{"a", "b", "d"} {
			r.real(name).Mtu = mtu
		}
	}
}

// What does not fit is answered with what does, whatever the method, known
// connection or new one, and however the packet may be cut.
var tooBigTests = []programTest{
	{name: "too big", setup: narrow(1400), steps: []step{
		{send: tcp(syn, ofLength(1400)), want: begins("a")},
		{send: tcp(ack, ofLength(1401)), want: known("a").ended("tx_too_big", tooBig(1400))},
		{send: tcp(ack, ofLength(1400)), want: known("a")},
		{send: tcp(ack, ofLength(1500), dontFragment), want: known("a").ended("tx_too_big", tooBig(1400))},
		{send: tcp(ack, ofLength(1480), tag(0x8100, 5)), want: known("a").ended("tx_too_big", tooBig(1400))},
		{send: tcp(ack, ofLength(3000), tag(0x88a8, 5), tag(0x8100, 6)), want: known("a").ended("tx_too_big", tooBig(1400))},
		{send: udp(ofLength(1402)), want: begins("d").ended("tx_too_big", tooBig(1400))},
		{send: udp(ofLength(1399)), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 2", "c:40000>vip:80 ESTABLISHED a 6"}},
	{name: "too big, and TTL ends", setup: narrow(1400), steps: []step{
		{send: tcp(syn, ofLength(1450), ttl(1)), want: begins("a").ended("tx_time_exceeded", timeExceeded)},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "too big: no answer to what is no single host", setup: narrow(1400), steps: []step{
		{send: tcp(syn, ofLength(1450), source("224.0.0.1", "ff02::1")), want: begins("a").ended("drop_too_big", nil)},
	}, conns: []string{"224.0.0.1:40000>vip:80 SYN_RECV a 1"}, only: "IPv4"},
	{name: "too big: no answer to an error", setup: narrow(1400), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: icmpError(func(f family) []packet.Layer {
			return append(tcpQuote(f), packet.Data(make([]byte, 1450)))
		}), want: known("a").ended("drop_too_big", nil)},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "too big: the director itself takes everything", setup: func(r *rig) {
		narrow(1400)(r)
		r.real("a").Flags |= RealLocal
	}, steps: []step{
		{send: tcp(syn, ofLength(1450)), want: begins("a").ended("pass_local", nil)},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
}

// The director as its own real server: packets pass unchanged, and are counted.
var localTests = []programTest{
	{name: "local", setup: func(r *rig) {
		r.plan("web", 0, "a", "b")
		for _, name := range []string{"a", "d"} {
			r.real(name).Flags |= RealLocal
		}
		r.real("d").Method = uint8(directorForwardMethodMETHOD_LOCAL)
	}, steps: []step{
		{send: tcp(syn), want: begins("a").ended("pass_local", nil)},
		{send: tcp(ack, ttl(1)), want: known("a").ended("pass_local", nil)},
		{send: tcp(ack, options, tag(0x8100, 5), dataOf(1400)), want: known("a").ended("pass_local", nil)},
		{send: icmpError(tcpQuote), want: known("a").ended("pass_local", nil)},
		{send: tcp(syn, second), want: begins("b")},
		{send: udp(), want: begins("d").ended("pass_local", nil)},
		{send: udp(padded), want: known("d").ended("pass_local", nil)},
		{before: func(r *rig) { r.real("a").Flags &^= RealNextHop }, send: tcp(ack), want: known("a").ended("drop_no_next_hop", nil)},
	}, conns: []string{"c2:40000>vip:80 SYN_RECV b 1", "c:40000>vip:53 UDP d 2", "c:40000>vip:80 ESTABLISHED a 4"}},
}

// TestNATTooBig: what is quoted is what the client sent.
func TestNATTooBig(t *testing.T) {
	for _, f := range families {
		r, _, _ := natWeb(t, f)
		r.send(t, tcp(syn)(f))
		r.real("a").Mtu = 1400
		in := tcp(ack, ofLength(1450))(f)
		got := r.send(t, bytes.Clone(in))
		mustVerdict(t, "too long", got, "tx_too_big")
		if want := tooBig(1400)(r, in); !bytes.Equal(got.out, want) {
			t.Errorf("%s:\n got %x\nwant %x", f.name, got.out, want)
		}
	}
}

// aboutTunnel is the error of a router on the way to a real server: a packet
// that the director sent did not fit a link.
type aboutTunnel struct {
	mtu       uint32
	quoted    int // bytes of the outer packet; 0: all
	wrong     bool
	otherType bool
	from      netip.Addr // what the outer packet's source is said to be
}

func (a aboutTunnel) frame(sent []byte, t Tunnel) []byte {
	quoted := bytes.Clone(sent[14:])
	if a.quoted > 0 {
		quoted = quoted[:a.quoted]
	}
	if a.from.IsValid() {
		copy(quoted[12:], a.from.AsSlice())
	}
	icmp := packet.ICMP{Type: 3, Code: 4, Rest: a.mtu}
	ip := packet.Layer(packet.IPv4{Src: addr("10.2.9.9"), Dst: t.Source})
	if t.Source.Is6() {
		icmp = packet.ICMP{Type: 2, Rest: a.mtu}
		ip = packet.IPv6{Src: addr("fd02::9:9"), Dst: t.Source}
	}
	if a.otherType {
		icmp.Type, icmp.Code = 3, 0
	}
	if a.wrong {
		icmp.Checksum = new(uint16(0xbad))
	}
	return packet.Build(packet.Ethernet{Dst: directorMAC, Src: routerMAC}, ip, icmp, packet.Data(quoted))
}

// TestTunnelErrors: a router's word lowers what fits a real server's tunnel,
// and the client's next packet that is too long is told so.
func TestTunnelErrors(t *testing.T) {
	for _, f := range families {
		for _, tt := range tunnelTypes {
			for _, outer6 := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/outer IPv6 %v", f.name, tt.name, outer6), func(t *testing.T) {
					r := smallRig(t, f)
					r.plan("web", 0, "a")
					tunnel := r.tunnelReal("a", tt.Tunnel, outer6)
					overhead := tt.overhead + map[bool]int{false: 20, true: 40}[outer6]
					if tunnel.Overhead() != overhead {
						t.Errorf("overhead is %d", tunnel.Overhead())
					}
					r.real("a").Mtu = uint16(1500 - overhead)
					r.send(t, tcp(syn)(f))
					sent := r.send(t, tcp(ack, ofLength(1400))(f))
					mustVerdict(t, "before", sent, "tx_forward")
					mustVerdict(t, "the error", r.send(t, aboutTunnel{mtu: 1350}.frame(sent.out, tunnel)), "pass_no_service")
					if row := r.real("a"); int(row.Mtu) != 1350-overhead || row.Tunnel.Learned == 0 {
						t.Fatalf("MTU %d, learned %d, want %d", row.Mtu, row.Tunnel.Learned, 1350-overhead)
					}
					in := tcp(ack, ofLength(1400))(f)
					got := r.send(t, bytes.Clone(in))
					mustVerdict(t, "afterwards", got, "tx_too_big")
					if want := tooBig(uint32(1350-overhead))(r, in); !bytes.Equal(got.out, want) {
						t.Errorf("answer\n got %x\nwant %x", got.out, want)
					}
					mustVerdict(t, "what fits", r.send(t, tcp(ack, ofLength(1350-overhead))(f)), "tx_forward")
					r.check(t)
				})
			}
		}
	}
}

// TestTunnelErrorBounds: the path is never believed to be narrower than links can be.
func TestTunnelErrorBounds(t *testing.T) {
	for _, f := range families {
		for _, outer6 := range []bool{false, true} {
			r := smallRig(t, f)
			r.plan("web", 0, "a")
			tunnel := r.tunnelReal("a", Tunnel{Type: TunnelGRE}, outer6)
			r.send(t, tcp(syn)(f))
			sent := r.send(t, tcp(ack)(f))
			least := map[bool]uint16{false: 552 - 24, true: 1280 - 44}[outer6]
			if f.v6() {
				least = 1280
			}
			for _, mtu := range []uint32{0, 1, 68, 500} {
				r.real("a").Mtu, r.real("a").Tunnel.Learned = 1400, 0
				r.send(t, aboutTunnel{mtu: mtu}.frame(sent.out, tunnel))
				expectMTU(t, r, fmt.Sprint(f.name, outer6, mtu), least)
			}
			for _, mtu := range []uint32{1424, 1500, 9000, 65535} { // no less than is known
				r.real("a").Mtu, r.real("a").Tunnel.Learned = 1300, 0
				r.send(t, aboutTunnel{mtu: mtu}.frame(sent.out, tunnel))
				expectMTU(t, r, fmt.Sprint(f.name, outer6, mtu), 1300)
				if r.real("a").Tunnel.Learned != 0 {
					t.Errorf("%s: %d is noted as learned", f.name, mtu)
				}
			}
		}
	}
}

func expectMTU(t *testing.T, r *rig, what string, want uint16) {
	t.Helper()
	if got := r.real("a").Mtu; got != want {
		t.Errorf("%s: MTU %d, want %d", what, got, want)
	}
}

// TestTunnelErrorsNotBelieved: what does not quote a packet of ours changes nothing.
func TestTunnelErrorsNotBelieved(t *testing.T) {
	for _, f := range families {
		for _, outer6 := range []bool{false, true} {
			r := smallRig(t, f)
			r.plan("web", 0, "a")
			tunnel := r.tunnelReal("a", Tunnel{Type: TunnelGUE, Port: 6080}, outer6)
			r.real("a").Mtu = 1400
			r.send(t, tcp(syn)(f))
			sent := r.send(t, tcp(ack)(f))
			outerSize := map[bool]int{false: 20, true: 40}[outer6]
			short := outerSize + 12 + both(f, 20, 40) + 2 // half of the inner ports
			stranger := slices.Clone(sent.out)
			stranger[14+outerSize+12+both(f, 12, 8)] ^= 1 // another client
			for what, frame := range map[string][]byte{
				"a wrong checksum":     aboutTunnel{mtu: 1350, wrong: true}.frame(sent.out, tunnel),
				"another type":         aboutTunnel{mtu: 1350, otherType: true}.frame(sent.out, tunnel),
				"too little quoted":    aboutTunnel{mtu: 1350, quoted: short}.frame(sent.out, tunnel),
				"no headers quoted":    aboutTunnel{mtu: 1350, quoted: 10}.frame(sent.out, tunnel),
				"no such connection":   aboutTunnel{mtu: 1350}.frame(stranger, tunnel),
				"no packet of a GUE 1": aboutTunnel{mtu: 1350}.frame(withByte(sent.out, 14+outerSize+8, 0x40), tunnel),
				"a later fragment":     aboutTunnel{mtu: 1350}.frame(withByte(sent.out, 14+7, 8), tunnel),
			} {
				if what == "a later fragment" && outer6 {
					continue
				}
				r.send(t, frame)
				expectMTU(t, r, fmt.Sprint(f.name, " ", what), 1400)
			}
			other := tunnel
			other.Destination = map[bool]netip.Addr{false: addr("10.2.0.99"), true: addr("fd02::99")}[outer6]
			r.real("a").Tunnel = other.Row()
			r.send(t, aboutTunnel{mtu: 1350}.frame(sent.out, tunnel))
			expectMTU(t, r, "another real server", 1400)
			r.real("a").Tunnel = tunnel.Row()
			r.real("a").Generation++
			r.send(t, aboutTunnel{mtu: 1350}.frame(sent.out, tunnel))
			expectMTU(t, r, "another generation", 1400)
			r.real("a").Generation--
			r.Settings.Tunnels = 0
			r.send(t, aboutTunnel{mtu: 1350}.frame(sent.out, tunnel))
			expectMTU(t, r, "nobody by tun", 1400)
			r.Settings.Tunnels = 1
			r.send(t, aboutTunnel{mtu: 1350}.frame(sent.out, tunnel)) // and the right one is
			expectMTU(t, r, "all is right", 1350-uint16(tunnel.Overhead()))
			r.check(t)
		}
	}
}

func withByte(frame []byte, at int, b byte) []byte {
	frame = slices.Clone(frame)
	frame[at] = b
	return frame
}

// TestTunnelRow: a row says what it was written from.
func TestTunnelRow(t *testing.T) {
	for _, tt := range tunnelTypes {
		for _, ends := range [][2]string{{"10.2.0.254", "10.2.0.11"}, {"fd02::fe", "fd02::11"}} {
			for _, inner := range []string{"192.0.2.1", "2001:db8::1"} {
				want := tt.Tunnel
				want.Source, want.Destination, want.Inner = addr(ends[0]), addr(ends[1]), addr(inner)
				r := Real{Tunnel: want.Row()}
				got, ok := r.TunnelWritten()
				want.Inner = netip.Addr{}
				if !ok || got != want {
					t.Errorf("%s: %+v, want %+v", tt.name, got, want)
				}
				r.Tunnel.Learned = 77
				want.Inner = addr(inner)
				if !r.SameTunnel(want.Row()) {
					t.Errorf("%s: it is another tunnel because of what was learned", tt.name)
				}
				want.Checksum = !want.Checksum
				if r.SameTunnel(want.Row()) {
					t.Errorf("%s: it is the same tunnel with another checksum", tt.name)
				}
			}
		}
	}
	if _, ok := new(Real).TunnelWritten(); ok {
		t.Error("an empty row has a tunnel")
	}
}

// TestTunnelUntracked: by tun a connection that finds no place is sent nevertheless.
func TestTunnelUntracked(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		r.plan("web", 0, "a")
		r.flowPlan("web", "a")
		r.tunnelReal("a", Tunnel{}, false)
		for port := range uint16(400) {
			if got := r.send(t, tcp(syn, from(1000+port))(f)); got.verdict == "tx_new" {
				r.setWord(r.mustFind(t, 1000+port), uint32(stateNumber("ESTABLISHED")))
			} else if mustVerdict(t, "without room", got, "tx_untracked"); got.out[23] != map[bool]byte{false: 4, true: 41}[f.v6()] {
				t.Fatalf("it leaves as %x", got.out)
			}
		}
		if r.service("web").Untracked == 0 {
			t.Error("all found room")
		}
		r.pass(time.Hour)
	}
}
