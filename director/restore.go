// SPDX-License-Identifier: Apache-2.0

package director

import (
	"sync/atomic"

	"xdplvs/bpf"
)

// heritage is what a former process left in the tables. Services and real
// servers that are wanted again get their rows back, with their connections and
// statistics; what nobody claims leaves as if it had been removed.
type heritage struct {
	services map[ServiceKey]uint32
	reals    map[uint32]map[RealKey]*real // by service id
}

// restore reads the tables, and reserves what is in use there.
func (d *Director) restore() {
	h := heritage{map[ServiceKey]uint32{}, map[uint32]map[RealKey]*real{}}
	var plans []region
	for _, e := range d.keys.All() {
		if isVIPKey(e.Key) {
			d.vips[e.Key] = true
			continue
		}
		key := ServiceKey{Protocol(e.Key.Protocol), e.Key.Addr, e.Key.Port}
		if int(e.Service) >= len(d.tables.Services) {
			d.keys.Delete(e.Key)
			continue
		}
		h.services[key] = e.Service
		d.serviceIDs.claim(e.Service)
		plans = append(plans, regionsOf(&d.tables.Services[e.Service])...)
	}
	d.arena.claim(plans)
	for id := range d.tables.Reals {
		row := &d.tables.Reals[id]
		if row.Addr == [16]byte{} {
			continue
		}
		r := d.realAt(uint32(id))
		r.want = RealServer{Key: r.key(), Method: Method(row.Method), Weight: uint32(row.Weight)}
		r.hop = r.writtenHop()
		if r.hop.Resolved {
			d.formerTxPorts[r.hop.Link] = row.TxPort
		}
		d.realIDs.claim(r.id)
		if h.reals[row.Service] == nil {
			h.reals[row.Service] = map[RealKey]*real{}
		}
		// A removed real server and its successor may share the key: the later generation has a next hop to lose.
		if other := h.reals[row.Service][r.want.Key]; other != nil {
			d.leaving = append(d.leaving, other)
		}
		h.reals[row.Service][r.want.Key] = r
	}
	d.heritage = h
}

func regionsOf(s *bpf.Service) []region {
	var list []region
	for _, p := range []bpf.Plan{s.Plan[0], s.Plan[1], s.Flow} {
		if p.Length > 0 {
			list = append(list, region{p.Base, regionSize(int(p.Length))})
		}
	}
	return list
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
	for i, p := range s.row.Plan {
		if p.Length > 0 {
			s.regions[i] = region{p.Base, regionSize(int(p.Length))}
		}
	}
	if s.row.Flow.Length > 0 {
		s.flow = region{s.row.Flow.Base, regionSize(int(s.row.Flow.Length))}
	}
}

// adoptReal gives a real server its former row back; nil if it had none.
func (d *Director) adoptReal(service uint32, want RealServer) *real {
	r := d.heritage.reals[service][want.Key]
	if r == nil || r.want.Method != want.Method {
		return nil
	}
	delete(d.heritage.reals[service], want.Key)
	r.rate.last = r.counters()
	r.retired = r.rate.last
	d.unretire(r)
	r.setWant(want)
	return r
}

// dropHeritage lets end what nobody claimed.
func (d *Director) dropHeritage() {
	for key, id := range d.heritage.services {
		s := &service{id: id, row: &d.tables.Services[id], want: Service{Key: key}}
		s.takeRegions()
		atomic.OrUint32(&s.row.Flags, bpf.ServiceRemoved)
		d.end(s)
	}
	for id, reals := range d.heritage.reals {
		s := &service{id: id, row: &d.tables.Services[id]}
		for _, r := range reals {
			d.retire(s, r)
		}
	}
	d.heritage = heritage{}
}
