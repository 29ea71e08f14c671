// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"xdplvs/internal/packet"
)

var markSeed = flag.Uint64("markseed", 0, "seed of TestMarkAgreement; 0: another one each time")

// matches is what a rule means, as plainly as can be.
func (r *MarkRule) matches(p *marked) bool {
	return r.V6 == p.src.Is6() && (!r.Source.IsValid() || r.Source.Contains(p.src)) && (!r.Dest.IsValid() || r.Dest.Contains(p.dst)) &&
		(r.Protocol == 0 || r.Protocol == p.protocol) && (r.Interface == 0 || r.Interface == ingress) &&
		(r.DSCP < 0 || r.DSCP == int(p.dscp)) && inRanges(r.SourcePorts, p.sport) && inRanges(r.DestPorts, p.dport)
}

func inRanges(ranges []PortRange, port uint16) bool {
	for _, r := range ranges {
		if r.First <= port && port <= r.Last {
			return true
		}
	}
	return len(ranges) == 0
}

// marked is a packet that may get a mark.
type marked struct {
	src, dst     netip.Addr
	sport, dport uint16
	protocol     uint8
	dscp         uint8
}

func (m *marked) frame() []byte {
	var network packet.Layer = packet.IPv4{Src: m.src, Dst: m.dst, TOS: m.dscp << 2}
	if m.src.Is6() {
		network = packet.IPv6{Src: m.src, Dst: m.dst, TrafficClass: m.dscp << 2}
	}
	transport := packet.Layer(packet.UDP{SrcPort: m.sport, DstPort: m.dport})
	rest := packet.Data{}
	switch m.protocol {
	case tcpProto:
		transport = packet.TCP{SrcPort: m.sport, DstPort: m.dport, Flags: syn}
	case sctpProto:
		transport = packet.SCTP{SrcPort: m.sport, DstPort: m.dport}
		rest = append([]byte{1, 0, 0, 20}, make([]byte, 16)...) // INIT
	}
	return packet.Build(packet.Ethernet{Dst: packet.MAC{2}, Src: packet.MAC{2, 1}}, network, transport, rest)
}

// markWorld has a one-packet service for each of some marks, with a real server of its own.
type markWorld struct {
	r      *rig
	random *rand.Rand
	rules  []MarkRule
}

const markServices = 20

func newMarkWorld(t *testing.T, random *rand.Rand) *markWorld {
	r := newRig(t, Sizes{Conns4: 64, Conns6: 64, Overflow: 4, Services: 128, Reals: 128, Plans: 4096, Marks: 4096})
	r.reset(families[0])
	w := &markWorld{r: r, random: random}
	for mark := uint32(1); mark <= markServices; mark++ {
		id := 20 + mark
		for _, addr := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			must(t, r.keys.Set(Key{Addr: addr, Mark: mark}, id))
		}
		r.Services[id] = Service{Id: id, Flags: ServiceOnePacket | ServiceSloppy, Plan: [2]Plan{{Base: id * PlanAlign, Length: 1}}}
		r.Plans[id*PlanAlign] = id
		r.Reals[id] = Real{Flags: RealUsable | RealNextHop, Method: uint8(directorForwardMethodMETHOD_DR), Ifindex: ingress, Mtu: 1500, Service: id, Mac: [12]uint8{2, 0, 0, 0, 0, uint8(mark)}}
	}
	return w
}

// addresses and ports are few, so that rules meet.
func (w *markWorld) addr(v6 bool) netip.Addr {
	n := byte(w.random.IntN(4))
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 4: n >> 1, 8: n, 15: byte(1 + w.random.IntN(3))})
	}
	return netip.AddrFrom4([4]byte{198, 51, 100 + n>>1, 1 + n<<6 + byte(w.random.IntN(3))})
}

func (w *markWorld) prefix(v6 bool) (p netip.Prefix) {
	if w.random.IntN(3) == 0 {
		return p
	}
	a := w.addr(v6)
	return netip.PrefixFrom(a, a.BitLen()-oneOf(w.random, 0, 0, 2, 8, 9, a.BitLen())).Masked()
}

func (w *markWorld) ports() (all []PortRange) {
	for range w.random.IntN(3) {
		first := uint16(oneOf(w.random, 0, 1, 79, 80, 443, 1023, 1024, 6970, 65535))
		all = append(all, PortRange{first, first + uint16(w.random.IntN(int(65536-uint32(first))))>>uint(w.random.IntN(12))})
	}
	return all
}

func (w *markWorld) rule() MarkRule {
	r := MarkRule{
		V6: w.random.IntN(2) == 0, Protocol: oneOf[uint8](w.random, 0, tcpProto, udpProto, sctpProto), DSCP: oneOf(w.random, -1, -1, 0, 46),
		Interface: oneOf[uint32](w.random, 0, 0, ingress, ingress+1, NoInterface), Mark: 1 + w.random.Uint32N(markServices),
	}
	r.Source, r.Dest = w.prefix(r.V6), w.prefix(r.V6)
	if w.random.IntN(2) == 0 {
		r.DestPorts = w.ports()
	}
	if w.random.IntN(4) == 0 {
		r.SourcePorts = w.ports()
	}
	return r
}

func (w *markWorld) packet() marked {
	v6 := w.random.IntN(2) == 0
	port := func() uint16 {
		return uint16(oneOf(w.random, 1, 79, 80, 81, 443, 1023, 1024, 6970, 7000, 65535, w.random.IntN(65536)))
	}
	m := marked{src: w.addr(v6), dst: w.addr(v6), sport: port(), dport: port(), protocol: oneOf[uint8](w.random, tcpProto, udpProto, sctpProto), dscp: oneOf[uint8](w.random, 0, 1, 46)}
	if m.sport == 20 {
		m.sport = 21 // never scheduled
	}
	return m
}

// want is the mark that the first matching rule gives.
func (w *markWorld) want(m *marked) uint32 {
	for i := range w.rules {
		if w.rules[i].matches(m) {
			return w.rules[i].Mark
		}
	}
	return 0
}

// TestMarkAgreement: random rules give random packets the marks that they mean.
func TestMarkAgreement(t *testing.T) {
	seed := *markSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-markseed %d", seed)
	w := newMarkWorld(t, rand.New(rand.NewPCG(seed, 0)))
	kinds := map[uint32]int{}
	for round := range 40 {
		w.rules = nil
		for range w.random.IntN(20) {
			w.rules = append(w.rules, w.rule())
		}
		w.set(t)
		if round%8 == 0 { // a process that starts anew loses no packet
			w.r.keys = NewKeyTable(w.r.Tables)
		}
		kinds[w.r.Settings.Marking]++
		for range 200 {
			m := w.packet()
			got, err := w.r.runAlone(m.frame())
			must(t, err)
			if want := w.want(&m); got.action == xdpPass && want != 0 || got.action == xdpTx && uint32(got.out[5]) != want {
				t.Fatalf("%+v: action %d to %x, want mark %d of %d rules %+v", m, got.action, got.out[:6], want, len(w.rules), w.rules)
			}
		}
	}
	t.Logf("rounds by marking: %v", kinds)
}

func (w *markWorld) set(t *testing.T) {
	t.Helper()
	m, err := NewMarks(w.rules, w.r.Tables)
	must(t, err)
	w.r.keys.SetMarks(m)
}

// TestMarkFilter: where rules name addresses and ports, others' packets still leave first.
func TestMarkFilter(t *testing.T) {
	w := newMarkWorld(t, rand.New(rand.NewPCG(1, 1)))
	vip := netip.MustParseAddr("198.51.100.1")
	w.rules = []MarkRule{{Dest: netip.PrefixFrom(vip, 32), Protocol: tcpProto, DestPorts: []PortRange{{80, 80}, {443, 443}}, DSCP: -1, Mark: 7}}
	w.set(t)
	if got := w.r.Settings.Marking; got != MarksKnown {
		t.Fatalf("marking %d, want the filter to know all", got)
	}
	for port, verdict := range map[uint16]string{80: "tx_one_packet", 443: "tx_one_packet", 81: "pass_no_service"} {
		m := marked{src: netip.MustParseAddr("203.0.113.1"), dst: vip, sport: 1000, dport: port, protocol: tcpProto}
		mustVerdict(t, fmt.Sprint("port ", port), w.r.send(t, m.frame()), verdict)
	}
	w.rules = nil
	w.set(t)
	m := marked{src: netip.MustParseAddr("203.0.113.1"), dst: vip, sport: 1000, dport: 80, protocol: tcpProto}
	mustVerdict(t, "without rules", w.r.send(t, m.frame()), "pass_no_service")
	if w.r.Settings.Marking != MarksNone {
		t.Error("rules are looked for that there are not")
	}
}

// TestMarkLimits: what has no room is an error that says what to change.
func TestMarkLimits(t *testing.T) {
	tables := need(NewMemoryTables(Sizes{Conns4: 8, Conns6: 8, Overflow: 1, Services: 1, Reals: 1, Plans: 16, Marks: 512, CPUs: 1}))(t)
	var rules []MarkRule
	for i := range 600 {
		rules = append(rules, MarkRule{DSCP: -1, Mark: 1, DestPorts: []PortRange{{uint16(i), uint16(i)}}})
	}
	if _, err := NewMarks(rules, tables); !errors.Is(err, ErrFull) {
		t.Errorf("600 rules: %v", err)
	}
	m := need(NewMarks(rules[:512], tables))(t)
	NewKeyTable(tables).SetMarks(m)
	tables.MarkRules = make([]MarkBucket, 1<<16)
	rules = nil
	for bits := range 33 {
		source := netip.PrefixFrom(netip.IPv4Unspecified(), bits)
		rules = append(rules, MarkRule{DSCP: -1, Mark: 1, Source: source, SourcePorts: []PortRange{{1, 65534}}, DestPorts: []PortRange{{1, 65534}}})
	}
	if _, err := NewMarks(rules, tables); !errors.Is(err, ErrFull) {
		t.Errorf("too many shapes: %v", err)
	}
}

// TestSplitPorts: each port is in exactly the prefixes of the ranges that it is in.
func TestSplitPorts(t *testing.T) {
	for _, r := range []PortRange{{0, 65535}, {0, 0}, {65535, 65535}, {1, 65534}, {1024, 65535}, {6970, 7170}, {80, 81}, {81, 82}} {
		prefixes := splitPorts([]PortRange{r})
		if len(prefixes) > 30 {
			t.Errorf("%v: %d prefixes", r, len(prefixes))
		}
		for port := range 65536 {
			n := 0
			for _, p := range prefixes {
				if uint16(port)&p.mask == p.value {
					n++
				}
			}
			if want := port >= int(r.First) && port <= int(r.Last); want != (n == 1) || n > 1 {
				t.Fatalf("%v: port %d is in %d prefixes", r, port, n)
			}
		}
	}
}
