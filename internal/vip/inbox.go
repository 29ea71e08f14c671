// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"net/netip"
	"sync"

	"xdplvs/internal/arpnd"
)

// maxSightings bounds what an inbox holds of hosts that have our addresses. What is beyond is heard again.
const maxSightings = 1024

// An inbox gathers what the readers hear until the engine takes it. It holds what is to be read again
// and last values, not a queue of events, so it is bounded and no reader ever waits for room.
type inbox struct {
	ready chan struct{} // capacity 1: there is news

	mu      sync.Mutex
	watched map[netip.Addr]bool // addresses that sightings are of interest of
	news    news
}

// news is what happened since the last take.
type news struct {
	lost      bool         // the subscription is dead: make another, and read everything
	changed   bool         // read links and addresses again
	downs     map[int]bool // links that were down in between, by ifindex
	sightings map[sighting]bool
}

// A sighting is another host that has an address, or is about to take it.
type sighting struct {
	spot
	mac   arpnd.MAC
	probe bool // not yet: it asks
}

func newInbox() *inbox { return &inbox{ready: make(chan struct{}, 1)} }

// put lets f add to the news and wakes the engine.
func (i *inbox) put(f func(*news)) {
	i.mu.Lock()
	f(&i.news)
	i.mu.Unlock()
	signal(i.ready)
}

// hear adds what a host on the link says of an address of ours.
func (i *inbox) hear(link int, h arpnd.Heard) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.watched[h.Addr] || len(i.news.sightings) >= maxSightings {
		return
	}
	s := sighting{spot{link, h.Addr}, h.MAC, h.Probe}
	if s.mac == (arpnd.MAC{}) { // not told: whose frame it is
		s.mac = h.From
	}
	if i.news.sightings == nil {
		i.news.sightings = make(map[sighting]bool)
	}
	i.news.sightings[s] = true
	signal(i.ready)
}

// watch says which addresses are of interest.
func (i *inbox) watch(addrs map[netip.Addr]bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.watched = addrs
}

// take hands over the news.
func (i *inbox) take() news {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := i.news
	i.news = news{}
	return n
}

func (n *news) down(link int) {
	if n.downs == nil {
		n.downs = make(map[int]bool)
	}
	n.downs[link] = true
}
