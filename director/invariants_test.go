// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"slices"

	"xdplvs/bpf"
)

// report gathers what is broken.
type report struct{ errs []error }

func (r *report) is(ok bool, format string, args ...any) {
	if !ok {
		r.errs = append(r.errs, fmt.Errorf(format, args...))
	}
}

// broken looks at everything that holds between two calls, in the tables and
// between them and what the director remembers. It says all that does not.
func (w *world) broken() error {
	r := &report{}
	w.checkKeys(r)
	w.checkRows(r)
	for _, s := range w.d.services {
		w.checkService(r, s)
		w.checkPlan(r, s, &s.row.Plan[s.row.Current&1], s.regions[s.row.Current&1])
		w.checkPlan(r, s, &s.row.Flow, s.flow)
	}
	w.checkArena(r)
	w.checkSums(r)
	w.checkConns(r)
	return errors.Join(r.errs...)
}

// checkKeys: every key is a service's or its address's, and every service has its keys.
func (w *world) checkKeys(r *report) {
	stored := map[bpf.Key]uint32{}
	for _, e := range storedKeys(w.tables) {
		_, twice := stored[e.Key]
		r.is(!twice, "key %v is stored twice", e.Key)
		stored[e.Key] = e.Service
	}
	wanted := map[bpf.Key]bool{}
	for key, s := range w.everyService() {
		wanted[key.row()] = true
		id, ok := stored[key.row()]
		r.is(ok && id == s.id, "service %s: key names %d (%v), want %d", key, id, ok, s.id)
		for _, a := range s.want.Addresses(nil) {
			_, ok = stored[vipKey(a)]
			r.is(ok, "service %s: address %s is not stored", key, a)
		}
	}
	for k := range stored {
		r.is(wanted[k] || isVIPKey(k), "key %v is no service's", k) // an address goes with the next tick
	}
	r.is(len(w.d.vips)+len(w.d.services)+len(w.d.ending) == len(stored), "%d addresses and %d services, but %d keys", len(w.d.vips), len(w.d.services), len(stored))
}

// everyService gives those in force and those that end.
func (w *world) everyService() iter.Seq2[ServiceKey, *service] {
	return func(yield func(ServiceKey, *service) bool) {
		for _, list := range []map[ServiceKey]*service{w.d.services, w.d.ending} {
			for key, s := range list {
				if !yield(key, s) {
					return
				}
			}
		}
	}
}

// checkRows: rows in use are those of somebody, each of one.
func (w *world) checkRows(r *report) {
	services, reals := map[uint32]bool{}, map[uint32]bool{}
	for key, s := range w.everyService() {
		r.is(!services[s.id], "service id %d is given twice", s.id)
		services[s.id] = true
		r.is(s.row == &w.tables.Services[s.id] && s.row.Id == s.id && s.want.Key == key, "service %s: row %d is not its own", key, s.id)
		ends := w.d.ending[key] == s
		r.is(ends == (s.row.Flags&bpf.ServiceRemoved != 0), "service %s: flags %d, it ends: %v", key, s.row.Flags, ends)
		r.is(!ends || s.row.Plan == [2]bpf.Plan{} && s.row.Flow == bpf.Plan{}, "service %s ends, but has plans", key)
		next := uint32(0)
		if sorry := w.d.services[key.OfSorry()]; sorry != nil && !key.Sorry && !ends {
			next = sorry.id + 1
		}
		r.is(s.row.Sorry == next, "service %s: its sorry servers are service %d - 1, want %d", key, s.row.Sorry, next)
		for _, x := range s.reals {
			r.is(!reals[x.id], "real server id %d is given twice", x.id)
			reals[x.id] = true
		}
	}
	for _, x := range w.d.leaving {
		r.is(!reals[x.id], "real server id %d is given twice, once to one that leaves", x.id)
		reals[x.id] = true
		flags := x.row.Flags &^ bpf.RealOverloaded
		r.is(services[x.row.Service], "real server %d leaves, its service %d is no more", x.id, x.row.Service)
		r.is(flags == nextHopFlag(x)|bpf.RealRemoved, "real server %d leaves, its flags are %d", x.id, flags)
	}
	r.is(w.d.serviceIDs.n == len(services), "%d service ids given, %d in use", w.d.serviceIDs.n, len(services))
	r.is(w.d.realIDs.n == len(reals), "%d real server ids given, %d in use", w.d.realIDs.n, len(reals))
	for id := range w.tables.Reals {
		row := &w.tables.Reals[id]
		r.is(reals[uint32(id)] == (row.Addr != [16]byte{}), "row of real server %d: address %v, in use %v", id, row.Addr, reals[uint32(id)])
		r.is(reals[uint32(id)] || row.Flags&(bpf.RealUsable|bpf.RealNextHop) == 0, "row of real server %d is free, its flags are %d", id, row.Flags)
		active, inactive := uint32(w.tables.Counts[id].Conns), uint32(w.tables.Counts[id].Conns>>32)
		r.is(active < 1<<31 && inactive < 1<<31, "real server %d has %d active and %d inactive connections", id, int32(active), int32(inactive))
	}
}

func nextHopFlag(x *real) uint32 {
	switch {
	case !x.hop.Resolved:
		return 0
	case x.hop.Local:
		return bpf.RealNextHop | bpf.RealLocal
	default:
		return bpf.RealNextHop
	}
}

// checkService: the list is the wanted one, and every row says what is wanted and known.
func (w *world) checkService(r *report, s *service) {
	name := s.want.Key.String()
	flags := s.want.Conns.Reuse.flags()
	for flag, on := range map[uint32]bool{bpf.ServiceExpireNodest: s.want.Conns.ExpireNodest, bpf.ServiceSloppy: s.want.Conns.Sloppy} {
		if on {
			flags |= flag
		}
	}
	const policy = bpf.ServiceReuse | bpf.ServiceReuseFin | bpf.ServiceExpireNodest | bpf.ServiceSloppy
	r.is(s.row.Flags&policy == flags, "service %s: flags %d, those of its policy are %d", name, s.row.Flags, flags)
	r.is(len(s.reals) == len(s.want.Reals), "service %s: %d real servers, want %d", name, len(s.reals), len(s.want.Reals))
	r.is(s.row.Protocol == uint8(s.want.Key.Protocol) && s.row.Answer == uint8(s.want.Answer), "service %s: row says otherwise", name)
	for i, x := range s.reals {
		if want := s.want.Reals[len(s.reals)-1-i]; x.want != want {
			r.is(false, "service %s: place %d has %v, want %v", name, i, x.want, want)
			continue
		}
		key := fmt.Sprintf("service %s: real server %s", name, x.want.Key)
		flags := nextHopFlag(x)
		if x.want.Weight > 0 && x.well() {
			flags |= bpf.RealUsable
		}
		if x.out() {
			flags |= bpf.RealDown
		}
		r.is(x.health.usedLike(w.d.healthOf(s, x.want)), "%s: health %v is not what is known", key, x.health)
		r.is(x.row.Flags&^bpf.RealOverloaded == flags, "%s: flags %d, want %d", key, x.row.Flags, flags)
		w.checkPolicy(r, key, x)
		r.is(x.row.Service == s.id, "%s: row is of service %d, not %d", key, x.row.Service, s.id)
		r.is(x.row.Weight == uint16(x.want.Weight) && x.row.Method == uint8(x.want.Method), "%s: weight %d method %d", key, x.row.Weight, x.row.Method)
		r.is(x.row.Addr == x.want.Key.Addr.As16() && x.row.Port == bits.ReverseBytes16(x.want.Key.Port), "%s: address %v port %d", key, x.row.Addr, x.row.Port)
		r.is(x.row == &w.tables.Reals[x.id] && x.counts == &w.tables.Counts[x.id], "%s: row of another", key)
		w.checkHop(r, key, x)
	}
}

// checkPolicy: the row has the effective thresholds, the mark that they demand, and
// a generation that new connections can have.
func (w *world) checkPolicy(r *report, key string, x *real) {
	upper, lower := x.want.Upper, x.want.Lower
	if lower == 0 {
		lower = upper - upper/4
	}
	r.is(x.row.Upper == upper && x.row.Lower == lower, "%s: thresholds %d %d, want %d %d", key, x.row.Upper, x.row.Lower, upper, lower)
	marked := x.row.Flags&bpf.RealOverloaded != 0
	r.is(!marked || upper > 0 && x.total() >= uint64(lower), "%s: overloaded with %d connections, thresholds %d %d", key, x.total(), upper, lower)
	r.is(marked || upper == 0 || x.total() < uint64(upper), "%s: not overloaded with %d connections, threshold %d", key, x.total(), upper)
	r.is(x.row.Generation&away == 0, "%s: its connections wait for it, generation %x", key, x.row.Generation)
	r.is(w.d.services[serviceOfReal(w.d, x)].want.Conns.OnDown == x.onDown, "%s: its policy is %s when it is lost", key, x.onDown)
}

func serviceOfReal(d *Director, x *real) ServiceKey {
	for key, s := range d.services {
		if s.id == x.row.Service {
			return key
		}
	}
	return ServiceKey{}
}

func (w *world) checkHop(r *report, key string, x *real) {
	if !x.hop.Resolved {
		r.is(x.hop.Reason != "", "%s: unreachable without a reason", key)
		return
	}
	w.checkPool(r, key, x)
	old := x.writtenHop()
	want := x.hop
	want.MTU = min(want.MTU, 0xffff)
	if x.row.Tunnel.Learned != 0 {
		want.MTU = int(x.row.Mtu) + int(x.row.Tunnel.Size)
	}
	r.is(old.equal(want), "%s: row has next hop %v, want %v", key, old, want)
	r.is(x.hop.Local || int(w.plane.ports[x.row.TxPort]) == x.hop.Link, "%s: port %d is interface %d, want %d", key, x.row.TxPort, w.plane.ports[x.row.TxPort], x.hop.Link)
}

// checkPool: a real server by fullnat that can be reached has sources, all of which have rows.
func (w *world) checkPool(r *report, key string, x *real) {
	if x.want.Method != FullNAT {
		return
	}
	r.is(x.row.Pool != 0, "%s: it has no pool", key)
	for _, n := range w.tables.Pools[x.row.Pool].Source {
		r.is(n != 0 && w.tables.Sources[n] != (bpf.Source{}), "%s: pool %d has source %d, which has no row", key, x.row.Pool, n)
	}
}

// checkPlan: a plan names real servers of its service: a sequence usable ones
// only, one that does not follow the connections all of them.
func (w *world) checkPlan(r *report, s *service, p *bpf.Plan, at region) {
	name := fmt.Sprintf("service %s: %s's plan kind %d", s.want.Key, s.want.Scheduler, p.Kind)
	usable, own := map[uint32]bool{}, map[uint32]bool{bpf.NoReal: true}
	made := s.planned // thresholds are followed some milliseconds later
	if p.Kind == bpf.PlanFlow {
		made = s.reachable()
	}
	for i, x := range s.reals {
		own[x.id] = true
		if made[i].Usable() {
			usable[x.id] = true
		}
		now := x.forScheduler()
		r.is(made[i].Weight == now.Weight && (made[i].Overloaded || x.present()), "%s was made for another weight or next hop of %s", name, x.want.Key)
	}
	sequence := isSequence(p) || p.Kind == bpf.PlanFlow
	head := uint32(0)
	if p.Kind != bpf.PlanFlow {
		head = uint32(s.want.planHead())
	}
	if p.Length == 0 {
		r.is(len(usable) == 0 || s.aware() && isSequence(p), "%s is empty, %d real servers are usable", name, len(usable))
		return
	}
	r.is(p.Base == at.base+head && p.Length+head <= at.size && p.Base%bpf.PlanAlign == 0 && at.base+at.size <= w.d.arena.end,
		"%s: slots %d to %d, region %v", name, p.Base, p.Base+p.Length, at)
	if head > 0 {
		roster := w.tables.Plans[at.base:][:head]
		r.is(int(roster[bpf.RosterCount]) == min(len(s.reals), bpf.RosterSlots-bpf.RosterFirst), "%s: roster of %d", name, roster[bpf.RosterCount])
		for _, id := range roster[bpf.RosterFirst:][:roster[bpf.RosterCount]] {
			r.is(own[id], "%s: its roster has %d, which is no real server of it", name, id)
		}
	}
	r.is(p.Loop < p.Length, "%s: loop %d, length %d", name, p.Loop, p.Length)
	named := map[uint32]bool{}
	for _, id := range w.tables.Plans[p.Base:][:p.Length] {
		named[id] = true
		r.is(own[id], "%s names %d, which is no real server of it", name, id)
		r.is(usable[id] || !sequence || s.aware() && id == bpf.NoReal, "%s names %d, which is not usable", name, id)
	}
	all := p.Kind == bpf.PlanFlow || s.want.Scheduler == "rr" || s.want.Scheduler == "wrr"
	r.is(len(named) == len(usable) || !all, "%s names %d of %d usable real servers", name, len(named), len(usable))
}

// checkArena: regions overlap neither each other nor what is free, and make up all.
func (w *world) checkArena(r *report) {
	var all []region
	for _, s := range w.d.services {
		all = append(all, s.regions[0], s.regions[1], s.flow)
	}
	for _, p := range w.d.heritage.services {
		row := &w.tables.Services[p]
		all = append(all, regionOf(&row.Plan[0]), regionOf(&row.Plan[1]), regionOf(&row.Flow))
	}
	if err := w.d.arena.broken(all); err != nil {
		r.errs = append(r.errs, err)
	}
}

// broken compares the arena with the regions that were given out.
func (a *arena) broken(given []region) error {
	used := uint32(0)
	all := slices.DeleteFunc(slices.Clone(given), func(x region) bool { return x.size == 0 })
	for _, x := range all {
		used += x.size
	}
	if used != a.used {
		return fmt.Errorf("arena counts %d slots in use, they are %d", a.used, used)
	}
	for class := range a.free {
		for word, set := range a.free[class].bits {
			for ; set != 0; set &= set - 1 {
				i := uint32(word*64 + bits.TrailingZeros64(set))
				all = append(all, region{i << class, 1 << class})
				if a.free[class].has(i ^ 1) {
					return fmt.Errorf("both halves at %d, class %d, are free", i<<class, class)
				}
			}
		}
	}
	slices.SortFunc(all, func(x, y region) int { return int(x.base) - int(y.base) })
	at := uint32(0)
	for _, x := range all {
		if x.base != at || x.base%x.size != 0 {
			return fmt.Errorf("arena: region %v, the one before ends at %d", x, at)
		}
		at += x.size
	}
	if at != a.end {
		return fmt.Errorf("arena ends at %d, its regions at %d", a.end, at)
	}
	return nil
}

// checkSums: what is counted on the side.
func (w *world) checkSums(r *report) {
	reserved, watched := uint64(0), map[netip.Addr]int{}
	for _, s := range w.d.services {
		reserved += s.needs.total()
	}
	for _, x := range w.d.everyReal() {
		watched[x.want.Key.Addr]++
		if x.vipWatched {
			watched[x.vip]++
		}
	}
	r.is(reserved == w.d.reserved, "%d slots are reserved, want %d", w.d.reserved, reserved)
	r.is(len(watched) == len(w.d.watched), "%d addresses are watched, want %d", len(w.d.watched), len(watched))
	for a, n := range watched {
		r.is(w.d.watched[a] == n, "%s is watched %d times, want %d", a, w.d.watched[a], n)
	}
	for port := range w.d.txPorts {
		r.is(int(w.d.txPorts[port]) < bpf.TxPorts, "transmit port %d", w.d.txPorts[port])
	}
}

// checkConns: every connection's real server has its row still, of its generation
// unless a sweep is to free it, and counts it.
func (w *world) checkConns(r *report) {
	counts := make([]uint64, len(w.tables.Reals))
	for c := range w.everyConn() {
		row := &w.tables.Reals[c.Real]
		_, stranded := w.d.stranded[c.Real]
		r.is((row.Generation&^away == c.Generation || stranded) && row.Addr != [16]byte{}, "a connection is of generation %d of real server %d, which is %d", c.Generation, c.Real, row.Generation)
		if isActive(bpf.ConnState(c)) {
			counts[c.Real] += activeOne
		} else {
			counts[c.Real] += inactive1
		}
	}
	for id, n := range counts {
		r.is(w.tables.Counts[id].Conns == n, "real server %d counts %x, its connections are %x", id, w.tables.Counts[id].Conns, n)
	}
}
