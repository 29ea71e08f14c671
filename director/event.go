// SPDX-License-Identifier: Apache-2.0

package director

import "time"

// EventKind is what an event is about.
type EventKind string

// The kinds of events, besides those of health: real_up, real_drain, real_down, real_unknown, quorum_gained, quorum_lost.
const (
	EventConfiguration  EventKind = "configuration" // another one is in force
	EventServiceAdded   EventKind = "service_added"
	EventServiceChanged EventKind = "service_changed"
	EventServiceRemoved EventKind = "service_removed"
	EventRealAdded      EventKind = "real_added"
	EventRealChanged    EventKind = "real_changed"
	EventRealRemoved    EventKind = "real_removed"
	EventDefenseBegins  EventKind = "defense_begins"
	EventDefenseEnds    EventKind = "defense_ends"
	EventTimeoutsSet    EventKind = "timeouts_set" // at run time, until the next configuration
	EventDefenseSet     EventKind = "defense_set"  // likewise
	EventLost           EventKind = "lost"         // some cannot be told any more: look at the whole state
	EventAlive          EventKind = "alive"        // nothing has happened
)

// Event is a change that watchers are told of.
type Event struct {
	Position   string      `json:"position"` // of who has seen this one
	Time       time.Time   `json:"time"`
	Kind       EventKind   `json:"event"`
	Service    string      `json:"service,omitempty"` // its key, as tcp 192.0.2.1:80
	Name       string      `json:"name,omitempty"`    // the service's
	Real       string      `json:"real,omitempty"`    // its address and port
	RealName   string      `json:"real_name,omitempty"`
	Keys       []KeyChange `json:"keys,omitempty"`       // that have other values
	Evidence   string      `json:"evidence,omitempty"`   // of health: the result that brought it
	Strategy   string      `json:"strategy,omitempty"`   // of a defense
	Cause      string      `json:"cause,omitempty"`      // likewise
	Generation uint64      `json:"generation,omitempty"` // of a configuration
	Lost       uint64      `json:"lost,omitempty"`       // how many; 0: nobody knows
}
