// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Writer writes a capture in the format pcapng. Each packet is written at once, and by one call.
type Writer struct {
	w          io.Writer
	snap       int
	interfaces map[place]uint32
	block      []byte
	written    int64
}

// place is where packets are seen: programs show one line for each, and some know no direction but that.
type place struct {
	name      string
	direction Direction
}

// NewWriter begins a capture by a program, of frames of which snap bytes at most are kept.
func NewWriter(w io.Writer, program string, snap int) (*Writer, error) {
	c := &Writer{w: w, snap: snap, interfaces: map[place]uint32{}}
	c.begin(blockSection)
	c.put32(byteOrder)
	c.put32(1)                              // version 1.0
	c.put32(math.MaxUint32, math.MaxUint32) // length of the section: not known
	c.option(optionApplication, []byte(program))
	c.option(optionEnd, nil)
	return c, c.end()
}

// Written is how many bytes there are so far.
func (c *Writer) Written() int64 { return c.written }

// Write adds a packet.
func (c *Writer) Write(p *Packet) error {
	at, err := c.at(place{p.Interface, p.Direction})
	if err != nil {
		return err
	}
	data := p.Data[:min(len(p.Data), c.snap)]
	stamp := uint64(p.Time.UnixNano())
	c.begin(blockEnhanced)
	c.put32(at, uint32(stamp>>32), uint32(stamp), uint32(len(data)), uint32(p.Length))
	c.bytes(data)
	if p.Direction != Unknown {
		c.option(optionFlags, binary.LittleEndian.AppendUint32(nil, uint32(p.Direction)))
	}
	if p.ID != 0 {
		c.option(optionPacketID, binary.LittleEndian.AppendUint64(nil, p.ID))
	}
	if p.Comment != "" {
		c.option(optionComment, []byte(p.Comment))
	}
	c.option(optionEnd, nil)
	return c.end()
}

// at is the number of an interface, which is described before its first packet.
func (c *Writer) at(where place) (uint32, error) {
	number, known := c.interfaces[where]
	if known {
		return number, nil
	}
	number = uint32(len(c.interfaces))
	c.interfaces[where] = number
	c.begin(blockInterface)
	c.put32(linkEthernet, uint32(c.snap))
	if where.name != "" {
		c.option(optionName, []byte(where.label()))
	}
	c.option(optionResolution, []byte{9}) // nanoseconds
	c.option(optionEnd, nil)
	return number, c.end()
}

// sent is behind the name of an interface where what left by it stands.
const sent = " (sent)"

func (p place) label() string {
	if p.direction == Outbound {
		return p.name + sent
	}
	return p.name
}

func (c *Writer) begin(kind uint32) {
	c.block = c.block[:0]
	c.put32(kind, 0) // the length comes later
}

func (c *Writer) put32(values ...uint32) {
	for _, v := range values {
		c.block = binary.LittleEndian.AppendUint32(c.block, v)
	}
}

// bytes are filled up to four.
func (c *Writer) bytes(b []byte) {
	c.block = append(c.block, b...)
	c.block = append(c.block, make([]byte, -len(b)&3)...)
}

func (c *Writer) option(kind uint16, value []byte) {
	value = value[:min(len(value), math.MaxUint16)]
	c.block = binary.LittleEndian.AppendUint16(c.block, kind)
	c.block = binary.LittleEndian.AppendUint16(c.block, uint16(len(value)))
	c.bytes(value)
}

// end writes the block, whose length stands at both ends.
func (c *Writer) end() error {
	length := uint32(len(c.block) + 4)
	binary.LittleEndian.PutUint32(c.block[4:], length)
	c.put32(length)
	if _, err := c.w.Write(c.block); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	c.written += int64(len(c.block))
	return nil
}
