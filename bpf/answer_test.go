// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"xdplvs/internal/packet"
)

// Answers: what the director sends itself.
var answerTests = []programTest{
	{name: "unreachable", setup: noneAnd(directorServiceAnswerANSWER_UNREACHABLE), steps: []step{
		{send: tcp(syn), want: unreachable},
		{send: tcp(syn, noData, padded), want: unreachable},
		{send: tcp(syn, options), want: unreachable},
		{send: tcp(syn, tag(0x8100, 0x6005)), want: unreachable},
		{send: tcp(syn, tag(0x88a8, 7), tag(0x8100, 8), dataOf(31)), want: unreachable},
		{send: tcp(syn, dataOf(1400)), want: unreachable},
	}, check: noReal(6)},
	{name: "unreachable: every length", setup: noneAnd(directorServiceAnswerANSWER_UNREACHABLE), steps: everyLength()},
	{name: "unreachable: UDP", setup: func(r *rig) {
		unusable("d", "e")(r)
		r.service("dns").Answer = uint8(directorServiceAnswerANSWER_UNREACHABLE)
	}, steps: []step{{send: udp(), want: unreachable}}},
	{name: "reset", setup: noneAnd(directorServiceAnswerANSWER_RESET), steps: []step{
		{send: tcp(syn, noData), want: reset(0, 1001, rst|ack)},
		{send: tcp(syn, noData, padded), want: reset(0, 1001, rst|ack)},
		{send: tcp(syn), want: reset(0, 1006, rst|ack)},
		{send: tcp(syn | fin), want: reset(0, 1007, rst|ack)},
		{send: tcp(syn | ack), want: reset(2000, 0, rst)},
		{send: tcp(syn, options, tag(0x8100, 5)), want: reset(0, 1006, rst|ack)},
		{send: tcp(syn, withTCP(func(l4 *packet.TCP) { l4.Seq, l4.Options = 0xffffffff, []byte{2, 4, 5, 0xb4} })), want: reset(0, 5, rst|ack)},
	}},
	{name: "reset: UDP gets unreachable", setup: func(r *rig) {
		unusable("d", "e")(r)
		r.service("dns").Answer = uint8(directorServiceAnswerANSWER_RESET)
	}, steps: []step{{send: udp(), want: unreachable}}},
	{name: "no answer to what is no single host", setup: noneAnd(directorServiceAnswerANSWER_UNREACHABLE), steps: []step{
		{send: tcp(syn, source("0.0.0.0", "::")), want: untouched("drop_no_real")},
		{send: tcp(syn, source("224.0.0.1", "ff02::1")), want: untouched("drop_no_real")},
		{send: tcp(syn, source("255.255.255.255", "ff0e::1")), want: untouched("drop_no_real")},
	}},
	{name: "no reset to what is no single host", setup: noneAnd(directorServiceAnswerANSWER_RESET), steps: []step{
		{send: tcp(syn, source("0.0.0.0", "::")), want: untouched("drop_no_real")},
		{send: tcp(syn, source("239.1.1.1", "ff02::1")), want: untouched("drop_no_real")},
	}},
	{name: "TTL ends at the director", steps: []step{
		{send: tcp(syn, ttl(1)), want: begins("a").ended("tx_time_exceeded", timeExceeded)},
		{send: tcp(ack, ttl(0)), want: known("a").ended("tx_time_exceeded", timeExceeded)},
		{send: tcp(ack, ttl(1), tag(0x8100, 5), dataOf(1000)), want: known("a").ended("tx_time_exceeded", timeExceeded)},
		{send: udp(ttl(1), noData, padded), want: begins("d").ended("tx_time_exceeded", timeExceeded)},
	}, conns: []string{"c:40000>vip:53 UDP d 1", "c:40000>vip:80 ESTABLISHED a 3"}},
	{name: "TTL ends: it is answered on the side it came from", setup: otherInterface, steps: []step{
		{send: tcp(syn, ttl(1)), want: begins("a").ended("tx_time_exceeded", timeExceeded)},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
}

// noneAnd makes the web service have no usable real server and answer so.
func noneAnd(answer directorServiceAnswer) func(*rig) {
	return func(r *rig) {
		unusable("a", "b", "c")(r)
		r.service("web").Answer = uint8(answer)
	}
}

func source(v4, v6 string) change {
	return func(m *message) { m.src = addr(both(m.f, v4, v6)) }
}

// everyLength has packets around what an error quotes at most.
func everyLength() (steps []step) {
	for _, n := range []int{0, 1, 2, 3, 4, 507, 508, 509, 510, 1171, 1172, 1173, 1174, 1440} {
		steps = append(steps, step{send: tcp(syn, dataOf(n)), want: unreachable})
	}
	return steps
}

var unreachable = want{verdict: "tx_unreachable", out: func(r *rig, in []byte) []byte {
	return complaint(r, in, both(r.f, packet.ICMP{Type: 3, Code: 3}, packet.ICMP{Type: 1, Code: 4}))
}}

func timeExceeded(r *rig, in []byte) []byte {
	return complaint(r, in, both(r.f, packet.ICMP{Type: 11}, packet.ICMP{Type: 3}))
}

// complaint is an ICMP error about a packet, with as much of it as is allowed:
// 576 bytes in all (RFC 1812 section 4.3.2.3), or 1280 (RFC 4443 section 2.4).
func complaint(r *rig, in []byte, head packet.ICMP) []byte {
	p, err := look(in)
	if err != nil {
		panic(err)
	}
	quoted := in[p.l3 : p.l3+min(p.length, both(r.f, 576-28, 1280-48))]
	return back(p, in, head, packet.Data(quoted))
}

// back is a packet from the virtual address to where another came from.
func back(p parsed, in []byte, layers ...packet.Layer) []byte {
	all := []packet.Layer{packet.Ethernet{Dst: packet.MAC(in[6:12]), Src: packet.MAC(in[:6])}}
	for i := range p.tags {
		b := in[12+4*i:]
		all = append(all, packet.VLAN{TPID: binary.BigEndian.Uint16(b), TCI: binary.BigEndian.Uint16(b[2:])})
	}
	if p.v6 {
		all = append(all, packet.IPv6{Src: p.dst, Dst: p.src})
	} else {
		all = append(all, packet.IPv4{Src: p.dst, Dst: p.src, TOS: tosOf(layers[0])})
	}
	return packet.Build(append(all, layers...)...)
}

// tosOf is internetwork control for an error (RFC 1812 section 4.3.2.5).
func tosOf(l packet.Layer) uint8 {
	if _, isError := l.(packet.ICMP); isError {
		return 0xc0
	}
	return 0
}

// reset is the answer to a segment of no connection (RFC 9293 section 3.5.2).
func reset(seq, acked uint32, flags uint8) want {
	return want{verdict: "tx_reset", out: func(r *rig, in []byte) []byte {
		p, err := look(in)
		if err != nil {
			panic(err)
		}
		l4 := in[p.l4:]
		return back(p, in, packet.TCP{
			SrcPort: binary.BigEndian.Uint16(l4[2:]), DstPort: binary.BigEndian.Uint16(l4),
			Seq: seq, Ack: acked, Flags: flags,
		})
	}}
}

// ICMP: echo requests are answered, errors go where their connection goes.
var icmpTests = []programTest{
	{name: "echo", steps: []step{
		{send: echo(), want: echoed},
		{send: echo(noData, padded), want: echoed},
		{send: echo(dataOf(1400), ttl(1)), want: echoed},
		{send: echo(tag(0x8100, 5)), want: echoed},
		{send: echo(tag(0x88a8, 5), tag(0x8100, 6), dataOf(3)), want: echoed},
		{send: echo(second), want: echoed},
	}},
	{name: "echo: checksums wherever they carry", steps: echoChecksums()},
	{name: "echo: options are the stack's", steps: []step{{send: echo(options), want: untouched("pass_icmp")}}},
	{name: "echo to another address", steps: []step{
		{send: echo(elsewhere), want: untouched("pass_no_service")},
		{send: echo(elsewhere, options), want: untouched("pass_no_service")},
	}},
	{name: "echo of the other family's number", steps: []step{
		{send: raw(packet.ProtoICMP, []byte{128, 0, 0, 0, 0, 0, 0, 0}), want: untouched("pass_icmp")},
	}, only: "IPv4"},
	{name: "other ICMP", steps: []step{
		{send: icmp(packet.ICMP{Type: 0}, packet.ICMP{Type: 129}), want: untouched("pass_icmp")},
		{send: icmp(packet.ICMP{Type: 13}, packet.ICMP{Type: 135}), want: untouched("pass_icmp")},
		{send: icmp(packet.ICMP{Type: 5}, packet.ICMP{Type: 137}), want: untouched("pass_icmp")},
	}},
	{name: "ICMP cut off", steps: []step{
		{send: raw(packet.ProtoICMP, []byte{8, 0, 0}), want: untouched("pass_icmp")},
	}, only: "IPv4"},
	{name: "error about a connection", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: later(50 * time.Second), send: icmpError(tcpQuote), want: known("a").ended("tx_icmp", nil)},
		{send: icmpError(tcpQuote, source("203.0.113.1", "2001:db8:9::1")), want: known("a").ended("tx_icmp", nil)},
		{send: icmpError(tcpQuote, tag(0x8100, 5), padded), want: known("a").ended("tx_icmp", nil)},
		{before: later(11 * time.Second), send: icmpError(tcpQuote), want: untouched("pass_icmp")}, // it re-arms nothing
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "errors of all kinds", setup: func(r *rig) { r.plan("web", 0, "b") }, steps: []step{
		{send: tcp(syn), want: begins("b")},
		{send: icmpErrorOf(packet.ICMP{Type: 3, Code: 4, Rest: 1400}, packet.ICMP{Type: 2, Rest: 1400}), want: known("b").ended("tx_icmp", nil)},
		{send: icmpErrorOf(packet.ICMP{Type: 11}, packet.ICMP{Type: 3}), want: known("b").ended("tx_icmp", nil)},
		{send: icmpErrorOf(packet.ICMP{Type: 4}, packet.ICMP{Type: 4}), want: known("b").ended("tx_icmp", nil)},
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "error about a UDP connection", steps: []step{
		{send: udp(), want: begins("d")},
		{send: icmpError(func(f family) []packet.Layer {
			return []packet.Layer{network(f, f.vip, f.client), packet.UDP{SrcPort: dnsPort, DstPort: clientPort}, packet.Data("x")}
		}), want: known("d").ended("tx_icmp", nil)},
	}, conns: []string{"c:40000>vip:53 UDP d 1"}},
	{name: "error with the ports and no more", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: icmpError(func(f family) []packet.Layer {
			return []packet.Layer{network(f, f.vip, f.client), packet.Raw{Protocol: tcpProto, Data: []byte{0, webPort, clientPort >> 8, clientPort & 0xff, 0, 0, 0, 0}}}
		}), want: known("a").ended("tx_icmp", nil)},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "error about no connection", steps: []step{
		{send: icmpError(tcpQuote), want: untouched("pass_icmp")},
		{send: tcp(syn), want: begins("a")},
		{send: icmpError(func(f family) []packet.Layer { // from the other address
			return []packet.Layer{network(f, f.other, f.client), tcpFromVIP, packet.Data("")}
		}), want: untouched("pass_icmp")},
		{send: icmpError(func(f family) []packet.Layer { // read forwards, not backwards
			return []packet.Layer{network(f, f.client, f.vip), packet.TCP{SrcPort: clientPort, DstPort: webPort}}
		}), want: untouched("pass_icmp")},
		{send: icmpError(func(f family) []packet.Layer { // to another client
			return []packet.Layer{network(f, f.vip, f.second), tcpFromVIP}
		}), want: untouched("pass_icmp")},
		{send: icmpError(func(f family) []packet.Layer { return []packet.Layer{packet.Data("short")} }), want: untouched("pass_icmp")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "error about a later fragment", only: "IPv4", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: icmpError(func(f family) []packet.Layer {
			return []packet.Layer{packet.IPv4{Src: f.vip, Dst: f.client, Offset: 8}, tcpFromVIP}
		}), want: untouched("pass_icmp")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "error about a packet with options", only: "IPv4", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: icmpError(func(f family) []packet.Layer {
			return []packet.Layer{packet.IPv4{Src: f.vip, Dst: f.client, Options: make([]byte, 40)}, tcpFromVIP}
		}), want: known("a").ended("tx_icmp", nil)},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
}

// icmp is a message to the virtual address.
func icmp(v4, v6 packet.ICMP, changes ...change) send {
	return func(f family) []byte { return newSend(both(f, v4, v6), changes...)(f) }
}

func echo(changes ...change) send {
	return icmp(packet.ICMP{Type: 8, Rest: 0x12340007}, packet.ICMP{Type: 128, Rest: 0x12340007}, changes...)
}

// echoChecksums have checksums around every carry that the new type can cause.
func echoChecksums() (steps []step) {
	for rest := range uint32(32) {
		steps = append(steps, step{
			send: icmp(packet.ICMP{Type: 8, Rest: 0xf7f0<<16 + rest - 16}, packet.ICMP{Type: 128, Rest: 0xffff<<16 | (0x10000-0x7200+rest)&0xffff}, noData),
			want: echoed,
		})
	}
	return steps
}

// echoed is the request with addresses and type turned round.
var echoed = want{verdict: "tx_echo", out: func(r *rig, in []byte) []byte {
	p, err := look(in)
	if err != nil {
		panic(err)
	}
	message := slices.Clone(in[p.l4 : p.l3+p.length])
	reply := packet.ICMP{Type: both[uint8](r.f, 0, 129), Code: message[1], Rest: binary.BigEndian.Uint32(message[4:])}
	layers := []packet.Layer{packet.Ethernet{Dst: packet.MAC(in[6:12]), Src: packet.MAC(in[:6])}}
	for i := range p.tags {
		b := in[12+4*i:]
		layers = append(layers, packet.VLAN{TPID: binary.BigEndian.Uint16(b), TCI: binary.BigEndian.Uint16(b[2:])})
	}
	layers = append(layers, both[packet.Layer](r.f,
		packet.IPv4{Src: p.dst, Dst: p.src, TOS: 0xb8, ID: 0x1234},
		packet.IPv6{Src: p.dst, Dst: p.src, TrafficClass: 0xb8, FlowLabel: 0x54321}))
	out := packet.Build(append(layers, reply, packet.Data(message[8:]))...)
	return append(out, in[p.l3+p.length:]...) // the padding
}}

// network is the IP header of a quoted packet.
func network(f family, src, dst netip.Addr) packet.Layer {
	return both[packet.Layer](f, packet.IPv4{Src: src, Dst: dst}, packet.IPv6{Src: src, Dst: dst})
}

var tcpFromVIP = packet.TCP{SrcPort: webPort, DstPort: clientPort, Flags: ack}

func tcpQuote(f family) []packet.Layer {
	return []packet.Layer{network(f, f.vip, f.client), tcpFromVIP, packet.Data("quoted")}
}

// icmpError is unreachable, about a packet.
func icmpError(quote func(family) []packet.Layer, changes ...change) send {
	return func(f family) []byte {
		head := both(f, packet.ICMP{Type: 3, Code: 1}, packet.ICMP{Type: 1, Code: 3})
		return newSend(head, append([]change{func(m *message) { m.data = packet.Build(quote(f)...) }}, changes...)...)(f)
	}
}

// icmpErrorOf is an error of a certain kind about the client's connection.
func icmpErrorOf(v4, v6 packet.ICMP) send {
	return func(f family) []byte {
		return newSend(both(f, v4, v6), func(m *message) { m.data = packet.Build(tcpQuote(f)...) })(f)
	}
}

// Fragments follow their first one.
var fragmentTests = []programTest{
	{name: "later fragments follow the first", steps: []step{
		{send: piece(0), want: begins("d")},
		{send: piece(1), want: known("d")},
		{send: piece(2), want: known("d")},
		{send: piece(1), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 4"}},
	{name: "a later fragment before the first", steps: []step{
		{send: piece(1), want: untouched("pass_fragment")},
		{send: piece(0), want: begins("d")},
		{send: piece(1), want: known("d")},
		{send: piece(1, second), want: untouched("pass_fragment")},
	}, conns: []string{"c:40000>vip:53 UDP d 2"}},
	{name: "fragments of another packet", steps: []step{
		{send: piece(0), want: begins("d")},
		{send: pieceOf(0x4321, 1, udpPiece), want: untouched("pass_fragment")},
		{send: pieceOf(0x4321, 0, udpPiece, from(40001)), want: begins("e")},
		{send: pieceOf(0x4321, 1, udpPiece), want: known("e")},
		{send: piece(1), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 2", "c:40001>vip:53 UDP e 2"}},
	{name: "fragments that are no service's", steps: []step{
		{send: piece(0, to(54)), want: untouched("pass_no_service")},
		{send: piece(1, to(54)), want: untouched("pass_no_service")},
		{send: piece(0, elsewhere), want: untouched("pass_no_service")},
		{send: piece(1, elsewhere), want: untouched("pass_no_service")},
	}},
	{name: "fragments of a TCP segment change its state once", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcpPiece(0, ack), want: known("a")},
		{send: tcpPiece(1, ack), want: known("a")},
		{send: tcpPiece(2, ack), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 4"}},
	{name: "fragments of a connection that is known", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack), want: known("a")},
		{send: tcpPiece(0, ack), want: known("a")},
		{send: tcpPiece(1, ack), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 4"}},
	{name: "fragments of a flow that is known", steps: []step{
		{send: udp(), want: begins("d")},
		{send: piece(0), want: known("d")},
		{send: piece(1), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 3"}},
	{name: "fragments with tags", steps: []step{
		{send: piece(0, tag(0x8100, 5)), want: begins("d")},
		{send: piece(1, tag(0x8100, 5), padded), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 2"}},
	{name: "fragments behind extension headers", only: "IPv6", steps: []step{
		{send: piece(0, header(packet.ProtoDestOpts)), want: begins("d")},
		{send: piece(1, header(packet.ProtoDestOpts), header(packet.ProtoRouting)), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 2"}},
}

var udpPiece packet.Layer = packet.UDP{SrcPort: clientPort, DstPort: dnsPort}

// piece is the nth fragment of a datagram to the dns service.
func piece(n int, changes ...change) send { return pieceOf(0x1234, n, udpPiece, changes...) }

func tcpPiece(n int, flags uint8) send {
	return pieceOf(0x1234, n, packet.TCP{SrcPort: clientPort, DstPort: webPort, Flags: flags})
}

// pieceOf is the nth fragment of a packet with 60 bytes of data.
func pieceOf(id uint32, n int, transport packet.Layer, changes ...change) send {
	return func(f family) []byte {
		var layers []packet.Layer
		grab := func(m *message) { m.data = make([]byte, 60); layers = m.layers() }
		newSend(transport, append(changes, grab)...)(f)
		return packet.Fragments(id, 32, layers...)[n]
	}
}

// Stale connections: their real server is another one now.
var staleTests = []programTest{
	{name: "stale: rescheduled", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: renewed(StaleReschedule), send: tcp(syn), want: begins("b")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "stale: an ACK cannot be rescheduled", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: renewed(StaleReschedule), send: tcp(ack), want: untouched("pass_no_connection")},
	}},
	{name: "stale: an established connection", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack), want: known("a")},
		{send: tcp(ack), want: known("a")},
		{before: renewed(StaleDrop), send: tcp(ack), want: untouched("drop_real_gone")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 3"}},
	{name: "stale: UDP is rescheduled", steps: []step{
		{send: udp(), want: begins("d")},
		{before: func(r *rig) { r.real("d").Generation++ }, send: udp(), want: begins("e")},
	}, conns: []string{"c:40000>vip:53 UDP e 1"}},
	{name: "stale: dropped, and not kept alive", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: renewed(StaleDrop), send: tcp(ack), want: untouched("drop_real_gone")},
		{before: later(59 * time.Second), send: tcp(syn), want: untouched("drop_real_gone")},
		{before: later(2 * time.Second), send: tcp(syn), want: begins("b")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "stale: reset", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: renewed(StaleReset), send: tcp(ack), want: reset(2000, 0, rst)},
		{send: tcp(fin|ack, noData), want: reset(2000, 0, rst)},
		{send: tcp(syn, noData), want: begins("b")}, // a new one
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "stale: no reset for UDP", steps: []step{
		{send: udp(), want: begins("d")},
		{before: func(r *rig) { r.real("d").Generation++; r.real("d").Stale = StaleReset }, send: udp(), want: untouched("drop_real_gone")},
	}, conns: []string{"c:40000>vip:53 UDP d 1"}},
}

// renewed makes a another real server than connections know, with a policy for them.
func renewed(stale uint8) func(*rig) {
	return func(r *rig) {
		r.real("a").Generation++
		r.real("a").Stale = stale
	}
}

// Answers are limited, and there are answers again in the next window.
func TestAnswerLimit(t *testing.T) {
	r := smallRig(t, families[0])
	noneAnd(directorServiceAnswerANSWER_RESET)(r)
	runtime.LockOSThread() // the limit is each CPU's
	defer runtime.UnlockOSThread()
	answered, refused := 0, 0
	for range 20000 {
		got, err := r.run(tcp(syn)(r.f))
		must(t, err)
		if got.action == xdpTx {
			answered++
		} else {
			refused++
		}
	}
	t.Logf("%d answered, %d refused", answered, refused)
	if answered < 500 || refused < 10000 {
		t.Errorf("%d packets were answered, %d were not", answered, refused)
	}
	deadline := time.Now().Add(10 * time.Second)
	for r.send(t, tcp(syn)(r.f)).verdict == "drop_rate" {
		if time.Now().After(deadline) {
			t.Fatal("no answer is sent any more")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
