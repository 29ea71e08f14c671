// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"xdplvs/internal/packet"
)

// family is the address family that a case runs in, with the addresses of its world.
type family struct {
	name                       string
	client, second, vip, other netip.Addr // other is no virtual address
}

var families = []family{
	{"IPv4", addr("198.51.100.7"), addr("198.51.100.8"), addr("192.0.2.10"), addr("192.0.2.11")},
	{"IPv6", addr("2001:db8:7::7"), addr("2001:db8:7::8"), addr("2001:db8:1::10"), addr("2001:db8:1::11")},
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func (f family) v6() bool { return f.vip.Is6() }

func (f family) icmp() uint8 {
	if f.v6() {
		return packet.ProtoICMPv6
	}
	return packet.ProtoICMP
}

// both chooses by family.
func both[T any](f family, v4, v6 T) T {
	if f.v6() {
		return v6
	}
	return v4
}

// nameOf is an address as the cases call it.
func (f family) nameOf(a netip.Addr) string {
	switch a {
	case f.client:
		return "c"
	case f.second:
		return "c2"
	case f.vip:
		return "vip"
	case f.other:
		return "other"
	}
	if a.IsUnspecified() {
		return "any"
	}
	return a.String()
}

var (
	routerMAC   = packet.MAC{2, 0, 0, 0, 0, 1}
	directorMAC = packet.MAC{2, 0, 0, 0, 0, 2}
)

// message is a packet to the director, to be changed before it is built.
type message struct {
	f         family
	eth       packet.Ethernet
	tags      []packet.VLAN
	src, dst  netip.Addr
	ttl       *uint8
	more      bool // IPv4
	offset    int
	options   []byte // IPv4
	headers   []packet.Layer
	transport packet.Layer
	data      []byte
	edits     []func([]byte) []byte
}

// change is what makes a message differ from the plain one.
type change func(*message)

// send makes the frame of a message in a family.
type send func(f family) []byte

func newSend(transport packet.Layer, changes ...change) send {
	return func(f family) []byte {
		m := &message{
			f:         f,
			eth:       packet.Ethernet{Dst: directorMAC, Src: routerMAC},
			src:       f.client,
			dst:       f.vip,
			transport: transport,
			data:      []byte("data!"),
		}
		for _, c := range changes {
			c(m)
		}
		frame := packet.Build(m.layers()...)
		for _, edit := range m.edits {
			frame = edit(frame)
		}
		return frame
	}
}

func (m *message) layers() []packet.Layer {
	layers := []packet.Layer{m.eth}
	for _, tag := range m.tags {
		layers = append(layers, tag)
	}
	layers = append(layers, both[packet.Layer](m.f,
		packet.IPv4{Src: m.src, Dst: m.dst, TOS: 0xb8, ID: 0x1234, TTL: m.ttl, Options: m.options, More: m.more, Offset: m.offset},
		packet.IPv6{Src: m.src, Dst: m.dst, TrafficClass: 0xb8, FlowLabel: 0x54321, HopLimit: m.ttl}))
	layers = append(layers, m.headers...)
	return append(layers, m.transport, packet.Data(m.data))
}

// clientPort is the client's port unless a change says otherwise.
const clientPort = 40000

// tcp is a segment to the web service.
func tcp(flags uint8, changes ...change) send {
	return newSend(packet.TCP{SrcPort: clientPort, DstPort: webPort, Seq: 1000, Ack: 2000, Flags: flags, Window: 512}, changes...)
}

// udp is a datagram to the dns service.
func udp(changes ...change) send {
	return newSend(packet.UDP{SrcPort: clientPort, DstPort: dnsPort}, changes...)
}

func sctp(changes ...change) send {
	return newSend(packet.SCTP{SrcPort: clientPort, DstPort: 9899, Tag: 77}, changes...)
}

// raw is a packet of some other protocol.
func raw(protocol uint8, data []byte, changes ...change) send {
	return newSend(packet.Raw{Protocol: uint16(protocol), Data: data}, append([]change{noData}, changes...)...)
}

// bytesOf sends a frame as it is.
func bytesOf(frame ...byte) send { return func(family) []byte { return slices.Clone(frame) } }

// ports changes the ports, whatever the protocol.
func ports(edit func(src, dst *uint16)) change {
	return func(m *message) {
		switch l4 := m.transport.(type) {
		case packet.TCP:
			edit(&l4.SrcPort, &l4.DstPort)
			m.transport = l4
		case packet.UDP:
			edit(&l4.SrcPort, &l4.DstPort)
			m.transport = l4
		case packet.SCTP:
			edit(&l4.SrcPort, &l4.DstPort)
			m.transport = l4
		}
	}
}

// from sets the client's port.
func from(port uint16) change { return ports(func(src, _ *uint16) { *src = port }) }

// to sets the destination port.
func to(port uint16) change { return ports(func(_, dst *uint16) { *dst = port }) }

// withTCP changes the TCP header before it is built.
func withTCP(edit func(*packet.TCP)) change {
	return func(m *message) {
		l4 := m.transport.(packet.TCP)
		edit(&l4)
		m.transport = l4
	}
}

// withUDP changes the UDP header before it is built.
func withUDP(edit func(*packet.UDP)) change {
	return func(m *message) {
		l4 := m.transport.(packet.UDP)
		edit(&l4)
		m.transport = l4
	}
}

func second(m *message) { m.src = m.f.second }

func elsewhere(m *message) { m.dst = m.f.other }

func noData(m *message) { m.data = nil }

// padded to 60 bytes, as a wire has it.
func padded(m *message) { m.eth.Pad = 60 }

func ttl(n uint8) change { return func(m *message) { m.ttl = &n } }

func dataOf(n int) change {
	return func(m *message) {
		m.data = make([]byte, n)
		for i := range m.data {
			m.data[i] = byte(i)
		}
	}
}

// tag puts a VLAN tag behind those the message has.
func tag(tpid, tci uint16) change {
	return func(m *message) { m.tags = append(m.tags, packet.VLAN{TPID: tpid, TCI: tci}) }
}

// header adds an extension header; in IPv4 it is an option instead.
func header(protocol uint8, body ...byte) change {
	return func(m *message) {
		if !m.f.v6() {
			m.options = append(m.options, 1)
			return
		}
		m.headers = append(m.headers, packet.Extension{Protocol: protocol, Body: body})
	}
}

// options fills the room for options, or has as many extension headers as are looked at.
func options(m *message) {
	m.options = slices.Repeat([]byte{1}, 40)
	if !m.f.v6() {
		return
	}
	for range 6 {
		m.headers = append(m.headers, packet.Extension{Protocol: packet.ProtoDestOpts, Body: make([]byte, 14)})
	}
}

// edit changes the bytes of the frame.
func edit(f func([]byte) []byte) change { return func(m *message) { m.edits = append(m.edits, f) } }

// set overwrites bytes, counted from the IP header on.
func set(at int, b ...byte) change {
	return func(m *message) {
		at := 14 + 4*len(m.tags) + at
		m.edits = append(m.edits, func(frame []byte) []byte {
			copy(frame[at:], b)
			return frame
		})
	}
}

// cut leaves the first n bytes of IP.
func cut(n int) change {
	return func(m *message) {
		n := 14 + 4*len(m.tags) + n
		m.edits = append(m.edits, func(frame []byte) []byte { return frame[:n] })
	}
}

// inFamily makes one change in IPv4 and another in IPv6.
func inFamily(v4, v6 change) change {
	return func(m *message) { both(m.f, v4, v6)(m) }
}

// parsed is what an independent parser says of a frame.
type parsed struct {
	tags      int
	l3        int // offset of IP
	v6        bool
	length    int // of IP
	ttl       uint8
	l4        int // offset of the transport header
	protocol  uint8
	fragment  bool // not the first one
	more      bool // fragments follow
	src, dst  netip.Addr
	checksum4 uint16 // 0: that of the IPv4 header is right
}

var errNotIP = errors.New("not IP")

// look takes a frame apart, and is strict.
func look(frame []byte) (v parsed, err error) {
	if len(frame) < 14 {
		return v, errors.New("no Ethernet header")
	}
	v.l3 = 14
	kind := binary.BigEndian.Uint16(frame[12:])
	for kind == packet.TypeVLAN || kind == packet.TypeQinQ {
		if len(frame) < v.l3+4 {
			return v, errors.New("half a tag")
		}
		kind = binary.BigEndian.Uint16(frame[v.l3+2:])
		v.l3 += 4
		v.tags++
	}
	switch kind {
	case packet.TypeIPv4:
		err = v.look4(frame[v.l3:])
	case packet.TypeIPv6:
		err = v.look6(frame[v.l3:])
	default:
		err = errNotIP
	}
	return v, err
}

func (v *parsed) look4(ip []byte) error {
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return errors.New("no IPv4 header")
	}
	size := int(ip[0]&15) * 4
	v.length = int(binary.BigEndian.Uint16(ip[2:]))
	if size < 20 || v.length < size || len(ip) < v.length {
		return fmt.Errorf("IPv4 header of %d bytes, packet of %d, %d are there", size, v.length, len(ip))
	}
	v.ttl, v.protocol = ip[8], ip[9]
	v.src, v.dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	v.l4 = v.l3 + size
	v.fragment = binary.BigEndian.Uint16(ip[6:])&0x1fff != 0
	v.more = binary.BigEndian.Uint16(ip[6:])&0x2000 != 0
	v.checksum4 = packet.Checksum(ip[:size])
	return nil
}

func (v *parsed) look6(ip []byte) error {
	if len(ip) < 40 || ip[0]>>4 != 6 {
		return errors.New("no IPv6 header")
	}
	v.v6 = true
	v.length = 40 + int(binary.BigEndian.Uint16(ip[4:]))
	if len(ip) < v.length {
		return fmt.Errorf("IPv6 packet of %d bytes, %d are there", v.length, len(ip))
	}
	v.ttl, v.protocol = ip[7], ip[6]
	v.src, v.dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	at := 40
	for slices.Contains([]uint8{packet.ProtoHopByHop, packet.ProtoRouting, packet.ProtoDestOpts, packet.ProtoFragment, packet.ProtoAH}, v.protocol) && !v.fragment {
		if v.length < at+8 {
			return errors.New("half an extension header")
		}
		size := 8 + int(ip[at+1])*8
		switch v.protocol {
		case packet.ProtoFragment:
			size = 8
			v.fragment = binary.BigEndian.Uint16(ip[at+2:])&^7 != 0
			v.more = binary.BigEndian.Uint16(ip[at+2:])&1 != 0
		case packet.ProtoAH:
			size = 8 + int(ip[at+1])*4
		}
		v.protocol = ip[at]
		at += size
	}
	if at > v.length {
		return errors.New("extension headers are longer than the packet")
	}
	v.l4 = v.l3 + at
	return nil
}

// transport checks lengths and checksum of what is carried.
func (v parsed) transport(frame []byte) error {
	b := frame[v.l4 : v.l3+v.length]
	if v.fragment {
		return nil
	}
	switch v.protocol {
	case packet.ProtoTCP:
		// The options of a first fragment may go on in the next one.
		if len(b) < 20 || int(b[12]>>4)*4 < 20 || int(b[12]>>4)*4 > len(b) && !v.more {
			return fmt.Errorf("TCP header in %d bytes", len(b))
		}
	case packet.ProtoUDP:
		if len(b) < 8 || int(binary.BigEndian.Uint16(b[4:])) < 8 {
			return fmt.Errorf("UDP header in %d bytes", len(b))
		}
	case packet.ProtoSCTP:
		if len(b) < 12 {
			return fmt.Errorf("SCTP header in %d bytes", len(b))
		}
	case packet.ProtoICMP:
		if len(b) < 8 {
			return fmt.Errorf("ICMP header in %d bytes", len(b))
		}
	}
	return nil
}

// checksum is 0 if the transport checksum of a whole packet is right, or absent.
func (v parsed) checksum(frame []byte) uint16 {
	b := frame[v.l4 : v.l3+v.length]
	switch v.protocol {
	case packet.ProtoICMP:
		return packet.Checksum(b)
	case packet.ProtoUDP:
		if binary.BigEndian.Uint16(b[6:]) == 0 {
			return 0
		}
		fallthrough
	case packet.ProtoTCP, packet.ProtoICMPv6:
		return packet.TransportChecksum(v.src, v.dst, v.protocol, b)
	}
	return 0
}

// forwarded is the frame that leaves for a real server when in arrives: its
// MACs and tags, one TTL less, and nothing else changed.
func forwarded(in []byte, r *Real) ([]byte, error) {
	v, err := look(in)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(r.Mac[:])
	for i := range r.Vlans {
		// Both are stored as on the wire.
		out = binary.NativeEndian.AppendUint16(out, r.Tpid[i])
		out = binary.NativeEndian.AppendUint16(out, r.Vlan[i])
	}
	out = append(out, both(family{vip: v.dst}, []byte{0x08, 0x00}, []byte{0x86, 0xdd})...)
	l3 := len(out)
	out = append(out, in[v.l3:]...)
	if v.v6 {
		out[l3+7]--
		return out, nil
	}
	out[l3+8]--
	// Ones' complement arithmetic: what the TTL's word lost, the checksum gains.
	sum := uint32(binary.BigEndian.Uint16(out[l3+10:])) + 0x0100
	if sum >= 0xffff {
		sum -= 0xffff
	}
	binary.BigEndian.PutUint16(out[l3+10:], uint16(sum))
	return out, nil
}

// be16 is a number as it stands in a row that is kept as on the wire.
func be16(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }
