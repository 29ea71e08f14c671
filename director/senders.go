// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"context"
	"time"

	"xdplvs/bpf"
	"xdplvs/defense"
)

// senders is who begins connections, as the samples of the data plane tell.
type senders struct {
	seen    []uint64 // samples, by CPU
	hitters defense.Hitters
}

// DefenseReport tells who has sent most, and what became of it.
type DefenseReport struct {
	defense.Report
	Prefix4 uint8             `json:"prefix4"` // lengths by which clients are taken together
	Prefix6 uint8             `json:"prefix6"`
	Dropped map[string]uint64 `json:"dropped"` // packets since the tables exist, by verdict, all clients
	Evicted uint64            `json:"evicted"` // entries that drop_entry has ended
}

// MostReported prefixes are reported.
const MostReported = 100

// countSenders is done with each sweep's tick. Clients are taken together as their budgets are.
func (d *Director) countSenders() {
	bits4, bits6 := d.senderBits()
	now := time.Now()
	d.tables.ReadSamples(d.senders.seen, func(s bpf.Sample, weight uint64) {
		bits := bits4
		if s.Source.Is6() {
			bits = bits6
		}
		if p, err := s.Source.Prefix(int(bits)); err == nil {
			d.senders.hitters.Add(p, s.Verdict, weight, now)
		}
	})
}

func (d *Director) senderBits() (bits4, bits6 uint8) {
	return cmp.Or(d.tables.Guards[0].Prefix4, DefaultPrefix4), cmp.Or(d.tables.Guards[0].Prefix6, DefaultPrefix6)
}

// DefenseReport tells of the most prefixes of clients that have sent most packets that would begin
// connections, at most MostReported.
func (d *Director) DefenseReport(ctx context.Context, most int) (r DefenseReport, err error) {
	e := d.do(ctx, func() {
		d.countSenders()
		r.Report = d.senders.hitters.Report(min(most, MostReported), time.Now())
		r.Prefix4, r.Prefix6 = d.senderBits()
		var s DefenseState
		s, err = d.defenseState()
		r.Dropped, r.Evicted = s.Dropped, s.Evicted
	})
	if e != nil {
		return r, e
	}
	return r, err
}
