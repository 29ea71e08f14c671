// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"xdplvs/bpf"
)

// What the data plane does with the tables, in Go: plan.h and the parts of conn.h
// that touch what the director owns.

const (
	pickTries = 32 // PICK_TRIES
	activeOne = uint64(1)
	inactive1 = uint64(1) << 32

	stateEstablished = 1
)

// findService is service_find.
func findService(t *bpf.Tables, key ServiceKey) *bpf.Service {
	for _, e := range storedKeys(t) {
		if e.Key == key.row() && int(e.Service) < len(t.Services) && t.Services[e.Service].Flags&bpf.ServiceRemoved == 0 {
			return &t.Services[e.Service]
		}
	}
	return nil
}

// storedKeys is what KeyTable.All returns, without the work of making one.
func storedKeys(t *bpf.Tables) (all []bpf.KeyEntry) {
	for b := range t.Keys {
		for _, k := range t.Keys[b].Key {
			if k.Id != 0 {
				key := bpf.Key{Port: bits.ReverseBytes16(k.Port), Protocol: k.Protocol &^ 0x40, Sorry: k.Protocol&0x40 != 0}
				if key.Protocol == 0 { // the mark stands before the family's unspecified address
					key.Mark = binary.BigEndian.Uint32(k.Addr[:])
					clear(k.Addr[:4])
				}
				key.Addr = netip.AddrFrom16(k.Addr).Unmap()
				all = append(all, bpf.KeyEntry{Key: key, Service: k.Id - 1})
			}
		}
	}
	return all
}

func planSlot(t *bpf.Tables, p *bpf.Plan, position uint32) uint32 {
	if at := atomic.LoadUint32(&p.Base) + position; int(at) < len(t.Plans) {
		return atomic.LoadUint32(&t.Plans[at])
	}
	return bpf.NoReal
}

func planNext(t *bpf.Tables, s *bpf.Service) uint32 {
	which := atomic.LoadUint32(&s.Current) & 1
	plan := &s.Plan[which]
	length, loop := uint64(atomic.LoadUint32(&plan.Length)), uint64(atomic.LoadUint32(&plan.Loop))
	if length == 0 || loop >= length {
		return bpf.NoReal
	}
	position := atomic.AddUint64(&s.Cursor[which], 1) - 1
	if position >= length {
		position = loop + (position-loop)%(length-loop)
	}
	return planSlot(t, plan, uint32(position))
}

func flowNext(t *bpf.Tables, s *bpf.Service, hash uint32) uint32 {
	if length := atomic.LoadUint32(&s.Flow.Length); length > 0 {
		return planSlot(t, &s.Flow, hash%length)
	}
	return bpf.NoReal
}

func realForNew(t *bpf.Tables, s *bpf.Service, id uint32) bool {
	if int(id) >= len(t.Reals) {
		return false
	}
	r := &t.Reals[id]
	flags := atomic.LoadUint32(&r.Flags) & (bpf.RealUsable | bpf.RealNextHop | bpf.RealOverloaded)
	return flags == bpf.RealUsable|bpf.RealNextHop && atomic.LoadUint32(&r.Service) == s.Id
}

// isSequence: lblc and lblcr take slots in order too, for who is not remembered.
func isSequence(p *bpf.Plan) bool {
	return p.Kind == bpf.PlanSequence || p.Kind == bpf.PlanLBLC || p.Kind == bpf.PlanLBLCR
}

// hashNext is hash_next, but for the kernel's hash functions: any slot will do.
func hashNext(t *bpf.Tables, s *bpf.Service, hash uint32) uint32 {
	plan := &s.Plan[atomic.LoadUint32(&s.Current)&1]
	for try := range plan.Length {
		id := planSlot(t, plan, (hash+try)%plan.Length)
		if realForNew(t, s, id) {
			return id
		}
		if s.Flags&bpf.ServiceFallback == 0 {
			break
		}
	}
	return bpf.NoReal
}

// pick is the choice for a new connection; bpf.NoReal: the service's answer.
func pick(t *bpf.Tables, s *bpf.Service, hash uint32) uint32 {
	if !isSequence(&s.Plan[atomic.LoadUint32(&s.Current)&1]) {
		return hashNext(t, s, hash)
	}
	id := planNext(t, s)
	if realForNew(t, s, id) {
		return id
	}
	for i := range uint32(2 * pickTries) {
		if i < pickTries {
			id = planNext(t, s)
		} else {
			id = flowNext(t, s, hash+i-pickTries)
		}
		if realForNew(t, s, id) {
			return id
		}
	}
	return bpf.NoReal
}

// serve is the choice for a new connection, which sorry servers may get.
func serve(t *bpf.Tables, s *bpf.Service) uint32 {
	var sorry *bpf.Service
	if next := atomic.LoadUint32(&s.Sorry); next != 0 {
		sorry = &t.Services[next-1]
	}
	if sorry != nil && atomic.LoadUint32(&s.Flags)&bpf.ServiceNoQuorum != 0 && atomic.LoadUint32(&sorry.Flow.Length) > 0 {
		s, sorry = sorry, nil
	}
	id := pick(t, s, 0)
	if id == bpf.NoReal {
		s.NoReal++
		if sorry != nil {
			return serve(t, sorry)
		}
	}
	return id
}

// connect lets a client make a connection, which is stored and counted, and
// returns the id of its real server.
func (w *world) connect(key ServiceKey, client netip.AddrPort) uint32 {
	w.t.Helper()
	s := findService(w.tables, key)
	if s == nil {
		w.t.Fatalf("no service %s", key)
	}
	id := serve(w.tables, s)
	if id == bpf.NoReal {
		return id
	}
	w.store(key, client, id)
	w.count(id, 1, 60)
	return id
}

// count is traffic of a real server.
func (w *world) count(id uint32, conns, bytes uint64) {
	st := &w.tables.Traffic[int(id)*w.tables.CPUs+int(id)%w.tables.CPUs]
	atomic.AddUint64(&st.N.Conns, conns)
	atomic.AddUint64(&st.N.InPackets, 1)
	atomic.AddUint64(&st.N.InBytes, bytes)
}

func (w *world) store(key ServiceKey, client netip.AddrPort, id uint32) {
	w.t.Helper()
	c := w.freeSlot(key.Addr.Is4(), client.Addr(), key.Addr)
	one := activeOne
	c.Word = stateEstablished
	if key.Protocol != TCP {
		c.Word, one = uint32(bpf.StateUDP), inactive1
	}
	c.Ports = uint32(bits.ReverseBytes16(client.Port())) | uint32(bits.ReverseBytes16(key.Port))<<16
	c.Real, c.Generation, c.Packets = id, w.tables.Reals[id].Generation, 1
	c.LastUse = w.clock.now.Load()
	c.Tag = c.Tag&^0xff00 | uint64(key.Protocol)<<8 | 2
	w.enter(id, one)
}

// enter is count_enter.
func (w *world) enter(id uint32, one uint64) {
	r := &w.tables.Reals[id]
	n := atomic.AddUint64(&w.tables.Counts[id].Conns, one)
	if upper := atomic.LoadUint32(&r.Upper); upper > 0 && uint32(n)+uint32(n>>32) == upper {
		atomic.OrUint32(&r.Flags, bpf.RealOverloaded)
	}
}

// verdict is what the next packet of a connection gets, one that may begin a new one.
func (w *world) verdict(c *bpf.Conn) string {
	row := &w.tables.Reals[c.Real]
	switch {
	case row.Generation == c.Generation && row.Flags&bpf.RealNextHop == 0:
		return "no next hop"
	case row.Generation == c.Generation:
		return "goes on"
	case row.Stale == bpf.StaleReschedule:
		return "rescheduled"
	case row.Stale == bpf.StaleReset && bpf.ConnProtocol(c) == uint8(TCP):
		return "reset"
	default:
		return "dropped"
	}
}

// everyConn gives the connections in the tables.
func (w *world) everyConn() iter.Seq[*bpf.Conn] {
	return func(yield func(*bpf.Conn) bool) {
		for i := range w.tables.Conns4 {
			if c := &w.tables.Conns4[i].C; c.Tag&3 == 2 && !yield(c) {
				return
			}
		}
		for i := range w.tables.Conns6 {
			if c := &w.tables.Conns6[i].C; c.Tag&3 == 2 && !yield(c) {
				return
			}
		}
	}
}

// verdicts are those of all connections, by the last byte of their real server's address.
func (w *world) verdicts() string {
	n := map[string]int{}
	for c := range w.everyConn() {
		n[fmt.Sprintf("%d %s", w.tables.Reals[c.Real].Addr[15], w.verdict(c))]++
	}
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(n)) {
		lines = append(lines, fmt.Sprintf("%s: %d\n", what, n[what]))
	}
	return cmp.Or(strings.Join(lines, ""), "none\n")
}

// freeSlot is a slot that is its own home, with the addresses written.
func (w *world) freeSlot(is4 bool, src, dst netip.Addr) *bpf.Conn {
	w.t.Helper()
	if is4 {
		for i := range w.tables.Conns4 {
			if c := &w.tables.Conns4[i]; c.C.Tag&3 == 0 {
				s, d := src.As4(), dst.As4()
				c.Saddr, c.Daddr = binary.NativeEndian.Uint32(s[:]), binary.NativeEndian.Uint32(d[:])
				c.C.Tag = c.C.Tag&(0xffff<<16) | uint64(i%8)<<32
				return &c.C
			}
		}
	} else {
		for i := range w.tables.Conns6 {
			if c := &w.tables.Conns6[i]; c.C.Tag&3 == 0 {
				c.Saddr, c.Daddr = src.As16(), dst.As16()
				c.C.Tag = c.C.Tag&(0xffff<<16) | uint64(i%8)<<32
				return &c.C
			}
		}
	}
	w.t.Fatal("no free slot")
	return nil
}

// expire ends every connection: its time is over, and a sweep comes by.
func (w *world) expire() {
	w.clock.advance(time900)
	now := w.clock.now.Load()
	bpf.NewSweep4(w.tables).Next(now, len(w.tables.Conns4))
	bpf.NewSweep6(w.tables).Next(now, len(w.tables.Conns6))
}

const time900 = 901e9

func client(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), uint16(20000+i%20000))
}

func client6(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)}), uint16(20000+i%20000))
}
