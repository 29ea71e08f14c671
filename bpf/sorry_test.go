// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// apologizes gives a service sorry servers.
func apologizes(name string, reals ...string) func(*rig) {
	return func(r *rig) {
		s := r.service(name)
		s.Sorry = s.Id + 2
		k := Key{Addr: r.f.vip, Port: s.Port>>8 | s.Port<<8, Protocol: s.Protocol, Sorry: true}
		r.addService("sorry "+name, s.Id+1, k, reals...)
		r.service("sorry " + name).Flags = ServiceSorry
		r.flowPlan("sorry "+name, reals...)
	}
}

// unwell are real servers that are down for the packets that follow.
func unwell(names ...string) func(*rig) {
	return func(r *rig) {
		for _, name := range names {
			r.real(name).Flags &^= RealNextHop
		}
	}
}

func well(names ...string) func(*rig) {
	return func(r *rig) {
		for _, name := range names {
			r.real(name).Flags |= RealNextHop | RealUsable
		}
	}
}

func counted(name string, noReal uint64) func(*testing.T, *rig) {
	return func(t *testing.T, r *rig) {
		t.Helper()
		if n := r.service(name).NoReal; n != noReal {
			t.Errorf("%s: %d packets found no real server, want %d", name, n, noReal)
		}
	}
}

// Sorry servers: when they are asked, and what becomes of their connections.
var sorryTests = []programTest{
	{name: "sorry: only when no real server is usable", setup: apologizes("web", "x", "y"), steps: []step{
		{send: tcp(syn, from(1)), want: begins("a")},
		{before: unusable("a", "b"), send: tcp(syn, from(2)), want: begins("c")},
		{before: func(r *rig) { r.real("c").Flags |= RealOverloaded }, send: tcp(syn, from(3)), want: begins("x")},
		{send: tcp(syn, from(4)), want: begins("y")},
		{send: tcp(ack, from(3)), want: known("x")},
		{send: udp(), want: begins("d")},
		{before: well("a"), send: tcp(syn, from(5)), want: begins("a")},
		{send: tcp(ack, from(3)), want: known("x")},
	}, conns: []string{"c:1>vip:80 SYN_RECV a 1", "c:2>vip:80 SYN_RECV c 1", "c:3>vip:80 ESTABLISHED x 3", "c:4>vip:80 SYN_RECV y 1",
		"c:40000>vip:53 UDP d 1", "c:5>vip:80 SYN_RECV a 1"}, check: counted("web", 2)},
	{name: "sorry: a service without real servers", setup: both2(apologizes("dns", "x"), func(r *rig) { r.plan("dns", 0) }), steps: []step{
		{send: udp(), want: begins("x")},
		{send: udp(), want: known("x")},
		{send: tcp(syn), want: begins("a")},
	}, conns: []string{"c:40000>vip:53 UDP x 2", "c:40000>vip:80 SYN_RECV a 1"}, check: counted("dns", 1)},
	{name: "sorry: none is usable either", setup: both2(apologizes("web", "x"), unusable("a", "b", "c")), steps: []step{
		{before: unwell("x"), send: tcp(syn), want: untouched("drop_no_real")},
		{send: tcp(ack), want: untouched("pass_no_connection")},
		{before: well("x"), send: tcp(syn), want: begins("x")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV x 1"}, check: counted("sorry web", 1)},
	{name: "sorry: the service's answer", setup: both2(apologizes("web", "x"), func(r *rig) {
		unusable("a", "b", "c", "x")(r)
		r.service("sorry web").Answer = uint8(directorServiceAnswerANSWER_PASS)
	}), steps: []step{{send: tcp(syn), want: untouched("pass_answer")}}},
	{name: "sorry: none any more", setup: both2(apologizes("web", "x"), unusable("a", "b", "c")), steps: []step{
		{before: func(r *rig) { r.service("web").Sorry = 0 }, send: tcp(syn), want: untouched("drop_no_real")},
	}},
	{name: "sorry: no packet finds their service by a key", setup: both2(apologizes("web", "x"), func(r *rig) {
		r.keys.Delete(Key{Addr: r.f.vip, Port: webPort, Protocol: tcpProto})
		r.keys.Delete(Key{Addr: r.f.vip, Port: webPort, Protocol: tcpProto, Sorry: true})
		r.setKey(Key{Addr: r.f.vip, Protocol: tcpProto, Sorry: true}, r.service("sorry web").Id)
		r.service("sorry web").Flags |= ServiceSloppy
	}), steps: []step{
		{send: tcp(syn), want: untouched("pass_no_service")},
		{send: raw(tcpProto|sorryProtocol, make([]byte, 40)), want: untouched("pass_no_service")},
	}},
	{name: "sorry: persistence makes no templates to them", setup: both2(apologizes("web", "x"), persistent("web")), steps: []step{
		{send: tcp(syn, from(1)), want: begins("a")},
		{before: unwell("a", "b", "c"), send: tcp(syn, from(2)), want: begins("x")},
		{send: tcp(ack, from(2)), want: known("x")},
		{before: well("b"), send: tcp(syn, from(3)), want: begins("b")},
		{send: tcp(ack, from(2)), want: known("x")},
		{before: well("a"), send: tcp(syn, from(4)), want: begins("b")},
	}, conns: []string{"c:0>vip:80 template b", "c:1>vip:80 SYN_RECV a 1", "c:2>vip:80 ESTABLISHED x 3", "c:3>vip:80 SYN_RECV b 1", "c:4>vip:80 SYN_RECV b 1"}},
	{name: "sorry: who has a template has a real server", setup: both2(apologizes("web", "x"), persistent("web")), steps: []step{
		{send: tcp(syn, from(1)), want: begins("a")},
		{before: unusable("a", "b", "c"), send: tcp(syn, from(2)), want: begins("a")},
		{send: tcp(syn, second), want: begins("x")},
	}, conns: []string{"c:0>vip:80 template a", "c:1>vip:80 SYN_RECV a 1", "c:2>vip:80 SYN_RECV a 1", "c2:40000>vip:80 SYN_RECV x 1"}},
	{name: "sorry: an FTP service of several ports", setup: both2(apologizes("web", "x"), func(r *rig) {
		r.persist("web", 300)
		s := r.service("web")
		r.setKey(Key{Addr: r.f.vip, Port: 21, Protocol: tcpProto}, s.Id)
		r.Settings.Ftp, s.Port, s.TemplatePort = 1, 21<<8, 0
		r.service("sorry web").Port = 21 << 8
		unusable("a", "b", "c")(r)
	}), steps: []step{
		{send: tcp(syn, to(21)), want: begins("x")},
		{send: tcp(syn, to(30000)), want: begins("x")},
	}, conns: []string{"c:40000>vip:21 SYN_RECV x 1", "c:40000>vip:30000 SYN_RECV x 1"}},
	{name: "sorry: one packet", setup: both2(apologizes("dns", "x", "y"), func(r *rig) {
		flagged("dns", ServiceOnePacket)(r)
		flagged("sorry dns", ServiceOnePacket)(r)
		unusable("d", "e")(r)
	}), steps: []step{
		{send: udp(), want: onePacket("x")},
		{send: udp(), want: onePacket("y")},
	}},
	{name: "quorum: lost", setup: apologizes("web", "x"), steps: []step{
		{send: tcp(syn, from(1)), want: begins("a")},
		{before: flagged("web", ServiceNoQuorum), send: tcp(syn, from(2)), want: begins("x")},
		{send: tcp(ack, from(1)), want: known("a")},
		{before: func(r *rig) { r.service("web").Flags = 0 }, send: tcp(syn, from(3)), want: begins("b")},
		{send: tcp(ack, from(2)), want: known("x")},
	}, conns: []string{"c:1>vip:80 ESTABLISHED a 2", "c:2>vip:80 ESTABLISHED x 2", "c:3>vip:80 SYN_RECV b 1"}, check: counted("web", 0)},
	{name: "quorum: lost, and no sorry server can be reached", setup: both2(apologizes("web", "x"), flagged("web", ServiceNoQuorum)), steps: []step{
		{before: func(r *rig) { r.plan("sorry web", 0); r.flowPlan("sorry web") }, send: tcp(syn), want: begins("a")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "quorum: lost, and there are no sorry servers", setup: flagged("web", ServiceNoQuorum), steps: newConns("a", "b"), conns: synRecv("a", "b")},
	{name: "quorum: templates do not count", setup: both2(apologizes("web", "x"), persistent("web")), steps: []step{
		{send: tcp(syn, from(1)), want: begins("a")},
		{before: flagged("web", ServiceNoQuorum), send: tcp(syn, from(2)), want: begins("x")},
		{before: func(r *rig) { r.service("web").Flags &^= ServiceNoQuorum }, send: tcp(syn, from(3)), want: begins("a")},
	}, conns: []string{"c:0>vip:80 template a", "c:1>vip:80 SYN_RECV a 1", "c:2>vip:80 SYN_RECV x 1", "c:3>vip:80 SYN_RECV a 1"}},
}

// TestSorryUntracked: without room in the table, all segments of a client's connection reach the same sorry server,
// and those of a service that has real servers reach none.
func TestSorryUntracked(t *testing.T) {
	r := newRig(t, oneSet)
	for _, f := range families {
		for _, keep := range []uint32{0, 300} {
			t.Run(fmt.Sprint(f.name, " persistence ", keep), func(t *testing.T) {
				r.reset(f)
				apologizes("web", "x", "y")(r)
				r.flowPlan("sorry web", "x", "y", "x", "y", "x", "y", "x") // a prime, as lengths are
				for port := range uint16(10) {
					r.send(t, tcp(syn, from(port+1))(f))
					r.send(t, tcp(ack, from(port+1))(f))
				}
				unusable("a", "b", "c")(r)
				r.persist("web", keep)
				apologizeWithoutRoom(t, r, f)
			})
		}
	}
}

func apologizeWithoutRoom(t *testing.T, r *rig, f family) {
	t.Helper()
	reached := map[string]bool{}
	for port := range uint16(40) {
		first := r.send(t, tcp(syn, from(100+port))(f))
		mustVerdict(t, "a SYN", first, "tx_untracked")
		next := r.send(t, tcp(ack, from(100+port))(f))
		mustVerdict(t, "its ACK", next, "tx_untracked")
		if !bytes.Equal(first.out[:12], next.out[:12]) {
			t.Errorf("port %d: the SYN went to %x, the ACK to %x", 100+port, first.out[:12], next.out[:12])
		}
		for _, name := range []string{"x", "y"} {
			mac := realMAC(name)
			reached[name] = reached[name] || bytes.Equal(first.out[:12], mac[:])
		}
	}
	if !reached["x"] || !reached["y"] {
		t.Errorf("sorry servers reached: %v", reached)
	}
	well("a")(r)
	r.flowPlan("web", "a")
	r.pass(time.Second)
	if got := r.send(t, tcp(ack, from(7000))(f)); got.verdict == "tx_untracked" {
		mac := realMAC("a")
		if !bytes.Equal(got.out[:12], mac[:]) {
			t.Errorf("a segment went to %x, though a real server is usable", got.out[:12])
		}
	}
}
