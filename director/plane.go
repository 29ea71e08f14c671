// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"time"

	"xdplvs/bpf"
)

// NextHop is how frames reach a real server.
type NextHop struct {
	Resolved bool
	Reason   string // why not
	Pending  bool   // only because an answer is awaited still
	Local    bool   // the address is one of this host's own
	Link     int    // index of the interface to transmit on
	SrcMAC   [6]byte
	DstMAC   [6]byte
	VLAN     []uint16   // tags, outermost first, at most two
	TPID     []uint16   // their EtherTypes
	MTU      int        // bytes of IP; 0: not known
	Source   netip.Addr // that the route prefers; tunnels begin there
}

// Attachment is what Plane.Attach made.
type Attachment interface {
	AttachedMode() AttachMode // native or generic
}

// Plane is the part of the data plane that is no memory.
type Plane interface {
	// Attach puts the program on an interface; it is no error when it is there already.
	Attach(index int, mode AttachMode) (Attachment, error)
	// Detach takes it off.
	Detach(Attachment) error
	// Repair looks whether the program is on the interface still, and this one, and pinned; if not, that is
	// put back.
	Repair(Attachment) (repaired bool, err error)
	// RepairPins pins tables again whose pins are gone, and returns how many those were.
	RepairPins() (int, error)
	// DetachOthers takes it off interfaces that a former process left it on.
	DetachOthers(keep map[int]bool) error
	// SetTxPort lets packets leave by the interface.
	SetTxPort(port uint16, index int) error
	// TxPort is the interface that the port leads to; 0: none.
	TxPort(port uint16) (index int, err error)
	// Closed is what SetClosed has set.
	Closed() (map[netip.Addr]uint32, error)
	// Verdicts are the packets counted under each verdict.
	Verdicts() (map[string]uint64, error)
	// SetClosed says what becomes of packets to closed ports of addresses; of others they go to the stack.
	SetClosed(map[netip.Addr]uint32) error
	// Overflow calls yield for each connection that lies outside the tables. It is
	// called from any goroutine, beside the other methods.
	Overflow(yield func(*bpf.ConnKey, *bpf.Conn) bool) error
	// SweepOverflow frees the expired ones among them.
	SweepOverflow() error
	// FreeOverflow frees one of them; that it is gone already is no error. It is
	// called from any goroutine, too.
	FreeOverflow(*bpf.ConnKey) error
	// Destinations calls yield for each destination that lblc and lblcr remember.
	Destinations(yield func(*bpf.DestinationKey, *bpf.Destination) bool) error
	// ExplainMark tells what the program makes of a packet that begins a connection.
	ExplainMark(bpf.MarkQuestion) (bpf.MarkAnswer, error)
	// ForgetDestination takes one out; that it is gone already is no error.
	ForgetDestination(*bpf.DestinationKey) error
}

// Clock is the time in the unit that connections are stamped with.
type Clock interface {
	Now() (uint32, error)
	Jiffies(time.Duration) uint32
	Duration(jiffies int32) time.Duration
}

// addr16 is the form of addresses in rows: IPv4 is mapped.
func addr16(a netip.Addr) [16]byte { return a.As16() }
