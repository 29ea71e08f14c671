// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"xdplvs/internal/packet"
)

// natReal makes a real server one by nat: its address is of the family, its
// port another one than the service's unless it is 0.
func (r *rig) natReal(name, service string, port uint16) netip.Addr {
	return r.realBy(directorForwardMethodMETHOD_NAT, name, service, port)
}

func natAddr(f family, name string) netip.Addr {
	return both(f, netip.AddrFrom4([4]byte{10, 0, 7, name[0]}), netip.AddrFrom16([16]byte{0xfd, 15: name[0]}))
}

func (r *rig) realBy(method directorForwardMethod, name, service string, port uint16) netip.Addr {
	row := r.real(name)
	a := natAddr(r.f, name)
	row.Method = uint8(method)
	row.Addr = a.As16()
	if port == 0 {
		port = map[string]uint16{"web": webPort, "dns": dnsPort, "sctp": sctpPort}[service]
	}
	row.Port = port>>8 | port<<8
	row.ToPort = row.Port
	row.Service = r.services[service]
	r.keys.MarkReal(row)
	return a
}

// reply is what the server sends to the client when it gets such a message.
func reply(server netip.Addr, port uint16, name string) change {
	return func(m *message) {
		m.src, m.dst = server, m.src
		m.eth.Src = headOf(name).Dst
		ports(func(src, dst *uint16) { *src, *dst = port, *src })(m)
	}
}

// natted is the frame that leaves: between other ends, by other link-layer addresses, its TTL less by one.
func natted(eth packet.Ethernet, edit func(*message)) change {
	return func(m *message) {
		m.eth = eth
		m.ttl = new(uint8(63))
		edit(m)
	}
}

// headOf is the head of the frames to a real server.
func headOf(name string) packet.Ethernet {
	mac := realMAC(name)
	return packet.Ethernet{Dst: packet.MAC(mac[:6]), Src: packet.MAC(mac[6:])}
}

func toServer(name string, server netip.Addr, port uint16) change {
	return natted(headOf(name), func(m *message) {
		m.dst = server
		to(port)(m)
	})
}

// fromService is the reply as the client sees it.
func fromService(f family, port uint16) change {
	return natted(packet.Ethernet{Dst: routerMAC, Src: directorMAC}, func(m *message) {
		m.src, m.dst = f.vip, f.client
		from(port)(m)
		to(clientPort)(m)
	})
}

// transports are a first packet of each protocol, and its service.
var transports = []natTransport{
	{"TCP", "web", "a", webPort, 8080, tcpProto, func(c ...change) send { return tcp(syn, c...) },
		withTCP(func(l *packet.TCP) { l.Flags = ack })},
	{"UDP", "dns", "d", dnsPort, 5353, udpProto, udp, func(*message) {}},
	{"SCTP", "sctp", "f", sctpPort, 2906, sctpProto, func(c ...change) send { return sctpTo(chunks("init"), c...) },
		func(m *message) { m.data = chunks("data") }},
}

type natTransport struct {
	name, service, real string
	port, mapped        uint16
	protocol            uint8
	send                func(...change) send
	established         change // makes it a packet of an established connection
}

// natShapes are packets that look different on the wire.
var natShapes = []struct {
	name    string
	changes []change
}{
	{"plain", nil},
	{"odd length", []change{longer(1301)}},
	{"options and extension headers", []change{func(m *message) {
		m.options = both(m.f, []byte{1, 1, 1, 0}, nil)
		if m.f.v6() {
			m.headers = []packet.Layer{packet.Extension{Protocol: 60, Body: []byte{1, 4, 0, 0, 0, 0}}}
		}
	}}},
	{"a length of many ones", []change{longer(1023 - 12)}},
}

func longer(by int) change {
	return func(m *message) { m.data = append(bytes.Clone(m.data), bytes.Repeat([]byte{0x5a, 7}, by)[:by]...) }
}

// TestNATBothWays compares every byte of a request and of its reply with those
// of a packet built for it, checksums included.
func TestNATBothWays(t *testing.T) {
	for _, f := range families {
		for _, tr := range transports {
			for _, mapped := range []bool{false, true} {
				for _, full := range []bool{false, true} {
					for _, shape := range natShapes {
						name := fmt.Sprint(f.name, "/", tr.name, "/mapped ", mapped, "/full ", full, "/", shape.name)
						t.Run(name, func(t *testing.T) { natBothWays(t, f, tr, mapped, full, shape.changes) })
					}
				}
			}
		}
	}
}

func natBothWays(t *testing.T, f family, tr natTransport, mapped, full bool, shape []change) {
	r := smallRig(t, f)
	sctpWorld(r)
	port := tr.port
	if mapped {
		port = tr.mapped
	}
	r.plan(tr.service, 0, tr.real)
	server := r.natReal(tr.real, tr.service, map[bool]uint16{true: tr.mapped}[mapped])
	if full {
		r.byFullNAT(tr.real, 1)
	}
	established := append(slices.Clone(shape), tr.established)
	for i, verdict := range []string{"tx_new", "tx_forward", "tx_forward"} {
		sent := append(slices.Clone(shape), map[bool]change{true: tr.established, false: func(*message) {}}[i > 0])
		got := r.send(t, tr.send(sent...)(f))
		want := tr.send(append(sent, toServer(tr.real, server, port), r.fromLocal(t, tr))...)(f)
		mustLeave(t, fmt.Sprint("request ", i), got, verdict, want)
	}
	for i := range 2 { // the first may be the first at all, the second finds everything established
		back := append(slices.Clone(established), reply(server, port, tr.real))
		got := r.send(t, tr.send(append(back, r.toLocal(t, tr))...)(f))
		mustLeave(t, fmt.Sprint("reply ", i), got, "tx_reply", tr.send(append(back, fromService(f, tr.port))...)(f))
	}
	r.check(t)
}

func mustLeave(t *testing.T, what string, got result, verdict string, want []byte) {
	t.Helper()
	if got.verdict != verdict {
		t.Errorf("%s: verdict %s, want %s", what, got.verdict, verdict)
	} else if !bytes.Equal(got.out, want) {
		t.Errorf("%s:\n got %x\nwant %x", what, got.out, want)
	}
}

// TestNATChecksums: a checksum that is wrong stays as wrong as it was, none stays none; on the long
// way, and on the short one of an established connection.
func TestNATChecksums(t *testing.T) {
	for _, f := range families {
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprint(f.name, "/full ", full), func(t *testing.T) {
				r := smallRig(t, f)
				r.plan("web", 0, "a")
				r.plan("dns", 0, "d")
				web, dns := r.natReal("a", "web", 8080), r.natReal("d", "dns", 5353)
				if full {
					r.byFullNAT("a", 1)
					r.byFullNAT("d", 2)
				}
				for _, flags := range []uint8{syn, ack, ack} {
					r.wrongChecksum(t, flags, web)
				}
				none := withUDP(func(u *packet.UDP) { u.Checksum = new(uint16(0)) })
				for _, verdict := range []string{"tx_new", "tx_forward"} {
					got := r.send(t, udp(none)(f))
					mustLeave(t, "without a checksum", got, verdict, udp(none, toServer("d", dns, 5353), r.fromLocal(t, transports[1]))(f))
				}
				r.check(t)
			})
		}
	}
}

func (r *rig) wrongChecksum(t *testing.T, flags uint8, server netip.Addr) {
	t.Helper()
	wrong := withTCP(func(l *packet.TCP) { l.Checksum = new(uint16(0x1234)) })
	sum := func(frame []byte) uint16 { return checksumOf(t, frame) }
	got := r.send(t, tcp(flags, wrong)(r.f))
	right := tcp(flags, toServer("a", server, 8080), r.fromLocal(t, transports[0]))(r.f)
	if have, want := sum(got.out), onesMinus(sum(right), sum(tcp(flags)(r.f)), 0x1234); have != want {
		t.Errorf("flags %#x: checksum %#x, want %#x: as wrong as before", flags, have, want)
	}
}

// checksumOf is the TCP checksum of a frame without options.
func checksumOf(t *testing.T, frame []byte) uint16 {
	t.Helper()
	p := need(look(frame))(t)
	at := p.l4 + 16
	return uint16(frame[at])<<8 | uint16(frame[at+1])
}

// onesMinus is what a wrong checksum becomes when the right one would become right: the same
// one's complement difference is added.
func onesMinus(right, before, wrong uint16) uint16 {
	sum := uint32(^wrong) + uint32(before) + uint32(^right) // ~HC' = ~HC + (~right - ~before)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// TestNATStates replays every TCP transition of the kernel's, those of the server's packets included.
func TestNATStates(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			r.plan("web", 0, "a")
			server := r.natReal("a", "web", 8080)
			n := 0
			for _, tr := range readTransitions(t) {
				if tr.Table == "INPUT_ONLY" {
					continue // of dr and tun
				}
				n++
				frame := tcp(flagsOf(tr.Event))
				want := "tx_forward"
				if tr.Table == "OUTPUT" {
					frame = tcp(flagsOf(tr.Event), reply(server, 8080, "a"))
					want = "tx_reply"
				}
				if err := r.replayNAT(t, tr, frame(f), want); err != nil {
					t.Errorf("%+v: %v", tr, err)
				}
			}
			if n != 528 {
				t.Errorf("%d transitions were replayed", n)
			}
			r.check(t)
		})
	}
}

func (r *rig) replayNAT(t *testing.T, tr transition, frame []byte, verdict string) error {
	r.forget()
	r.Settings.SecureTcp = uint32(min(tr.SecureTCP, 1))
	r.send(t, tcp(syn)(r.f))
	r.setWord(r.mustFind(t, clientPort), uint32(stateNumber(tr.From)))
	if got := r.send(t, frame); got.verdict != verdict {
		return fmt.Errorf("verdict %s", got.verdict)
	}
	e := r.mustFind(t, clientPort)
	if got := stateNames[ConnState(&e.conn)]; got != tr.To {
		return fmt.Errorf("went to %s", got)
	}
	counts := r.Counts[r.reals["a"]].Conns
	if uint32(counts) != uint32(tr.Active) || counts>>32 != uint64(tr.Inactive) {
		return fmt.Errorf("%d active, %d inactive", uint32(counts), counts>>32)
	}
	return nil
}

// natWeb is a rig with one web server by nat.
func natWeb(t *testing.T, f family) (r *rig, server netip.Addr, answer func(flags uint8, changes ...change) result) {
	r = smallRig(t, f)
	r.plan("web", 0, "a")
	server = r.natReal("a", "web", 8080)
	return r, server, func(flags uint8, changes ...change) result {
		t.Helper()
		return r.send(t, tcp(flags, append(changes, reply(server, 8080, "a"))...)(f))
	}
}

func mustVerdict(t *testing.T, what string, got result, want string) {
	t.Helper()
	if got.verdict != want {
		t.Errorf("%s: %s, want %s", what, got.verdict, want)
	}
}

// TestNATWayBack: it lives as long as its connection, whatever becomes of that.
func TestNATWayBack(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r, server, answer := natWeb(t, f)
			mustVerdict(t, "out of nowhere", answer(syn|ack), "pass_no_connection")
			r.send(t, tcp(syn)(f))
			mustVerdict(t, "SYN-ACK", answer(syn|ack), "tx_reply")
			mustVerdict(t, "of another port", r.send(t, tcp(ack, reply(server, 8081, "a"))(f)), "pass_no_service")
			mustVerdict(t, "to another client", r.send(t, tcp(ack, second, reply(server, 8080, "a"))(f)), "pass_no_connection")
			mustVerdict(t, "at the end of its TTL", answer(ack, func(m *message) { m.ttl = new(uint8(1)) }), "drop_ttl")

			r.waysBack(t, 1)
			r.sweepOnce(t)
			r.waysBack(t, 1)
			r.expireAll()
			mustVerdict(t, "of an expired one", answer(ack), "pass_no_connection")
			r.sweepOnce(t)
			r.sweepOnce(t) // the second pass sees that it leads nowhere
			r.waysBack(t, 0)
			r.check(t)

			r.send(t, tcp(syn)(f))
			mustVerdict(t, "of a new one", answer(syn|ack), "tx_reply")
			r.real("a").Generation++
			mustVerdict(t, "of one whose server was changed", answer(ack), "drop_real_gone")
			r.real("a").Stale = StaleReset
			got := answer(ack, noData)
			mustVerdict(t, "of one that is reset", got, "tx_reset")
			if p := need(look(got.out))(t); p.src != f.client || p.dst != server {
				t.Errorf("reset from %s to %s, want it from the client to the server", p.src, p.dst)
			}
			r.check(t)
		})
	}
}

// waysBack fails unless there are so many, apart from the connections.
func (r *rig) waysBack(t *testing.T, want int) {
	t.Helper()
	n := 0
	for _, e := range r.entries() {
		if isWayBack(e.conn.Word) {
			n++
		}
	}
	if n != want {
		t.Errorf("%d ways back, want %d", n, want)
	}
}

func (r *rig) sweepOnce(t *testing.T) {
	t.Helper()
	now := need(r.clock.Now())(t)
	for _, s := range []*Sweep{NewSweep4(r.Tables), NewSweep6(r.Tables)} {
		s.Next(now, 1<<20)
	}
}

// TestNATAgain: a new connection between the same ends takes the way back over.
func TestNATAgain(t *testing.T) {
	for _, f := range families {
		r, _, answer := natWeb(t, f)
		r.service("web").Flags = ServiceReuse
		for range 3 {
			r.send(t, tcp(syn)(f))
			mustVerdict(t, "SYN-ACK", answer(syn|ack), "tx_reply")
			r.send(t, tcp(ack)(f))
			r.setWord(r.mustFind(t, clientPort), uint32(stateNumber("CLOSE")))
			r.waysBack(t, 1)
		}
		r.expireAll()
		r.sweepOnce(t) // frees the connection, and perhaps its way back, by their places
		r.send(t, tcp(syn)(f))
		mustVerdict(t, "after a sweep", answer(syn|ack), "tx_reply")
		r.check(t)
	}
}

// TestNATFragments: both directions' later fragments follow their first.
func TestNATFragments(t *testing.T) {
	f := families[0]
	for _, full := range []bool{false, true} {
		t.Run(fmt.Sprint("full ", full), func(t *testing.T) {
			r, server, _ := natWeb(t, f)
			if full {
				r.byFullNAT("a", 1)
			}
			r.send(t, tcp(syn)(f))
			r.natFragments(t, server, r.fromLocal(t, transports[0]), r.toLocal(t, transports[0]))
			r.check(t)
		})
	}
}

func (r *rig) natFragments(t *testing.T, server netip.Addr, fromLocal, toLocal change) {
	f := r.f
	first := func(m *message) { m.more, m.data = true, make([]byte, 1480) }
	later := func(m *message) {
		m.offset, m.transport = 1500, packet.Raw{Protocol: uint16(tcpProto), Data: []byte("the rest")}
	}
	mustVerdict(t, "first fragment of a request", r.send(t, tcp(ack, first)(f)), "tx_forward")
	got := r.send(t, tcp(ack, later, noData)(f))
	mustLeave(t, "later fragment of a request", got, "tx_forward", tcp(ack, later, noData, fromLocal, func(m *message) {
		m.eth = headOf("a")
		m.dst, m.ttl = server, new(uint8(63))
	})(f))
	swap := func(m *message) {
		m.src, m.dst = server, m.src
		toLocal(m)
	}
	mustVerdict(t, "first fragment of a reply", r.send(t, tcp(ack, first, reply(server, 8080, "a"), toLocal)(f)), "tx_reply")
	got = r.send(t, tcp(ack, later, noData, swap)(f))
	mustLeave(t, "later fragment of a reply", got, "tx_reply", tcp(ack, later, noData, func(m *message) {
		m.eth = packet.Ethernet{Dst: routerMAC, Src: directorMAC}
		m.src, m.dst, m.ttl = f.vip, f.client, new(uint8(63))
	})(f))
}

// TestNATFrames: replies go where the client's last packet came from, with the tag that its first had.
func TestNATFrames(t *testing.T) {
	for _, f := range families {
		r, _, answer := natWeb(t, f)
		for port, tags := range map[uint16][]packet.VLAN{
			1: {{TPID: 0x8100, TCI: 0}}, 2: {{TPID: 0x8100, TCI: 0x2064}}, 3: {{TPID: 0x88a8, TCI: 7}, {TPID: 0x8100, TCI: 0x3065}},
		} {
			with := func(m *message) { m.tags = tags }
			r.send(t, tcp(syn, from(port), with)(f))
			got := answer(syn|ack, from(port))
			want := tcp(syn|ack, reply(netip.AddrFrom16(r.real("a").Addr).Unmap(), 8080, "a"), fromService(f, webPort), to(port), with)
			mustLeave(t, fmt.Sprint(f.name, " with tags ", tags), got, "tx_reply", want(f))
		}
		tagged := func(m *message) { m.tags = []packet.VLAN{{TPID: 0x8100, TCI: 0x2064}} }
		r.send(t, tcp(syn, tagged)(f))
		mustVerdict(t, "SYN-ACK", answer(syn|ack), "tx_reply")
		other := packet.MAC{2, 0, 0, 0, 9, 9}
		r.send(t, tcp(ack, tagged, func(m *message) { m.eth.Src = other })(f))
		if got := answer(ack); !bytes.Equal(got.out[:6], other[:]) || !bytes.Equal(got.out[6:12], directorMAC[:]) {
			t.Errorf("%s: reply %x, want it to %x", f.name, got.out, other)
		}
		r.check(t)
	}
}

// TestNATNoRoom: a connection whose replies would not be known is not begun.
func TestNATNoRoom(t *testing.T) {
	for _, f := range families {
		r, _, _ := natWeb(t, f)
		r.flowPlan("web", "a")
		r.send(t, tcp(syn)(f))
		r.send(t, tcp(ack)(f))
		refused := 0
		for port := range uint16(400) {
			got := r.send(t, tcp(syn, from(1000+port))(f))
			if got.verdict == "drop_no_room" {
				refused++
				continue
			}
			r.send(t, tcp(ack, from(1000+port))(f)) // it is established, and not evicted any more
			r.setWord(r.mustFind(t, 1000+port), uint32(stateNumber("ESTABLISHED")))
		}
		if refused == 0 {
			t.Errorf("%s: none of 400 connections was refused", f.name)
		}
		if r.service("web").Untracked == 0 {
			t.Errorf("%s: none is counted as without room", f.name)
		}
		r.check(t)
	}
}

// quoting is an ICMP error of each kind that matters, about a packet between these ends.
func quoting(src, dst netip.Addr, sport, dport uint16, changes ...change) send {
	return icmpError(func(f family) []packet.Layer {
		return []packet.Layer{network(f, src, dst), packet.TCP{SrcPort: sport, DstPort: dport, Seq: 7, Checksum: new(uint16(0xbeef))}}
	}, changes...)
}

// TestNATErrors: an error about a connection reaches the other end in its own
// terms, whoever sends it, with every checksum right.
func TestNATErrors(t *testing.T) {
	for _, f := range families {
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprint(f.name, "/full ", full), func(t *testing.T) {
				r, server, _ := natWeb(t, f)
				end := netip.AddrPortFrom(f.client, clientPort) // that the real server knows
				if full {
					r.byFullNAT("a", 1)
				}
				r.send(t, tcp(syn)(f))
				if full {
					end = r.local(t, r.webFlow(clientPort))
				}
				r.natErrors(t, server, end)
				r.check(t)
			})
		}
	}
}

func (r *rig) natErrors(t *testing.T, server netip.Addr, end netip.AddrPort) {
	f := r.f
	router := both(f, addr("203.0.113.9"), addr("2001:db8:9::9"))
	fromRouter := func(m *message) { m.src = router }
	got := r.send(t, quoting(f.vip, f.client, webPort, clientPort, fromRouter)(f))
	want := quoting(server, end.Addr(), 8080, end.Port(), fromRouter, natted(headOf("a"), func(m *message) {
		m.dst = server
		if end.Addr() != f.client { // real servers need no route to anybody else
			m.src = end.Addr()
		}
	}))
	mustLeave(t, "from the client's side", got, "tx_icmp", want(f))

	for _, from := range []netip.Addr{server, router} {
		sent := func(m *message) { m.src, m.dst, m.eth.Src = from, end.Addr(), headOf("a").Dst }
		got = r.send(t, quoting(end.Addr(), server, end.Port(), 8080, sent)(f))
		want = quoting(f.client, f.vip, clientPort, webPort, sent,
			natted(packet.Ethernet{Dst: routerMAC, Src: directorMAC}, func(m *message) { m.src, m.dst = f.vip, f.client }))
		mustLeave(t, "from the servers' side, "+from.String(), got, "tx_icmp", want(f))
	}
}

// TestNATForeignErrors: errors about nothing of ours, and ICMP that is no error, are the stack's.
func TestNATForeignErrors(t *testing.T) {
	for _, f := range families {
		r, server, _ := natWeb(t, f)
		toClient := func(m *message) { m.src, m.dst = server, f.client }
		mustVerdict(t, "of no connection", r.send(t, quoting(f.client, server, clientPort, 8080, toClient)(f)), "pass_no_service")
		r.send(t, tcp(syn)(f))
		mustVerdict(t, "to another port", r.send(t, quoting(f.client, server, clientPort, 8081, toClient)(f)), "pass_no_service")
		mustVerdict(t, "of another client", r.send(t, quoting(f.second, server, clientPort, 8080, toClient)(f)), "pass_no_service")
		mustVerdict(t, "cut off", r.send(t, quoting(f.client, server, clientPort, 8080, toClient, cut(both(f, 50, 90)))(f)), both(f, "pass_malformed", "pass_malformed"))
		mustVerdict(t, "an echo", r.send(t, newSend(both(f, packet.ICMP{Type: 8}, packet.ICMP{Type: 128}), toClient)(f)), "pass_no_service")
		mustVerdict(t, "at the end of its TTL", r.send(t, quoting(f.client, server, clientPort, 8080, toClient, ttl(1))(f)), "drop_ttl")
		r.real("a").Generation++
		mustVerdict(t, "of a server that was changed", r.send(t, quoting(f.client, server, clientPort, 8080, toClient)(f)), "pass_no_service")
		r.check(t)
	}
}
