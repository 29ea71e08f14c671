// SPDX-License-Identifier: Apache-2.0

package director

import (
	"time"

	"xdplvs/bpf"
)

// TableState is how full a table is.
type TableState struct {
	Name   string `json:"name"`
	Places uint64 `json:"places"`
	Used   uint64 `json:"used"`
	// Entries of a connection table, by what they are: a connection's state as IPVS calls it,
	// TEMPLATE, or WAY_BACK, which leads replies to a connection.
	Entries map[string]uint64 `json:"entries,omitempty"`
}

// The names of entries that are no connections.
const (
	EntryTemplate = "TEMPLATE"
	EntryWayBack  = "WAY_BACK"
)

// SweepState is what the sweep has done since the director runs.
type SweepState struct {
	Passes   uint64        `json:"passes"`        // over both tables
	Freed    uint64        `json:"freed"`         // entries
	Repaired uint64        `json:"repaired"`      // counts of connections that had drifted
	Busy     time.Duration `json:"busy"`          // nanoseconds of work
	Last     time.Time     `json:"last,omitzero"` // end of the last pass
}

// swept is what is known from the sweep.
type swept struct {
	state    SweepState
	entries4 bpf.Entries // that the last pass left
	entries6 bpf.Entries
	overflow uint64
}

// worked is told when a slice began that has just ended.
func (s *swept) worked(begin time.Time) { s.state.Busy += time.Since(begin) }

// passed is told when a pass over both tables has ended.
func (s *swept) passed(table4, table6 *bpf.Sweep, overflow uint64, repaired int) {
	s.state.Passes++
	s.state.Repaired += uint64(repaired)
	s.state.Last = time.Now()
	s.entries4, s.entries6, s.overflow = *table4.Entries(), *table6.Entries(), overflow
}

// tableStates are the tables that can be full; those of connections as the last pass of the sweep left them.
func (d *Director) tableStates() []TableState {
	s := &d.swept
	return []TableState{
		connTable("connections4", len(d.tables.Conns4), &s.entries4),
		connTable("connections6", len(d.tables.Conns6), &s.entries6),
		{Name: "overflow", Places: uint64(d.tables.Overflow), Used: s.overflow},
		{Name: "services", Places: uint64(len(d.serviceIDs.used)), Used: uint64(d.serviceIDs.n)},
		{Name: "real_servers", Places: uint64(len(d.realIDs.used)), Used: uint64(d.realIDs.n)},
		{Name: "plan_slots", Places: uint64(d.arena.end), Used: uint64(d.arena.used)},
		{Name: "prefixes", Places: uint64(d.tables.PrefixRoom()), Used: uint64(d.guards.prefixes.Entries())},
	}
}

func connTable(name string, places int, entries *bpf.Entries) TableState {
	t := TableState{
		Name: name, Places: uint64(places), Used: entries.Sum(),
		Entries: map[string]uint64{EntryTemplate: entries.Templates(), EntryWayBack: entries.WaysBack()},
	}
	for _, s := range states {
		t.Entries[s.name] += entries[s.number]
	}
	return t
}
