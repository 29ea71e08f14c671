// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"time"
)

// AddressMode is who has a virtual address.
type AddressMode uint8

// The modes. With AddressNone it is somebody else: keepalived, an administrator, a router that
// sends packets for it here.
const (
	AddressNone      AddressMode = iota
	AddressInterface             // it is an address of an interface, which the director adds and keeps there
	AddressAnswer                // it is no interface's; the data plane answers ARP and neighbour solicitations
)

// AddressStatus is how far the director has come with a virtual address.
type AddressStatus uint8

// The statuses.
const (
	AddressUnmanaged AddressStatus = iota // its mode is none
	AddressWaiting                        // its interface is not there, or down
	AddressChecking                       // hosts are asked whether one of them has it
	AddressConflict                       // one has, so it is not taken
	AddressFailed                         // the kernel refused
	AddressHeld
)

var (
	addressModeNames   = names[AddressMode]{{AddressNone, "none"}, {AddressInterface, "interface"}, {AddressAnswer, "answer"}}
	addressStatusNames = names[AddressStatus]{{AddressUnmanaged, "unmanaged"}, {AddressWaiting, "waiting"},
		{AddressChecking, "checking"}, {AddressConflict, "conflict"}, {AddressFailed, "failed"}, {AddressHeld, "held"}}
)

// String returns the name that configuration uses.
func (m AddressMode) String() string { return addressModeNames.format(m) }

// MarshalText implements encoding.TextMarshaler.
func (m AddressMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known modes.
func (m *AddressMode) UnmarshalText(text []byte) (err error) {
	*m, err = addressModeNames.parse("address mode", text)
	return err
}

// String returns the name that listings use.
func (s AddressStatus) String() string { return addressStatusNames.format(s) }

// MarshalText implements encoding.TextMarshaler.
func (s AddressStatus) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known statuses.
func (s *AddressStatus) UnmarshalText(text []byte) (err error) {
	*s, err = addressStatusNames.parse("address status", text)
	return err
}

// Address is a virtual address as it should be held.
type Address struct {
	Addr      netip.Addr // never IPv4-mapped
	Mode      AddressMode
	Interface string
	Prefix    int  // AddressInterface: the length, in bits
	Force     bool // take it even if another host has it
}

// Announcing is how others are told where an address is: gratuitous ARP, unsolicited neighbour
// advertisements.
type Announcing struct {
	Burst   int           // so many times, once a second, when an address was taken or its link came up
	Refresh time.Duration // time between two later ones; 0: there are none
}

// DefaultAnnouncing is often enough for switches, which forget after five minutes as a rule.
var DefaultAnnouncing = Announcing{Burst: 5, Refresh: time.Minute}

// Rival is another host that has an address.
type Rival struct {
	MAC  string    `json:"mac"`
	Who  string    `json:"who,omitempty"` // as "real server web1 (10.0.0.11)", where it is known
	Seen time.Time `json:"seen"`
}

// AddressList is all virtual addresses that the configuration lists, at one moment.
type AddressList struct {
	Time      time.Time      `json:"time"`
	Addresses []AddressState `json:"addresses"`
}

// AddressState is a virtual address as it is held.
type AddressState struct {
	Addr      netip.Addr    `json:"address"`
	Mode      AddressMode   `json:"mode"`
	Interface string        `json:"interface,omitempty"`
	Status    AddressStatus `json:"status"`
	Since     time.Time     `json:"since,omitzero"`
	Reason    string        `json:"reason,omitempty"` // why it is not held
	// Foreign: it was on the interface already, so it will not be removed.
	Foreign       bool      `json:"foreign,omitempty"`
	Rival         *Rival    `json:"rival,omitempty"`
	Announced     time.Time `json:"announced,omitzero"` // the last time
	Announcements uint64    `json:"announcements,omitempty"`
	Repaired      uint64    `json:"repaired,omitempty"`   // how often somebody had taken it away
	RepairedAt    time.Time `json:"repaired_at,omitzero"` // the last time
}
