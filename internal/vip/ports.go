// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"fmt"
	"time"
)

// portKey names a port: one per link and family.
type portKey struct {
	link int
	v6   bool
}

// A slot is where a port is, or why it is not there.
type slot struct {
	port  port
	err   error
	again time.Time // when to try again after err
}

func (s *slot) close() {
	if s.port != nil {
		s.port.close()
		s.port = nil
	}
}

func portOf(h *holding) portKey { return portKey{h.link.index, h.want.Addr.Is6()} }

// tendPorts keeps a port open for each link and family that has addresses, also to hear other hosts, and
// no others.
func (e *engine) tendPorts(now time.Time) {
	used := map[portKey]bool{}
	for _, h := range e.holdings {
		if e.links[h.link.index].asks() {
			used[portOf(h)] = true
		}
	}
	for k, s := range e.ports {
		if !used[k] {
			s.close()
			delete(e.ports, k)
		}
	}
	for k := range used {
		e.fill(k, now)
	}
}

// fill opens a port, if it is not open and was not tried a moment ago.
func (e *engine) fill(k portKey, now time.Time) *slot {
	s := e.ports[k]
	if s == nil {
		s = &slot{}
		e.ports[k] = s
	}
	if s.port != nil || now.Before(s.again) {
		return s
	}
	if s.port, s.err = e.k.listen(e.links[k.link], k.v6, e.in); s.err != nil {
		s.port, s.again = nil, now.Add(soon)
	}
	return s
}

// send sends frames on a holding's link.
func (e *engine) send(h *holding, now time.Time, frames ...[]byte) error {
	s := e.fill(portOf(h), now)
	if s.err != nil {
		return fmt.Errorf("open socket: %w", s.err)
	}
	for _, f := range frames {
		if err := s.port.Send(f); err != nil {
			return err
		}
	}
	return nil
}

const (
	paceWindow = 100 * time.Millisecond
	// paceMost is how many questions or announcements are sent in a window: 200 a second.
	paceMost = 20
)

// A pace bounds the rate of what is sent over all addresses.
type pace struct {
	until time.Time // end of the window
	sent  int
}

// allow tells whether one more may be sent now, and counts it.
func (p *pace) allow(now time.Time) bool {
	if !now.Before(p.until) {
		p.until, p.sent = now.Add(paceWindow), 0
	}
	if p.sent >= paceMost {
		return false
	}
	p.sent++
	return true
}

// notBefore puts a time off until something may be sent again.
func (p *pace) notBefore(t time.Time) time.Time {
	if !t.IsZero() && p.sent >= paceMost && t.Before(p.until) {
		return p.until
	}
	return t
}
