// SPDX-License-Identifier: Apache-2.0

package director

import (
	"time"

	"xdplvs/scheduler"
)

// A slow start lets the weight of a real server grow once it can get connections,
// or can again: it was added, its weight was 0, its next hop was lost, it was down. Those that
// come with a new service start together, so none is held back. What is held back
// stands in the row, from where a restarted daemon goes on with it.

// easeStep is the least that changes, in 256ths: each step is a new plan.
const easeStep = 256 / 64

// up reports whether the real server can get connections but for its thresholds.
func (r *real) up() bool { return r.want.Weight > 0 && r.hop.Resolved && r.well() }

// ease begins a slow start when the real server has come up, or goes on with one.
// It reports whether anything is held back, for that or for its health.
func (r *real) ease(now time.Time) bool {
	up := r.up()
	if up && !r.wasUp && !r.founder {
		r.since = now
	}
	if !up {
		r.since = time.Time{}
	}
	r.wasUp, r.founder = up, r.founder && !up
	held := uint8(0)
	if !r.since.IsZero() {
		held = scheduler.SlowStart(now.Sub(r.since), r.want.SlowStart) &^ (easeStep - 1)
	}
	if held == 0 {
		r.since = time.Time{}
	}
	r.row.Held = both(held, r.withheld())
	return r.row.Held > 0
}

// resume goes on with the slow start that a former process has begun. Its time
// stood still without one.
func (r *real) resume(now time.Time) {
	if held := other(r.row.Held, r.withheld()); held > 0 {
		r.since = now.Add(-scheduler.Elapsed(held, r.want.SlowStart))
	}
}

// ease looks at all real servers of the service.
func (s *service) ease(now time.Time) {
	s.easing = false
	for _, r := range s.reals {
		s.easing = r.ease(now) || s.easing
	}
}
