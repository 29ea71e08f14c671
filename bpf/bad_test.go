// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"testing"

	"xdplvs/internal/packet"
)

// roads are the forwarding methods: each makes a real server one of the method.
var roads = []struct {
	name string
	make func(r *rig, tr natTransport)
}{
	{"dr", func(*rig, natTransport) {}},
	{"nat", func(r *rig, tr natTransport) { r.natReal(tr.real, tr.service, tr.mapped) }},
	{"fullnat", func(r *rig, tr natTransport) {
		r.natReal(tr.real, tr.service, tr.mapped)
		r.byFullNAT(tr.real, 1)
	}},
	{"tun", func(r *rig, tr natTransport) { r.tunnelReal(tr.real, Tunnel{Type: TunnelIPIP}, r.f.v6()) }},
	{"tun with checksum", func(r *rig, tr natTransport) {
		r.tunnelReal(tr.real, Tunnel{Type: TunnelGUE, Port: 6080, Checksum: true}, r.f.v6())
	}},
	{"local", func(r *rig, tr natTransport) {
		r.real(tr.real).Flags |= RealLocal
		r.real(tr.real).Method = uint8(directorForwardMethodMETHOD_LOCAL)
	}},
}

// eachRoad runs a test with a real server of each method, for each protocol and family.
func eachRoad(t *testing.T, test func(t *testing.T, r *rig, road string, tr natTransport)) {
	t.Helper()
	for _, f := range families {
		for _, tr := range transports {
			for _, road := range roads {
				t.Run(fmt.Sprint(f.name, "/", tr.name, "/", road.name), func(t *testing.T) {
					r := smallRig(t, f)
					sctpWorld(r)
					r.plan(tr.service, 0, tr.real)
					road.make(r, tr)
					test(t, r, road.name, tr)
					r.check(t)
				})
			}
		}
	}
}

// error16 is by how much the checksums of a frame are wrong: 0 if they are right.
type error16 struct {
	header    uint16 // IPv4's
	transport uint32
}

// wrongness takes a frame's checksums apart, that of the inner packet if it travels by tun.
func wrongness(t *testing.T, frame []byte) error16 {
	t.Helper()
	v := need(look(unwrapped(t, frame)))(t)
	b := unwrapped(t, frame)[v.l4 : v.l3+v.length]
	e := error16{header: v.checksum4}
	if v.protocol != packet.ProtoSCTP {
		e.transport = uint32(packet.TransportChecksum(v.src, v.dst, v.protocol, b))
		return e
	}
	zeroed := append(bytes.Clone(b[:8]), make([]byte, 4)...)
	right := crc32.Checksum(append(zeroed, b[12:]...), crc32.MakeTable(crc32.Castagnoli))
	e.transport = right ^ binary.LittleEndian.Uint32(b[8:])
	return e
}

// unwrapped is what travels in ipip, or in GUE, between addresses of its own family; of another frame the frame itself.
func unwrapped(t *testing.T, frame []byte) []byte {
	t.Helper()
	v := need(look(frame))(t)
	at := v.l4
	if v.protocol == packet.ProtoUDP && binary.BigEndian.Uint16(frame[at+2:]) == 6080 {
		if sum := v.checksum(frame); sum != 0 {
			t.Errorf("the outer checksum is wrong: %#x", sum)
		}
		at += 12
	} else if v.protocol != packet.ProtoIPIP && v.protocol != packet.ProtoIPv6 {
		return frame
	}
	return append(bytes.Clone(frame[:v.l3]), frame[at:]...)
}

// flip changes a frame behind its sender's back, so that no checksum is right any more.
var flip = map[string]func(v parsed, b []byte){
	"the IPv4 header":   func(v parsed, b []byte) { b[v.l3+1] ^= 0x14 },
	"a port":            func(v parsed, b []byte) { b[v.l4] ^= 1 },
	"the data":          func(v parsed, b []byte) { b[v.l3+v.length-1] ^= 0x80 },
	"the transport sum": func(v parsed, b []byte) { b[v.l4+map[uint8]int{6: 16, 17: 6, 132: 8}[v.protocol]] ^= 0x21 },
}

// TestWrongChecksums: what is wrong stays exactly as wrong as it came, by every method, and whoever gets it
// finds out.
func TestWrongChecksums(t *testing.T) {
	eachRoad(t, func(t *testing.T, r *rig, road string, tr natTransport) {
		for what, change := range flip {
			for _, known := range []bool{false, true} {
				in := tr.send()(r.f)
				if known {
					r.send(t, tr.send()(r.f))
					in = tr.send(tr.established)(r.f)
				}
				change(need(look(in))(t), in)
				before := wrongness(t, in)
				if before == (error16{}) && (what != "the IPv4 header" || !r.f.v6()) {
					t.Fatalf("%s: nothing is wrong with it", what)
				}
				got := r.send(t, bytes.Clone(in))
				if after := wrongness(t, got.out); after != before {
					t.Errorf("%s, known %v: %s, and it is wrong by %+v, was by %+v", what, known, got.verdict, after, before)
				}
				if road == "local" && !bytes.Equal(got.out, in) {
					t.Errorf("%s: it was changed", what)
				}
				r.forget()
			}
		}
	})
}

// TestWrongReplies: so it is with what real servers answer through the director; and what has no checksum gets none.
func TestWrongReplies(t *testing.T) {
	eachRoad(t, func(t *testing.T, r *rig, road string, tr natTransport) {
		if road != "nat" && road != "fullnat" {
			return
		}
		r.send(t, tr.send()(r.f))
		r.send(t, tr.send(tr.established)(r.f))
		back := []change{tr.established, reply(natAddr(r.f, tr.real), tr.mapped, tr.real), r.toLocal(t, tr)}
		for what, change := range flip {
			in := tr.send(back...)(r.f)
			if what == "a port" { // then it is no reply
				continue
			}
			change(need(look(in))(t), in)
			before, got := wrongness(t, in), r.send(t, bytes.Clone(in))
			if after := wrongness(t, got.out); after != before || got.verdict != "tx_reply" {
				t.Errorf("%s: %s, and it is wrong by %+v, was by %+v", what, got.verdict, after, before)
			}
		}
		if tr.protocol == udpProto {
			none := append(back, withUDP(func(u *packet.UDP) { u.Checksum = new(uint16(0)) }))
			mustLeave(t, "without a checksum", r.send(t, udp(none...)(r.f)), "tx_reply", udp(append(none, fromService(r.f, tr.port))...)(r.f))
		}
	})
}

// TestLastHop: a packet whose TTL ends is told so, as its sender sent it, whatever it was to become; the director
// itself takes it.
func TestLastHop(t *testing.T) {
	eachRoad(t, func(t *testing.T, r *rig, road string, tr natTransport) {
		for i, known := range []change{func(*message) {}, tr.established} {
			in := tr.send(known, ttl(1))(r.f)
			got := r.send(t, bytes.Clone(in))
			if road == "local" {
				mustLeave(t, "the last hop", got, "pass_local", in)
				continue
			}
			mustLeave(t, fmt.Sprint("packet ", i), got, "tx_time_exceeded", timeExceeded(r, in))
		}
		mustVerdict(t, "one hop more", r.send(t, tr.send(tr.established, ttl(2))(r.f)), map[bool]string{false: "tx_forward", true: "pass_local"}[road == "local"])
	})
}

// TestWayOut: what is larger than the way out is told so, whatever way that is.
func TestWayOut(t *testing.T) {
	eachRoad(t, func(t *testing.T, r *rig, road string, tr natTransport) {
		if road == "local" {
			return
		}
		r.real(tr.real).Mtu = 1300
		for i, known := range []change{func(*message) {}, tr.established} {
			in := tr.send(known, longer(1301))(r.f)
			mustLeave(t, fmt.Sprint("packet ", i), r.send(t, bytes.Clone(in)), "tx_too_big", tooBig(1300)(r, in))
		}
		mustVerdict(t, "what fits", r.send(t, tr.send(tr.established)(r.f)), "tx_forward")
	})
}
