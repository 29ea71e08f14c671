// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"log/slog"
	"time"
)

// portKey names a port: one per link and family.
type portKey struct {
	link int
	v6   bool
}

// ports keeps a port open for each link and family that has neighbours, and no others.
type ports struct {
	k     kernel
	in    *inbox
	log   *slog.Logger
	retry time.Duration // between two attempts to open a port
	slots map[portKey]*slot
	idle  bool // some slot lost its last user
	open  bool // some slot has no port yet
}

// A slot is where a port is, or why it is not there.
type slot struct {
	port  port
	users int // neighbours
	err   error
	again time.Time // when to try again after err
}

func portOf(n *neighbor) portKey { return portKey{n.key.link, n.key.addr.Is6()} }

// want counts a neighbour in.
func (p *ports) want(n *neighbor) {
	if p.slots == nil {
		p.slots = make(map[portKey]*slot)
	}
	s := p.slots[portOf(n)]
	if s == nil {
		s = &slot{}
		p.slots[portOf(n)] = s
		p.open = true
	}
	s.users++
}

// release counts a neighbour out.
func (p *ports) release(n *neighbor) {
	s := p.slots[portOf(n)]
	s.users--
	p.idle = p.idle || s.users == 0
}

// tend opens the ports that are newly needed, so that gratuitous announcements are heard even
// before there is something to ask, and closes those that are not.
func (p *ports) tend(links linkTable, now time.Time) {
	if !p.idle && !p.open {
		return
	}
	for k, s := range p.slots {
		if l, ok := links[k.link]; s.users == 0 {
			s.close()
			delete(p.slots, k)
		} else if ok {
			s.fill(p, l, k.v6, now)
		}
	}
	p.idle, p.open = false, false
}

// get gives the port for a neighbour's questions.
func (p *ports) get(n *neighbor, l link, now time.Time) (port, error) {
	k := portOf(n)
	s := p.slots[k]
	s.fill(p, l, k.v6, now)
	return s.port, s.err
}

// fill opens the slot's port, if it is not open and not tried a moment ago.
func (s *slot) fill(p *ports, l link, v6 bool, now time.Time) {
	if s.port != nil || l.fault() != "" || now.Before(s.again) {
		return
	}
	s.port, s.err = p.k.listen(l, v6, p.in)
	if s.err != nil {
		s.again = now.Add(p.retry)
		s.err = fmt.Errorf("open socket: %w", s.err)
		p.log.Warn("cannot listen for neighbours", "link", l.name, "ipv6", v6, "error", s.err)
	}
}

func (s *slot) close() {
	if s.port != nil {
		s.port.close()
		s.port = nil
	}
}

// gone closes the ports of deleted links: should a link come back with the same index, then the
// old socket would stay deaf.
func (p *ports) gone(links map[int]struct{}) {
	for k, s := range p.slots {
		if _, ok := links[k.link]; ok {
			s.close()
			p.open = true
		}
	}
}

func (p *ports) closeAll() {
	for _, s := range p.slots {
		s.close()
	}
	p.slots = nil
}
