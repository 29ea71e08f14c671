// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"slices"
	"testing"

	"xdplvs/internal/packet"
)

// Forwarding: the bytes that leave, and by which interface.
var forwardTests = []programTest{
	{name: "another interface", setup: otherInterface, steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack, tag(0x8100, 5), padded), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 2"}},
	{name: "the last TTL that is enough", steps: []step{
		{send: tcp(syn, ttl(2)), want: begins("a")},
		{send: tcp(ack, ttl(255)), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 2"}},
	{name: "no next hop any more", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags &^= RealNextHop }, send: tcp(ack), want: known("a").ended("drop_no_next_hop", nil)},
		{before: func(r *rig) { r.real("a").Flags |= RealNextHop }, send: tcp(ack), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 3"}},
	{name: "no next hop any more, and a new SYN", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags &^= RealNextHop }, send: tcp(syn), want: begins("b")},
		{send: tcp(ack), want: known("b")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED b 2"}},
	{name: "dead, and a new SYN", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags = r.real("a").Flags&^RealUsable | RealDown }, send: tcp(ack), want: known("a")},
		{send: tcp(syn), want: begins("b")},
		{send: tcp(ack), want: known("b")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED b 2"}},
	{name: "the next hop moves", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Mac[5]++; wantTags(r.real("a"), 1) }, send: tcp(ack), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 2"}},
	{name: "checksums wherever they carry", only: "IPv4", steps: checksumSteps(), conns: []string{"c:40000>vip:53 UDP d 9"}},
	{name: "a wrong checksum stays wrong", only: "IPv4", steps: []step{
		{send: udp(set(10, 0, 0)), want: begins("d")},
		{send: udp(set(10, 0xff, 0xff)), want: known("d")},
		{send: udp(set(10, 0xfe, 0xff)), want: known("d")},
		{send: udp(set(10, 0xfe, 0xfe)), want: known("d")},
		{send: udp(set(10, 0x12, 0x34)), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 5"}},
	{name: "the biggest frame", steps: []step{
		{send: udp(inFamily(dataOf(1472), dataOf(1452))), want: begins("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 1"}},
}

func otherInterface(r *rig) {
	a := r.real("a")
	a.Ifindex = 4711
	// What stands in the map is not looked at before the frame really leaves.
	if err := r.plane.SetTxPort(a.TxPort, ingress); err != nil {
		panic(err)
	}
}

// checksumSteps let the IPv4 checksum take on values around every carry.
func checksumSteps() (steps []step) {
	w := begins("d")
	for _, sum := range []uint16{0x0000, 0x0001, 0x00ff, 0x0100, 0xfdff, 0xfe00, 0xfeff, 0xff00, 0xfffe} {
		// The id is free: with it the sum comes out as it should.
		frame := udp()(families[0])
		was := uint16(frame[24])<<8 | uint16(frame[25])
		id := onesSub(0x1234, onesSub(sum, was))
		steps = append(steps, step{send: udp(set(4, byte(id>>8), byte(id)), set(10, byte(sum>>8), byte(sum))), want: w})
		w = known("d")
	}
	return steps
}

// onesSub subtracts in ones' complement arithmetic.
func onesSub(a, b uint16) uint16 {
	sum := uint32(a) + uint32(^b)
	return uint16(sum + sum>>16)
}

// The steps above are about right checksums, and those that leave are right.
func TestChecksumSteps(t *testing.T) {
	var row Real
	for i, s := range checksumSteps() {
		in := s.send(families[0])
		out, err := forwarded(in, &row)
		must(t, err)
		if sum := packet.Checksum(in[14:34]); sum != 0 {
			t.Errorf("packet %d: checksum is wrong by %#x", i, sum)
		}
		if sum := packet.Checksum(out[14:34]); sum != 0 {
			t.Errorf("packet %d leaves with a checksum wrong by %#x", i, sum)
		}
		whole := slices.Clone(out[14:34])
		whole[10], whole[11] = 0, 0
		if want := packet.Checksum(whole); out[24] != byte(want>>8) || out[25] != byte(want) {
			t.Errorf("packet %d: checksum %x, a new one would be %#04x", i, out[24:26], want)
		}
	}
}
