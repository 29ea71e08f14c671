// SPDX-License-Identifier: Apache-2.0

package director

import (
	"fmt"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
	"xdplvs/defense"
)

// CookieMode is a service's own mode of SYN cookies. The zero value is the mode of all.
type CookieMode struct {
	Own  bool
	Mode DefenseMode
}

// automatic reports whether it follows the flood by itself.
func (c CookieMode) automatic() bool {
	return c.Own && (c.Mode == defense.Waiting || c.Mode == defense.Acting)
}

// cookiePeriod: a cookie is good for one to two of them, as the kernel's own.
const cookiePeriod = time.Minute

// flood is what SYN cookies tell of a flood that they keep out of the tables.
type flood struct {
	known    bool // there is something to compare with
	answered uint64
	proven   uint64
	unproven [floodSeconds]uint64 // cookies of the last seconds that did not come back
	next     int
}

// floodSeconds without a flood end it.
const floodSeconds = 5

// add is told each second how many cookies were given and came back so far.
func (f *flood) add(answered, proven uint64) {
	gave, back := answered-f.answered, proven-f.proven
	f.answered, f.proven = answered, proven
	if !f.known {
		f.known = true
		return
	}
	f.unproven[f.next] = gave - min(gave, back)
	f.next = (f.next + 1) % floodSeconds
}

// spared is how many half-open connections there would be without cookies.
func (f *flood) spared(timeout time.Duration) int64 {
	sum := uint64(0)
	for _, n := range f.unproven {
		sum += n
	}
	return int64(float64(sum) / floodSeconds * timeout.Seconds())
}

// countCookies is done each second. What cannot be read counts as no flood.
func (d *Director) countCookies() {
	verdicts, err := d.plane.Verdicts()
	if err != nil {
		d.log.Error("SYN cookies are not counted", "event", "verdicts_unknown", "error", err)
		return
	}
	d.defenses.flood.add(verdicts["tx_cookie"], atomic.LoadUint64(&d.tables.Defense.Proven))
}

// The half-open states of TCP.
const (
	stateSynRecv = 3
	stateSynAck  = 10
)

// halfOpen are the half-open connections of the table that has most of them for the places that connections can have there, as the
// last sweep has found them, with those that SYN cookies have spared it. Places of ways back, and of what the sweep had to free, do not
// count: in a flood by full-NAT, ways back of connections that are gone take most of the table.
func (d *Director) halfOpen() (most, places int64) {
	for family, table := range []struct {
		entries *bpf.Entries
		places  int
	}{{&d.swept.entries4, len(d.tables.Conns4)}, {&d.swept.entries6, len(d.tables.Conns6)}} {
		n := int64(table.entries[stateSynRecv] + table.entries[stateSynAck])
		connections := int64(table.entries.Sum() - table.entries.WaysBack())
		room := int64(table.places) - max(0, int64(d.defenses.used[family])-connections)
		if places == 0 || n*places > most*room {
			most, places = n, room
		}
	}
	return most + d.defenses.flood.spared(d.timeouts[stateSynRecv]), places
}

// repliesPass reports whether what the real server sends comes through the director.
func (m Method) repliesPass() bool { return m == NAT || m == FullNAT }

// carriesCookies reports whether all real servers of the service, sorry servers included, can serve
// connections that SYN cookies begin.
func (d *Director) carriesCookies(s *service) bool {
	if p := s.want.Key.Protocol; s.want.Key.Mark == 0 && p != TCP || len(s.reals) == 0 {
		return false
	}
	all := s.reals
	if sorry := d.services[s.want.Key.OfSorry()]; sorry != nil {
		all = append(all[:len(all):len(all)], sorry.reals...)
	}
	for _, r := range all {
		if !Method(r.row.Method).repliesPass() || atomic.LoadUint32(&r.row.Flags)&bpf.RealLocal != 0 {
			return false
		}
	}
	return true
}

// cookieMode is the service's, or that of all.
func (d *Director) cookieMode(s *service) DefenseMode {
	if c := s.want.Guard.Cookies; c.Own {
		return c.Mode
	}
	return d.defenses.machine.Settings().SynCookies
}

// cookieFlags are those of the service's row: an automatic mode is ready for cookies that come back late
// when it does not give any.
func (d *Director) cookieFlags(s *service) uint32 {
	mode := d.cookieMode(s)
	switch {
	case mode == defense.Off || !d.carriesCookies(s):
		return 0
	case mode == defense.Always || d.defenses.machine.Levels().Flood:
		return bpf.ServiceCookies | bpf.ServiceProofs
	default:
		return bpf.ServiceProofs
	}
}

// proves reports whether a service gives cookies, or would in a flood.
func (d *Director) proves() bool {
	for key, s := range d.services {
		if !key.Sorry && d.cookieFlags(s) != 0 {
			return true
		}
	}
	return false
}

// bothCookieFlags are what tellCookies writes.
const bothCookieFlags = bpf.ServiceCookies | bpf.ServiceProofs

// tellCookies tells packets which services answer SYNs with cookies. It is done each second, since
// real servers come to be local ones, or have other MTUs, by routes.
func (d *Director) tellCookies() {
	for key, s := range d.services {
		if key.Sorry {
			continue
		}
		s.row.Mss = s.cookieMSS()
		flags := d.cookieFlags(s)
		atomic.OrUint32(&s.row.Flags, flags)
		atomic.AndUint32(&s.row.Flags, flags|^bothCookieFlags)
	}
}

// What headers without options take of a packet, and the MTU of Ethernet.
const (
	headers4    = 40
	headers6    = 60
	ethernetMTU = 1500
)

// cookieMSS is what fits the way to each real server. More than Ethernet's is never told: real servers
// that take more are not known before they say so.
func (s *service) cookieMSS() uint16 {
	mtu := uint16(ethernetMTU)
	for _, r := range s.reals {
		if own := r.row.Mtu; own > headers6 {
			mtu = min(mtu, own)
		}
	}
	if s.want.Key.Addr.Is6() {
		return mtu - headers6
	}
	return mtu - headers4
}

func (d *Director) cookieState(verdicts map[string]uint64) CookieState {
	c := CookieState{Answered: verdicts["tx_cookie"], Proven: atomic.LoadUint64(&d.tables.Defense.Proven)}
	for key, s := range d.services {
		if key.Sorry {
			continue
		}
		if atomic.LoadUint32(&s.row.Flags)&bpf.ServiceCookies != 0 {
			c.Services++
		}
		if d.carriesCookies(s) {
			c.Able++
		}
	}
	return c
}

// CookieFault tells why a service that asks for SYN cookies itself cannot have them.
func (s *Service) CookieFault() error {
	c := s.Guard.Cookies
	if !c.Own || c.Mode == defense.Off {
		return nil
	}
	if c.Mode > defense.Always {
		return fmt.Errorf("unknown mode %d", c.Mode)
	}
	if s.Key.Mark == 0 && s.Key.Protocol != TCP {
		return fmt.Errorf("SYN cookies are for tcp only, the service is %s", s.Key.Protocol)
	}
	for _, reals := range [][]RealServer{s.Reals, s.Sorry} {
		for i := range reals {
			if m := reals[i].Method; !m.repliesPass() {
				return fmt.Errorf("SYN cookies are for real servers by nat and fullnat, whose replies come by: %s is by %s", reals[i].Key, m)
			}
		}
	}
	return nil
}
