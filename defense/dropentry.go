// SPDX-License-Identifier: Apache-2.0

package defense

import "time"

// Openness is what drop_entry distinguishes entries of the connection table by.
type Openness uint8

// Closing entries end soon by themselves and are spared; half-open ones go; the
// rest goes by how little was heard of it.
const (
	Closing Openness = iota
	HalfOpen
	Open
)

// Entry is an entry of the connection table.
type Entry struct {
	Openness Openness
	Idle     time.Duration
	Packets  int // the client's
	Controls int // of a template: connections
}

// DropEntry has the rule by which drop_entry chooses among the entries that it
// comes by. The zero value is ready.
type DropEntry struct {
	left [mostPackets + 1]int // of entries with so many packets, until one goes
}

const (
	idleLong    = time.Minute
	mostPackets = 8
)

// Part of the table that drop_entry comes by in a second.
const Part = 32

// Drops reports whether the entry goes. Of open ones that were idle for long, one in as many goes as packets
// have come for each: who said least is trusted least.
func (d *DropEntry) Drops(e Entry) bool {
	switch {
	case e.Controls > 0 || e.Openness == Closing:
		return false
	case e.Openness == HalfOpen:
		return true
	case e.Idle < idleLong || e.Packets == 0 || e.Packets > mostPackets:
		return false
	}
	left := &d.left[e.Packets]
	if *left--; *left > 0 {
		return false
	}
	*left = e.Packets
	return true
}
