// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"
	"time"
)

// lblcr, locality-based least connections with replication: as lblc, but a busy
// destination collects several servers, and loses the most loaded of them when
// its set did not change for the expiration time.
type lblcr struct {
	servers directory
	cache   *cache[*replicas]
}

func newLBLCR(o Options) (Scheduler, error) {
	return &lblcr{cache: newCache[*replicas](o.LBLCRExpiration)}, nil
}

func (l *lblcr) Name() string            { return "lblcr" }
func (l *lblcr) Kind() Kind              { return Sequence }
func (l *lblcr) Base() Scheduler         { return wlc() }
func (l *lblcr) Edit(servers []Server)   { l.servers = newDirectory(servers) }
func (l *lblcr) Sweep(now time.Duration) { l.cache.sweep(now) }

func (l *lblcr) Clone() Scheduler {
	return &lblcr{servers: l.servers, cache: l.cache.clone((*replicas).clone)}
}

func (l *lblcr) Pick(p Packet, servers []Server) int {
	set, hit := l.cache.use(p.Dst, p.Now)
	if hit {
		i := set.choose(l.servers, servers)
		set.shrink(p.Now, l.cache.expiration)
		if i >= 0 && !CacheOverloaded(servers[i], servers) {
			return i
		}
	}
	i := least(servers, wlcCost)
	if i < 0 {
		return -1
	}
	if hit {
		set.add(servers[i], p.Now)
	} else {
		l.cache.put(p.Dst, &replicas{changed: p.Now, members: []Server{servers[i]}}, p.Now)
	}
	return i
}

// replicas is the set of servers of one destination, the last added first.
type replicas struct {
	changed time.Duration
	// Servers as this set saw them last: one that was removed meanwhile is still
	// a member, and can be the most loaded.
	members []Server
}

func (r *replicas) clone() *replicas {
	return &replicas{changed: r.changed, members: slices.Clone(r.members)}
}

// choose brings the members up to date and returns the best by wlc, or -1.
func (r *replicas) choose(known directory, servers []Server) int {
	best, bestCost := -1, Cost{}
	for m := range r.members {
		i := known.find(servers, r.members[m].addrPort())
		if i < 0 {
			continue
		}
		r.members[m] = servers[i]
		cost, ok := wlcCost(servers[i])
		if ok && (best < 0 || cost.Compare(bestCost) < 0) {
			best, bestCost = i, cost
		}
	}
	return best
}

// shrink removes the most loaded member from a set of several that has been the
// same for longer than age.
func (r *replicas) shrink(now, age time.Duration) {
	if len(r.members) < 2 || now-r.changed <= age {
		return
	}
	worst := -1
	for m, s := range r.members {
		if s.Weight > 0 && (worst < 0 || r.cost(worst).Compare(r.cost(m)) < 0) {
			worst = m
		}
	}
	if worst >= 0 {
		r.members = slices.Delete(r.members, worst, worst+1)
		r.changed = now
	}
}

func (r *replicas) cost(m int) Cost {
	cost, _ := wlcCost(r.members[m])
	return cost
}

func (r *replicas) add(s Server, now time.Duration) {
	same := func(member Server) bool { return member.addrPort() == s.addrPort() }
	if slices.ContainsFunc(r.members, same) {
		return
	}
	r.members = slices.Insert(r.members, 0, s)
	r.changed = now
}
