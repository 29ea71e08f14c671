// SPDX-License-Identifier: Apache-2.0

package director

import (
	"sync/atomic"
	"time"
)

// Plans that depend on the connections are made anew when those have moved, any
// plan when a real server came to a threshold, and plans that end before the
// choices repeat when half of them is used.
// Each tick looks at a bounded number of real servers, so that a large farm
// costs no more than a small one; its plans are only followed less closely.
const (
	followTick  = 10 * time.Millisecond
	followReals = 2000
)

// follow makes new plans for services whose connections have moved.
func (d *Director) follow() {
	for seen := 0; seen < followReals; {
		if len(d.followed) == 0 {
			d.followed = d.followedServices()
			if len(d.followed) == 0 {
				return
			}
			seen = followReals // the next round begins with the next tick
		}
		s := d.followed[0]
		d.followed = d.followed[1:]
		seen += len(s.reals) + 1
		if d.services[s.want.Key] != s || !s.moved() {
			continue
		}
		if err := d.publishPlan(s); err != nil {
			d.log.Error("make plan", "event", "plan_failed", "service", s.want.Key, "error", err)
		}
	}
}

func (d *Director) followedServices() []*service {
	var list []*service
	for _, s := range d.services {
		if s.cut || s.limited || s.easing || s.aware() {
			list = append(list, s)
		}
	}
	return list
}

// moved reports whether the plan in force was made for other counts.
func (s *service) moved() bool {
	if s.easing {
		s.ease(time.Now())
	}
	handed := atomic.LoadUint64(s.cursor())
	if s.cut && 2*handed >= uint64(s.row.Plan[s.inForce()].Length) || s.aware() && handed != 0 {
		return true
	}
	for i, r := range s.reals {
		now := r.forScheduler()
		if i >= len(s.planned) || now.Overloaded != s.planned[i].Overloaded || now.Held != s.planned[i].Held || s.aware() && now != s.planned[i] {
			return true
		}
	}
	return false
}
