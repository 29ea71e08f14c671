// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"xdplvs/internal/packet"
)

// probePort is one that probes come from.
const probePort = 61234

var nearMAC = packet.MAC{2, 0, 0, 0, 7, 7} // of the pair's near end

// probeRig is a rig whose probes come in by the interface of test runs.
func probeRig(t *testing.T, f family) *rig {
	t.Helper()
	r := smallRig(t, f)
	r.SetProbe(ingress)
	return r
}

// asProbe makes it a packet of a probe that is meant for a real server.
func (r *rig) asProbe(name string) change {
	return func(m *message) {
		from(probePort)(m)
		mark := r.reals[name] + 1
		m.eth = packet.Ethernet{Dst: packet.MAC{3, 0x4d, byte(mark >> 24), byte(mark >> 16), byte(mark >> 8), byte(mark)}, Src: nearMAC}
	}
}

// answered is the answer to a probe, of a server at an address, and what of it comes into the pair.
func answered(f family, server netip.Addr, port uint16, c ...change) (sent, back []change) {
	base := append([]change{func(m *message) {
		m.src, m.dst = server, f.client
		ports(func(src, dst *uint16) { *src, *dst = port, probePort })(m)
	}}, c...)
	return base, append(base[:len(base):len(base)], func(m *message) {
		m.eth, m.tags = packet.Ethernet{Dst: nearMAC}, nil
		m.src = f.vip
	})
}

// mustBeNobodys fails if something is counted or stored.
func (r *rig) mustBeNobodys(t *testing.T) {
	t.Helper()
	if conns := r.conns(); len(conns) != 0 {
		t.Errorf("stored: %q", conns)
	}
	for name := range r.services {
		if s := r.service(name); s.Cursor != [2]uint64{} || s.NoReal != 0 {
			t.Errorf("service %s: cursors %v, %d packets without real server", name, s.Cursor, s.NoReal)
		}
	}
	r.check(t)
	r.checkTraffic(t)
}

// TestProbe: a probe goes to the real server that its mark names, whatever is thought of that one, as a client's packets
// go there, and its answer goes back into the pair; all bytes are compared. Nothing is stored, nobody counted.
func TestProbe(t *testing.T) {
	tagged := func(m *message) { m.tags = []packet.VLAN{{TPID: 0x8100, TCI: 100}} }
	for _, f := range families {
		for _, method := range []directorForwardMethod{directorForwardMethodMETHOD_DR, directorForwardMethodMETHOD_NAT, directorForwardMethodMETHOD_FULLNAT} {
			t.Run(fmt.Sprint(f.name, " by method ", method), func(t *testing.T) {
				r := probeRig(t, f)
				r.plan("web", 0, "c")
				for _, tr := range transports[:2] {
					server, mapped, toReal := f.vip, tr.port, natted(headOf(tr.real), func(*message) {})
					if method != directorForwardMethodMETHOD_DR {
						server, mapped = r.realBy(method, tr.real, tr.service, tr.mapped), tr.mapped
						toReal = toServer(tr.real, server, mapped)
					}
					r.real(tr.real).Flags = RealNextHop | RealDown | RealOverloaded
					got := r.send(t, tr.send(r.asProbe(tr.real))(f))
					mustLeave(t, tr.name, got, "tx_probe", tr.send(r.asProbe(tr.real), toReal)(f))
					for _, shape := range [][]change{nil, {tr.established}, {tagged}, {tr.established, longer(1301)}} {
						sent, back := answered(f, server, mapped, shape...)
						back = append(back, from(tr.port))
						mustLeave(t, tr.name+" answered", r.send(t, tr.send(sent...)(f)), "tx_probe", tr.send(back...)(f))
					}
				}
				r.mustBeNobodys(t)
			})
		}
	}
}

// TestProbeByTunnel: the packet inside is the client's.
func TestProbeByTunnel(t *testing.T) {
	for _, f := range families {
		r := probeRig(t, f)
		row := r.real("a")
		row.Method = uint8(directorForwardMethodMETHOD_TUN)
		row.Tunnel = Tunnel{Source: netip.MustParseAddr("10.0.0.2"), Destination: netip.MustParseAddr("10.0.0.5")}.Row()
		got := r.send(t, tcp(syn, r.asProbe("a"))(f))
		want := tcp(syn, r.asProbe("a"), natted(packet.Ethernet{}, func(*message) {}))(f)
		mustVerdict(t, f.name, got, "tx_probe")
		if inner := string(got.out[14+20:]); inner != string(want[14:]) {
			t.Errorf("%s: inside is %x, want %x", f.name, inner, want[14:])
		}
		sent, back := answered(f, f.vip, webPort)
		mustLeave(t, f.name+" answered", r.send(t, tcp(syn|ack, sent...)(f)), "tx_probe", tcp(syn|ack, back...)(f))
		r.mustBeNobodys(t)
	}
}

// TestProbeICMP: errors that quote a probe go back to who sent it, by nat with what he knows; so do echo replies.
func TestProbeICMP(t *testing.T) {
	for _, f := range families {
		r := probeRig(t, f)
		server := r.natReal("a", "web", 8080)
		router := both(f, addr("203.0.113.9"), addr("2001:db8:9::9"))
		mustVerdict(t, "probe", r.send(t, tcp(syn, r.asProbe("a"))(f)), "tx_probe")
		fromRouter := func(m *message) { m.src, m.dst = router, f.client }
		into := func(m *message) { m.eth = packet.Ethernet{Dst: nearMAC} }
		got := r.send(t, quoting(f.client, server, probePort, 8080, fromRouter)(f))
		mustLeave(t, f.name+" about one by nat", got, "tx_probe", quoting(f.client, f.vip, probePort, webPort, fromRouter, into)(f))
		mustVerdict(t, "about nothing of ours", r.send(t, quoting(f.client, server, probePort, 8081, fromRouter)(f)), "pass_no_service")

		mustVerdict(t, "probe", r.send(t, tcp(syn, r.asProbe("b"))(f)), "tx_probe")
		fromVIP := func(m *message) { m.src, m.dst = f.vip, f.client }
		got = r.send(t, quoting(f.client, f.vip, probePort, webPort, fromVIP)(f))
		mustLeave(t, f.name+" about one by dr", got, "tx_probe", quoting(f.client, f.vip, probePort, webPort, fromVIP, into)(f))

		echo, reply := both(f, uint8(8), uint8(128)), both(f, uint8(0), uint8(129))
		mustVerdict(t, "reply to nobody", r.send(t, newSend(packet.ICMP{Type: reply}, fromVIP)(f)), "pass_no_service")
		got = r.send(t, newSend(packet.ICMP{Type: echo}, r.asProbe("b"))(f))
		mustLeave(t, f.name+" echo", got, "tx_probe", newSend(packet.ICMP{Type: echo}, natted(headOf("b"), func(*message) {}))(f))
		got = r.send(t, newSend(packet.ICMP{Type: reply}, fromVIP)(f))
		mustLeave(t, f.name+" echo reply", got, "tx_probe", newSend(packet.ICMP{Type: reply}, fromVIP, into)(f))
		mustVerdict(t, "echo by nat", r.send(t, newSend(packet.ICMP{Type: echo}, r.asProbe("a"))(f)), "drop_untaken")
		r.mustBeNobodys(t)
	}
}

// TestProbeFragments: an answer that was cut arrives, too, by dr and by nat; so does an echo reply.
func TestProbeFragments(t *testing.T) {
	piece := func(m *message, offset int, more bool) {
		m.offset, m.more = offset, more
		if m.f.v6() {
			m.headers = []packet.Layer{packet.Fragment{ID: 77, Offset: offset, More: more}}
		}
	}
	first := func(m *message) {
		piece(m, 0, true)
		m.data = make([]byte, 1400)
	}
	later := func(protocol uint16) change {
		return func(m *message) {
			piece(m, 1408, false)
			m.transport = packet.Raw{Protocol: protocol, Data: []byte("the rest")}
		}
	}
	for _, f := range families {
		r := probeRig(t, f)
		mapped := r.natReal("a", "dns", 5353)
		for name, server := range map[string]netip.AddrPort{"d": netip.AddrPortFrom(f.vip, dnsPort), "a": netip.AddrPortFrom(mapped, 5353)} {
			rest := later(uint16(udpProto))
			mustVerdict(t, "probe", r.send(t, udp(r.asProbe(name))(f)), "tx_probe")
			sent, back := answered(f, server.Addr(), server.Port())
			back = append(back, from(dnsPort))
			got := r.send(t, udp(append(sent, first)...)(f))
			mustLeave(t, f.name+" first of "+name, got, "tx_probe", udp(append(back, first)...)(f))
			got = r.send(t, udp(append(sent, noData, rest)...)(f))
			mustLeave(t, f.name+" later of "+name, got, "tx_probe", udp(append(back, noData, rest)...)(f))
		}
		r.mustBeNobodys(t)

		r = probeRig(t, f)
		echo, reply := both(f, uint8(8), uint8(128)), both(f, uint8(0), uint8(129))
		sent, back := answered(f, f.vip, 0)
		cut := func(m *message) { first(m); m.transport = packet.ICMP{Type: reply} }
		rest := later(both(f, uint16(1), uint16(58)))
		mustVerdict(t, "reply to nobody", r.send(t, udp(append(sent, cut)...)(f)), "pass_no_service")
		mustVerdict(t, "echo", r.send(t, newSend(packet.ICMP{Type: echo}, r.asProbe("d"))(f)), "tx_probe")
		mustLeave(t, f.name+" echo reply, first", r.send(t, udp(append(sent, cut)...)(f)), "tx_probe", udp(append(back, cut)...)(f))
		got := r.send(t, udp(append(sent, noData, rest)...)(f))
		mustLeave(t, f.name+" echo reply, later", got, "tx_probe", udp(append(back, noData, rest)...)(f))
		r.mustBeNobodys(t)
	}
}

// TestProbeOthers: what only looks like a probe or its answer is what it was.
func TestProbeOthers(t *testing.T) {
	for _, f := range families {
		r := probeRig(t, f)
		answer, _ := answered(f, f.vip, webPort)
		mustVerdict(t, "an answer to nobody", r.send(t, tcp(syn|ack, answer...)(f)), "pass_no_service")
		mustVerdict(t, "one of the short way", r.send(t, tcp(ack, answer...)(f)), "pass_no_service")
		marked := func(mark byte) change {
			return func(m *message) { m.eth = packet.Ethernet{Dst: packet.MAC{3, 0x4d, 0, 0, 0, mark}, Src: nearMAC} }
		}
		mustVerdict(t, "without a mark", r.send(t, tcp(syn, marked(0))(f)), "drop_untaken")
		mustVerdict(t, "with that of no row", r.send(t, tcp(syn, marked(255))(f)), "drop_untaken")
		mustVerdict(t, "with that of a free row", r.send(t, tcp(syn, marked(60))(f)), "drop_no_next_hop")
		mustVerdict(t, "a client of such a port", r.send(t, tcp(syn, from(probePort))(f)), "tx_new")
		r.SetProbe(ingress + 1)
		mustVerdict(t, "by another interface", r.send(t, tcp(syn, r.asProbe("a"))(f)), "pass_other_host")
		r.SetProbe(0)
		mustVerdict(t, "without a pair", r.send(t, tcp(syn, r.asProbe("a"))(f)), "pass_other_host")
	}
}
