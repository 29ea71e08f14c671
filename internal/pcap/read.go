// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"
	"time"
)

// Reader reads a capture.
type Reader struct {
	r      *bufio.Reader
	order  binary.ByteOrder
	next   func(*Packet) error
	buf    []byte
	number int // of the packet that is being read

	// Of pcap.
	fraction time.Duration // a unit of the times behind the second

	// Of pcapng.
	interfaces []source
}

// source is an interface of a section.
type source struct {
	place
	link  uint16
	snap  uint32
	ticks uint64 // of a second
	since int64  // seconds that times begin at
}

// FormatError says what is wrong with a capture.
type FormatError struct {
	Packet int // the one that could not be read, from 1; 0: none was reached
	Text   string
}

// Error is packet N: text.
func (e *FormatError) Error() string {
	if e.Packet == 0 {
		return e.Text
	}
	return fmt.Sprintf("packet %d: %s", e.Packet, e.Text)
}

func (r *Reader) wrong(format string, args ...any) error {
	return &FormatError{r.number, fmt.Sprintf(format, args...)}
}

// Magic numbers of pcap, as they are read with the file's own byte order: with microseconds, and with nanoseconds.
const (
	magicMicro = 0xa1b2c3d4
	magicNano  = 0xa1b23c4d
)

// NewReader reads the head. An error is *FormatError if the bytes are no capture that can be read.
func NewReader(from io.Reader) (*Reader, error) {
	r := &Reader{r: bufio.NewReaderSize(from, 64<<10), order: binary.LittleEndian}
	head, err := r.r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(head) < 4 {
		return nil, r.wrong("it is no capture: it has %d bytes", len(head))
	}
	magic := binary.LittleEndian.Uint32(head)
	if magic == blockSection {
		r.next = r.block
		return r, nil
	}
	if magic == bits.ReverseBytes32(magicMicro) || magic == bits.ReverseBytes32(magicNano) {
		r.order, magic = binary.BigEndian, bits.ReverseBytes32(magic)
	}
	switch magic {
	case magicMicro:
		r.fraction = time.Microsecond
	case magicNano:
		r.fraction = time.Nanosecond
	default:
		return nil, r.wrong("it is no capture in the format pcap or pcapng: it begins with %x", head)
	}
	r.next = r.record
	return r, r.pcapHead()
}

// Next reads a packet; io.EOF: there is none any more.
func (r *Reader) Next(p *Packet) error {
	r.number++
	*p = Packet{}
	return r.next(p)
}

// take reads so many bytes. what: that they are; at the beginning of something, io.EOF is the end.
func (r *Reader) take(n int, what string, begins bool) ([]byte, error) {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	got, err := io.ReadFull(r.r, r.buf[:n])
	switch {
	case begins && err == io.EOF:
		return nil, io.EOF
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		return nil, r.wrong("the capture is cut off: %s has %d of %d bytes", what, got, n)
	case err != nil:
		return nil, err
	}
	return r.buf[:n], nil
}

func (r *Reader) pcapHead() error {
	head, err := r.take(24, "the head", false)
	if err != nil {
		return err
	}
	if major := r.order.Uint16(head[4:]); major != 2 {
		return r.wrong("version %d of the format pcap is not known (known: 2)", major)
	}
	return r.checkLink(r.order.Uint32(head[20:]) & 0xffff) // above it are bits about the frame check sequence
}

func (r *Reader) checkLink(link uint32) error {
	if link != linkEthernet {
		return r.wrong("the capture is of link type %d%s, not of Ethernet (1)", link, linkNames[link])
	}
	return nil
}

// linkNames are those that tcpdump makes without being asked for another.
var linkNames = map[uint32]string{0: " (loopback)", 12: " (raw IP)", 101: " (raw IP)", 105: " (802.11)", 113: " (Linux cooked, as of interface any)",
	276: " (Linux cooked v2, as of interface any)"}

// record is a packet of pcap.
func (r *Reader) record(p *Packet) error {
	head, err := r.take(16, "the head of the packet", true)
	if err != nil {
		return err
	}
	seconds, fraction := r.order.Uint32(head), r.order.Uint32(head[4:])
	length := r.order.Uint32(head[8:])
	p.Length = int(r.order.Uint32(head[12:]))
	if time.Duration(fraction)*r.fraction >= time.Second {
		return r.wrong("its time has %d parts of a second, which is more than one", fraction)
	}
	p.Time = time.Unix(int64(seconds), int64(time.Duration(fraction)*r.fraction)).UTC()
	if p.Data, err = r.data(length); err != nil {
		return err
	}
	return r.checkLength(p)
}

func (r *Reader) data(length uint32) ([]byte, error) {
	if length > maxPacket {
		return nil, r.wrong("it has %d bytes, more than %d", length, maxPacket)
	}
	return r.take(int(length), "the packet", false)
}

func (r *Reader) checkLength(p *Packet) error {
	if len(p.Data) > p.Length {
		return r.wrong("%d bytes are kept of a packet of %d", len(p.Data), p.Length)
	}
	return nil
}

// block reads blocks until one is a packet.
func (r *Reader) block(p *Packet) error {
	for {
		kind, body, err := r.nextBlock()
		if err != nil {
			return err
		}
		switch kind {
		case blockSection:
			r.interfaces = nil
		case blockInterface:
			err = r.addInterface(body)
		case blockEnhanced:
			return r.enhanced(p, body)
		case blockSimple:
			return r.simple(p, body)
		}
		if err != nil {
			return err
		}
	}
}

// nextBlock is its type, and what is between the two lengths.
func (r *Reader) nextBlock() (kind uint32, body []byte, err error) {
	head, err := r.r.Peek(12)
	if len(head) == 0 && err == io.EOF {
		return 0, nil, io.EOF
	}
	if len(head) == 12 && binary.LittleEndian.Uint32(head) == blockSection {
		if err := r.setOrder(head[8:]); err != nil {
			return 0, nil, err
		}
	}
	if head, err = r.take(8, "the head of a block", false); err != nil {
		return 0, nil, err
	}
	kind = r.order.Uint32(head)
	length := r.order.Uint32(head[4:])
	if length < 12 || length%4 != 0 || length > maxBlock {
		return 0, nil, r.wrong("a block of type %#x has the length %d", kind, length)
	}
	if body, err = r.take(int(length)-8, "a block", false); err != nil {
		return 0, nil, err
	}
	body, tail := body[:len(body)-4], body[len(body)-4:]
	if again := r.order.Uint32(tail); again != length {
		return 0, nil, r.wrong("a block of type %#x has the lengths %d and %d", kind, length, again)
	}
	return kind, body, nil
}

func (r *Reader) setOrder(magic []byte) error {
	switch uint32(byteOrder) {
	case binary.LittleEndian.Uint32(magic):
		r.order = binary.LittleEndian
	case binary.BigEndian.Uint32(magic):
		r.order = binary.BigEndian
	default:
		return r.wrong("a section has the byte order %x", magic)
	}
	return nil
}

func (r *Reader) addInterface(body []byte) error {
	if len(body) < 8 {
		return r.wrong("the description of an interface has %d bytes", len(body))
	}
	in := source{link: r.order.Uint16(body), snap: r.order.Uint32(body[4:]), ticks: 1e6}
	err := r.options(body[8:], func(kind uint16, value []byte) error {
		switch {
		case kind == optionName:
			in.name = strings.TrimRight(string(value), "\x00")
		case kind == optionResolution && len(value) == 1:
			return r.setTicks(&in, value[0])
		case kind == optionOffset && len(value) == 8:
			in.since = int64(r.order.Uint64(value))
		}
		return nil
	})
	if name, ok := strings.CutSuffix(in.name, sent); ok {
		in.name, in.direction = name, Outbound
	}
	r.interfaces = append(r.interfaces, in)
	return err
}

// optionOffset is if_tsoffset.
const optionOffset = 14

// setTicks: the resolution is a power of ten, or, with the highest bit, of two.
func (r *Reader) setTicks(in *source, resolution byte) error {
	power := resolution &^ 0x80
	if resolution&0x80 != 0 && power < 64 {
		in.ticks = 1 << power
		return nil
	}
	if resolution&0x80 != 0 || power > 19 {
		return r.wrong("an interface's times have the resolution %#x", resolution)
	}
	in.ticks = 1
	for range power {
		in.ticks *= 10
	}
	return nil
}

func (r *Reader) options(b []byte, take func(kind uint16, value []byte) error) error {
	for len(b) >= 4 {
		kind, length := r.order.Uint16(b), int(r.order.Uint16(b[2:]))
		if b = b[4:]; kind == optionEnd {
			return nil
		}
		padded := length + -length&3
		if padded > len(b) {
			return r.wrong("an option of %d bytes does not fit its block", length)
		}
		if err := take(kind, b[:length]); err != nil {
			return err
		}
		b = b[padded:]
	}
	return nil
}

// from is the interface of a packet.
func (r *Reader) from(number uint32) (*source, error) {
	if uint64(number) >= uint64(len(r.interfaces)) {
		return nil, r.wrong("it is from interface %d, and %d are described", number, len(r.interfaces))
	}
	in := &r.interfaces[number]
	return in, r.checkLink(uint32(in.link))
}

func (r *Reader) enhanced(p *Packet, body []byte) error {
	if len(body) < 20 {
		return r.wrong("its block has %d bytes", len(body))
	}
	in, err := r.from(r.order.Uint32(body))
	if err != nil {
		return err
	}
	kept := r.order.Uint32(body[12:])
	p.Length = int(r.order.Uint32(body[16:]))
	p.Interface, p.Direction = in.name, in.direction
	p.Time = in.time(uint64(r.order.Uint32(body[4:]))<<32 | uint64(r.order.Uint32(body[8:])))
	body = body[20:]
	padded := (uint64(kept) + 3) &^ 3
	if padded > uint64(len(body)) {
		return r.wrong("%d bytes are said to be kept, and its block has %d", kept, len(body))
	}
	p.Data = body[:kept]
	if err := r.checkLength(p); err != nil {
		return err
	}
	return r.options(body[padded:], func(kind uint16, value []byte) error {
		switch {
		case kind == optionFlags && len(value) == 4:
			if d := Direction(r.order.Uint32(value) & 3); d == Inbound || d == Outbound {
				p.Direction = d
			}
		case kind == optionPacketID && len(value) == 8:
			p.ID = r.order.Uint64(value)
		case kind == optionComment:
			p.Comment = string(value)
		}
		return nil
	})
}

// simple is a packet of the first interface, without a time.
func (r *Reader) simple(p *Packet, body []byte) error {
	in, err := r.from(0)
	if err != nil {
		return err
	}
	if len(body) < 4 {
		return r.wrong("its block has %d bytes", len(body))
	}
	length := r.order.Uint32(body)
	kept := min(length, uint32(len(body)-4))
	if in.snap != 0 {
		kept = min(kept, in.snap)
	}
	p.Length, p.Interface, p.Data = int(length), in.name, body[4:][:kept]
	return nil
}

func (s *source) time(stamp uint64) time.Time {
	seconds, rest := stamp/s.ticks, stamp%s.ticks
	high, low := bits.Mul64(rest, uint64(time.Second))
	nanoseconds, _ := bits.Div64(high, low, s.ticks)
	if seconds > math.MaxInt32<<8 { // some thousands of years: what lies beyond is no time
		seconds = 0
	}
	return time.Unix(int64(seconds)+s.since, int64(nanoseconds)).UTC()
}
