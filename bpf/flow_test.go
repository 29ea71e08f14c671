// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"
	"time"

	"xdplvs/internal/packet"
)

// later lets time go by.
func later(d time.Duration) func(*rig) { return func(r *rig) { r.pass(d) } }

// Connections: what begins one, what goes on, what ends it.
var flowTests = []programTest{
	{name: "TCP from SYN to close", steps: []step{
		{send: tcp(syn, noData), want: begins("a")},
		{send: tcp(ack, noData, padded), want: known("a")},
		{send: tcp(psh | ack), want: known("a")},
		{send: tcp(ack, dataOf(1460)), want: known("a")},
		{send: tcp(fin | ack), want: known("a")},
		{send: tcp(ack), want: known("a")},
	}, conns: []string{"c:40000>vip:80 FIN_WAIT a 6"}},
	{name: "TCP from SYN to reset", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(rst), want: known("a")},
		{send: tcp(ack), want: known("a")},
		{send: tcp(rst | ack), want: known("a")},
	}, conns: []string{"c:40000>vip:80 CLOSE a 4"}},
	{name: "a repeated SYN", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn), want: known("a")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 2"}},
	{name: "connections are told apart", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, from(40001)), want: begins("b")},
		{send: tcp(syn, second), want: begins("c")},
		{send: udp(), want: begins("d")},
		{send: tcp(ack, from(40001)), want: known("b")},
		{send: tcp(ack), want: known("a")},
		{send: tcp(ack, second), want: known("c")},
		{send: udp(padded, noData), want: known("d")},
	}, conns: []string{
		"c2:40000>vip:80 ESTABLISHED c 2",
		"c:40000>vip:53 UDP d 2",
		"c:40000>vip:80 ESTABLISHED a 2",
		"c:40001>vip:80 ESTABLISHED b 2",
	}},
	{name: "SYN and ACK is scheduled", steps: []step{{send: tcp(syn | ack), want: begins("a")}},
		conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "SYN and FIN is a SYN", steps: []step{{send: tcp(syn | fin), want: begins("a")}},
		conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "out of nowhere", steps: []step{
		{send: tcp(ack), want: untouched("pass_no_connection")},
		{send: tcp(rst), want: untouched("pass_no_connection")},
		{send: tcp(fin | ack), want: untouched("pass_no_connection")},
		{send: tcp(0), want: untouched("pass_no_connection")},
		{send: tcp(syn | rst), want: untouched("pass_no_connection")},
		{send: tcp(ack, ttl(1)), want: untouched("pass_no_connection")},
	}, check: func(t *testing.T, r *rig) {
		if s := r.service("web"); s.Cursor != [2]uint64{} || s.NoReal != 0 {
			t.Errorf("a plan was asked: %+v", s)
		}
	}},
	{name: "sloppy: ACK", setup: sloppy, steps: []step{{send: tcp(ack), want: begins("a")}},
		conns: []string{"c:40000>vip:80 ESTABLISHED a 1 unproven"}},
	{name: "sloppy: a second ACK proves", setup: sloppy, steps: []step{
		{send: tcp(ack), want: begins("a")}, {send: tcp(ack), want: known("a")}},
		conns: []string{"c:40000>vip:80 ESTABLISHED a 2"}},
	{name: "sloppy: FIN", setup: sloppy, steps: []step{{send: tcp(fin | ack), want: begins("a")}},
		conns: []string{"c:40000>vip:80 CLOSE a 1 unproven"}},
	{name: "sloppy: no flags", setup: sloppy, steps: []step{{send: tcp(0), want: begins("a")}},
		conns: []string{"c:40000>vip:80 CLOSE a 1 unproven"}},
	{name: "sloppy: RST", setup: sloppy, steps: []step{{send: tcp(rst), want: untouched("pass_no_connection")}}},
	{name: "sloppy: SYN is nothing special", setup: sloppy, steps: []step{{send: tcp(syn), want: begins("a")}},
		conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "secure_tcp: the first SYN", setup: func(r *rig) { r.Settings.SecureTcp = 1 }, steps: []step{
		{send: tcp(syn), want: begins("a")},
	}, conns: []string{"c:40000>vip:80 SYNACK a 1"}},
	{name: "UDP", steps: []step{
		{send: udp(), want: begins("d")},
		{send: udp(dataOf(1400)), want: known("d")},
		{send: udp(withUDP(func(u *packet.UDP) { u.Checksum = new(uint16(0)) })), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 3"}},
	{name: "one packet", setup: func(r *rig) { r.service("dns").Flags = ServiceOnePacket }, steps: []step{
		{send: udp(), want: onePacket("d")},
		{send: udp(), want: onePacket("e")},
		{send: udp(), want: onePacket("d")},
	}},
	{name: "one packet, TCP", setup: func(r *rig) { r.service("web").Flags = ServiceOnePacket }, steps: []step{
		{send: tcp(syn), want: onePacket("a")},
		{send: tcp(ack), want: untouched("pass_no_connection")},
	}},
	{name: "expired: SYN begins anew in that packet", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack), want: known("a")},
		{before: later(899 * time.Second), send: tcp(ack), want: known("a")},
		{before: later(901 * time.Second), send: tcp(syn), want: begins("b")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "expired: ACK is of no connection, and the entry is gone", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: later(61 * time.Second), send: tcp(ack), want: untouched("pass_no_connection")},
	}},
	{name: "expired: UDP begins anew", steps: []step{
		{send: udp(), want: begins("d")},
		{before: later(299 * time.Second), send: udp(), want: known("d")},
		{before: later(301 * time.Second), send: udp(), want: begins("e")},
	}, conns: []string{"c:40000>vip:53 UDP e 1"}},
	{name: "expired: the timeout is that of the state", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: later(59 * time.Second), send: tcp(rst), want: known("a")}, // SYN_RECV stays
		{before: later(59 * time.Second), send: tcp(ack), want: known("a")},
		{before: later(61 * time.Second), send: tcp(rst), want: known("a")},
		{before: later(9 * time.Second), send: tcp(ack), want: known("a")},
		{before: later(11 * time.Second), send: tcp(ack), want: untouched("pass_no_connection")},
	}},
	{name: "another CPU's clock is ahead", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.pass(0); ahead(r) }, send: tcp(ack), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 2"}},
	{name: "reuse: not asked for", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: inState("TIME_WAIT"), send: tcp(syn), want: known("a")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 2"}},
	{name: "reuse: TIME_WAIT", setup: reuse, steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: inState("TIME_WAIT"), send: tcp(ack), want: known("a")},
		{send: tcp(syn), want: begins("b")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "reuse: CLOSE", setup: reuse, steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: inState("CLOSE"), send: tcp(syn), want: begins("b")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "reuse: other states are kept", setup: reuse, steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: inState("FIN_WAIT"), send: tcp(syn), want: known("a")},
		{before: inState("CLOSE_WAIT"), send: tcp(syn), want: known("a")},
		{before: inState("LAST_ACK"), send: tcp(syn), want: known("a")},
		{before: inState("ESTABLISHED"), send: tcp(syn), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 5"}},
	{name: "reuse: FIN_WAIT when asked for", setup: func(r *rig) { r.service("web").Flags = ServiceReuse | ServiceReuseFin }, steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: inState("FIN_WAIT"), send: tcp(syn), want: begins("b")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "expire_nodest: a SYN leaves a quiesced real server", setup: func(r *rig) { r.service("web").Flags = ServiceExpireNodest }, steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack), want: known("a")},
		{before: unusable("a"), send: tcp(ack), want: known("a")},
		{send: tcp(syn), want: begins("b")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV b 1"}},
	{name: "quiesced: connections go on", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: unusable("a", "b", "c"), send: tcp(ack), want: known("a")},
		{send: tcp(syn), want: known("a")},
		{before: func(r *rig) { r.real("a").Flags |= RealOverloaded }, send: tcp(ack), want: known("a")},
		{send: tcp(syn, from(1)), want: untouched("drop_no_real")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 4"}},
	{name: "a removed service's key is gone", setup: func(r *rig) { r.keys.Delete(Key{Addr: r.f.vip, Port: webPort, Protocol: tcpProto}) }, steps: []step{
		{send: tcp(syn), want: untouched("pass_no_service")},
		{send: udp(), want: begins("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 1"}},
}

func sloppy(r *rig) { r.service("web").Flags = ServiceSloppy }

func reuse(r *rig) { r.service("web").Flags = ServiceReuse }

// inState puts the client's connection into a state.
func inState(name string) func(*rig) {
	return func(r *rig) {
		e := r.find(r.webFlow(clientPort))
		r.setWord(e, uint32(stateNumber(name))|noOutput)
	}
}

func stateNumber(name string) uint8 {
	for n, s := range stateNames {
		if s == name {
			return n
		}
	}
	panic("no state " + name)
}

// ahead lets all connections be used in the future.
func ahead(r *rig) {
	for _, e := range r.entries() {
		e.conn.LastUse += 5
		e.store()
	}
}

// unusable takes real servers out of scheduling.
func unusable(names ...string) func(*rig) {
	return func(r *rig) {
		for _, name := range names {
			r.real(name).Flags &^= RealUsable
		}
	}
}
