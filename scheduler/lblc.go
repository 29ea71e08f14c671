// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"net/netip"
	"time"
)

// lblc, locality-based least connections: a destination address stays with the
// server that wlc chose for it, until that is gone, quiesced or has much more to
// do than another. For farms of transparent caches.
type lblc struct {
	servers directory
	cache   *cache[netip.AddrPort]
}

func newLBLC(o Options) (Scheduler, error) {
	return &lblc{cache: newCache[netip.AddrPort](o.LBLCExpiration)}, nil
}

func (l *lblc) Name() string            { return "lblc" }
func (l *lblc) Kind() Kind              { return Sequence }
func (l *lblc) Base() Scheduler         { return wlc() }
func (l *lblc) Edit(servers []Server)   { l.servers = newDirectory(servers) }
func (l *lblc) Sweep(now time.Duration) { l.cache.sweep(now) }

func (l *lblc) Clone() Scheduler {
	same := func(key netip.AddrPort) netip.AddrPort { return key }
	return &lblc{servers: l.servers, cache: l.cache.clone(same)}
}

func (l *lblc) Pick(p Packet, servers []Server) int {
	if key, hit := l.cache.use(p.Dst, p.Now); hit {
		i := l.servers.find(servers, key)
		if i >= 0 && servers[i].Weight > 0 && !CacheOverloaded(servers[i], servers) {
			return i
		}
	}
	i := least(servers, wlcCost)
	if i >= 0 {
		l.cache.put(p.Dst, servers[i].addrPort(), p.Now)
	}
	return i
}
