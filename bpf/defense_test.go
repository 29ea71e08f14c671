// SPDX-License-Identifier: Apache-2.0

package bpf

// The defenses: what packets have to get past that would begin a connection.
var defenseTests = []programTest{
	{name: "drop_packet: the first, and then each third", setup: dropRate(3), steps: []step{
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: tcp(syn), want: begins("a")},
		{send: udp(), want: begins("d")}, // one counter for all services
		{send: tcp(ack), want: known("a")},
		{send: tcp(syn, from(40001)), want: untouched("drop_packet")},
		{send: udp(), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 2", "c:40000>vip:80 ESTABLISHED a 2"}},
	{name: "drop_packet: only what would be scheduled counts", setup: dropRate(2), steps: []step{
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: tcp(ack), want: untouched("pass_no_connection")},
		{send: tcp(syn, elsewhere), want: untouched("pass_no_service")},
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, from(40001)), want: untouched("drop_packet")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "drop_packet: with persistence each packet counts once", setup: both2(persistent("web"), dropRate(2)), steps: []step{
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, from(40001)), want: untouched("drop_packet")},
		{send: tcp(syn, from(40001)), want: begins("a")},
	}, conns: []string{"c:0>vip:80 template a", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV a 1"}},
	{name: "drop_packet: one-packet scheduling", setup: both2(flagged("dns", ServiceOnePacket), dropRate(2)), steps: []step{
		{send: udp(), want: untouched("drop_packet")},
		{send: udp(), want: onePacket("d")},
		{send: udp(), want: untouched("drop_packet")},
	}},
	{name: "drop_packet: below 0 all are dropped", setup: dropRate(-1), steps: []step{
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: udp(), want: untouched("drop_packet")},
	}},
}

func dropRate(rate int32) func(*rig) {
	return func(r *rig) {
		*r.Defense = DefenseState{}
		r.Settings.Defending, r.Settings.DropRate = DefendRate, rate
	}
}
