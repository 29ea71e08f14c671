// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net/netip"
	"sync"
)

// Bounds of what an inbox holds. Beyond them it forgets details and asks for a wider reading.
const (
	maxPrefixes  = 1024
	maxWithdrawn = 16
	maxEntries   = 1 << 16
	maxSightings = 1 << 16
)

// An inbox gathers what the readers hear until the engine takes it. It holds what is to be read
// again and last values, not a queue of events, so it is bounded and no reader ever waits for room.
type inbox struct {
	ready chan struct{} // capacity 1: there is news

	mu   sync.Mutex
	news news
}

// news is what happened since the last take.
type news struct {
	lost       bool         // notifications are missing: subscribe again, read everything
	links      map[int]link // changed links by ifindex
	addresses  bool         // read the addresses again
	routes     bool         // any route may have changed
	prefixes   map[netip.Prefix]struct{}
	gone       map[int]struct{} // ifindexes of deleted links
	withdrawn  map[withdrawal]struct{}
	entries    map[neighKey]entry // changed neighbours, zero: deleted
	sightings  []sighting
	overlooked int // sightings beyond maxSightings: the next probe makes up for them
}

// A withdrawal is an address that a link had.
type withdrawal struct {
	link int
	addr netip.Addr
}

// A sighting is what an ARP packet or a neighbour advertisement tells.
type sighting struct {
	key neighKey
	mac mac // zero: not told (RFC 4861, 4.4: may be left out in answers to a unicast solicitation)
	// solicited: an answer to a question of ours, so the host hears us.
	solicited bool
	// override: replace a different address that is known (RFC 4861, 7.2.5). Always set for ARP.
	override bool
}

func newInbox() *inbox { return &inbox{ready: make(chan struct{}, 1)} }

// put lets f add to the news and wakes the engine.
func (i *inbox) put(f func(*news)) {
	i.mu.Lock()
	f(&i.news)
	i.mu.Unlock()
	signal(i.ready)
}

// take hands over the news.
func (i *inbox) take() news {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := i.news
	i.news = news{}
	return n
}

// signal sets a flag that is a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (n *news) addPrefix(p netip.Prefix) {
	if len(n.prefixes) >= maxPrefixes {
		n.routes = true
	}
	if n.routes {
		n.prefixes = nil
		return
	}
	add(&n.prefixes, p)
}

func (n *news) addLink(l link) {
	if n.links == nil {
		n.links = make(map[int]link)
	}
	n.links[l.index] = l
}

// addGone notes a deleted link. Routes went with it.
func (n *news) addGone(link int) {
	add(&n.gone, link)
	delete(n.links, link)
	n.routes = true
}

// addWithdrawn notes a deleted address. That it may be there again when the addresses are read does
// not bring back the routes that preferred it.
func (n *news) addWithdrawn(w withdrawal) {
	if len(n.withdrawn) >= maxWithdrawn {
		n.routes = true
		return
	}
	add(&n.withdrawn, w)
}

// add adds to a set.
func add[T comparable](set *map[T]struct{}, v T) {
	if *set == nil {
		*set = make(map[T]struct{})
	}
	(*set)[v] = struct{}{}
}

func (n *news) addEntry(k neighKey, e entry) {
	if len(n.entries) >= maxEntries {
		n.lost = true
		return
	}
	if n.entries == nil {
		n.entries = make(map[neighKey]entry)
	}
	n.entries[k] = e
}

func (n *news) addSighting(s sighting) {
	if len(n.sightings) >= maxSightings {
		n.overlooked++
		return
	}
	n.sightings = append(n.sightings, s)
}
