// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"xdplvs/internal/packet"
)

var (
	broadcastMAC = packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodesMAC  = packet.MAC{0x33, 0x33, 0, 0, 0, 1}
	allNodes     = addr("ff02::1")
	// answerMAC is what the director answers with; it is not where frames are sent to, but for directorMAC's.
	answerMAC = [6]byte(directorMAC)
)

// question is an ARP request or a neighbour solicitation, as the cases change it.
type question struct {
	to, from    packet.MAC
	tags        []packet.VLAN
	sender      netip.Addr // unspecified: a probe
	target, dst netip.Addr // dst: IPv6, where the packet is sent
	bare        bool       // IPv6: without the sender's link-layer address
	hopLimit    uint8
	icmp        packet.ICMP
	edit        func(body []byte) // of ARP, or of the ICMPv6 message before its checksum
	spoil       func(frame []byte)
}

// asks is the question for the virtual address that a host sends to everybody.
func asks(f family, changes ...func(*question)) question {
	q := question{to: broadcastMAC, from: routerMAC, sender: f.client, target: f.vip, hopLimit: 255, icmp: packet.ICMP{Type: 135}}
	if f.v6() {
		q.dst = solicitedNode(f.vip)
		group := q.dst.As16()
		q.to = packet.MAC{0x33, 0x33, group[12], group[13], group[14], group[15]}
	}
	for _, change := range changes {
		change(&q)
	}
	return q
}

func solicitedNode(a netip.Addr) netip.Addr {
	b, group := a.As16(), addr("ff02::1:ff00:0").As16()
	copy(group[13:], b[13:])
	return netip.AddrFrom16(group)
}

func (q question) frame() []byte {
	layers := []packet.Layer{packet.Ethernet{Dst: q.to, Src: q.from, Pad: 60}}
	for _, tag := range q.tags {
		layers = append(layers, tag)
	}
	var frame []byte
	if q.target.Is4() {
		body := arpBody(1, q.from, q.sender, packet.MAC{}, q.target)
		if q.edit != nil {
			q.edit(body)
		}
		frame = packet.Build(append(layers, packet.Raw{Protocol: 0x0806, Data: body})...)
	} else {
		body := q.target.AsSlice()
		if !q.bare {
			body = slices.Concat(body, []byte{1, 1}, q.from[:])
		}
		if q.edit != nil {
			q.edit(body)
		}
		frame = packet.Build(append(layers, packet.IPv6{Src: q.sender, Dst: q.dst, HopLimit: &q.hopLimit},
			q.icmp, packet.Data(body))...)
	}
	if q.spoil != nil {
		q.spoil(frame)
	}
	return frame
}

func arpBody(op uint16, from packet.MAC, sender netip.Addr, to packet.MAC, target netip.Addr) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, 1, 8, 0, 6, 4}, op)
	return slices.Concat(b, from[:], sender.AsSlice(), to[:], target.AsSlice())
}

// answer is what RFC 826 and RFC 4861 section 7.2.4 want.
func (q question) answer() []byte {
	layers := []packet.Layer{packet.Ethernet{Dst: q.from, Src: directorMAC, Pad: 60}}
	for _, tag := range q.tags {
		layers = append(layers, tag)
	}
	if q.target.Is4() {
		body := arpBody(2, directorMAC, q.target, q.from, q.sender)
		return packet.Build(append(layers, packet.Raw{Protocol: 0x0806, Data: body})...)
	}
	dst, flags := q.sender, uint32(0x60000000) // solicited, override
	if q.sender.IsUnspecified() {
		dst, flags = allNodes, 0x20000000
		layers[0] = packet.Ethernet{Dst: allNodesMAC, Src: directorMAC}
	}
	body := slices.Concat(q.target.AsSlice(), []byte{2, 1}, directorMAC[:])
	return packet.Build(append(layers, packet.IPv6{Src: q.target, Dst: dst, HopLimit: new(uint8(255))},
		packet.ICMP{Type: 136, Rest: flags}, packet.Data(body))...)
}

// The changes of questions.
func probing(q *question) {
	q.sender = netip.IPv4Unspecified()
	if q.target.Is6() {
		q.sender, q.bare = netip.IPv6Unspecified(), true
	}
}
func toOwner(q *question) {
	q.to = directorMAC
	if q.target.Is6() {
		q.dst = q.target
	}
}
func about(a netip.Addr) func(*question) { return func(q *question) { q.target = a } }
func inVLAN(ids ...uint16) func(*question) {
	return func(q *question) {
		for _, id := range ids {
			q.tags = append(q.tags, packet.VLAN{TCI: id})
		}
	}
}

func answering(t *testing.T, r *rig, places ...AnsweredAt) {
	t.Helper()
	for _, p := range places {
		must(t, r.plane.SetAnswered(p, answerMAC))
		t.Cleanup(func() { must(t, r.plane.DeleteAnswered(p)) })
	}
}

func verdictOf(f family) string { return both(f, "tx_arp", "tx_neighbor") }

func TestAddressIsAnsweredFor(t *testing.T) {
	for _, f := range families {
		for _, c := range []struct {
			name    string
			place   AnsweredAt
			changes []func(*question)
		}{
			{"everybody is asked", AnsweredAt{}, nil},
			{"the owner is asked", AnsweredAt{}, []func(*question){toOwner}},
			{"probe", AnsweredAt{}, []func(*question){probing}},
			{"priority tag", AnsweredAt{}, []func(*question){inVLAN(0x6000)}},
			{"VLAN", AnsweredAt{VLAN: [2]uint16{100}}, []func(*question){inVLAN(0x6000 | 100)}},
			{"two tags", AnsweredAt{VLAN: [2]uint16{7, 0x123}}, []func(*question){inVLAN(7, 0x123)}},
			{"without the sender's option", AnsweredAt{}, []func(*question){func(q *question) { q.bare = true }}},
			{"longer than it must be", AnsweredAt{}, []func(*question){func(q *question) {
				if q.target.Is6() {
					return // its length says what is option and what is padding
				}
				q.spoil = func(frame []byte) { copy(frame[42:], bytes.Repeat([]byte{0xaa}, len(frame)-42)) }
			}}},
		} {
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				r := smallRig(t, f)
				c.place.Addr, c.place.Link = f.vip, ingress
				answering(t, r, c.place)
				q := asks(f, c.changes...)
				got := r.send(t, q.frame())
				want := q.answer()
				if q.spoil != nil { // padding is nobody's
					q.spoil(want)
				}
				if got.verdict != verdictOf(f) || got.action != xdpTx || !bytes.Equal(got.out, want) {
					t.Errorf("in   %x\ngot  %v\nwant %x", q.frame(), got, want)
				}
			})
		}
	}
}

// TestAddressIsNotAnsweredFor: whatever is not a question for the address, where it is answered for,
// is the stack's, untouched.
func TestAddressIsNotAnsweredFor(t *testing.T) {
	type change = func(*question)
	edit := func(at int, b ...byte) change {
		return func(q *question) { q.edit = func(body []byte) { copy(body[at:], b) } }
	}
	spoil := func(at int, b byte) change {
		return func(q *question) { q.spoil = func(frame []byte) { frame[at] ^= b } }
	}
	for _, c := range []struct {
		name, only string
		changes    []change
	}{
		{"another address", "IPv4", []change{about(families[0].other)}},
		{"another address", "IPv6", []change{about(families[1].other)}},
		{"another VLAN", "", []change{inVLAN(101)}},
		{"another VLAN inside", "", []change{inVLAN(0, 100)}},
		{"to another host", "", []change{toOwner, func(q *question) { q.to = packet.MAC{2, 0, 0, 0, 0, 9} }}},
		{"from ourselves", "", []change{func(q *question) { q.from = directorMAC }}},
		{"reply", "IPv4", []change{edit(7, 2)}},
		{"announcement", "IPv4", []change{func(q *question) { q.sender = q.target }}},
		{"other hardware", "IPv4", []change{edit(1, 6)}},
		{"other protocol", "IPv4", []change{edit(2, 0x86, 0xdd)}},
		{"longer hardware addresses", "IPv4", []change{edit(4, 8)}},
		{"longer protocol addresses", "IPv4", []change{edit(5, 16)}},
		{"from a group", "IPv4", []change{edit(8, 1)}},
		{"routed", "IPv6", []change{func(q *question) { q.hopLimit = 254 }}},
		{"wrong checksum", "IPv6", []change{spoil(14+40+2, 1)}},
		{"wrong byte", "IPv6", []change{spoil(14+40+30, 1)}},
		{"a code", "IPv6", []change{func(q *question) { q.icmp.Code = 1 }}},
		{"advertisement", "IPv6", []change{func(q *question) { q.icmp.Type = 136 }}},
		{"probe to one host", "IPv6", []change{probing, toOwner}},
	} {
		for _, f := range families {
			if c.only != "" && c.only != f.name {
				continue
			}
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				r := smallRig(t, f)
				answering(t, r, AnsweredAt{Addr: f.vip, Link: ingress})
				frame := asks(f, c.changes...).frame()
				if got := r.send(t, frame); got.action != xdpPass {
					t.Errorf("in   %x\ngot  %v", frame, got)
				}
			})
		}
	}
}

// TestAnsweredOnItsInterface: an address is answered for where it was said, and no longer than that.
func TestAnsweredOnItsInterface(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			q := asks(f).frame()
			passes := func(when string) {
				t.Helper()
				if got := r.send(t, bytes.Clone(q)); got.action != xdpPass {
					t.Errorf("%s: %v", when, got)
				}
			}
			answering(t, r, AnsweredAt{Addr: f.vip, Link: ingress + 1})
			passes("on another interface")
			here := AnsweredAt{Addr: f.vip, Link: ingress}
			answering(t, r, here)
			if got := r.send(t, bytes.Clone(q)); got.verdict != verdictOf(f) {
				t.Errorf("on its own: %v", got)
			}
			must(t, r.plane.DeleteAnswered(here))
			passes("no longer")
		})
	}
}

// TestSolicitationCutOff: no length makes the program read or answer more than there is.
func TestSolicitationCutOff(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		answering(t, r, AnsweredAt{Addr: f.vip, Link: ingress})
		whole := asks(f).frame()
		least := both(f, 42, 14+40+32)
		for n := 14; n < least; n++ {
			if got := r.send(t, bytes.Clone(whole[:n])); got.action != xdpPass {
				t.Errorf("%s: %d bytes: %v", f.name, n, got)
			}
		}
	}
}

func TestAnsweredTable(t *testing.T) {
	r := smallRig(t, families[0])
	want := map[AnsweredAt][6]byte{
		{Addr: addr("192.0.2.1"), Link: 3}:                            {2, 0, 0, 0, 0, 3},
		{Addr: addr("192.0.2.1"), Link: 4, VLAN: [2]uint16{100}}:      {2, 0, 0, 0, 0, 4},
		{Addr: addr("2001:db8::1"), Link: 3, VLAN: [2]uint16{7, 258}}: {2, 0, 0, 0, 0, 5},
	}
	for p, mac := range want {
		must(t, r.plane.SetAnswered(p, [6]byte{1}))
		must(t, r.plane.SetAnswered(p, mac))
		t.Cleanup(func() { must(t, r.plane.DeleteAnswered(p)) }) // twice is no error
	}
	if got := need(r.plane.Answered())(t); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for p := range want {
		must(t, r.plane.DeleteAnswered(p))
	}
	if got := need(r.plane.Answered())(t); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}
