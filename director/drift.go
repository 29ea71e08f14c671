// SPDX-License-Identifier: Apache-2.0

package director

import (
	"bytes"
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
)

// Drift is what others changed of the director's, and the director put back.
type Drift struct {
	What  string    `json:"what"` // one of the Drift… words
	Times uint64    `json:"times"`
	Last  time.Time `json:"last"`
}

// What can drift.
const (
	DriftReals    = "real_servers" // rows, next hops included
	DriftServices = "services"     // rows
	DriftPlans    = "plans"
	DriftKeys     = "service_keys" // what packets find services by, the filter included
	DriftSettings = "settings"
	DriftMarks    = "marks"
	DriftGuards   = "guards" // limits and prefix lists
	DriftSources  = "sources"
	DriftClosed   = "closed_ports"
	DriftPorts    = "tx_ports"
	DriftProgram  = "program" // on an interface
	DriftPins     = "pins"
)

// DriftKinds are all of them.
var DriftKinds = []string{DriftReals, DriftServices, DriftPlans, DriftKeys, DriftSettings, DriftMarks, DriftGuards,
	DriftSources, DriftClosed, DriftPorts, DriftProgram, DriftPins}

// auditing compares what should be with what is there, some services with each tick of the sweep, so that it
// never holds up the owner. What the rows should be is found out by writing them again, elsewhere: so there is one
// place that knows. Entries that packets write (connections, templates, counters) are nobody's to compare.
type auditing struct {
	list            []*service // of this pass
	next            int
	found           map[string]int // in this pass, not told yet
	drifts          map[string]*Drift
	settings        []byte // that are the director's, as it wrote them last; packets write none
	marks, prefixes uint64 // sums of the rules and lists in force
}

func newAuditing() auditing {
	return auditing{found: map[string]int{}, drifts: map[string]*Drift{}}
}

// drifted notes that something was found changed.
func (d *Director) drifted(what string) { d.audits.found[what]++ }

// audit is done with each tick of the sweep; a pass takes as long as one of the sweep's.
func (d *Director) audit() {
	if d.generation == 0 { // what a former process wrote is not compared with anything yet
		return
	}
	a := &d.audits
	if a.next == 0 {
		a.list = slices.AppendSeq(a.list[:0], maps.Values(d.services))
	}
	const ticks = int(sweepPeriod / sweepTick)
	end := min(len(a.list), a.next+(len(a.list)+ticks-1)/ticks)
	for _, s := range a.list[min(a.next, end):end] {
		if d.services[s.want.Key] == s {
			d.auditService(s)
		}
	}
	if a.next++; end > a.next {
		a.next = end
	}
	if end < len(a.list) || a.next < ticks && len(a.list) < ticks {
		return
	}
	clear(a.list)
	a.next = 0
	d.auditRest()
	d.tellDrift()
}

// sealSettings and auditSettings surround everything that the owner does: whatever changed in between is
// somebody else's doing.
func (d *Director) sealSettings() {
	d.audits.settings = bytes.Join(d.tables.Settings.Owned(), nil)
}

func (d *Director) auditSettings() {
	want, changed := d.audits.settings, false
	for _, now := range d.tables.Settings.Owned() {
		if !bytes.Equal(now, want[:len(now)]) {
			changed = true
			copy(now, want)
		}
		want = want[len(now):]
	}
	if changed {
		d.drifted(DriftSettings)
	}
}

// sealSets is for rules and lists that were put in force just now.
func (d *Director) sealSets() {
	d.audits.marks, d.audits.prefixes = d.tables.MarksSum(), d.tables.PrefixesSum()
}

// auditRest compares what is no service's row.
func (d *Director) auditRest() {
	if n := d.keys.Repair(d.wantedKeys()); n > 0 {
		d.drifted(DriftKeys)
	}
	if d.tables.MarksSum() != d.audits.marks && d.marked {
		d.drifted(DriftMarks)
		d.keys.SetMarks(d.marks)
		d.sealSets()
	}
	if d.tables.PrefixesSum() != d.audits.prefixes && d.guards.written {
		d.drifted(DriftGuards)
		d.tables.SetPrefixes(d.guards.prefixes)
		d.sealSets()
	}
	d.auditGuard(&d.tables.Guards[0], ServiceKey{}, &d.guards.all)
	for a, n := range d.locals.numbers {
		if row := &d.tables.Sources[n]; row.Addr != addr16(a) {
			d.drifted(DriftSources)
			row.Addr = addr16(a)
		}
	}
	d.auditPlane()
}

// wantedKeys are what packets find services and virtual addresses by.
func (d *Director) wantedKeys() map[bpf.Key]uint32 {
	want := make(map[bpf.Key]uint32, len(d.services)+len(d.vips))
	for _, services := range []map[ServiceKey]*service{d.services, d.ending} {
		for key, s := range services {
			want[key.row()] = s.id
		}
	}
	for k := range d.vips {
		want[k] = 0
	}
	return want
}

// auditPlane looks at what is no memory. What cannot be read now is looked at the next time.
func (d *Director) auditPlane() {
	if have, err := d.plane.Closed(); err == nil && !d.guards.stale && !maps.Equal(have, d.closedRows()) {
		d.drifted(DriftClosed)
		d.guards.stale = true
		d.followClosed()
	}
	for link, port := range d.txPorts {
		if index, err := d.plane.TxPort(port); err != nil || index == link || !d.portsSet[link] {
			continue
		}
		if err := d.plane.SetTxPort(port, link); err == nil { // else the interface is gone, and next hops will tell
			d.drifted(DriftPorts)
		}
	}
	if what, err := d.plane.RepairPins(); err != nil {
		d.log.Error("what is pinned cannot be put back", "event", "drift_failed", "what", DriftPins, "error", err)
	} else if what > 0 {
		d.drifted(DriftPins)
	}
}

// repairAttachment puts the program back on an interface's device that somebody took it off.
func (d *Director) repairAttachment(a *attached) error {
	if a.on == nil {
		return nil
	}
	repaired, err := d.plane.Repair(a.on)
	if repaired {
		d.drifted(DriftProgram)
	}
	return err
}

// tellDrift says once for each pass what was put back.
func (d *Director) tellDrift() {
	for _, what := range DriftKinds {
		n := d.audits.found[what]
		if n == 0 {
			continue
		}
		have := d.audits.drifts[what]
		if have == nil {
			have = &Drift{What: what}
			d.audits.drifts[what] = have
		}
		have.Times += uint64(n)
		have.Last = time.Now()
		d.log.Warn("somebody changed what is the director's: it is as configured again", "event", "drift_repaired", "what", what, "entries", n)
	}
	clear(d.audits.found)
}

// driftStates are what was ever put back, in order.
func (d *Director) driftStates() (list []Drift) {
	for _, have := range d.audits.drifts {
		list = append(list, *have)
	}
	slices.SortFunc(list, func(a, b Drift) int { return cmp.Compare(a.What, b.What) })
	return list
}

// seal is what a service's row had when the director wrote it last.
type seal struct {
	is         bool
	current    uint32
	plan, flow bpf.Plan
	sum        uint64
}

// seal notes what the plans are now.
func (d *Director) seal(s *service) {
	s.seal = seal{true, s.row.Current, s.row.Plan[s.inForce()], s.row.Flow, 0}
	s.seal.sum = d.planSum(s)
}

// planSum is a checksum of what packets read of the sealed plans.
func (d *Director) planSum(s *service) (sum uint64) {
	for _, p := range []*bpf.Plan{&s.seal.plan, &s.seal.flow} {
		if uint64(p.Base)+uint64(p.Length) > uint64(len(d.tables.Plans)) {
			continue
		}
		for _, id := range d.tables.Plans[p.Base:][:p.Length] {
			sum = (sum ^ uint64(id)) * 0x100000001b3
		}
	}
	return sum
}

func (d *Director) auditService(s *service) {
	d.auditRow(s)
	for _, r := range s.reals {
		d.auditReal(s, r)
	}
	d.auditGuard(&d.tables.Guards[s.id+1], s.want.Key, &s.want.Guard)
	if !s.seal.is {
		return
	}
	if s.row.Current == s.seal.current && s.row.Plan[s.inForce()] == s.seal.plan && s.row.Flow == s.seal.flow && d.planSum(s) == s.seal.sum {
		return
	}
	d.drifted(DriftPlans)
	atomic.StoreUint32(&s.row.Current, s.seal.current)
	s.row.Plan[s.inForce()], s.row.Flow = s.seal.plan, s.seal.flow
	s.planned = nil // what was handed out meanwhile nobody knows
	d.mustPublish(s)
}

// auditGuard compares limits, whose spent part packets write.
func (d *Director) auditGuard(row *bpf.Guard, owner ServiceKey, g *Guard) {
	is := *row
	is.CeilingPaid = 0
	want := is
	d.guard(&want, owner, g)
	if is != want {
		d.drifted(DriftGuards)
		d.guard(row, owner, g)
	}
}

// auditRow compares what a service's row says besides its plans.
func (d *Director) auditRow(s *service) {
	before := *s.row
	written := *s
	row := before
	written.row = &row
	written.writeRow(&s.want)
	row.Id = s.id
	if !s.want.Key.Sorry {
		row.Sorry = d.sorryOf(s.want.Key)
	}
	row.Flags &^= bpf.ServiceRemoved
	if row != before {
		d.drifted(DriftServices)
		s.row.Id = s.id
		s.writeRow(&s.want)
		atomic.StoreUint32(&s.row.Sorry, row.Sorry)
		atomic.AndUint32(&s.row.Flags, ^bpf.ServiceRemoved)
	}
}

// keptReal is of a real server's row what nothing else remembers.
type keptReal struct {
	generation, tenant uint32
	pool               uint8
}

// auditReal compares a real server's row.
func (d *Director) auditReal(s *service, r *real) {
	before := *r.row
	row := before
	written := *r
	written.row = &row
	d.rewrite(s, &written)
	if row == before {
		return
	}
	d.drifted(DriftReals)
	r.setFlag(bpf.RealNextHop, false)
	d.rewrite(s, r)
}

// rewrite writes everything that the director knows of a real server into its row: what is right is the same
// afterwards. Packets lower the MTU, and change whether it is overloaded.
func (d *Director) rewrite(s *service, r *real) {
	row := r.row
	row.Generation, row.Tenant, row.Pool = r.kept.generation, r.kept.tenant, r.kept.pool
	row.Service, row.Addr, row.Method = s.id, addr16(r.want.Key.Addr), uint8(r.want.Method)
	row.Port = bits.ReverseBytes16(r.want.Key.Port)
	r.obey(&s.want)
	row.Weight = uint16(r.want.Weight)
	row.Upper, row.Lower = r.want.Upper, r.want.lower()
	r.showHealth()
	r.setFlag(bpf.RealRemoved, false)
	r.setFlag(bpf.RealLocal, r.hop.Local)
	if r.hop.Resolved {
		port := d.txPorts[r.hop.Link]
		if r.hop.Local {
			port = 0
		}
		r.writeHop(r.hop, port)
		if mtu := uint16(r.mtuBy(r.hop)); row.Mtu == 0 || row.Mtu > mtu {
			row.Mtu = mtu
		}
		if !r.tunnelStands(r.hop) {
			row.Tunnel = r.tunnelTo(r.hop).Row()
		}
	}
	r.setFlag(bpf.RealNextHop, r.hop.Resolved)
}
