// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"xdplvs/bpf"
)

// LocalEnds are what connections by full-NAT come from.
type LocalEnds struct {
	// Sources are addresses of this director. Where there are none of a family it is the one that
	// the route to the real server prefers.
	Sources []netip.Addr
	Ports   PortRange // zero: DefaultLocalPorts
}

// DefaultLocalPorts are the unprivileged ones below those that Linux gives to its own sockets
// (net.ipv4.ip_local_port_range, from 32768 on): so no connection of the director's own to a real
// server, as a health check is, has a local end of full-NAT.
var DefaultLocalPorts = PortRange{1024, 32767}

func (r PortRange) validate() error {
	if r != (PortRange{}) && (r.First == 0 || r.Count() < 1) {
		return fmt.Errorf("local ports %s are none", r)
	}
	return nil
}

func (e LocalEnds) validate() error {
	return errors.Join(append(validateSources(e.Sources), e.Ports.validate())...)
}

func validateSources(sources []netip.Addr) (errs []error) {
	for i, a := range sources {
		if fault := addressFault(a); fault != "" {
			errs = append(errs, fmt.Errorf("source %s: %s", a, fault))
		}
		if slices.Contains(sources[:i], a) {
			errs = append(errs, fmt.Errorf("source %s twice", a))
		}
	}
	return errs
}

func (e LocalEnds) equal(o LocalEnds) bool {
	return slices.Equal(e.Sources, o.Sources) && e.Ports == o.Ports
}

// OwnAddresses tells the addresses of this host.
type OwnAddresses func() ([]netip.Addr, error)

// locals is what the director knows of the local ends of full-NAT.
type locals struct {
	want    LocalEnds
	moved   bool // other sources are wanted than the rows have
	own     map[netip.Addr]bool
	numbers map[netip.Addr]uint8 // of the addresses that have a row
	conns   [bpf.Sources]uint64  // by number, as the last sweep found them
	strange map[netip.Addr]bool  // wanted, but not this host's, as it was told
	scarce  map[target]bool      // as it was told
}

func newLocals(t *bpf.Tables) locals {
	l := locals{numbers: map[netip.Addr]uint8{}, strange: map[netip.Addr]bool{}, scarce: map[target]bool{}}
	for n := 1; n < len(t.Sources); n++ {
		if s := &t.Sources[n]; *s != (bpf.Source{}) {
			l.numbers[netip.AddrFrom16(s.Addr).Unmap()] = uint8(n)
		}
	}
	return l
}

// isOwn reports whether replies to the address come to this host, as far as it is known.
func (d *Director) isOwn(a netip.Addr) bool { return d.locals.own == nil || d.locals.own[a] }

// setLocals puts the wanted ends in force; resource follows.
func (d *Director) setLocals(want LocalEnds) {
	if want.Ports == (PortRange{}) {
		want.Ports = DefaultLocalPorts
	}
	d.locals.moved = d.locals.moved || !d.locals.want.equal(want)
	d.locals.want = want
	d.locals.want.Sources = slices.Clone(want.Sources)
	atomic.StoreUint32(&d.tables.Settings.LocalPorts, bpf.LocalPorts(want.Ports.First, uint16(want.Ports.Count())))
	d.readOwn()
}

// resource gives real servers the sources that are wanted now.
func (d *Director) resource() {
	if d.locals.moved {
		d.locals.moved = false
		d.tellStrange()
		d.setHops(d.nextHops)
	}
}

// readOwn finds out which addresses this host has.
func (d *Director) readOwn() {
	if d.ownAddresses == nil {
		return
	}
	list, err := d.ownAddresses()
	if err != nil {
		d.log.Warn("addresses of this host are not known", "event", "addresses_unknown", "error", err)
		return
	}
	own := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		own[a.Unmap().WithZone("")] = true
	}
	d.locals.moved = d.locals.moved || !maps.Equal(own, d.locals.own)
	d.locals.own = own
}

// followOwn takes sources into use, or out of it, as this host gets and loses their addresses.
func (d *Director) followOwn() {
	if len(d.wantedSources()) > 0 {
		d.readOwn()
		d.resource()
	}
}

// wantedSources are those that are configured.
func (d *Director) wantedSources() []netip.Addr {
	list := slices.Clone(d.locals.want.Sources)
	for _, s := range d.services {
		list = append(list, s.want.Sources...)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// tellStrange warns of sources that are not this host's: nothing would answer ARP for them, or
// solicitations.
func (d *Director) tellStrange() {
	strange := map[netip.Addr]bool{}
	for _, a := range d.wantedSources() {
		if d.isOwn(a) {
			continue
		}
		strange[a] = true
		if !d.locals.strange[a] {
			d.log.Warn("source of fullnat is not used: it is no address of this host", "event", "source_foreign", "source", a.String())
		}
	}
	d.locals.strange = strange
}

// sourced gives a real server whose replies come back to the director the pool that its connections
// by full-NAT have their sources from. By fullnat it cannot be reached without.
func (d *Director) sourced(r *real, hop NextHop) NextHop {
	if !hop.Resolved || !r.want.Method.Translates() {
		return hop
	}
	pool, fault := d.poolFor(r, hop)
	if fault != "" && r.want.Method == FullNAT {
		return NextHop{Reason: fault}
	}
	r.row.Pool, r.kept.pool = pool, pool
	hop.Source = netip.Addr{} // rows name the pool
	return hop
}

// poolFor is the pool of the real server's sources, or why there is none.
func (d *Director) poolFor(r *real, hop NextHop) (pool uint8, fault string) {
	addrs, fault := d.sourcesFor(r, hop)
	if fault != "" {
		return 0, fault
	}
	var numbers []uint8
	for _, a := range addrs {
		n, ok := d.sourceNumber(a)
		if !ok {
			return 0, fmt.Sprintf("more than %d addresses are sources of fullnat", bpf.Sources-1)
		}
		numbers = append(numbers, n)
	}
	if pool, ok := d.poolOf(numbers); ok {
		return pool, ""
	}
	return 0, fmt.Sprintf("fullnat has more than %d different lists of sources", bpf.Pools-1)
}

// sourcesFor are the service's, else those of all services, else the one that the route prefers.
func (d *Director) sourcesFor(r *real, hop NextHop) (list []netip.Addr, fault string) {
	to := r.want.Key.Addr
	for _, configured := range [][]netip.Addr{r.sources, d.locals.want.Sources} {
		family := slices.DeleteFunc(slices.Clone(configured), func(a netip.Addr) bool { return a.Is4() != to.Is4() })
		if len(family) == 0 {
			continue
		}
		list = slices.DeleteFunc(slices.Clone(family), func(a netip.Addr) bool { return !d.isOwn(a) })
		if len(list) == 0 {
			return nil, fmt.Sprintf("fullnat has no source: %s is no address of this host", text(family))
		}
		return list, ""
	}
	if !hop.Source.IsValid() || hop.Source.Is4() != to.Is4() {
		return nil, fmt.Sprintf("fullnat has no source: the route to %s prefers none (fullnat.sources can name some)", to)
	}
	return []netip.Addr{hop.Source}, ""
}

// text is a list in messages.
func text(list []netip.Addr) string {
	words := make([]string, len(list))
	for i, a := range list {
		words[i] = a.String()
	}
	return strings.Join(words, ", ")
}

// sourceNumber is the number of an address; it has one as long as a connection or a pool has it.
func (d *Director) sourceNumber(a netip.Addr) (uint8, bool) {
	if n, ok := d.locals.numbers[a]; ok {
		return n, true
	}
	for n := 1; n < len(d.tables.Sources); n++ {
		if row := &d.tables.Sources[n]; *row == (bpf.Source{}) {
			row.Addr = addr16(a)
			d.locals.numbers[a] = uint8(n)
			return uint8(n), true
		}
	}
	return 0, false
}

// poolOf is the pool with these sources. What packets may read of a pool never changes: another list
// is another pool.
func (d *Director) poolOf(numbers []uint8) (uint8, bool) {
	var row bpf.SourcePool
	for i := range row.Source {
		row.Source[i] = numbers[i%len(numbers)]
	}
	if i := slices.Index(d.tables.Pools[1:], row); i >= 0 {
		return uint8(i + 1), true
	}
	used := d.usedPools()
	for i := 1; i < len(d.tables.Pools); i++ {
		if !used[i] {
			d.tables.Pools[i] = row
			return uint8(i), true
		}
	}
	return 0, false
}

// usedPools are those that rows of real servers name.
func (d *Director) usedPools() (used [bpf.Pools]bool) {
	for i := range d.tables.Reals {
		used[d.tables.Reals[i].Pool] = true
	}
	return used
}

// sweptLocals is told when a pass over the connections has ended. An address that no connection and
// no pool has any more gives its number back.
func (d *Director) sweptLocals(sweeps ...*bpf.Sweep) {
	if len(d.locals.numbers) == 0 {
		return
	}
	pooled := d.pooledSources()
	for a, n := range d.locals.numbers {
		before, now := d.locals.conns[n], uint64(0)
		for _, s := range sweeps {
			now += s.Locals(n)
		}
		d.locals.conns[n] = now
		if before+now == 0 && !pooled[n] {
			d.tables.Sources[n] = bpf.Source{}
			delete(d.locals.numbers, a)
		}
	}
}

// pooledSources are those that new connections may have.
func (d *Director) pooledSources() (pooled [bpf.Sources]bool) {
	for i, used := range d.usedPools() {
		if used {
			for _, n := range d.tables.Pools[i].Source {
				pooled[n] = true
			}
		}
	}
	return pooled
}

// target is what a local port is taken for: to another one it can be taken again.
type target struct {
	protocol Protocol
	key      RealKey
}

// PortUse is how many local ports connections by fullnat to a real server have, and how many there are.
type PortUse struct {
	Used      uint64 `json:"used"`
	Available uint64 `json:"available"`
}

// A warning is given where so many percent of the ports are in use, and again after it were fewer.
const (
	scarceAt  = 80
	plentyFor = 75
)

func (u PortUse) percent() uint64 { return u.Used * 100 / max(u.Available, 1) }

// portUse is the use of local ports by target. Services may share one.
func (d *Director) portUse() map[target]PortUse {
	use, sources := map[target]PortUse{}, map[target][4]uint64{}
	for _, r := range d.everyReal() {
		if r.want.Method != FullNAT {
			continue
		}
		t := d.targetOf(r)
		seen := sources[t]
		for _, n := range d.tables.Pools[r.row.Pool].Source {
			seen[n/64] |= 1 << (n % 64)
		}
		seen[0] &^= 1 // number 0 is none
		sources[t] = seen
		use[t] = PortUse{use[t].Used + r.total(), uint64(d.locals.want.Ports.Count()) * ones(seen)}
	}
	return use
}

func (d *Director) targetOf(r *real) target {
	return target{Protocol(d.tables.Services[r.row.Service].Protocol), r.want.Key}
}

func ones(set [4]uint64) (n uint64) {
	for _, word := range set {
		n += uint64(bits.OnesCount64(word))
	}
	return n
}

// watchPorts warns when the local ports for a real server come to an end.
func (d *Director) watchPorts() {
	use := d.portUse()
	maps.DeleteFunc(d.locals.scarce, func(t target, _ bool) bool { return use[t].percent() < plentyFor })
	for t, u := range use {
		if u.percent() < scarceAt || d.locals.scarce[t] {
			continue
		}
		d.locals.scarce[t] = true
		d.log.Warn("local ports of fullnat come to an end: more sources give more of them", "event", "ports_scarce",
			"protocol", t.protocol.String(), "real", t.key.String(), "used", u.Used, "available", u.Available)
	}
}

// tellPorts adds what is known of the use of local ports.
func (s *ServiceState) tellPorts(use map[target]PortUse) {
	for i := range s.Reals {
		r := &s.Reals[i]
		if u, ok := use[target{s.Key.Protocol, r.Key}]; ok && r.Method == FullNAT {
			r.Ports = &u
		}
	}
}

// SourceState is an address that full-NAT comes from, or should.
type SourceState struct {
	Addr   netip.Addr `json:"address"`
	Conns  uint64     `json:"conns"`            // connections that come from it, some seconds ago
	Unused string     `json:"unused,omitempty"` // why no new connection does
}

// sourceStates are those that are wanted, and those that connections still have.
func (d *Director) sourceStates() (list []SourceState) {
	addrs := append(slices.Collect(maps.Keys(d.locals.numbers)), d.wantedSources()...)
	slices.SortFunc(addrs, netip.Addr.Compare)
	pooled := d.pooledSources()
	for _, a := range slices.Compact(addrs) {
		n := d.locals.numbers[a]
		s := SourceState{Addr: a, Conns: d.locals.conns[n]}
		switch {
		case !d.isOwn(a):
			s.Unused = "it is no address of this host"
		case n == 0 || !pooled[n]:
			s.Unused = "no real server has it"
		}
		if n == 0 {
			s.Conns = 0
		}
		list = append(list, s)
	}
	return list
}
