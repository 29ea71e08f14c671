// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"xdplvs/director"
	"xdplvs/internal/packet"
)

// frames is a scenario of single packets on its way through a node: every byte
// of what leaves is that of the recording, but for what is random there.
type frames struct {
	*life
	mtu      int
	compared int
	other    bool // a sysctl is set that the director does not have
}

// framesCompared is how many packets were compared, by recording, when this was written.
var framesCompared = map[string]int{"forward": 217, "icmp": 21}

// TestFrames replays what a Linux kernel's IPVS made of single packets.
func TestFrames(t *testing.T) {
	plane := loadPlane(t)
	compared := map[string]int{}
	for _, s := range scenariosIn(t, frameRecordings, "*") {
		if s.Sysctl["nat_icmp_send"] == "1" {
			t.Logf("not replayed: %s: answers to servers without a connection (nat_icmp_send)", s)
			continue
		}
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &frames{life: newLife(startNode(t, plane), s), mtu: 1500}
				if err := f.play(); err != nil {
					t.Error(err)
				}
				compared[s.file] += f.compared
			})
		})
	}
	for file, want := range framesCompared {
		if compared[file] != want {
			t.Errorf("%s: %d packets were compared, want %d", file, compared[file], want)
		}
	}
}

// Link-layer addresses of the recordings: the director's on its two sides, and
// the clients' router's. A real server's has its IPv4 address.
var (
	serverSideMAC = packet.MAC{2, 0, 0, 0, 2, 2}
	clientSideMAC = packet.MAC{2, 0, 0, 0, 1, 2}
	routerMAC     = packet.MAC{2, 0, 0, 0, 1, 1}
	tunnelSource  = netip.MustParseAddr("10.2.0.254")
)

func (f *frames) play() error {
	service, err := f.scenario.service()
	if err != nil {
		return err
	}
	f.add(service)
	f.servers = f.allServers()
	f.reach()
	for _, d := range f.Dests {
		if err := f.command(fmt.Sprintf("ipvsadm -a %s -r %s -w %d", f.option(), d.Addr, d.Weight)); err != nil {
			return err
		}
	}
	if err := f.allReachable(); err != nil {
		return err
	}
	for i, st := range f.Steps {
		if err := f.step(st); err != nil {
			return fmt.Errorf("step %d (%s%s): %w", i, st, strings.Split(st.Pkt, "|")[0], err)
		}
	}
	return nil
}

// reach tells the director the way to the real servers, as it was recorded.
func (f *frames) reach() {
	hops := map[netip.Addr]director.NextHop{}
	for _, d := range f.Dests {
		a := d.Addr.Addr().As4()
		hops[d.Addr.Addr()] = director.NextHop{
			Resolved: true, Link: f.loopback, SrcMAC: serverSideMAC, MTU: f.mtu, Source: tunnelSource,
			DstMAC: packet.MAC{2, 0, a[0], a[1], a[2], a[3]},
		}
	}
	f.director.SetNextHops(hops)
	f.settle()
}

func (f *frames) step(st step) error {
	switch st.Op {
	case "cmd": // ip link set d1 mtu 1400
		words := strings.Fields(st.Cmd)
		mtu, err := strconv.Atoi(words[len(words)-1])
		if err != nil || !strings.HasPrefix(st.Cmd, "ip link set d1 mtu ") {
			return fmt.Errorf("unknown command: %v", err)
		}
		f.mtu = mtu
		f.reach()
		return nil
	case "sysctl": // of those that occur, these values are the director's
		f.other = st.Cmd != "pmtu_disc=1" && st.Cmd != "schedule_icmp=0"
		return nil
	}
	if f.other {
		return nil
	}
	switch st.Op {
	case "run":
		return f.connect(st)
	case "pkt":
		return f.packet(st)
	}
	return f.life.step(st)
}

// connect makes the connection that errors are about.
func (f *frames) connect(st step) error {
	for _, segment := range natPatterns[st.Pattern] {
		flags, out := strings.CutPrefix(segment, "out ")
		if out && f.method() != director.NAT {
			continue
		}
		from, to := st.Clients[0], f.VIP
		if out {
			from, to = f.Dests[st.Choices[0]].Addr, from
		}
		frame := flow{from, to}.frame(director.TCP, flagsOf(flags))
		copy(frame, slices.Concat(clientSideMAC[:], routerMAC[:]))
		if _, err := f.send(frame); err != nil {
			return err
		}
	}
	return f.compareTable(st.Table)
}

// send gives a frame to the director and returns what leaves, nil for nothing.
func (f *frames) send(frame []byte) ([]byte, error) {
	r, err := f.plane.Run(frame, f.loopback)
	if err != nil || r.Action != xdpTx {
		return nil, err
	}
	return r.Frame, nil
}

func (f *frames) packet(st step) error {
	f.compared++
	in, err := f.frameOf(st.Pkt)
	if err != nil {
		return err
	}
	got, err := f.send(in)
	if err != nil {
		return err
	}
	want := f.decided(st)
	if len(want) == 0 || got == nil {
		if len(want) != 0 || got != nil {
			return fmt.Errorf("%x left, want %v", got, want)
		}
		return nil
	}
	if want[0].Hex == "" {
		if have := describe(got); have != told(want[0].Desc) {
			return fmt.Errorf("%q left, want %q", have, told(want[0].Desc))
		}
		return nil
	}
	recorded, err := hex.DecodeString(want[0].Hex)
	if err != nil {
		return err
	}
	return compareFrames(got, recorded)
}

// decided is what has to leave: what the kernel sent, but for two decisions of docs/conformance.md.
func (f *frames) decided(st step) []left {
	if len(st.Out) == 2 { // it was cut in two: here it is answered
		mtu := f.mtu
		if f.method() == director.Tunnel {
			mtu = f.snapshot().Services[0].Reals[0].MTU
		}
		return []left{{Desc: fmt.Sprintf("%s > 172.28.0.1 proto 1 ttl 64 tos 0xc0 frag 0x0 id 0 len 576 icmp type 3 code 4 info %d", f.VIP.Addr(), mtu)}}
	}
	switch {
	case strings.HasPrefix(st.Pkt, "router in the tunnel"): // the next long packet is answered, with the right MTU
		return nil
	case strings.HasPrefix(st.Pkt, "client: parameter problem"): // it reaches the server, as the other errors do
		return []left{{Desc: parameterProblem[f.method()]}}
	}
	return st.Out
}

var parameterProblem = map[director.Method]string{
	director.NAT:    "172.27.0.1 > 10.2.0.12 proto 1 ttl 63 tos 0x0 frag 0x0 id 0 len 78 icmp type 12 code 0 info 0",
	director.Tunnel: "10.2.0.254 > 10.2.0.12 proto 4 ttl 63 tos 0x0 frag 0x0 id 0 len 98",
}

var sizedPacket = regexp.MustCompile(`^ip length (\d+) df=(true|false) `)

// frameOf is the frame that a step sends.
func (f *frames) frameOf(pkt string) ([]byte, error) {
	if _, text, ok := strings.Cut(pkt, "| in: "); ok {
		return hex.DecodeString(text)
	}
	m := sizedPacket.FindStringSubmatch(pkt)
	if m == nil {
		return nil, fmt.Errorf("no packet: %q", pkt)
	}
	length, err := strconv.Atoi(m[1])
	if err != nil {
		return nil, err
	}
	ip := packet.IPv4{Src: netip.MustParseAddr("172.28.0.1"), Dst: f.VIP.Addr(), ID: 77, DontFragment: m[2] == "true"}
	eth := packet.Ethernet{Dst: clientSideMAC, Src: routerMAC}
	if f.Proto == "udp" {
		return packet.Build(eth, ip, packet.UDP{SrcPort: 5001, DstPort: f.VIP.Port()}, packet.Data(make([]byte, length-28))), nil
	}
	return packet.Build(eth, ip, packet.TCP{SrcPort: 5001, DstPort: f.VIP.Port(), Flags: packet.ACK}, packet.Data(make([]byte, length-40))), nil
}

// describe is what a recording says of a frame that it did not keep, as far as told leaves it.
func describe(frame []byte) string {
	ip := frame[14:]
	text := fmt.Sprintf("%s > %s proto %d ttl %d tos %#x frag %#x id %d len %d", netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:])),
		ip[9], ip[8], ip[1], binary.BigEndian.Uint16(ip[6:]), binary.BigEndian.Uint16(ip[4:]), binary.BigEndian.Uint16(ip[2:]))
	if ip[9] == packet.ProtoICMP {
		text += fmt.Sprintf(" icmp type %d code %d info %d", ip[20], ip[21], binary.BigEndian.Uint32(ip[24:]))
	}
	return told(text)
}

var (
	randomID = regexp.MustCompile(`frag 0x0 id \d+`)
	ofIP     = regexp.MustCompile(`^.* len \d+( icmp type \d+ code \d+ info \d+)?`)
)

// told is a description without what is random, and without ports and quotations.
func told(desc string) string {
	return randomID.ReplaceAllString(ofIP.FindString(desc), "frag 0x0")
}

// compareFrames compares all but the identification of packets that may be cut,
// and GUE's source port, which are random. The checksums have to be right.
func compareFrames(got, want []byte) error {
	for i, frame := range [][]byte{got, want} {
		if err := checksums(frame); err != nil {
			return fmt.Errorf("frame %d, %x: %w", i, frame, err)
		}
	}
	if a, b := withoutRandom(got), withoutRandom(want); !bytes.Equal(a, b) {
		return fmt.Errorf("\n%x left, want\n%x", a, b)
	}
	return nil
}

// checksums looks at those of IP, and of a UDP datagram.
func checksums(frame []byte) error {
	ip := frame[14:]
	if packet.Checksum(ip[:20]) != 0 {
		return fmt.Errorf("IP checksum %x", ip[10:12])
	}
	src, dst := netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	udp := ip[20:binary.BigEndian.Uint16(ip[2:])]
	if ip[9] == packet.ProtoUDP && (udp[6] != 0 || udp[7] != 0) && packet.TransportChecksum(src, dst, packet.ProtoUDP, udp) != 0 {
		return fmt.Errorf("UDP checksum %x", udp[6:8])
	}
	return nil
}

func withoutRandom(frame []byte) []byte {
	frame = slices.Clone(frame)
	ip := frame[14:]
	if ip[6]&0x40 == 0 {
		clear(ip[4:6])
		clear(ip[10:12])
	}
	if ip[9] == packet.ProtoUDP && binary.BigEndian.Uint16(ip[22:]) == 6080 {
		clear(ip[20:22])
		if ip[26] != 0 || ip[27] != 0 {
			ip[26], ip[27] = 0xcc, 0xcc // there is one
		}
	}
	return frame
}
