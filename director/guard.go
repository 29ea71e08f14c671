// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
)

// Guard is what new connections have to get past: those of a service, or of all.
type Guard struct {
	// Of the prefixes that a client's address has, the longest decides, denied ones of equal
	// length first. Whoever has none is let in.
	Allow, Deny []netip.Prefix
	Budget      Budget     // of each prefix of clients
	Ceiling     Limit      // of all clients together
	Cookies     CookieMode // of a service
}

// Limit is how many connections may begin: so many a second, and so many at once. The
// zero value is no limit.
type Limit struct{ Rate, Burst uint32 }

// Budget is the limit of each prefix of clients.
type Budget struct {
	Limit
	Prefix4, Prefix6 uint8 // lengths of the prefixes; 0: 32 and 64
}

// MaxRate is the highest rate and burst of a Limit.
const MaxRate = 1_000_000

// The lengths of prefixes that have a budget, unless something else is said.
const (
	DefaultPrefix4 = 32
	DefaultPrefix6 = 64
)

// ClosedPorts says what becomes of packets to ports of a virtual address that no service has.
type ClosedPorts uint8

// What can become of them. Pass leaves them to the local stack.
const (
	ClosedPass ClosedPorts = iota
	ClosedDrop
	ClosedReset
)

var closedNames = names[ClosedPorts]{{ClosedPass, "pass"}, {ClosedDrop, "drop"}, {ClosedReset, "reset"}}

// String returns the name that configuration uses.
func (c ClosedPorts) String() string { return closedNames.format(c) }

// MarshalText implements encoding.TextMarshaler.
func (c ClosedPorts) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names what is known.
func (c *ClosedPorts) UnmarshalText(text []byte) (err error) {
	*c, err = closedNames.parse("treatment of closed ports", text)
	return err
}

func (g *Guard) equal(o *Guard) bool {
	return g.Cookies == o.Cookies && g.Budget == o.Budget && g.Ceiling == o.Ceiling && slices.Equal(g.Allow, o.Allow) && slices.Equal(g.Deny, o.Deny)
}

func (g *Guard) clone() Guard {
	c := *g
	c.Allow, c.Deny = slices.Clone(g.Allow), slices.Clone(g.Deny)
	return c
}

func (g *Guard) lists() bool { return len(g.Allow)+len(g.Deny) > 0 }

// is reports whether there is anything to get past.
func (g *Guard) is() bool { return g.lists() || g.Budget.Rate > 0 || g.Ceiling.Rate > 0 }

func (g *Guard) validate() error {
	errs := []error{g.Budget.validate("budget"), g.Ceiling.validate("ceiling")}
	if g.Budget.Prefix4 > 32 || g.Budget.Prefix6 > 128 {
		errs = append(errs, fmt.Errorf("budget: prefix lengths %d and %d are above 32 and 128", g.Budget.Prefix4, g.Budget.Prefix6))
	}
	for _, p := range slices.Concat(g.Allow, g.Deny) {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			errs = append(errs, fmt.Errorf("%s is no prefix that clients can have", p))
		}
	}
	return errors.Join(errs...)
}

func (l Limit) validate(what string) error {
	if l == (Limit{}) {
		return nil
	}
	for name, n := range map[string]uint32{"rate": l.Rate, "burst": l.Burst} {
		if n < 1 || n > MaxRate {
			return fmt.Errorf("%s: %s %d is not between 1 and %d", what, name, n, MaxRate)
		}
	}
	return nil
}

// guarding is what the director remembers of guards.
type guarding struct {
	numbers  map[ServiceKey]uint32 // of prefix lists; the zero key is everybody's
	lists    map[uint32]bpf.PrefixList
	prefixes *bpf.Prefixes // of those lists
	written  bool          // by this process
	all      Guard         // of all services
	closed   map[netip.Addr]ClosedPorts
	stale    bool // they could not be written
}

// preparedLists are prefix lists to be put in force.
type preparedLists struct {
	numbers  map[ServiceKey]uint32
	lists    map[uint32]bpf.PrefixList
	prefixes *bpf.Prefixes
}

// prepareLists numbers the wanted lists, and makes them ready unless they are those in force. An owner keeps
// its number as long as it has lists, so that no packet finds the list of another under it.
func (d *Director) prepareLists(want *Desired) (*preparedLists, error) {
	p := &preparedLists{numbers: map[ServiceKey]uint32{}, lists: map[uint32]bpf.PrefixList{}}
	owners := map[ServiceKey]*Guard{}
	if want.Defense.Guard.lists() {
		owners[ServiceKey{}] = &want.Defense.Guard
	}
	for i := range want.Services {
		if g := &want.Services[i].Guard; g.lists() {
			owners[want.Services[i].Key] = g
		}
	}
	if room := int(bpf.PrefixLists) - 1; len(owners) > room {
		return nil, fmt.Errorf("%d services have prefix lists, room for %d: %w", len(owners), room, bpf.ErrFull)
	}
	for _, key := range slices.SortedFunc(maps.Keys(owners), ServiceKey.Compare) {
		p.numbers[key] = d.guards.numberFor(key, p.lists)
		p.lists[p.numbers[key]] = bpf.PrefixList{Allow: owners[key].Allow, Deny: owners[key].Deny}
	}
	if d.guards.written && maps.EqualFunc(p.lists, d.guards.lists, sameList) {
		p.prefixes, p.lists = d.guards.prefixes, d.guards.lists
		return p, nil
	}
	var err error
	if p.prefixes, err = bpf.NewPrefixes(p.lists, d.tables); err != nil {
		return nil, fmt.Errorf("%w (raise limits.prefixes)", err)
	}
	return p, nil
}

func sameList(a, b bpf.PrefixList) bool {
	return slices.Equal(a.Allow, b.Allow) && slices.Equal(a.Deny, b.Deny)
}

// numberFor is the owner's number, or one that nobody has had last.
func (g *guarding) numberFor(key ServiceKey, taken map[uint32]bpf.PrefixList) uint32 {
	if n := g.numbers[key]; n != 0 {
		return n
	}
	owned := map[uint32]bool{}
	for _, n := range g.numbers {
		owned[n] = true
	}
	free := uint32(0)
	for n := uint32(1); n < bpf.PrefixLists; n++ {
		if _, used := taken[n]; used || owned[n] {
			continue
		}
		free = n
		break
	}
	return free
}

// applyLists comes before the guards that name them.
func (d *Director) applyLists(p *preparedLists) {
	if !d.guards.written || p.prefixes != d.guards.prefixes {
		d.tables.SetPrefixes(p.prefixes)
	}
	d.guards.numbers, d.guards.prefixes, d.guards.written = p.numbers, p.prefixes, true
	d.guards.lists = make(map[uint32]bpf.PrefixList, len(p.lists))
	for n, l := range p.lists { // the caller's may change
		d.guards.lists[n] = bpf.PrefixList{Allow: slices.Clone(l.Allow), Deny: slices.Clone(l.Deny)}
	}
}

// guard writes the row of a guard; an owner without one has an empty row.
func (d *Director) guard(row *bpf.Guard, owner ServiceKey, g *Guard) {
	set := func(cost, burst *uint64, l Limit) {
		atomic.StoreUint64(cost, 0) // none, until both are right
		if l.Rate > 0 {
			second := uint64(d.clock.Jiffies(time.Second)) << 20
			atomic.StoreUint64(burst, second/uint64(l.Rate)*uint64(l.Burst))
			atomic.StoreUint64(cost, second/uint64(l.Rate))
		}
	}
	row.Prefix4, row.Prefix6 = cmp.Or(g.Budget.Prefix4, DefaultPrefix4), cmp.Or(g.Budget.Prefix6, DefaultPrefix6)
	set(&row.BudgetCost, &row.BudgetBurst, g.Budget.Limit)
	set(&row.CeilingCost, &row.CeilingBurst, g.Ceiling)
	atomic.StoreUint32(&row.List, d.guards.numbers[owner])
}

// guardAll tells the data plane whether there are guards at all, once those of services are written.
func (d *Director) guardAll(want *Desired) {
	d.guards.all = want.Defense.Guard.clone()
	d.guard(&d.tables.Guards[0], ServiceKey{}, &d.guards.all)
	d.defenses.guards = 0
	cookies := false
	for _, g := range append(guards(want.Services), &want.Defense.Guard) {
		if g.is() {
			d.defenses.guards++
		}
		cookies = cookies || g.Cookies.automatic()
	}
	d.defenses.machine.Watch(cookies)
	d.tellDefending()
	d.tellCookies()
}

func guards(services []Service) (all []*Guard) {
	for i := range services {
		all = append(all, &services[i].Guard)
	}
	return all
}

// applyClosed tells the data plane which addresses have closed ports.
func (d *Director) applyClosed(want map[netip.Addr]ClosedPorts) {
	d.guards.closed = maps.Clone(want)
	d.guards.stale = true
	d.followClosed()
}

// closedRows are the addresses with closed ports as the data plane has them.
func (d *Director) closedRows() map[netip.Addr]uint32 {
	rows := map[netip.Addr]uint32{}
	for addr, c := range d.guards.closed {
		if c != ClosedPass {
			rows[addr] = map[ClosedPorts]uint32{ClosedDrop: bpf.ClosedDrop, ClosedReset: bpf.ClosedReset}[c]
		}
	}
	return rows
}

// followClosed tries again what has failed.
func (d *Director) followClosed() {
	if !d.guards.stale {
		return
	}
	rows := d.closedRows()
	if err := d.plane.SetClosed(rows); err != nil {
		d.log.Error("closed ports are not as configured", "event", "closed_failed", "error", err)
		return
	}
	d.guards.stale = false
	atomic.StoreUint32(&d.tables.Settings.ClosedPorts, uint32(min(len(rows), 1)))
}
