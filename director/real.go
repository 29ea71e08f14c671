// SPDX-License-Identifier: Apache-2.0

package director

import (
	"iter"
	"math/bits"
	"net/netip"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

// noService stands in a key that is only reserved: no service has this id.
const noService = ^uint32(0) - 1

// real is a real server and its row.
type real struct {
	id     uint32
	want   RealServer
	hop    NextHop
	row    *bpf.Real
	counts *bpf.RealCounts
	stats  []bpf.RealTraffic // one for each CPU
	rate   estimator
	// lastWeight is the last that was not 0: mh's table stays as it is when a real server is quiesced.
	lastWeight uint32
	former     string // name of the service that it was removed from
	idle       bool   // removed, and had no connections when reap saw it last
	onDown     Fate   // of its connections when its next hop is lost, or it is down
	health     Health // as it was heeded last
	growth     growth
	sources    []netip.Addr // of the service, see Service

	since   time.Time // when its slow start began; zero: there is none
	wasUp   bool      // when slow starts were looked at last
	founder bool      // came with its service, and was not up yet
	window  shareWindow

	kept       keptReal
	vip        netip.Addr // the service's address
	vipWatched bool       // whether it is this host's is asked, too
	narrowed   uint16     // MTU of the path, as it was last logged
}

// everyReal gives all that have rows, with their services' names: those in use,
// those that were removed, and those of a former process that nobody claimed yet.
func (d *Director) everyReal() iter.Seq2[string, *real] {
	return func(yield func(string, *real) bool) {
		for _, s := range d.services {
			for _, r := range s.reals {
				if !yield(s.want.Name, r) {
					return
				}
			}
		}
		for _, r := range d.leaving {
			if !yield(r.former, r) {
				return
			}
		}
		for _, reals := range d.heritage.reals {
			for _, r := range reals {
				if !yield("", r) {
					return
				}
			}
		}
	}
}

func (d *Director) realAt(id uint32) *real {
	cpus := d.tables.CPUs
	row := &d.tables.Reals[id]
	return &real{
		id:     id,
		row:    row,
		kept:   keptReal{row.Generation, row.Tenant, row.Pool},
		counts: &d.tables.Counts[id],
		stats:  d.tables.Traffic[int(id)*cpus:][:cpus],
	}
}

// newReal writes the row of a real server that is not in any plan yet. Its count
// of connections is 0, or that of a packet that was very late: then it is right.
func (d *Director) newReal(service uint32, want RealServer) *real {
	id, _ := d.realIDs.take() // compare has seen that there are enough
	r := d.realAt(id)
	*r.row = bpf.Real{
		Generation: nextGeneration(r.row.Generation),
		Tenant:     r.row.Tenant + 1,
		Service:    service,
		Addr:       addr16(want.Key.Addr),
		Port:       bits.ReverseBytes16(want.Key.Port),
		Method:     uint8(want.Method),
	}
	r.kept = keptReal{r.row.Generation, r.row.Tenant, 0}
	clear(r.stats)
	r.counts.Templates, r.counts.Refused = 0, 0
	d.planned[id] = 0
	r.setWant(want)
	d.watch(want.Key.Addr, 1)
	d.keys.MarkReal(r.row)
	return r
}

func (r *real) setWant(want RealServer) {
	r.want = want
	if want.Weight > 0 {
		r.lastWeight = want.Weight
	}
	r.row.Weight = uint16(want.Weight)
	r.setThresholds(want.Upper, want.Lower)
	r.showHealth()
}

// setThresholds writes the thresholds and judges by them at once, as IPVS does:
// between the two, what is said already holds. Packets judge too, each when the
// count is exactly at a threshold; so the count is looked at again afterwards.
func (r *real) setThresholds(upper, lower uint32) {
	lower = RealServer{Upper: upper, Lower: lower}.lower()
	atomic.StoreUint32(&r.row.Lower, lower)
	atomic.StoreUint32(&r.row.Upper, upper)
	if upper == 0 {
		r.setFlag(bpf.RealOverloaded, false)
		return
	}
	if r.total() >= uint64(upper) {
		r.setFlag(bpf.RealOverloaded, true)
	}
	if r.total() < uint64(lower) {
		r.setFlag(bpf.RealOverloaded, false)
		if r.total() >= uint64(upper) {
			r.setFlag(bpf.RealOverloaded, true)
		}
	}
}

// lower is the lower threshold in force.
func (r RealServer) lower() uint32 {
	if r.Lower == 0 {
		return r.Upper - r.Upper/4
	}
	return r.Lower
}

// total is how many connections count for the thresholds.
func (r *real) total() uint64 {
	active, inactive := r.conns()
	return uint64(active) + uint64(inactive)
}

func (r *real) overloaded() bool { return r.flagged(bpf.RealOverloaded) }

func (r *real) flagged(flag uint32) bool { return atomic.LoadUint32(&r.row.Flags)&flag != 0 }

// setFlag changes one flag; packets change others at the same time.
func (r *real) setFlag(flag uint32, on bool) {
	if on {
		atomic.OrUint32(&r.row.Flags, flag)
	} else {
		atomic.AndUint32(&r.row.Flags, ^flag)
	}
}

// setHop writes how frames get there. The flag goes first when it is unset and
// last when it is set, so that no packet leaves with half an address.
func (r *real) setHop(hop NextHop, txPort uint16) {
	r.setFlag(bpf.RealNextHop, false)
	r.setFlag(bpf.RealLocal, hop.Local)
	r.hop = hop
	if !hop.Resolved {
		return
	}
	r.writeHop(hop, txPort)
	r.row.Mtu = uint16(r.mtuBy(hop))
	if r.want.Method == Tunnel {
		r.row.Tunnel = r.tunnelTo(hop).Row()
	}
	r.narrowed = 0
	r.setFlag(bpf.RealNextHop, true)
}

// writeHop writes what packets cannot change of a next hop.
func (r *real) writeHop(hop NextHop, txPort uint16) {
	copy(r.row.Mac[:6], hop.DstMAC[:])
	copy(r.row.Mac[6:], hop.SrcMAC[:])
	r.row.Vlans = uint8(len(hop.VLAN))
	r.row.Vlan, r.row.Tpid = [2]uint16{}, [2]uint16{}
	for i := range hop.VLAN {
		r.row.Vlan[i] = bits.ReverseBytes16(hop.VLAN[i])
		r.row.Tpid[i] = bits.ReverseBytes16(hop.TPID[i])
	}
	r.row.Ifindex = uint32(hop.Link)
	r.row.TxPort = txPort
}

// writtenHop is the next hop that the row holds, as a former process wrote it.
func (r *real) writtenHop() NextHop {
	if atomic.LoadUint32(&r.row.Flags)&bpf.RealNextHop == 0 {
		return NextHop{Reason: "its link-layer address is being resolved", Pending: true}
	}
	if atomic.LoadUint32(&r.row.Flags)&bpf.RealLocal != 0 {
		return NextHop{Resolved: true, Local: true}
	}
	hop := NextHop{Resolved: true, Link: int(r.row.Ifindex), MTU: int(r.row.Mtu) + int(r.row.Tunnel.Size)}
	if t, ok := r.row.TunnelWritten(); ok {
		hop.Source = t.Source
	}
	copy(hop.DstMAC[:], r.row.Mac[:6])
	copy(hop.SrcMAC[:], r.row.Mac[6:])
	for i := range min(int(r.row.Vlans), len(r.row.Vlan)) {
		hop.VLAN = append(hop.VLAN, bits.ReverseBytes16(r.row.Vlan[i]))
		hop.TPID = append(hop.TPID, bits.ReverseBytes16(r.row.Tpid[i]))
	}
	return hop
}

func (r *real) key() RealKey {
	return RealKey{netip.AddrFrom16(r.row.Addr).Unmap(), bits.ReverseBytes16(r.row.Port)}
}

// conns are the active and inactive connections.
func (r *real) conns() (active, inactive uint32) {
	n := atomic.LoadUint64(&r.counts.Conns)
	return uint32(n), uint32(n >> 32)
}

// counters are those since the real server was added.
func (r *real) counters() (c Counters) {
	for i := range r.stats {
		s := &r.stats[i]
		c.add(Counters{
			Conns:    atomic.LoadUint64(&s.N.Conns),
			InPkts:   atomic.LoadUint64(&s.N.InPackets),
			OutPkts:  atomic.LoadUint64(&s.N.OutPackets),
			InBytes:  atomic.LoadUint64(&s.N.InBytes),
			OutBytes: atomic.LoadUint64(&s.N.OutBytes),
		})
	}
	return c
}

// forScheduler is the real server as schedulers see it.
func (r *real) forScheduler() scheduler.Server {
	active, inactive := r.conns()
	return scheduler.Server{
		ID:         r.id,
		Addr:       r.want.Key.Addr,
		Port:       r.want.Key.Port,
		Weight:     r.weight(),
		LastWeight: r.lastWeight,
		Active:     active,
		Inactive:   inactive,
		Upper:      r.want.Upper,
		Held:       r.row.Held,
		Overloaded: !r.present() || r.overloaded(),
	}
}

func (r *real) state() RealState {
	active, inactive := r.conns()
	return RealState{
		Name:        r.want.Name,
		Key:         r.want.Key,
		Method:      r.want.Method,
		Tunnel:      r.tunnelState(),
		Local:       r.hop.Local,
		MTU:         r.mtu(),
		Weight:      r.want.Weight,
		Upper:       r.want.Upper,
		Lower:       r.want.Lower,
		Overloaded:  r.overloaded(),
		Templates:   atomic.LoadUint32(&r.counts.Templates),
		Active:      active,
		Inactive:    inactive,
		Reachable:   r.hop.Resolved,
		Unreachable: r.hop.Reason,
		Health:      r.healthState(),
		Counters:    r.counters(),
		Rates:       r.rate.rates(),
	}
}
