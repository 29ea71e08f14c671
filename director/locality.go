// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"slices"
	"time"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

// remembers reports whether the service's scheduler remembers destinations. They
// are in a map that packets write; here is what packets cannot do.
func (s *Service) remembers() bool { return s.Scheduler == "lblc" || s.Scheduler == "lblcr" }

// expiration is how long a destination is remembered that is not used (lblc,
// lblcr), and how long a set keeps its size (lblcr).
func (s *Service) expiration() time.Duration {
	return cmp.Or(s.Expiration, scheduler.DefaultExpiration)
}

// planHead is how many slots of the plan's region lie before the plan.
func (s *Service) planHead() int {
	if s.remembers() {
		return bpf.RosterSlots
	}
	return 0
}

// writeRoster tells packets which real servers may be below half of their weight:
// with more than fit, those that have the most to spare now.
func (d *Director) writeRoster(s *service, into []uint32) {
	if len(into) == 0 {
		return
	}
	servers := s.servers()
	spare := func(v scheduler.Server) int64 { return int64(v.EffectiveWeight()) - 2*int64(v.Active) }
	slices.SortStableFunc(servers, func(a, b scheduler.Server) int { return cmp.Compare(spare(b), spare(a)) })
	servers = servers[:min(len(servers), bpf.RosterSlots-bpf.RosterFirst)]
	into[bpf.RosterExpiration] = d.clock.Jiffies(s.want.expiration())
	for i, v := range servers {
		into[bpf.RosterFirst+i] = v.ID
	}
	into[bpf.RosterCount] = uint32(len(servers))
}

// remembered is a destination, and for how long it has not been used.
type remembered struct {
	key    bpf.DestinationKey
	idle   time.Duration
	expiry time.Duration // 0: its service remembers nothing any more
}

// forgetIdle forgets destinations as IPVS does: seldom those that were not used for
// long, sooner where there are too many, and all of services that are no more.
func (d *Director) forgetIdle() {
	all, err := d.allRemembered()
	if err != nil {
		d.log.Error("sweep destinations", "event", "sweep_failed", "error", err)
		return
	}
	all = slices.DeleteFunc(all, func(r remembered) bool {
		if r.expiry == 0 {
			d.forgetDestination(&r.key)
		}
		return r.expiry == 0
	})
	goal, idle := d.memory.Sweep(len(all))
	slices.SortFunc(all, func(a, b remembered) int { return cmp.Compare(b.idle, a.idle) })
	for i := 0; i < len(all) && goal > 0; i++ {
		if all[i].idle >= cmp.Or(idle, all[i].expiry) {
			d.forgetDestination(&all[i].key)
			goal--
		}
	}
}

func (d *Director) allRemembered() (all []remembered, err error) {
	now, err := d.clock.Now()
	if err != nil {
		return nil, err
	}
	expiry := map[uint32]time.Duration{}
	for _, s := range d.services {
		if s.want.remembers() {
			expiry[s.id] = s.want.expiration()
		}
	}
	err = d.plane.Destinations(func(key *bpf.DestinationKey, v *bpf.Destination) bool {
		all = append(all, remembered{*key, d.clock.Duration(int32(now - v.LastUse)), expiry[key.Service]})
		return true
	})
	return all, err
}

// forgetService forgets what another scheduler of the service remembers.
func (d *Director) forgetService(s *service) {
	var keys []bpf.DestinationKey
	err := d.plane.Destinations(func(key *bpf.DestinationKey, _ *bpf.Destination) bool {
		if key.Service == s.id {
			keys = append(keys, *key)
		}
		return true
	})
	if err != nil {
		d.log.Error("list destinations", "event", "forget_failed", "service", s.want.Key.String(), "error", err)
	}
	for i := range keys {
		d.forgetDestination(&keys[i])
	}
}

// forgetDestination: where it fails the next sweep tries again.
func (d *Director) forgetDestination(key *bpf.DestinationKey) {
	if err := d.plane.ForgetDestination(key); err != nil {
		d.log.Error("forget destination", "event", "forget_failed", "error", err)
	}
}
