// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
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

// The bounds of lblc's and lblcr's memory.
const (
	cacheSize       = 16384           // above it sweeping begins
	cacheLimit      = 24576           // at it nothing new is remembered
	cacheGoal       = cacheSize / 2   // most that one sweep takes away
	cacheIdle       = 6 * time.Minute // unused for so long may go when there is too much
	quietSweeps     = 29              // without excess, before one goes by expiration
	cacheExpiration = 24 * time.Hour  // default of lblc_expiration and lblcr_expiration
)

// cache maps destination addresses to V, the most recently used first. The
// kernel's 1024 hash chains are not modelled: they only decide which of several
// idle entries goes first; here it is the one idle for longest.
type cache[V any] struct {
	entries    map[netip.Addr]*list.Element // of cached[V]
	recent     *list.List
	expiration time.Duration
	quiet      int // sweeps since the last one by expiration that found nothing in excess
}

type cached[V any] struct {
	dst   netip.Addr
	used  time.Duration
	value V
}

func newCache[V any](expiration time.Duration) *cache[V] {
	if expiration == 0 {
		expiration = cacheExpiration
	}
	return &cache[V]{entries: map[netip.Addr]*list.Element{}, recent: list.New(), expiration: expiration}
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
	if len(c.entries) < cacheLimit {
		c.entries[dst] = c.recent.PushFront(&cached[V]{dst, now, value})
	}
}

func (c *cache[V]) sweep(now time.Duration) {
	excess := len(c.entries) - cacheSize
	switch {
	case c.quiet == quietSweeps:
		c.drop(now, c.expiration, len(c.entries))
		c.quiet = 0
	case excess > 0:
		c.drop(now, cacheIdle, min(excess*4/3, cacheGoal))
	default:
		c.quiet++
	}
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
	twin.quiet = c.quiet
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
	if s.Active <= s.Weight {
		return false
	}
	for _, other := range servers {
		if 2*uint64(other.Active) < uint64(other.Weight) {
			return true
		}
	}
	return false
}
