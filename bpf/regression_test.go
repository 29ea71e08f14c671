// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"xdplvs/internal/packet"
)

// What once went wrong, each with the reason why it must not.

// runCases runs cases as TestProgram does.
func runCases(t *testing.T, tests ...programTest) {
	for _, f := range families {
		for _, test := range tests {
			if test.only == "" || test.only == f.name {
				t.Run(f.name+"/"+test.name, func(t *testing.T) { test.run(t, smallRig(t, f)) })
			}
		}
	}
}

// A packet that cannot be redirected is dropped, but counted as transmitted.
// abi.h says "DROP_ERROR: a helper failed: no headroom, no such interface".
func TestRedirectToNowhere(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		a := r.real("a")
		a.Ifindex, a.TxPort = 4711, 5 // nothing stands in tx_ports[5]
		if got := r.send(t, tcp(syn)(f)); got.verdict != "drop_error" || got.action != xdpDrop {
			t.Errorf("%s: %v", f.name, got)
		}
		a.TxPort = uint16(TxPorts) // beyond the map
		if got := r.send(t, tcp(ack)(f)); got.verdict != "drop_error" || got.action != xdpDrop {
			t.Errorf("%s: %v", f.name, got)
		}
	}
}

// The transport header is read up to the frame's end instead of the packet's:
// the flags of a first fragment of 8 bytes come out of the Ethernet padding
// (RFC 1858 section 3). Padding decides what becomes of the connection: zeros,
// "no flags", close it.
func TestTinyFragment(t *testing.T) {
	tiny := func(flags byte) send {
		return newSend(packet.Raw{Protocol: tcpProto, Data: []byte{clientPort >> 8, clientPort & 0xff, 0, webPort, 0, 0, 0, 1}}, noData,
			func(m *message) {
				m.more = true
				if m.f.v6() {
					m.headers = append(m.headers, packet.Fragment{ID: 1, More: true})
				}
			},
			edit(func(b []byte) []byte { return append(b, 0, 0, 0, 1, 0x50, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) }))
	}
	runCases(t, programTest{name: "known", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack), want: known("a")},
		{send: tiny(0), want: untouched("drop_malformed")},
		{send: tiny(rst), want: untouched("drop_malformed")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 2"}},
		programTest{name: "new", steps: []step{{send: tiny(syn), want: untouched("drop_malformed")}}})
}

// The ports of SCTP are read up to the frame's end, too.
func TestPortsFromPadding(t *testing.T) {
	setup := func(r *rig) { r.addService("sctp", 11, Key{Addr: r.f.vip, Port: 0xeeee, Protocol: sctpProto}, "f") }
	runCases(t, programTest{name: "no header at all", setup: setup, steps: []step{
		{send: raw(sctpProto, nil, func(m *message) { m.eth.Pad = 80 }), want: untouched("pass_no_service")},
	}})
}

// A segment for a service whose header is no valid one is counted as
// pass_no_service: the parser fails before it has stored the ports. abi.h says
// "DROP_MALFORMED: for a service, and no valid packet".
func TestMalformedIsNoService(t *testing.T) {
	runCases(t, programTest{name: "TCP", steps: []step{
		{send: tcp(syn, withTCP(func(l4 *packet.TCP) { l4.Offset = new(uint8(4)) })), want: untouched("drop_malformed")},
		{send: tcp(syn, withTCP(func(l4 *packet.TCP) { l4.Offset = new(uint8(15)) })), want: untouched("drop_malformed")},
	}}, programTest{name: "UDP", steps: []step{
		{send: udp(withUDP(func(l4 *packet.UDP) { l4.Length = new(uint16(7)) })), want: untouched("drop_malformed")},
		{send: udp(withUDP(func(l4 *packet.UDP) { l4.Length = new(uint16(14)) })), want: untouched("drop_malformed")},
	}})
}

// An IPv6 packet to ::ffff:192.0.2.10 is taken for one to the IPv4 service
// 192.0.2.10: in the key table, both look the same. Such packets must not be on
// a wire (RFC 4291 section 2.5.5.2, draft-itojun-v6ops-v4mapped-harmful).
func TestMappedAddress(t *testing.T) {
	r := smallRig(t, families[0])
	mapped := family{name: "mapped", client: families[1].client, vip: netip.AddrFrom16(r.f.vip.As16())}
	for name, frame := range map[string][]byte{
		"TCP":  tcp(syn)(mapped),
		"UDP":  udp()(mapped),
		"echo": echo()(mapped),
	} {
		if got := r.send(t, frame); got.action != xdpPass || len(r.conns()) != 0 {
			t.Errorf("%s: IPv6 packet to %v: %v, connections %q", name, mapped.vip, got, r.conns())
		}
	}
}

// An IPv6 connection whose client claims a mapped address is taken for an IPv4
// one when the overflow map is swept: another place, of the other table, is told
// that one of its keys has gone. Any client can send such packets.
func TestMappedClient(t *testing.T) {
	r := newRig(t, oneSet)
	r.reset(families[1])
	f := families[1]
	onlyA(r)
	for port := range uint16(8) {
		r.send(t, tcp(syn, from(port+1))(f))
		r.send(t, tcp(ack, from(port+1))(f))
	}
	f.client = addr("::ffff:198.51.100.7")
	got := r.send(t, tcp(syn)(f))
	if got.action == xdpPass {
		return // refused: well done
	}
	for i := range r.Conns6 {
		r.Conns6[i].C.LastUse -= r.clock.Jiffies(time.Hour)
	}
	m := r.plane.objects.Maps[directorMapOverflow]
	must(t, r.plane.Overflow(func(k *ConnKey, c *Conn) bool {
		key, conn := *k, *c
		conn.LastUse -= r.clock.Jiffies(time.Hour)
		must(t, m.Put(&key, &conn))
		return true
	}))
	r.sweep(t)
	r.check(t)
}

// A router that has to drop an ICMP error must not send another about it
// (RFC 1122 section 3.2.2, RFC 4443 section 2.4(e.1)).
func TestErrorAboutAnError(t *testing.T) {
	runCases(t, programTest{name: "TTL ends", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: icmpError(tcpQuote, ttl(1)), want: known("a").ended("drop_ttl", nil)},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}})
}

// A later fragment of an ICMP message has no ICMP header, but data that begins
// like an echo request is answered, with two of its bytes changed. The first
// fragment is answered as well, so a fragmented ping gets half an answer. It is
// the stack's: nothing of it may be touched.
func TestFragmentedEcho(t *testing.T) {
	pieces := func(n int) send {
		return func(f family) []byte {
			m := &message{f: f, src: f.client, dst: f.vip, eth: packet.Ethernet{Dst: directorMAC, Src: routerMAC}}
			m.transport = both(f, packet.ICMP{Type: 8, Rest: 7}, packet.ICMP{Type: 128, Rest: 7})
			m.data = bytes.Repeat([]byte{both[byte](f, 8, 128), 0}, 48)
			return packet.Fragments(77, 48, m.layers()...)[n]
		}
	}
	for _, f := range families {
		r := smallRig(t, f)
		for n := range 3 {
			if got := r.send(t, pieces(n)(f)); got.action != xdpPass {
				t.Errorf("%s: fragment %d of an echo request: %v", f.name, n, got)
			}
		}
	}
}

// An echo request from no single host must not be answered (RFC 1122 section
// 3.2.2.6): the answer would go to all of them.
func TestEchoToMany(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		for _, s := range [][2]string{{"255.255.255.255", "ff02::1"}, {"224.0.0.1", "ff0e::1"}, {"0.0.0.0", "::"}, {"127.0.0.1", "::1"}} {
			if got := r.send(t, echo(source(s[0], s[1]))(f)); got.transmitted() {
				t.Errorf("echo from %s is answered: %v", both(f, s[0], s[1]), got)
			}
		}
	}
}

// An ICMP message that is shorter than its header gets the rest from the padding.
func TestICMPFromPadding(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		request := []byte{both[byte](f, 8, 128), 0, 0, 0}
		frame := raw(f.icmp(), request, func(m *message) { m.eth.Pad = 80 })(f)
		if got := r.send(t, frame); got.verdict != "pass_icmp" {
			t.Errorf("%s: echo request of 4 bytes: %v", f.name, got)
		}
		// The quoted packet ends before its ports; they stand in the padding.
		r.send(t, tcp(syn)(f))
		frame = icmpError(func(f family) []packet.Layer {
			return []packet.Layer{network(f, f.vip, f.client), packet.Raw{Protocol: tcpProto}}
		}, edit(func(b []byte) []byte { return append(b, 0, webPort, clientPort>>8, clientPort&0xff) }))(f)
		if got := r.send(t, frame); got.verdict != "pass_icmp" {
			t.Errorf("%s: error that quotes no ports: %v", f.name, got)
		}
	}
}

// An ICMP error about a connection whose real server is gone is sent to whoever
// has its row now, whatever the policy says: no packet of it may go there.
func TestErrorToStaleReal(t *testing.T) {
	for _, f := range families {
		for _, stale := range []uint8{StaleDrop, StaleReset, StaleReschedule} {
			r := smallRig(t, f)
			r.send(t, tcp(syn)(f))
			renewed(stale)(r)
			if got := r.send(t, icmpError(tcpQuote)(f)); got.transmitted() {
				t.Errorf("%s, policy %d: %v", f.name, stale, got)
			}
		}
	}
}

// With one-packet scheduling each fragment of a datagram is scheduled by itself,
// and no real server gets all of it.
func TestOnePacketFragments(t *testing.T) {
	runCases(t, programTest{name: "one packet", setup: func(r *rig) { r.service("dns").Flags = ServiceOnePacket; r.flowPlan("dns", "d") }, steps: []step{
		{send: piece(0), want: onePacket("d")},
		{send: piece(1), want: want{verdict: "tx_one_packet", real: "d"}},
		{send: piece(2), want: want{verdict: "tx_one_packet", real: "d"}},
	}})
}

// A connection that found no room is not served: its SYN goes to one real
// server, its ACK to the stack, which resets it. DESIGN.md section 4: "forwarded
// untracked by a hash plan: a full table never breaks service".
func TestUntrackedFlow(t *testing.T) {
	r := newRig(t, oneSet)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r.reset(f)
			r.flowPlan("web", "a", "b", "c")
			for port := range uint16(10) { // fills the table and the overflow map
				r.send(t, tcp(syn, from(port+1))(f))
				r.send(t, tcp(ack, from(port+1))(f))
			}
			for port := range uint16(20) {
				first := r.send(t, tcp(syn, from(100+port))(f))
				if first.verdict != "tx_untracked" {
					t.Fatalf("port %d: %v", 100+port, first)
				}
				next := r.send(t, tcp(ack, from(100+port))(f))
				if next.verdict != "tx_untracked" || !bytes.Equal(next.out[:12], first.out[:12]) {
					t.Errorf("port %d: SYN to %x, ACK: %s to %x", 100+port, first.out[:6], next.verdict, next.out[:6])
				}
			}
		})
	}
}

// A frame that is not for this host at the link level must pass (IPVS.md section
// 2.2, step 1): a switch floods what it has no port for, and a second director
// on it would forward a second copy.
func TestOtherHostsFrame(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		mustVerdict(t, "a SYN", r.send(t, tcp(syn, from(40001))(f)), "tx_new")
		mustVerdict(t, "its ACK", r.send(t, tcp(ack, from(40001))(f)), "tx_forward")
		for name, mac := range map[string]packet.MAC{
			"broadcast": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
			"multicast": {0x01, 0x00, 0x5e, 0, 0, 1},
		} {
			frame := func(m *message) { m.eth.Dst = mac }
			for what, send := range map[string]send{
				"begins a connection": tcp(syn, frame),
				"goes on":             tcp(ack, from(40001), frame),
			} {
				if got := r.send(t, send(f)); got.action != xdpPass {
					t.Errorf("%s: %s frame that %s: %s", f.name, name, what, got.verdict)
				}
			}
		}
	}
}

// Who frees an entry marks it dead first, and may be held up right after: the daemon is not scheduled for a
// while, or killed. A SYN that found the entry stored its key a second time, and look-ups went on finding the
// dead one. It is taken out by whoever needs its place.
func TestDeadEntryMakesRoom(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		r.send(t, tcp(syn)(f))
		r.expireAll()
		for _, e := range r.entries() {
			r.setWord(e, e.conn.Word&0xffffff|connDead)
		}
		if got := r.send(t, tcp(syn)(f)); got.verdict != "tx_new" {
			t.Errorf("%s: %v", f.name, got)
		}
		entries := r.entries()
		if len(entries) != 1 || entries[0].conn.Word&connDead != 0 {
			t.Errorf("%s: %d entries, want a living one", f.name, len(entries))
		}
		r.check(t)
	}
}
