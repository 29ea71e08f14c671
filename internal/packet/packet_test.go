// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

var (
	a4 = netip.MustParseAddr("192.0.2.1")
	b4 = netip.MustParseAddr("192.0.2.2")
	a6 = netip.MustParseAddr("2001:db8::1")
	b6 = netip.MustParseAddr("2001:db8::2")
)

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChecksum(t *testing.T) {
	for _, test := range []struct {
		name, data string
		want       uint16
	}{
		{"RFC 1071 section 3", "0001 f203 f4f5 f6f7", 0x220d},
		{"odd length", "0001 f203 f4f5 f6", 0x2304},
		{"nothing", "", 0xffff},
		{"carries", "ffff ffff 0001", 0xfffe},
		// The example of RFC 1624 section 4, before and after.
		{"RFC 1624 before", "5555 cd7a", 0xdd2f},
		{"RFC 1624 after", "3285 cd7a", 0x0000},
		{"an IPv4 header", "4500 0073 0000 4000 4011 0000 c0a8 0001 c0a8 00c7", 0xb861},
		{"the same with its checksum", "4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7", 0},
	} {
		if got := Checksum(unhex(t, test.data)); got != test.want {
			t.Errorf("%s: got %#04x, want %#04x", test.name, got, test.want)
		}
	}
	whole, cut := unhex(t, "0001 f203 f4f5 f6f7"), unhex(t, "0001 f203")
	if Checksum(cut, whole[4:]) != Checksum(whole) {
		t.Error("a checksum over two parts is not that over the whole")
	}
}

// The frames below were written by hand from the RFCs, their checksums computed by another program.
func TestBuild(t *testing.T) {
	dst, src := MAC{2, 0, 0, 0, 0, 2}, MAC{2, 0, 0, 0, 0, 1}
	eth := Ethernet{Dst: dst, Src: src}
	const head = "020000000002 020000000001 "
	for _, test := range []struct {
		name   string
		layers []Layer
		want   string
	}{
		{"UDP over IPv4", []Layer{eth, IPv4{Src: a4, Dst: b4}, UDP{SrcPort: 1, DstPort: 2}}, head + `0800
			4500 001c 0000 0000 4011 f6cd c000 0201 c000 0202  0001 0002 0008 7bd7`},
		{"IPv4 with options, fragment and overrides", []Layer{eth, IPv4{
			Src: a4, Dst: b4, TOS: 0xb8, ID: 0x1234, DontFragment: true, More: true, Offset: 1480,
			Options: []byte{1, 1, 1}, TTL: new(uint8(1)), Protocol: new(uint8(99)), Checksum: new(uint16(0xdead)),
		}, Data("x")}, head + `0800
			46b8 0019 1234 60b9 0163 dead c000 0201 c000 0202 0101 0100  78`},
		{"two tags", []Layer{eth, VLAN{TPID: TypeQinQ, TCI: 0x2001}, VLAN{TCI: 5}, IPv4{Src: a4, Dst: b4}}, head + `88a8
			2001 8100 0005 0800 4500 0014 0000 0000 403b f6ab c000 0201 c000 0202`},
		{"padded", []Layer{Ethernet{Dst: dst, Src: src, Pad: 18}, Data("ab")}, head + "88b5 6162 eeee"},
		{"TCP over IPv6", []Layer{eth, IPv6{Src: a6, Dst: b6, TrafficClass: 0xb8, FlowLabel: 0x12345},
			TCP{SrcPort: 1, DstPort: 80, Seq: 1, Ack: 2, Flags: SYN | ACK, Window: 3, Options: []byte{1}}, Data("z")}, head + `86dd
			6b81 2345 0019 06 40 20010db8000000000000000000000001 20010db8000000000000000000000002
			0001 0050 00000001 00000002 6012 0003 c901 0000 01000000 7a`},
		{"extension headers", []Layer{eth, IPv6{Src: a6, Dst: b6}, Extension{Protocol: ProtoHopByHop},
			Extension{Protocol: ProtoRouting, Body: make([]byte, 14)}, Extension{Protocol: ProtoAH, Body: make([]byte, 14)},
			Fragment{ID: 7, Offset: 8, More: true}, Data("")}, head + `86dd
			6000 0000 0030 00 40 20010db8000000000000000000000001 20010db8000000000000000000000002
			2b00000000000000  33010000000000000000000000000000  2c020000000000000000000000000000 3b00000900000007`},
		{"ICMP", []Layer{eth, IPv4{Src: a4, Dst: b4}, ICMP{Type: 8, Rest: 0x00010002}, Data("ab")}, head + `0800
			4500 001e 0000 0000 4001 f6db c000 0201 c000 0202  0800 969a 0001 0002 6162`},
		{"ICMPv6", []Layer{eth, IPv6{Src: a6, Dst: b6}, ICMP{Type: 128, Rest: 0x00010002}}, head + `86dd
			6000 0000 0008 3a40 20010db8000000000000000000000001 20010db8000000000000000000000002  8000 2445 0001 0002`},
		{"ICMP about a packet", []Layer{eth, IPv4{Src: a4, Dst: b4}, ICMP{Type: 3, Code: 3, Checksum: new(uint16(0))},
			IPv4{Src: b4, Dst: a4}, UDP{SrcPort: 2, DstPort: 1, Length: new(uint16(9)), Checksum: new(uint16(0))}}, head + `0800
			4500 0038 0000 0000 4001 f6c1 c000 0201 c000 0202  0303 0000 0000 0000
			4500 001c 0000 0000 4011 f6cd c000 0202 c000 0201  0002 0001 0009 0000`},
		{"IPv4 in IPv6", []Layer{IPv6{Src: a6, Dst: b6}, IPv4{Src: a4, Dst: b4}, Raw{Protocol: 250}}, `
			6000 0000 0014 04 40 20010db8000000000000000000000001 20010db8000000000000000000000002
			4500 0014 0000 0000 40fa f5ec c000 0201 c000 0202`},
	} {
		if got, want := Build(test.layers...), unhex(t, test.want); !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", test.name, got, want)
		}
	}
}

// CRC32c over 32 zero bytes is sent as aa 36 91 8a (RFC 3720 section B.4).
func TestSCTPChecksum(t *testing.T) {
	got := Build(SCTP{}, Data(make([]byte, 20)))
	if want := unhex(t, "aa36918a"); !bytes.Equal(got[8:12], want) {
		t.Errorf("checksum of 32 zeros: got %x, want %x", got[8:12], want)
	}
	got = Build(SCTP{SrcPort: 1, DstPort: 2, Tag: 3, Checksum: new(uint32(0x01020304))})
	if want := unhex(t, "0001 0002 00000003 01020304"); !bytes.Equal(got, want) {
		t.Errorf("header: got %x, want %x", got, want)
	}
}

// A checksum of 0 says that there is none, so a computed one is sent as ffff (RFC 768).
func TestUDPChecksumZero(t *testing.T) {
	for body := range 1 << 16 {
		got := Build(IPv4{Src: a4, Dst: b4}, UDP{SrcPort: 1, DstPort: 2}, Data(binary.BigEndian.AppendUint16(nil, uint16(body))))[20:]
		if binary.BigEndian.Uint16(got[6:]) == 0 {
			t.Fatalf("checksum of body %#x is 0", body)
		}
		if TransportChecksum(a4, b4, ProtoUDP, got) != 0 {
			t.Fatalf("checksum of body %#x is wrong: %x", body, got)
		}
	}
}

func TestFragments(t *testing.T) {
	body := Data(bytes.Repeat([]byte("0123456789"), 10))
	for _, test := range []struct {
		name   string
		ip     []Layer
		header int
	}{
		{"IPv4", []Layer{Ethernet{}, IPv4{Src: a4, Dst: b4, Options: []byte{1, 1, 1, 0}}}, 14 + 24},
		{"IPv6", []Layer{Ethernet{}, IPv6{Src: a6, Dst: b6}, Extension{Protocol: ProtoHopByHop}}, 14 + 40 + 8 + 8},
	} {
		whole := Build(append(test.ip, UDP{SrcPort: 1, DstPort: 2}, body)...)
		frames := Fragments(0xbeef, 48, append(test.ip, UDP{SrcPort: 1, DstPort: 2}, body)...)
		var joined []byte
		for i, f := range frames {
			more, offset := fragmentField(test.name, f)
			if offset != 48*i || more != (i < len(frames)-1) {
				t.Errorf("%s: fragment %d: offset %d, more %v", test.name, i, offset, more)
			}
			joined = append(joined, f[test.header:]...)
		}
		if len(frames) != 3 || !bytes.HasSuffix(whole, joined) || len(joined) != 108 {
			t.Errorf("%s: %d fragments of %x are %x", test.name, len(frames), whole, joined)
		}
	}
}

func fragmentField(family string, f []byte) (more bool, offset int) {
	if family == "IPv4" {
		v := binary.BigEndian.Uint16(f[14+6:])
		return v&0x2000 != 0, int(v&0x1fff) * 8
	}
	v := binary.BigEndian.Uint16(f[14+40+8+2:])
	return v&1 != 0, int(v &^ 7)
}
