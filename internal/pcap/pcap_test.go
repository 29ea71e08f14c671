// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

// somePackets are as different as those of a capture may be.
func somePackets() []Packet {
	at := time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC)
	return []Packet{
		{Time: at, Interface: "eth0", Direction: Inbound, Data: []byte("a frame as it came"), Length: 18, ID: 1, Comment: "tx_new: redirect"},
		{Time: at.Add(time.Nanosecond), Interface: "eth1", Direction: Outbound, Data: []byte("a frame as it"), Length: 18, ID: 1},
		{Time: at.Add(time.Hour), Interface: "eth0", Direction: Inbound, Data: []byte{}, Length: 60},
		{Time: at, Data: []byte("of no interface"), Length: 15, Comment: strings.Repeat("ä", 300)},
		{Time: at, Interface: "eth1", Direction: Inbound, Data: []byte("fours"), Length: 5, ID: 1 << 40},
	}
}

// all reads a capture to its end.
func all(from io.Reader) (list []Packet, err error) {
	r, err := NewReader(from)
	if err != nil {
		return nil, err
	}
	for {
		var p Packet
		if err := r.Next(&p); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return list, err
		}
		p.Data = bytes.Clone(p.Data)
		list = append(list, p)
	}
}

func written(t testing.TB, packets []Packet, snap int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, "a test", snap)
	if err != nil {
		t.Fatal(err)
	}
	for i := range packets {
		if err := w.Write(&packets[i]); err != nil {
			t.Fatal(err)
		}
	}
	if w.Written() != int64(b.Len()) {
		t.Errorf("%d bytes are said to be written, and %d are", w.Written(), b.Len())
	}
	return b.Bytes()
}

// TestWrittenIsRead: what was written is read, with all that was said of it.
func TestWrittenIsRead(t *testing.T) {
	want := somePackets()
	got, err := all(bytes.NewReader(written(t, want, 100)))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, read\n%+v\nwant\n%+v", err, got, want)
	}
	got, err = all(bytes.NewReader(written(t, want[:1], 7)))
	if err != nil || len(got) != 1 || string(got[0].Data) != "a frame" || got[0].Length != 18 {
		t.Errorf("%v, cut to 7 bytes: %+v", err, got)
	}
}

// pcapFile is a capture in the format pcap.
func pcapFile(order binary.AppendByteOrder, magic, link uint32, records ...[]byte) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(order.AppendUint16(b, 2), 4)
	b = order.AppendUint32(order.AppendUint64(b, 0), 65535)
	b = order.AppendUint32(b, link)
	return append(b, bytes.Join(records, nil)...)
}

func pcapRecord(order binary.AppendByteOrder, seconds, fraction, kept, length uint32, data string) []byte {
	b := order.AppendUint32(order.AppendUint32(nil, seconds), fraction)
	return append(order.AppendUint32(order.AppendUint32(b, kept), length), data...)
}

func TestPcap(t *testing.T) {
	for name, c := range map[string]struct {
		order binary.AppendByteOrder
		magic uint32
		nanos int64
	}{
		"microseconds":             {binary.LittleEndian, magicMicro, 7000},
		"nanoseconds":              {binary.LittleEndian, magicNano, 7},
		"big endian, microseconds": {binary.BigEndian, magicMicro, 7000},
		"big endian, nanoseconds":  {binary.BigEndian, magicNano, 7},
	} {
		file := pcapFile(c.order, c.magic, 1, pcapRecord(c.order, 1e9, 7, 5, 5, "frame"), pcapRecord(c.order, 1e9, 0, 2, 60, "cu"))
		got, err := all(bytes.NewReader(file))
		want := []Packet{{Time: time.Unix(1e9, c.nanos).UTC(), Data: []byte("frame"), Length: 5}, {Time: time.Unix(1e9, 0).UTC(), Data: []byte("cu"), Length: 60}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %+v, want %+v", name, err, got, want)
		}
	}
}

// ngBlock is a block of pcapng.
func ngBlock(order binary.AppendByteOrder, kind uint32, body []byte) []byte {
	length := uint32(len(body) + 12)
	return order.AppendUint32(append(order.AppendUint32(order.AppendUint32(nil, kind), length), body...), length)
}

func words(order binary.AppendByteOrder, values ...uint32) (b []byte) {
	for _, v := range values {
		b = order.AppendUint32(b, v)
	}
	return b
}

// TestPcapng: what others write: another byte order, blocks that we do not know, other units of time, packets without any.
func TestPcapng(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		section := ngBlock(order, blockSection, words(order, byteOrder, 0, 0xffffffff, 0xffffffff))
		in := words(order, 0, 4)
		order.(binary.ByteOrder).PutUint16(in, 1)
		plain := ngBlock(order, blockInterface, in)
		resolution := order.AppendUint16(order.AppendUint16(nil, optionResolution), 1)
		binaryTicks := ngBlock(order, blockInterface, append(append(in, resolution...), 0x8a, 0, 0, 0)) // 2^-10
		file := bytes.Join([][]byte{
			section, plain, binaryTicks, ngBlock(order, 0x0bad, words(order, 1, 2)),
			ngBlock(order, blockEnhanced, append(words(order, 0, 0, 3_000_007, 4, 4), "abcd"...)),
			ngBlock(order, blockEnhanced, append(words(order, 1, 0, 2048+512, 1, 1), "x\x00\x00\x00"...)),
			ngBlock(order, blockSimple, append(words(order, 60), "wxyz----"...)),
			section, plain,
			ngBlock(order, blockEnhanced, append(words(order, 0, 0, 0, 4, 9), "last"...)),
		}, nil)
		got, err := all(bytes.NewReader(file))
		want := []Packet{
			{Time: time.Unix(3, 7000).UTC(), Data: []byte("abcd"), Length: 4},
			{Time: time.Unix(2, 500_000_000).UTC(), Data: []byte("x"), Length: 1},
			{Data: []byte("wxyz"), Length: 60},
			{Time: time.Unix(0, 0).UTC(), Data: []byte("last"), Length: 9},
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: %v, read\n%+v\nwant\n%+v", order, err, got, want)
		}
	}
}

func TestBadCaptures(t *testing.T) {
	le := binary.LittleEndian
	section := ngBlock(le, blockSection, words(le, byteOrder, 1, 0xffffffff, 0xffffffff))
	ethernet := ngBlock(le, blockInterface, words(le, 1, 0))
	ng := func(blocks ...[]byte) []byte { return append(append([]byte{}, section...), bytes.Join(blocks, nil)...) }
	good := pcapRecord(le, 1, 1, 5, 5, "frame")
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":                {nil, "it is no capture: it has 0 bytes"},
		"text":                 {[]byte("interfaces: [eth0]"), "it is no capture in the format pcap or pcapng: it begins with 696e7465"},
		"half a head":          {pcapFile(le, magicMicro, 1)[:20], "the capture is cut off: the head has 20 of 24 bytes"},
		"an old version":       {append(words(le, magicMicro, 1), make([]byte, 16)...), "version 1 of the format pcap is not known (known: 2)"},
		"cooked":               {pcapFile(le, magicMicro, 113), "the capture is of link type 113 (Linux cooked, as of interface any), not of Ethernet (1)"},
		"half a record's head": {pcapFile(le, magicMicro, 1, good, good[:7]), "packet 2: the capture is cut off: the head of the packet has 7 of 16 bytes"},
		"half a record":        {pcapFile(le, magicMicro, 1, good, good, good[:19]), "packet 3: the capture is cut off: the packet has 3 of 5 bytes"},
		"too long":             {pcapFile(le, magicMicro, 1, pcapRecord(le, 1, 1, 1<<30, 1<<30, "")), "packet 1: it has 1073741824 bytes, more than 262144"},
		"more than there was":  {pcapFile(le, magicMicro, 1, pcapRecord(le, 1, 1, 5, 4, "frame")), "packet 1: 5 bytes are kept of a packet of 4"},
		"no time":              {pcapFile(le, magicMicro, 1, pcapRecord(le, 1, 1e6, 5, 5, "frame")), "packet 1: its time has 1000000 parts of a second, which is more than one"},

		"ng: byte order":     {ngBlock(le, blockSection, words(le, 7, 1, 0, 0)), "packet 1: a section has the byte order 07000000"},
		"ng: no interface":   {ng(ngBlock(le, blockEnhanced, words(le, 0, 0, 0, 0, 0))), "packet 1: it is from interface 0, and 0 are described"},
		"ng: raw IP":         {ng(ngBlock(le, blockInterface, words(le, 101, 0)), ngBlock(le, blockEnhanced, words(le, 0, 0, 0, 0, 0))), "packet 1: the capture is of link type 101 (raw IP), not of Ethernet (1)"},
		"ng: lengths":        {ng(append(ethernet[:len(ethernet)-4:len(ethernet)-4], 16, 0, 0, 0)), "packet 1: a block of type 0x1 has the lengths 20 and 16"},
		"ng: odd":            {ng(words(le, 1, 21, 0, 0)), "packet 1: a block of type 0x1 has the length 21"},
		"ng: huge":           {ng(words(le, 6, 1<<31, 0, 0)), "packet 1: a block of type 0x6 has the length 2147483648"},
		"ng: cut off":        {ng(ethernet[:13]), "packet 1: the capture is cut off: a block has 5 of 12 bytes"},
		"ng: cut off early":  {ng(ethernet[:3]), "packet 1: the capture is cut off: the head of a block has 3 of 8 bytes"},
		"ng: short":          {ng(ethernet, ngBlock(le, blockEnhanced, words(le, 0, 0))), "packet 1: its block has 8 bytes"},
		"ng: more than fits": {ng(ethernet, ngBlock(le, blockEnhanced, words(le, 0, 0, 0, 9, 9, 0))), "packet 1: 9 bytes are said to be kept, and its block has 4"},
		"ng: resolution":     {ng(ngBlock(le, blockInterface, words(le, 1, 0, 1<<16|optionResolution, 20))), "packet 1: an interface's times have the resolution 0x14"},
		"ng: option":         {ng(ngBlock(le, blockInterface, words(le, 1, 0, 99<<16|optionName, 20))), "packet 1: an option of 99 bytes does not fit its block"},
	} {
		_, err := all(bytes.NewReader(c.file))
		var format *FormatError
		if !errors.As(err, &format) || err.Error() != c.want {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
}

// FuzzReader: whatever the bytes are, they are packets, then an end or a *FormatError; and what was read can be
// written and read again.
func FuzzReader(f *testing.F) {
	le := binary.LittleEndian
	f.Add(written(f, somePackets(), 100))
	f.Add(pcapFile(le, magicNano, 1, pcapRecord(le, 1, 1, 5, 5, "frame")))
	f.Add(pcapFile(binary.BigEndian, magicMicro, 1, pcapRecord(binary.BigEndian, 1, 1, 5, 5, "frame")))
	f.Fuzz(func(t *testing.T, file []byte) {
		list, err := all(bytes.NewReader(file))
		var format *FormatError
		if err != nil && !errors.As(err, &format) {
			t.Fatal(err)
		}
		again, err := all(bytes.NewReader(written(t, list, maxPacket)))
		if err != nil || len(again) != len(list) {
			t.Fatalf("%d packets, %d when they were written: %v", len(list), len(again), err)
		}
		for i := range list {
			if !bytes.Equal(again[i].Data, list[i].Data) || again[i].ID != list[i].ID || again[i].Length != list[i].Length {
				t.Fatalf("packet %d is %+v, written %+v", i, list[i], again[i])
			}
		}
	})
}
