// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"container/list"
	"net/netip"
	"time"
)

// SweepInterval is how often lblc and lblcr want to be swept.
const SweepInterval = time.Minute

// Sweeper is a scheduler that remembers destinations (lblc, lblcr) and forgets
// them when told the time.
type Sweeper interface {
	Scheduler
	// Sweep forgets what has not been used for long. Call it every SweepInterval;
	// now is of the same clock as Packet.Now.
	Sweep(now time.Duration)
}

// DefaultDestinations is how many destinations IPVS's lblc and lblcr remember of
// a service.
const DefaultDestinations = 24576

// DefaultExpiration is that of the sysctls lblc_expiration and lblcr_expiration.
const DefaultExpiration = 24 * time.Hour

const (
	memoryIdle  = 6 * time.Minute // unused for so long may go when there is too much
	quietSweeps = 29              // without excess, before one goes by expiration
)

// Memory decides what lblc and lblcr forget, for whoever remembers.
type Memory struct {
	Limit int // at it nothing new is remembered
	quiet int // sweeps since the last one by expiration that found nothing in excess
}

// Sweep says how many of so many entries may go, those that were not used for
// idle; an idle of 0 stands for their expiration. It is to be asked every
// SweepInterval. Above two thirds of the limit entries are in excess.
func (m *Memory) Sweep(entries int) (goal int, idle time.Duration) {
	excess := entries - m.Limit*2/3
	switch {
	case m.quiet == quietSweeps:
		m.quiet = 0
		return entries, 0
	case excess > 0:
		return min(excess*4/3, m.Limit/3), memoryIdle
	default:
		m.quiet++
		return 0, memoryIdle
	}
}

// cache maps destination addresses to V, the most recently used first. The
// kernel's 1024 hash chains are not modelled: they only decide which of several
// idle entries goes first; here it is the one idle for longest.
type cache[V any] struct {
	entries    map[netip.Addr]*list.Element // of cached[V]
	recent     *list.List
	expiration time.Duration
	memory     Memory
}

type cached[V any] struct {
	dst   netip.Addr
	used  time.Duration
	value V
}

func newCache[V any](expiration time.Duration) *cache[V] {
	return &cache[V]{entries: map[netip.Addr]*list.Element{}, recent: list.New(),
		expiration: cmp.Or(expiration, DefaultExpiration), memory: Memory{Limit: DefaultDestinations}}
}

// use looks an entry up, which counts as its use.
func (c *cache[V]) use(dst netip.Addr, now time.Duration) (value V, ok bool) {
	e, ok := c.entries[dst]
	if !ok {
		return value, false
	}
	entry := e.Value.(*cached[V])
	entry.used = now
	c.recent.MoveToFront(e)
	return entry.value, true
}

// put stores or replaces an entry, unless it is new and there are too many.
func (c *cache[V]) put(dst netip.Addr, value V, now time.Duration) {
	if e, ok := c.entries[dst]; ok {
		c.recent.MoveToFront(e)
		e.Value = &cached[V]{dst, now, value}
		return
	}
	if len(c.entries) < c.memory.Limit {
		c.entries[dst] = c.recent.PushFront(&cached[V]{dst, now, value})
	}
}

func (c *cache[V]) sweep(now time.Duration) {
	goal, idle := c.memory.Sweep(len(c.entries))
	c.drop(now, cmp.Or(idle, c.expiration), goal)
}

// drop removes up to goal entries that were not used for the time idle.
func (c *cache[V]) drop(now, idle time.Duration, goal int) {
	for ; goal > 0; goal-- {
		e := c.recent.Back()
		if e == nil || now-e.Value.(*cached[V]).used < idle {
			return
		}
		delete(c.entries, e.Value.(*cached[V]).dst)
		c.recent.Remove(e)
	}
}

func (c *cache[V]) clone(value func(V) V) *cache[V] {
	twin := newCache[V](c.expiration)
	twin.memory = c.memory
	for e := c.recent.Back(); e != nil; e = e.Prev() {
		from := e.Value.(*cached[V])
		twin.entries[from.dst] = twin.recent.PushFront(&cached[V]{from.dst, from.used, value(from.value)})
	}
	return twin
}

// directory finds servers by what identifies them across removal and return:
// memories outlive both.
type directory map[netip.AddrPort]int

func newDirectory(servers []Server) directory {
	d := make(directory, len(servers))
	for i, s := range servers {
		d[s.addrPort()] = i
	}
	return d
}

// find returns the server's index, or -1 if it is not in the list.
func (d directory) find(servers []Server, key netip.AddrPort) int {
	i, ok := d[key]
	if !ok || i >= len(servers) || servers[i].addrPort() != key {
		return -1
	}
	return i
}

// CacheOverloaded reports whether lblc and lblcr take s off a destination it
// serves: it has more active connections than weight while another server, usable
// or not, has fewer than half its weight. The OVERLOAD flag plays no part.
func CacheOverloaded(s Server, servers []Server) bool {
	if uint64(s.Active)*whole <= s.share() {
		return false
	}
	for _, other := range servers {
		if 2*uint64(other.Active)*whole < other.share() {
			return true
		}
	}
	return false
}
