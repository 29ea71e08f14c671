// SPDX-License-Identifier: Apache-2.0

package director

import (
	"time"

	"xdplvs/bpf"
)

// Condition is what health checks say of a real server.
type Condition uint8

// The conditions.
const (
	Unknown  Condition = iota // nothing yet: it gets no connections, and keeps those that it has
	Up                        // it gets the share of its weight that Health has
	Draining                  // it gets no new connections, and keeps those that it has
	Down                      // it is out of the plans, and its connections get what the service's on_down says
)

var conditionNames = names[Condition]{{Unknown, "unknown"}, {Up, "up"}, {Draining, "drain"}, {Down, "down"}}

// String returns the name that listings use.
func (c Condition) String() string { return conditionNames.format(c) }

// MarshalText implements encoding.TextMarshaler.
func (c Condition) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known conditions.
func (c *Condition) UnmarshalText(text []byte) (err error) {
	*c, err = conditionNames.parse("condition", text)
	return err
}

// HealthKey names a real server of a service.
type HealthKey struct {
	Service ServiceKey
	Real    RealKey
}

// Health is what is known of a real server that is checked.
type Health struct {
	Condition Condition `json:"condition"`
	Factor    int       `json:"factor"`             // percent of its weight that it can take; 0 unless it is up
	Forced    bool      `json:"forced,omitempty"`   // by hand, whatever its checks say
	Since     time.Time `json:"since"`              // of the condition
	Evidence  string    `json:"evidence,omitempty"` // the result that brought it, as in L7STS/503 in 12ms: …
}

// SetHealth says what is known of the real servers that are checked: all of them,
// the latest call wins. One that is not named is unknown. It does not wait.
func (d *Director) SetHealth(all map[HealthKey]Health) { d.healths.set(all) }

// setHealth makes new plans where real servers can be used in another way than before.
func (d *Director) setHealth(all map[HealthKey]Health) {
	d.health = all
	for _, s := range d.services {
		d.heed(s)
	}
}

// heed brings the service's real servers to what is known of them now.
func (d *Director) heed(s *service) {
	turned := false
	for _, r := range s.reals {
		health := d.healthOf(s, r.want)
		if health.usedLike(r.health) {
			r.health = health
			continue
		}
		if !turned {
			d.settle(s)
		}
		turned = true
		d.obeyHealth(r, health)
	}
	if turned {
		s.sched.Edit(s.servers())
		d.mustPublish(s)
	}
}

// obeyHealth takes over what is known of a real server. Its connections are left to
// their fate first: a process that comes no further finds it up again, and down anew.
func (d *Director) obeyHealth(r *real, health Health) {
	before := r.out()
	r.health = health
	if r.out() && !before {
		d.abandon(r, r.onDown)
	}
	r.showHealth()
}

func (d *Director) healthOf(s *service, want RealServer) Health {
	if !want.Checked {
		return Health{Condition: Up, Factor: 100}
	}
	return d.health[HealthKey{s.want.Key, want.Key}]
}

// usedLike reports whether a real server of the one health is used like one of the other.
func (h Health) usedLike(o Health) bool { return h.Condition == o.Condition && h.Factor == o.Factor }

// well reports whether its health lets the real server get new connections.
func (r *real) well() bool {
	return !r.want.Checked || r.health.Condition == Up && r.health.Factor > 0
}

// out reports whether the real server is dead, so that nothing may lead there any more.
func (r *real) out() bool {
	return r.want.Checked && r.health.Condition == Down && !r.want.InhibitOnFailure
}

// missing reports whether the real server's health takes it out of the plans.
func (r *real) missing() bool { return r.out() || r.want.Checked && r.health.Condition == Unknown }

// present reports whether the real server is in the schedulers' lists as one to choose. One that
// is not counts as overloaded there: it gets nothing, and its weight is unchanged.
func (r *real) present() bool { return r.hop.Resolved && !r.missing() }

// weight is the configured one, or 0 as long as the real server is quiesced for its health. It does
// not depend on the next hop: a scheduler is told of weights, and looks again at the rest by itself.
func (r *real) weight() uint32 {
	if !r.well() && !r.missing() {
		return 0
	}
	return r.want.Weight
}

// showHealth tells packets.
func (r *real) showHealth() {
	r.setFlag(bpf.RealDown, r.out())
	r.setFlag(bpf.RealUsable, r.want.Weight > 0 && r.well())
}

// withheld is what of its weight the real server cannot take for its health, in 256ths.
func (r *real) withheld() uint8 {
	if !r.want.Checked || !r.well() {
		return 0
	}
	return uint8(256 - max(1, 256*min(r.health.Factor, 100)/100))
}

// healthState is for listings; nil: it is not checked.
func (r *real) healthState() *Health {
	if !r.want.Checked {
		return nil
	}
	health := r.health
	return &health
}

// both is what is held back for two reasons, each a share of what the other leaves.
func both(a, b uint8) uint8 {
	part := (256 - int(a)) * (256 - int(b)) / 256
	return uint8(256 - max(1, part))
}

// other is one of the two reasons of both, by the other one.
func other(held, one uint8) uint8 {
	part := min(256, ((256-int(held))*256+255-int(one))/(256-int(one)))
	return uint8(256 - part)
}
