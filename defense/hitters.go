// SPDX-License-Identifier: Apache-2.0

package defense

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Hitters counts what each prefix of clients sends, in bounded memory: of more prefixes than fit those that have
// sent least are forgotten, so that who sends much is known, and who sends little perhaps not.
// The zero value is ready.
type Hitters struct {
	now, before map[netip.Prefix]*Sent
	total       Sent
	totalBefore Sent
	since       time.Time // begin of now
	began       time.Time // begin of before
}

// Sent is how many packets that would begin a connection were let in, answered with a SYN cookie, or dropped and why.
type Sent struct {
	Admitted uint64            `json:"admitted"`
	Cookies  uint64            `json:"cookies,omitempty"`
	Dropped  map[string]uint64 `json:"dropped,omitempty"` // by verdict
}

const (
	mostHitters = 4096
	// hitterPeriod is how long is counted: a report tells of the last one to two of them.
	hitterPeriod = time.Minute
)

// Hitter is a prefix and what it has sent.
type Hitter struct {
	Prefix netip.Prefix `json:"prefix"`
	Sent
}

// Report tells who has sent most since a time, and what all have.
type Report struct {
	Since   time.Time `json:"since"`
	Total   Sent      `json:"total"`
	Hitters []Hitter  `json:"hitters"` // most first
}

// cookieVerdict is that of SYNs that were answered with a cookie.
const cookieVerdict = "tx_cookie"

// Add counts packets of a prefix. Verdict is empty for those that were let in.
func (h *Hitters) Add(p netip.Prefix, verdict string, packets uint64, now time.Time) {
	h.turn(now)
	h.total.add(verdict, packets)
	s := h.now[p]
	if s == nil {
		if len(h.now) >= mostHitters {
			h.forget()
		}
		s = &Sent{}
		h.now[p] = s
	}
	s.add(verdict, packets)
}

func (s *Sent) add(verdict string, packets uint64) {
	switch verdict {
	case "":
		s.Admitted += packets
		return
	case cookieVerdict:
		s.Cookies += packets
		return
	}
	if s.Dropped == nil {
		s.Dropped = map[string]uint64{}
	}
	s.Dropped[verdict] += packets
}

// All is how many packets those are.
func (s *Sent) All() (n uint64) {
	n = s.Admitted + s.Cookies
	for _, dropped := range s.Dropped {
		n += dropped
	}
	return n
}

func (s *Sent) merge(o *Sent) {
	s.Admitted += o.Admitted
	s.Cookies += o.Cookies
	for verdict, n := range o.Dropped {
		s.add(verdict, n)
	}
}

// turn begins a new period when the old one is over.
func (h *Hitters) turn(now time.Time) {
	if h.now != nil && now.Sub(h.since) < hitterPeriod {
		return
	}
	h.before, h.totalBefore, h.began = h.now, h.total, h.since
	if now.Sub(h.since) >= 2*hitterPeriod { // nothing was sent for long
		h.before, h.totalBefore, h.began = nil, Sent{}, now
	}
	h.now, h.total, h.since = map[netip.Prefix]*Sent{}, Sent{}, now
}

// forget makes room: the half that has sent least goes.
func (h *Hitters) forget() {
	all := slices.SortedFunc(maps.Keys(h.now), func(a, b netip.Prefix) int { return cmp.Compare(h.now[a].All(), h.now[b].All()) })
	for _, p := range all[:len(all)/2] {
		delete(h.now, p)
	}
}

// Report tells of the most prefixes that sent most.
func (h *Hitters) Report(most int, now time.Time) Report {
	h.turn(now)
	r := Report{Since: h.began}
	sum := map[netip.Prefix]*Sent{}
	for _, period := range []map[netip.Prefix]*Sent{h.before, h.now} {
		for p, s := range period {
			if sum[p] == nil {
				sum[p] = &Sent{}
			}
			sum[p].merge(s)
		}
	}
	r.Total.merge(&h.totalBefore)
	r.Total.merge(&h.total)
	for p, s := range sum {
		r.Hitters = append(r.Hitters, Hitter{p, *s})
	}
	slices.SortFunc(r.Hitters, func(a, b Hitter) int {
		return cmp.Or(cmp.Compare(b.All(), a.All()), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	r.Hitters = r.Hitters[:min(most, len(r.Hitters))]
	return r
}
