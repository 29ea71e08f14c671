// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"maps"
	"time"

	"xdplvs/internal/agenda"
)

// apply brings the state up to date with the news. What makes a route be looked up again:
//
//   - a changed route: targets in its prefix, in whatever table it is;
//   - a changed rule or next hop object: all;
//   - a link that changed its state, if only for a moment, or was deleted: all, see linkState;
//   - a deleted address: see withdrawn; other addresses: see readdressed. (The routes to an address
//     and its subnet are announced.)
//   - a neighbour that the kernel gives up, or no longer does: IPv6 targets behind a gateway, since a
//     host (no forwarding) prefers routers that are not dead (RFC 4861, 6.3.6).
//
// The rest of a link (MAC address, MTU, name) and of neighbours changes hops, not routes.
func (e *engine) apply(n news, now time.Time) {
	if n.overlooked > 0 {
		e.log.Warn("flood of ARP or neighbour advertisements", "ignored", n.overlooked)
	}
	e.ports.gone(n.gone)
	if n.lost {
		e.log.Warn("notifications of the kernel were lost, reading everything again")
		e.unwatch()
		e.resyncAt = later(now, e.readAt.Add(lostPause))
	}
	e.updateLinks(n.gone, n.links, now)
	if n.addresses {
		e.retry(e.readAddresses(), now)
	}
	if n.routes {
		e.markAll()
	}
	for p := range n.prefixes {
		e.markWithin(p)
	}
	e.withdrawn(n.withdrawn)
	rerouting := false
	for k, is := range n.entries {
		rerouting = e.hear(k, is, now) || rerouting
	}
	e.markIf(rerouting, func(t *target) bool { return t.dst.Is6() && t.route.gateway.IsValid() })
	for _, s := range n.sightings {
		if nb := e.neighbors[s.key]; nb != nil {
			e.probes.saw(nb, s, now)
		}
	}
}

// later gives the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// retry has everything read again soon, when a reading failed.
func (e *engine) retry(err error, now time.Time) {
	if err != nil {
		e.log.Warn("cannot read the kernel's tables, will try again", "error", err)
		e.resyncAt = agenda.Earliest(e.resyncAt, now.Add(e.opts.Retry))
	}
}

// resync reads everything, after subscribing if there is no subscription. The order matters: a
// change that a table does not have yet must come as news.
func (e *engine) resync(now time.Time) error {
	e.resyncAt = now.Add(e.opts.Retry)
	if e.stop == nil {
		stop, err := e.k.watch(e.in)
		if err != nil {
			return fmt.Errorf("subscribe: %w", err)
		}
		e.stop = stop
	}
	for _, read := range []func() error{
		func() error { return e.readLinks(now) }, e.readAddresses, func() error { return e.readNeighbors(now) },
	} {
		if err := read(); err != nil {
			return err
		}
	}
	e.markAll()
	e.readAt = now
	e.resyncAt = now.Add(e.opts.Resync)
	return nil
}

// unwatch ends the subscription.
func (e *engine) unwatch() {
	if e.stop != nil {
		e.stop()
		e.stop = nil
	}
}

// readLinks reads the links.
func (e *engine) readLinks(now time.Time) error {
	links, err := e.k.links()
	if err != nil {
		return fmt.Errorf("read links: %w", err)
	}
	e.setLinks(links, now)
	return nil
}

// updateLinks takes over announced links. They are not read: for that the kernel's lock is needed
// that changes take, and whoever holds it for long must not keep us from noticing other things.
func (e *engine) updateLinks(gone map[int]struct{}, changed map[int]link, now time.Time) {
	if len(gone)+len(changed) == 0 {
		return
	}
	links := maps.Clone(e.links)
	for i := range gone {
		delete(links, i)
	}
	maps.Copy(links, changed)
	e.setLinks(links, now)
}

// setLinks sees to what depends on the links.
func (e *engine) setLinks(links linkTable, now time.Time) {
	if maps.Equal(links, e.links) {
		return
	}
	old := e.links
	e.links, e.all = links, true
	e.markIf(true, func(t *target) bool { return t.addr.Zone() != "" })
	for _, n := range e.neighbors {
		if was, is := old[n.key.link], links[n.key.link]; was.fault() != "" && is.fault() == "" {
			e.probes.restart(n, now)
		}
	}
}

// readAddresses reads the addresses of the links.
func (e *engine) readAddresses() error {
	now, err := e.k.addresses()
	if err != nil {
		return fmt.Errorf("read addresses: %w", err)
	}
	old := e.addresses
	e.addresses = now
	e.readdressed(now.since(old))
	return nil
}

// readdressed marks the targets whose route may have changed with addresses. IPv6 chooses the source
// among the addresses of all links, IPv4 among those of the route's own link if it has any. And the
// first IPv4 address of a link revives the next hops there, which died with the last, silently.
func (e *engine) readdressed(c addressChange) {
	e.markIf(c.v6, func(t *target) bool { return t.dst.Is6() })
	e.markIf(len(c.v4) > 0, func(t *target) bool {
		own := e.addresses.has(t.route.link, t.route.source)
		return t.dst.Is4() && (c.revived || c.v4[t.route.link] || !own)
	})
}

// withdrawn marks the targets whose route may have died, silently, with a deleted address: because
// it prefers that (before Linux 6.7), or because it was the last IPv4 address of its link.
func (e *engine) withdrawn(list map[withdrawal]struct{}) {
	e.markIf(len(list) > 0, func(t *target) bool {
		for w := range list {
			if w.addr == t.route.source || w.link == t.route.link && w.addr.Is4() && t.dst.Is4() {
				return true
			}
		}
		return false
	})
}

// readNeighbors reads the neighbour table; what differs from the last is as good as a notification.
func (e *engine) readNeighbors(now time.Time) error {
	entries, err := e.k.neighbors()
	if err != nil {
		return fmt.Errorf("read neighbours: %w", err)
	}
	old := e.entries
	e.entries = entries
	for k, n := range e.neighbors {
		e.probes.kernelSays(n, old[k], entries[k], now)
	}
	return nil // resync looks all routes up
}

// hear takes one changed entry of the neighbour table, and tells whether IPv6 may route otherwise now.
func (e *engine) hear(k neighKey, is entry, now time.Time) (rerouting bool) {
	was := e.entries[k]
	if is == (entry{}) {
		delete(e.entries, k)
	} else {
		e.entries[k] = is
	}
	if n := e.neighbors[k]; n != nil {
		e.probes.kernelSays(n, was, is, now)
	}
	return k.addr.Is6() && was.failed != is.failed
}
