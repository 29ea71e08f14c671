// SPDX-License-Identifier: Apache-2.0

package director

// Preview is what another configuration would change, and what that would mean for the connections
// that there are.
type Preview struct {
	Services  []ServicePreview `json:"services"`
	Other     []string         `json:"other,omitempty"` // parts of the configuration other than services that differ
	Unchanged Unchanged        `json:"unchanged"`
}

// Unchanged is what stays as it is.
type Unchanged struct {
	Services    int    `json:"services"`
	RealServers int    `json:"real_servers"` // of all services
	Connections uint64 `json:"connections"`  // of those real servers
}

// Empty tells that nothing would change.
func (p *Preview) Empty() bool { return len(p.Services) == 0 && len(p.Other) == 0 }

// ServicePreview is what would become of a service.
type ServicePreview struct {
	Key   ServiceKey    `json:"service"`
	Name  string        `json:"name,omitempty"`
	Op    PreviewOp     `json:"op"`
	Keys  []KeyChange   `json:"keys,omitempty"` // of its own
	Reals []RealPreview `json:"reals,omitempty"`
}

// RealPreview is what would become of a real server, and of its connections.
type RealPreview struct {
	Key         RealKey     `json:"real"`
	Name        string      `json:"name,omitempty"`
	Op          PreviewOp   `json:"op"`
	Keys        []KeyChange `json:"keys,omitempty"`
	Connections uint64      `json:"connections"` // that it has
	Effect      Effect      `json:"effect"`      // on them
}

// PreviewOp is as in diff.
type PreviewOp string

// The kinds of difference.
const (
	PreviewAdd    PreviewOp = "+"
	PreviewRemove PreviewOp = "-"
	PreviewChange PreviewOp = "~"
	PreviewInside PreviewOp = " " // of a service: its real servers only
)

// KeyChange is a key of the file that would have another value; "": it is absent.
type KeyChange struct {
	Key string `json:"key"`
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// Effect is what becomes of connections.
type Effect string

// The effects.
const (
	EffectNone       Effect = "none"       // they go on
	EffectDrain      Effect = "drain"      // they go on, and no others come
	EffectReschedule Effect = "reschedule" // they move to other real servers
	EffectReset      Effect = "reset"
	EffectDrop       Effect = "drop"
)

// effectOf is what a fate means.
var effectOf = map[Fate]Effect{FateKeep: EffectDrain, FateReschedule: EffectReschedule, FateReset: EffectReset, FateDrop: EffectDrop}

// EffectOfRemoval is what becomes of a removed real server's connections with such a policy.
func (p ConnPolicy) EffectOfRemoval() Effect { return effectOf[p.OnRemove] }

// EffectOfChange is what becomes of the connections of a real server that is changed. Another method
// is another way to it: as to them, it is removed.
func (p ConnPolicy) EffectOfChange(before, after *RealServer) Effect {
	switch {
	case before.Method != after.Method:
		return p.EffectOfRemoval()
	case before.Weight > 0 && after.Weight == 0:
		return EffectDrain
	default:
		return EffectNone
	}
}
