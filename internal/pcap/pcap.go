// SPDX-License-Identifier: Apache-2.0

// Package pcap reads captures of Ethernet frames, in the formats pcap and pcapng, and writes pcapng. Sources:
// draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
package pcap

import "time"

// Direction is that of a packet at its interface.
type Direction uint8

// The directions, with the numbers of pcapng's flags.
const (
	Unknown Direction = iota
	Inbound
	Outbound
)

// Packet is a frame of a capture.
type Packet struct {
	Time      time.Time
	Interface string // empty: the capture does not say
	Direction Direction
	Data      []byte // void when the next one is read
	Length    int    // that the frame had; more than len(Data) if it was cut
	ID        uint64 // the same for all that is one packet at several places; 0: not known
	Comment   string
}

// linkEthernet is LINKTYPE_ETHERNET.
const linkEthernet = 1

// Types of blocks.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockSimple    = 3
	blockEnhanced  = 6

	byteOrder = 0x1a2b3c4d
)

// Options of blocks.
const (
	optionEnd        = 0
	optionComment    = 1
	optionName       = 2 // of an interface
	optionResolution = 9
	optionFlags      = 2 // of a packet
	optionPacketID   = 5

	optionApplication = 4 // of a section
)

// maxPacket is how long a frame may be, and maxBlock a block: libpcap's limit of a frame, and some options.
const (
	maxPacket = 256 << 10
	maxBlock  = maxPacket + 64<<10
)
