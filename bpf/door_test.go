// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"xdplvs/internal/packet"
)

// throughDoor is the head of a frame that the door's program has written a mark into.
func throughDoor(mark uint32) packet.Ethernet {
	return packet.Ethernet{Dst: packet.MAC{3, 0x4d, byte(mark >> 24), byte(mark >> 16), byte(mark >> 8), byte(mark)}, Src: packet.MAC{2, 1}}
}

// withHead is the frame with other link-layer addresses.
func withHead(eth packet.Ethernet, frame []byte) []byte {
	return append(packet.Build(eth)[:12], frame[12:]...)
}

// doorFrame is a SYN through the door.
func doorFrame(f family, mark uint32) []byte {
	m := marked{src: f.client, dst: f.other, sport: 1000, dport: 80, protocol: tcpProto}
	return withHead(throughDoor(mark), m.frame())
}

// TestDoor: packets through the door go to the service of their mark, whatever the filter knows; what no
// service takes is not given back to the stack. Elsewhere such a frame is somebody else's.
func TestDoor(t *testing.T) {
	w := newMarkWorld(t, rand.New(rand.NewPCG(1, 1)))
	w.r.SetDoor(ingress)
	for _, f := range families {
		got := w.r.send(t, doorFrame(f, 7))
		mustVerdict(t, f.name+" with mark 7", got, "tx_one_packet")
		if got.out[5] != 7 {
			t.Errorf("%s: mark 7 went to %x", f.name, got.out[:6])
		}
		mustVerdict(t, f.name+" with a mark of nobody's", w.r.send(t, doorFrame(f, 0x01020304)), "drop_untaken")
		mustVerdict(t, f.name+" without a mark", w.r.send(t, doorFrame(f, 0)), "drop_untaken")
		multicast := doorFrame(f, 7)
		multicast[1]++
		mustVerdict(t, f.name+" to another group", w.r.send(t, multicast), "pass_other_host")
	}
	w.r.SetDoor(ingress + 1)
	mustVerdict(t, "by another interface", w.r.send(t, doorFrame(families[0], 7)), "pass_other_host")
	w.r.SetDoor(0)
	mustVerdict(t, "without a door", w.r.send(t, doorFrame(families[0], 7)), "pass_other_host")
}

// TestDoorEcho: an echo request that the firewall marked is answered, as one to a known address is.
func TestDoorEcho(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		r.SetDoor(ingress)
		m := marked{src: f.client, dst: f.other, protocol: f.icmp()}
		echo := withHead(throughDoor(7), echoFrame(m.src, m.dst))
		got := r.send(t, echo)
		mustVerdict(t, f.name, got, "tx_echo")
		r.SetDoor(0)
		mustVerdict(t, f.name+" without a door", r.send(t, echo), "pass_other_host")
	}
}

func echoFrame(src, dst netip.Addr) []byte {
	if src.Is6() {
		return packet.Build(packet.Ethernet{}, packet.IPv6{Src: src, Dst: dst}, packet.ICMP{Type: 128}, packet.Data("12345678"))
	}
	return packet.Build(packet.Ethernet{}, packet.IPv4{Src: src, Dst: dst}, packet.ICMP{Type: 8}, packet.Data("12345678"))
}

// TestDoorProgram: the program at the near end writes the mark, and nothing else.
func TestDoorProgram(t *testing.T) {
	r := smallRig(t, families[0])
	frame := doorFrame(families[0], 0)
	context := struct {
		Len, Type, Mark uint32
		Rest            [46]uint32
	}{Mark: 0xa1b2c3d4}
	out := make([]byte, len(frame))
	action := need(r.plane.objects.Programs[directorProgMarkDoor].Run(&ebpf.RunOptions{Data: frame, DataOut: out, Context: context}))(t)
	want := withHead(throughDoor(0xa1b2c3d4), frame)
	if action != 0 || !bytes.Equal(out, want) {
		t.Errorf("action %d, frame\n%x, want\n%x", action, out, want)
	}
}

// TestExplainAgreement: what is explained is what packets get, and each rule's packets are counted.
func TestExplainAgreement(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newMarkWorld(t, rand.New(rand.NewPCG(seed, 0)))
	for range 20 {
		w.rules = nil
		for range 1 + w.random.IntN(20) {
			w.rules = append(w.rules, w.rule())
		}
		w.set(t)
		counts := make([]uint64, len(w.rules))
		for range 100 {
			m := w.packet()
			w.explain(t, &m, counts)
		}
		if got := w.r.Marked(len(w.rules)); fmt.Sprint(got) != fmt.Sprint(counts) {
			t.Errorf("the rules have marked %v packets, want %v of %+v", got, counts, w.rules)
		}
	}
}

// explain asks about a packet, then sends it.
func (w *markWorld) explain(t *testing.T, m *marked, counts []uint64) {
	t.Helper()
	a := need(w.r.plane.ExplainMark(MarkQuestion{Source: netip.AddrPortFrom(m.src, m.sport), Dest: netip.AddrPortFrom(m.dst, m.dport),
		Protocol: m.protocol, Interface: ingress, DSCP: m.dscp}))(t)
	rule, mark := -1, w.want(m)
	for i := range w.rules {
		if w.rules[i].matches(m) {
			rule = i
			counts[i]++
			break
		}
	}
	service := -1
	if mark != 0 {
		service = int(20 + mark)
	}
	if a != (MarkAnswer{mark, rule, service}) {
		t.Fatalf("%+v: explained as %+v, want rule %d, mark %d, service %d of %+v", m, a, rule, mark, service, w.rules)
	}
	got, err := w.r.runAlone(m.frame())
	must(t, err)
	if sent := got.action == xdpTx; sent != (mark != 0) {
		t.Fatalf("%+v: mark %d, action %d", m, mark, got.action)
	}
}

// TestExplainFirewall: with a mark of the firewall's no rule is asked.
func TestExplainFirewall(t *testing.T) {
	w := newMarkWorld(t, rand.New(rand.NewPCG(1, 1)))
	q := MarkQuestion{Source: netip.MustParseAddrPort("198.51.100.1:1000"), Dest: netip.MustParseAddrPort("192.0.2.1:80"), Protocol: tcpProto, Mark: 7}
	if a := need(w.r.plane.ExplainMark(q))(t); a != (MarkAnswer{7, -1, 27}) {
		t.Errorf("answer is %+v", a)
	}
}

// TestRepliesOfAnyPort: as soon as there is a real server by nat whose service has no port, replies from every
// port of it are looked for.
func TestRepliesOfAnyPort(t *testing.T) {
	r := smallRig(t, families[0])
	row := &Real{Method: uint8(directorForwardMethodMETHOD_NAT), Addr: families[0].other.As16(), Service: 9}
	r.Services[9] = Service{Id: 9, Mark: 7 << 24}
	r.keys.MarkReal(row)
	if r.Settings.NatAnyPort != 1 {
		t.Error("replies of a firewall mark's service are not looked for")
	}
	r.keys.UnmarkReal(row)
	if r.Settings.NatAnyPort != 0 {
		t.Error("replies of nobody's are looked for")
	}
}
