// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"xdplvs/internal/packet"
)

// programTest is what a sequence of packets makes of the tables, and the
// tables of the packets. It runs in both families.
type programTest struct {
	name  string
	only  string     // "IPv4" or "IPv6"; empty: both
	setup func(*rig) // changes the world
	steps []step
	conns []string // that are stored in the end, see rig.conns
	check func(t *testing.T, r *rig)
}

// step is one packet.
type step struct {
	before func(*rig) // what happens first
	send   send
	want   want
}

// want is what becomes of a packet.
type want struct {
	verdict string
	real    string // counted as its traffic, and reached if the verdict transmits
	conns   uint64 // connections that the packet counts
	// out is the frame that leaves, if it is not the one that came with another head.
	out func(r *rig, in []byte) []byte
}

func untouched(verdict string) want { return want{verdict: verdict} }

// known goes to the real server of its connection.
func known(real string) want { return want{verdict: "tx_forward", real: real} }

// begins is the first packet of a connection that is stored.
func begins(real string) want { return want{verdict: "tx_new", real: real, conns: 1} }

// untracked is the first packet of a connection that finds no room.
func untracked(real string) want { return want{verdict: "tx_untracked", real: real, conns: 1} }

// onePacket is a connection of one packet.
func onePacket(real string) want { return want{verdict: "tx_one_packet", real: real, conns: 1} }

// ended is a packet that is counted for its real server, but does not reach it.
func (w want) ended(verdict string, out func(*rig, []byte) []byte) want {
	w.verdict, w.out = verdict, out
	return w
}

func TestProgram(t *testing.T) {
	for _, f := range families {
		for _, test := range programTests() {
			if test.only != "" && test.only != f.name {
				continue
			}
			t.Run(f.name+"/"+test.name, func(t *testing.T) { test.run(t, smallRig(t, f)) })
			t.Run(f.name+"/"+test.name+"/beside nat", func(t *testing.T) { test.besideNAT().run(t, smallRig(t, f)) })
		}
	}
}

// besideNAT is the test on a director that has real servers by nat too: there SYNs take the long way.
func (test programTest) besideNAT() programTest {
	setup := test.setup
	test.setup = func(r *rig) {
		if setup != nil {
			setup(r)
		}
		r.Settings.Nat = 1
	}
	return test
}

// programTests are those of all files.
func programTests() []programTest {
	return slices.Concat(parseTests, vlanTests, flowTests, pickTests, forwardTests, answerTests, icmpTests, fragmentTests, staleTests, persistTests, sorryTests, sipTests, tooBigTests, localTests, defenseTests, closedTests, guardTests)
}

func (test programTest) run(t *testing.T, r *rig) {
	if test.setup != nil {
		test.setup(r)
	}
	for i, s := range test.steps {
		if s.before != nil {
			s.before(r)
		}
		in := s.send(r.f)
		got := r.send(t, bytes.Clone(in))
		if err := r.compare(got, s.want, in); err != nil {
			t.Errorf("packet %d: %v\n  in %x\n", i+1, err, in)
		}
		r.check(t)
	}
	if got, want := r.conns(), slices.Sorted(slices.Values(test.conns)); !slices.Equal(got, want) {
		t.Errorf("connections:\n got %q\nwant %q", got, want)
	}
	if test.check != nil {
		test.check(t, r)
	}
	r.checkTraffic(t)
}

// compare tells what is not as wanted, and accounts for the rest.
func (r *rig) compare(got result, w want, in []byte) error {
	if w.real != "" {
		p, err := look(in)
		if err != nil {
			return err
		}
		r.account(w.real, uint64(p.length), w.conns)
	}
	if got.verdict != w.verdict {
		return fmt.Errorf("verdict %s, want %s", got.verdict, w.verdict)
	}
	if !got.transmitted() {
		return nil
	}
	if w.out == nil {
		return r.compareForwarded(got, w.real, in)
	}
	if out := w.out(r, in); !bytes.Equal(got.out, out) {
		return fmt.Errorf("answered\n got %x\nwant %x", got.out, out)
	}
	if got.action != xdpTx {
		return fmt.Errorf("answered with action %d", got.action)
	}
	return nil
}

// compareForwarded looks at a frame for a real server.
func (r *rig) compareForwarded(got result, real string, in []byte) error {
	row := r.real(real)
	out, err := forwarded(in, row)
	if err != nil {
		return err
	}
	if !bytes.Equal(got.out, out) {
		return fmt.Errorf("forwarded\n got %x\nwant %x", got.out, out)
	}
	action := uint32(xdpTx)
	if row.Ifindex != ingress {
		action = xdpRedirect
	}
	if got.action != action {
		return fmt.Errorf("action %d, want %d", got.action, action)
	}
	return nil
}

// Flags of TCP segments.
const (
	syn = packet.SYN
	ack = packet.ACK
	fin = packet.FIN
	rst = packet.RST
	psh = packet.PSH
)

// Parsing: what is no service's leaves untouched, whatever it is.
var parseTests = []programTest{
	{name: "ARP", steps: []step{{send: bytesOf(arp...), want: untouched("pass_not_ip")}}},
	{name: "LLDP", steps: []step{{send: bytesOf(lldp...), want: untouched("pass_not_ip")}}},
	{name: "802.3 length", steps: []step{{send: bytesOf(append(ethernetHead(0x0026), make([]byte, 46)...)...), want: untouched("pass_not_ip")}}},
	{name: "only an Ethernet header", steps: []step{
		{send: bytesOf(ethernetHead(0x0800)...), want: untouched("pass_malformed")},
		{send: bytesOf(ethernetHead(0x86dd)...), want: untouched("pass_malformed")},
		{send: bytesOf(ethernetHead(0x8100)...), want: untouched("pass_not_ip")},
	}},
	{name: "half a tag", steps: []step{{send: bytesOf(append(ethernetHead(0x8100), 0, 1, 8)...), want: untouched("pass_not_ip")}}},
	{name: "tagged ARP", steps: []step{{send: bytesOf(slices.Concat(ethernetHead(0x8100), []byte{0, 5, 8, 6}, arp[14:])...), want: untouched("pass_not_ip")}}},
	{name: "three tags", steps: []step{{send: tcp(syn, tag(0x88a8, 1), tag(0x8100, 2), tag(0x8100, 3)), want: untouched("pass_not_ip")}}},
	{name: "wrong version", steps: []step{
		{send: tcp(syn, set(0, 0x05)), want: untouched("pass_malformed")},
		{send: tcp(syn, set(0, 0xf5)), want: untouched("pass_malformed")},
	}},
	{name: "the other family's EtherType", steps: []step{
		{send: tcp(syn, edit(func(b []byte) []byte { b[12] ^= 0x08 ^ 0x86; b[13] ^= 0xdd; return b })), want: untouched("pass_malformed")},
	}},
	{name: "header shorter than 20 bytes", only: "IPv4", steps: []step{
		{send: tcp(syn, set(0, 0x44)), want: untouched("pass_malformed")},
		{send: tcp(syn, set(0, 0x40)), want: untouched("pass_malformed")},
	}},
	{name: "length less than the header", only: "IPv4", steps: []step{
		{send: tcp(syn, set(2, 0, 19)), want: untouched("pass_malformed")},
		{send: tcp(syn, set(2, 0, 0)), want: untouched("pass_malformed")},
		{send: tcp(syn, options, set(2, 0, 59)), want: untouched("pass_malformed")},
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack), want: known("a")},
		{send: tcp(ack, set(2, 0, 19)), want: untouched("pass_malformed")},
		{send: tcp(ack, set(2, 0, 0)), want: untouched("pass_malformed")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 2"}},
	{name: "length more than there is", steps: []step{
		{send: tcp(syn, inFamily(set(2, 0, 46), set(4, 0, 26))), want: untouched("pass_malformed")},
		{send: tcp(syn, inFamily(set(2, 0xff, 0xff), set(4, 0xff, 0xff))), want: untouched("pass_malformed")},
	}},
	{name: "extension header cut off", only: "IPv6", steps: []step{
		{send: tcp(syn, header(packet.ProtoDestOpts), set(4, 0, 7), cut(47)), want: untouched("pass_malformed")},
		{send: tcp(syn, header(packet.ProtoHopByHop), header(packet.ProtoDestOpts), set(4, 0, 8), cut(48)), want: untouched("pass_malformed")},
	}},
	{name: "extension header longer than the packet", only: "IPv6", steps: []step{
		{send: tcp(syn, header(packet.ProtoDestOpts), set(41, 255)), want: untouched("pass_malformed")},
	}},
	{name: "jumbogram", only: "IPv6", steps: []step{
		{send: tcp(syn, header(packet.ProtoHopByHop, 0xc2, 4, 0, 1, 0, 0), set(4, 0, 0)), want: untouched("pass_malformed")},
	}},
	{name: "other address", steps: []step{
		{send: tcp(syn, elsewhere), want: untouched("pass_no_service")},
		{send: udp(elsewhere, padded), want: untouched("pass_no_service")},
		{send: tcp(syn, elsewhere, ttl(1)), want: untouched("pass_no_service")},
	}},
	{name: "other port", steps: []step{
		{send: tcp(syn, to(81)), want: untouched("pass_no_service")},
		{send: tcp(syn, to(0x5000)), want: untouched("pass_no_service")}, // 80 with its bytes swapped
		{send: tcp(syn, to(0)), want: untouched("pass_no_service")},
		{send: tcp(syn, to(dnsPort)), want: untouched("pass_no_service")},
		{send: udp(to(webPort)), want: untouched("pass_no_service")},
	}},
	{name: "other protocols", steps: []step{
		{send: sctp(to(webPort)), want: untouched("pass_no_service")},
		{send: raw(2, make([]byte, 8)), want: untouched("pass_no_service")},
		{send: raw(50, make([]byte, 40)), want: untouched("pass_no_service")},
		{send: raw(47, make([]byte, 40)), want: untouched("pass_no_service")},
		{send: raw(59, nil), want: untouched("pass_no_service")},
		{send: raw(255, make([]byte, 40)), want: untouched("pass_no_service")},
	}},
	{name: "no service, with options or extension headers", steps: []step{
		{send: tcp(syn, elsewhere, options), want: untouched("pass_no_service")},
		{send: udp(elsewhere, options, tag(0x8100, 5)), want: untouched("pass_no_service")},
	}},
	{name: "nothing after the IP header", steps: []step{
		{send: raw(tcpProto, nil, elsewhere, padded), want: untouched("pass_no_service")},
		{send: raw(udpProto, nil, elsewhere, padded), want: untouched("pass_no_service")},
	}},
	{name: "a service, with options or extension headers", steps: []step{
		{send: tcp(syn, options), want: begins("a")},
		{send: tcp(ack, header(packet.ProtoHopByHop), header(packet.ProtoRouting, make([]byte, 22)...), header(packet.ProtoDestOpts)), want: known("a")},
		{send: tcp(ack), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 3"}},
	{name: "behind an authentication header", only: "IPv6", steps: []step{
		{send: tcp(syn, header(packet.ProtoAH, make([]byte, 22)...)), want: begins("a")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "more extension headers than are looked at", only: "IPv6", steps: []step{
		{send: tcp(syn, options, header(packet.ProtoDestOpts)), want: untouched("pass_no_service")},
	}},
	{name: "an atomic fragment is whole", only: "IPv6", steps: []step{
		{send: tcp(syn, atomicFragment), want: begins("a")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "don't fragment", only: "IPv4", steps: []step{
		{send: tcp(syn, set(6, 0x40)), want: begins("a")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
}

func atomicFragment(m *message) { m.headers = append(m.headers, packet.Fragment{ID: 9}) }

func ethernetHead(kind uint16) []byte {
	return packet.Build(packet.Ethernet{Dst: directorMAC, Src: routerMAC, Type: &kind})
}

var (
	arp = packet.Build(packet.Ethernet{Dst: packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, Src: routerMAC, Pad: 60},
		packet.Raw{Protocol: 0x0806, Data: []byte{0, 1, 8, 0, 6, 4, 0, 1}})
	lldp = packet.Build(packet.Ethernet{Dst: packet.MAC{1, 0x80, 0xc2, 0, 0, 0xe}, Src: routerMAC, Pad: 60},
		packet.Raw{Protocol: 0x88cc})
)

// Tags are those of the way out, however many came in.
var vlanTests = []programTest{
	{name: "tags in, tags out", steps: vlanSteps()},
	{name: "tag popped from the shortest frame", steps: []step{
		{send: udp(noData, tag(0x8100, 5)), want: begins("d")},
		{send: udp(noData, tag(0x88a8, 5), tag(0x8100, 6)), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 2"}},
}

// vlanSteps sends 0 to 2 tags to a real server that wants 0 to 2.
func vlanSteps() (steps []step) {
	none := func(*message) {}
	for tags := range uint8(3) {
		for _, in := range [][2]change{{none, none}, {tag(0x8100, 0x6005), none}, {tag(0x88a8, 0x0fff), tag(0x8100, 0)}} {
			for _, size := range []change{noData, padded, dataOf(1200)} {
				steps = append(steps, step{
					before: func(r *rig) { r.forget(); r.plan("web", 0, "a"); wantTags(r.real("a"), tags) },
					send:   tcp(syn, in[0], in[1], size),
					want:   begins("a"),
				})
			}
		}
	}
	return append(steps, step{before: (*rig).forget, send: tcp(ack), want: untouched("pass_no_connection")})
}

func wantTags(r *Real, n uint8) {
	r.Vlans = n
	r.Vlan = [2]uint16{be16(0xa123), be16(0x0456)}
	r.Tpid = [2]uint16{be16(0x8100), 0}
	if n == 2 {
		r.Tpid = [2]uint16{be16(0x88a8), be16(0x8100)}
	}
}
