// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
)

// heritage is what a former process left in the tables. Services and real
// servers that are wanted again get their rows back, with their connections and
// statistics; what nobody claims leaves as if it had been removed.
type heritage struct {
	services map[ServiceKey]uint32
	reals    map[uint32]map[RealKey]*real // by service id
	addrs    map[uint32]netip.Addr        // likewise
}

// restore reads the tables, and reserves what is in use there. A process may end
// between any two stores, so what does not fit together is left out here.
func (d *Director) restore() {
	d.heritage = heritage{map[ServiceKey]uint32{}, map[uint32]map[RealKey]*real{}, map[uint32]netip.Addr{}}
	for _, e := range d.keys.All() {
		if isVIPKey(e.Key) {
			d.vips[e.Key] = true
			continue
		}
		if int(e.Service) >= len(d.tables.Services) { // reserved, but not used any more
			d.keys.Delete(e.Key)
			continue
		}
		d.heritage.services[keyOf(e.Key)] = e.Service
		d.heritage.reals[e.Service] = map[RealKey]*real{}
		d.heritage.addrs[e.Service] = e.Key.Addr
		d.serviceIDs.claim(e.Service)
		d.claimPlans(&d.tables.Services[e.Service])
	}
	d.inherited = len(d.heritage.services) > 0
	for id := range d.tables.Reals {
		if d.tables.Reals[id].Addr != [16]byte{} {
			d.restoreReal(uint32(id))
		}
	}
}

// restoreReal makes a real server of a row. A removed one and its successor by
// another method share the key: the successor is the heir. Rows of a service that
// the former process did not come to finish are free: no packet has found it.
func (d *Director) restoreReal(id uint32) {
	r := d.realAt(id)
	reals := d.heritage.reals[r.row.Service]
	if reals == nil {
		atomic.StoreUint32(&r.row.Flags, 0)
		d.keys.UnmarkReal(r.row)
		r.row.Addr, r.row.Pool = [16]byte{}, 0
		return
	}
	d.realIDs.claim(id)
	d.strand(r) // a former process may have left some
	r.want = RealServer{Key: r.key(), Method: Method(r.row.Method), Tunnel: tunnelOf(r.row), Weight: uint32(r.row.Weight)}
	r.vip = d.heritage.addrs[r.row.Service]
	r.hop = r.writtenHop()
	if r.hop.Resolved {
		d.txPorts[r.hop.Link] = r.row.TxPort
	}
	d.watch(r.want.Key.Addr, 1)
	if other := reals[r.want.Key]; other != nil {
		if r.row.Flags&bpf.RealRemoved != 0 {
			r, other = other, r
		}
		d.retire(&service{row: &d.tables.Services[r.row.Service]}, other)
	}
	reals[r.want.Key] = r
}

// claimPlans reserves what a service's plans take.
func (d *Director) claimPlans(row *bpf.Service) {
	for _, p := range []*bpf.Plan{&row.Plan[0], &row.Plan[1], &row.Flow} {
		if r := regionOf(p); r.size > 0 && !d.arena.claim(r) {
			atomic.StoreUint32(&p.Length, 0)
		}
	}
}

func regionOf(p *bpf.Plan) region {
	if p.Length == 0 {
		return region{}
	}
	head := 0
	if p.Kind == bpf.PlanLBLC || p.Kind == bpf.PlanLBLCR {
		head = bpf.RosterSlots
	}
	return region{p.Base - uint32(head), regionSize(int(p.Length) + head)}
}

// adoptService gives a service its former row back; false if it had none.
func (d *Director) adoptService(s *service, key ServiceKey) bool {
	id, ok := d.heritage.services[key]
	if !ok {
		return false
	}
	delete(d.heritage.services, key)
	s.id, s.row = id, &d.tables.Services[id]
	s.takeRegions()
	return true
}

// takeRegions finds the service's plans by its row.
func (s *service) takeRegions() {
	s.regions = [2]region{regionOf(&s.row.Plan[0]), regionOf(&s.row.Plan[1])}
	s.flow = regionOf(&s.row.Flow)
}

// adoptReal gives a real server its former row back; nil if it had none.
func (d *Director) adoptReal(s *service, want RealServer) *real {
	r := d.heritage.reals[s.id][want.Key]
	if r == nil || r.want.Method != want.Method {
		return nil
	}
	delete(d.heritage.reals[s.id], want.Key)
	r.rate.last = r.counters()
	d.unretire(r)
	r.comeHome()
	r.wasUp = r.up() && r.flagged(bpf.RealUsable)
	r.health = d.healthOf(s, want)
	r.setWant(want)
	r.resume(time.Now())
	return r
}

// dropServices lets the services of the former process end that are not wanted.
// What their policy was nobody knows any more, so it is that of their protocol.
func (d *Director) dropServices(c *change) {
	added := make(map[ServiceKey]bool, len(c.added))
	for _, w := range c.added {
		added[w.Key] = true
	}
	for key, id := range d.heritage.services {
		if added[key] {
			continue
		}
		s := &service{id: id, row: &d.tables.Services[id], want: Service{Key: key, Conns: DefaultConnPolicy(key.Protocol)}}
		s.takeRegions()
		atomic.OrUint32(&s.row.Flags, bpf.ServiceRemoved)
		for _, r := range d.heritage.reals[id] {
			d.retire(s, r)
		}
		delete(d.heritage.reals, id)
		delete(d.heritage.services, key)
		d.end(s)
	}
}

// dropReals lets the real servers leave that nobody claimed.
func (d *Director) dropReals() {
	for _, s := range d.services {
		for _, r := range d.heritage.reals[s.id] {
			d.retire(s, r)
		}
	}
	d.heritage = heritage{}
}
