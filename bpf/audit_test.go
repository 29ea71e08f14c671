// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// entry is a stored connection, wherever it is.
type entry struct {
	where  string
	conn   Conn
	key    flow
	home   int // the place its key belongs to, as Go computes it
	v6     bool
	second bool
	slot   int // -1: in the overflow map
	store  func()
}

// flow is the key of a connection.
type flow struct {
	src, dst     netip.Addr
	sport, dport uint16
	protocol     uint8
}

// entries lists what the tables hold, in use or not free.
func (r *rig) entries() []*entry {
	var all []*entry
	for i := range r.Conns4 {
		if c := &r.Conns4[i]; c.C.Tag&tagMask != 0 {
			all = append(all, r.entry4(i, c))
		}
	}
	for i := range r.Conns6 {
		if c := &r.Conns6[i]; c.C.Tag&tagMask != 0 {
			all = append(all, r.entry6(i, c))
		}
	}
	return append(all, r.overflowEntries()...)
}

func (r *rig) entry4(i int, c *Conn4) *entry {
	src, dst := binary.NativeEndian.AppendUint32(nil, c.Saddr), binary.NativeEndian.AppendUint32(nil, c.Daddr)
	e := &entry{where: fmt.Sprintf("conns4[%d]", i), conn: c.C, slot: i}
	e.store = func() { c.C = e.conn }
	r.locate(e, netip.AddrFrom4([4]byte(src)), netip.AddrFrom4([4]byte(dst)), len(r.Conns4))
	return e
}

func (r *rig) entry6(i int, c *Conn6) *entry {
	e := &entry{where: fmt.Sprintf("conns6[%d]", i), conn: c.C, slot: i, v6: true}
	e.store = func() { c.C = e.conn }
	r.locate(e, netip.AddrFrom16(c.Saddr), netip.AddrFrom16(c.Daddr), len(r.Conns6))
	return e
}

func (r *rig) overflowEntries() (all []*entry) {
	m := r.plane.objects.Maps[directorMapOverflow]
	err := r.plane.Overflow(func(k *ConnKey, c *Conn) bool {
		key := *k
		e := &entry{where: "overflow", conn: *c, slot: -1}
		e.store = func() {
			if err := m.Put(key, e.conn); err != nil {
				panic(err)
			}
		}
		src, dst := netip.AddrFrom16(k.Saddr), netip.AddrFrom16(k.Daddr)
		e.v6 = !src.Is4In6()
		r.locate(e, src.Unmap(), dst.Unmap(), both(family{vip: dst.Unmap()}, len(r.Conns4), len(r.Conns6)))
		all = append(all, e)
		return true
	})
	if err != nil {
		panic(err)
	}
	return all
}

// locate fills in the key and where it belongs.
func (r *rig) locate(e *entry, src, dst netip.Addr, places int) {
	ports := binary.NativeEndian.AppendUint32(nil, e.conn.Ports)
	e.key = flow{src, dst, binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:]), ConnProtocol(&e.conn)}
	hash := r.flowHash(e.key)
	set := uint32(hash) & (uint32(places)/ways - 1)
	e.home = int(set*ways + uint32(hash>>32)%ways)
	e.second = e.conn.Tag&tagSecond != 0
}

func (r *rig) flowHash(k flow) uint64 { return flowHash(r.Settings.HashKey, k) }

// flowHash is flow_hash of hash.h.
func flowHash(key directorHashKey, k flow) uint64 {
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, k.sport), k.dport)
	bytes := slices.Concat(ports, []byte{k.protocol, 0, 0, 0}, k.src.AsSlice(), k.dst.AsSlice())
	var h uint64
	for i := 0; 4*i < len(bytes); i += 2 {
		a, b := binary.LittleEndian.Uint32(bytes[4*i:]), binary.LittleEndian.Uint32(bytes[4*i+4:])
		h += uint64(a+key.Word[i]) * uint64(b+key.Word[i+1])
	}
	h = (h ^ h>>32) * key.Factor
	return h ^ h>>32
}

// find is the entry of a client's connection; nil if there is none.
func (r *rig) find(k flow) *entry {
	for _, e := range r.entries() {
		if e.key == k {
			return e
		}
	}
	return nil
}

// mustFind is the entry of the client's connection from a port to the web service.
func (r *rig) mustFind(t testing.TB, sport uint16) *entry {
	t.Helper()
	e := r.find(r.webFlow(sport))
	if e == nil {
		t.Fatalf("no connection from port %d", sport)
	}
	return e
}

// webFlow is the key of the client's connection from a port to the web service.
func (r *rig) webFlow(sport uint16) flow { return flow{r.f.client, r.f.vip, sport, webPort, tcpProto} }

// setWord gives an entry another state and flags, and moves its count.
func (r *rig) setWord(e *entry, word uint32) {
	counts := &r.Counts[e.conn.Real]
	counts.Conns += countOf(word) - countOf(e.conn.Word)
	e.conn.Word = e.conn.Word&0xff000000 | word
	e.store()
}

// stateNames are the states as cases call them.
var stateNames = map[uint8]string{
	0: "NONE", 1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT", 5: "TIME_WAIT", 6: "CLOSE",
	7: "CLOSE_WAIT", 8: "LAST_ACK", 9: "LISTEN", 10: "SYNACK", StateUDP: "UDP",
	32: "SCTP_NONE", 33: "SCTP_INIT1", 34: "SCTP_INIT", 35: "SCTP_COOKIE_SENT", 36: "SCTP_COOKIE_REPLIED", 37: "SCTP_COOKIE_WAIT",
	38: "SCTP_COOKIE", 39: "SCTP_COOKIE_ECHOED", 40: "SCTP_ESTABLISHED", 41: "SCTP_SHUTDOWN_SENT",
	42: "SCTP_SHUTDOWN_RECEIVED", 43: "SCTP_SHUTDOWN_ACK_SENT", 44: "SCTP_REJECTED", 45: "SCTP_CLOSED",
}

// Flags of a connection's word.
const (
	noOutput = uint32(directorConnFlagCONN_NO_OUTPUT)
	unproven = uint32(directorConnFlagCONN_UNPROVEN)
)

// conns lists the connections as the cases write them: "c:40000>vip:80
// SYN_RECV a 2" is one with real server a that has seen two packets.
func (r *rig) conns() []string {
	list := []string{}
	for _, e := range r.entries() {
		if IsTemplate(&e.conn) {
			list = append(list, r.describeTemplate(e))
		} else if !isWayBack(e.conn.Word) {
			list = append(list, r.describe(e))
		}
	}
	slices.Sort(list)
	return list
}

func (r *rig) describe(e *entry) string {
	s := fmt.Sprintf("%s:%d>%s:%d %s %s %d", r.f.nameOf(e.key.src), e.key.sport, r.f.nameOf(e.key.dst), e.key.dport,
		stateNames[ConnState(&e.conn)], r.names[e.conn.Real], e.conn.Packets)
	if e.conn.Word&noOutput == 0 {
		s += " output"
	}
	if e.conn.Word&unproven != 0 {
		s += " unproven"
	}
	if e.slot < 0 {
		s += " overflow"
	}
	return s
}

// describeTemplate is "c:0>vip:80 template a" for one that sends the client to real server a.
func (r *rig) describeTemplate(e *entry) string {
	assured := ""
	if TemplateAssured(&e.conn) {
		assured = "ASSURED "
	}
	src, call := e.key.src, ""
	if e.v6 && e.slot >= 0 {
		if client, id, cut, ok := TemplateCall(&r.Conns6[e.slot]); ok {
			src, call = netip.AddrFrom16(client), fmt.Sprintf(" call %s", id)
			if cut {
				call += "…"
			}
		}
	}
	return fmt.Sprintf("%s:%d>%s:%d %stemplate %s%s", r.f.nameOf(src.Unmap()), e.key.sport, r.f.nameOf(e.key.dst.Unmap()), e.key.dport, assured, r.names[e.conn.Real], call)
}

// audit recounts everything that is counted, and finds every entry where its
// key belongs. It holds whenever no packet is on its way.
func (r *rig) audit() error {
	all := r.entries()
	errs := []error{r.auditKeys(all), r.auditCounts(all), r.auditPlaces(all), r.auditTemplates(all), r.auditLocals(all)}
	for _, e := range all {
		errs = append(errs, r.auditEntry(e))
	}
	return errors.Join(errs...)
}

// auditKeys finds keys that are stored twice.
func (r *rig) auditKeys(all []*entry) error {
	var errs []error
	seen := map[flow]string{}
	for _, e := range all {
		if other, twice := seen[e.key]; twice {
			errs = append(errs, fmt.Errorf("%v is stored twice: %s and %s", e.key, other, e.where))
		}
		seen[e.key] = e.where
	}
	return errors.Join(errs...)
}

// auditCounts recounts the connections of each real server.
func (r *rig) auditCounts(all []*entry) error {
	want := make([]uint64, len(r.Counts))
	for _, e := range all {
		if int(e.conn.Real) < len(want) && !isWayBack(e.conn.Word) && !IsTemplate(&e.conn) {
			want[e.conn.Real] += recount(ConnState(&e.conn))
		}
	}
	var errs []error
	for id, n := range r.Counts {
		if n.Conns != want[id] {
			errs = append(errs, fmt.Errorf("real server %d %q: counted %d active, %d inactive; has %d and %d",
				id, r.names[uint32(id)], int32(n.Conns), int32(n.Conns>>32), int32(want[id]), int32(want[id]>>32)))
		}
	}
	return errors.Join(errs...)
}

// recount is what one connection counts. The active states are those of IPVS.md
// section 4.
func recount(state uint8) uint64 {
	if slices.Contains([]string{"ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK", "SCTP_ESTABLISHED"}, stateNames[state]) {
		return 1
	}
	return 1 << 32
}

// auditLocals finds the way back of every connection by full-NAT: so no local port is two of them's.
func (r *rig) auditLocals(all []*entry) error {
	ways := map[flow]*entry{}
	for _, e := range all {
		if isWayBack(e.conn.Word) {
			ways[e.key] = e
		}
	}
	var errs []error
	for _, e := range all {
		if e.conn.Source == 0 || isWayBack(e.conn.Word) {
			continue
		}
		way := ways[r.replyKey(e)]
		if link := uint64(e.slot+1) | e.conn.Tag>>16&0xffff<<32; way == nil || way.conn.Link&0xffff_ffff_ffff != link {
			errs = append(errs, fmt.Errorf("%s, %v: its way back, by %v, is %+v", e.where, e.key, r.replyKey(e), way))
		}
	}
	return errors.Join(errs...)
}

// replyKey is what the replies of a connection by full-NAT are known by.
func (r *rig) replyKey(e *entry) flow {
	real, source := r.Reals[e.conn.Real], r.Sources[e.conn.Source]
	return flow{netip.AddrFrom16(real.Addr).Unmap(), netip.AddrFrom16(source.Addr).Unmap(), bits.ReverseBytes16(real.Port),
		bits.ReverseBytes16(e.conn.Port), e.key.protocol}
}

// auditPlaces recounts home_moved of every place.
func (r *rig) auditPlaces(all []*entry) error {
	moved4, moved6 := make([]uint32, len(r.Conns4)), make([]uint32, len(r.Conns6))
	for _, e := range all {
		moved := both(family{vip: e.key.dst}, moved4, moved6)
		switch {
		case e.slot < 0:
			moved[e.home] += 1 << 16
		case e.second:
			moved[e.home] += 1 << 8
		case e.slot != e.home:
			moved[e.home] |= 1 << (uint32(e.slot) % ways)
		}
	}
	var errs []error
	for i := range r.Conns4 {
		errs = append(errs, auditPlace("conns4", i, &r.Conns4[i].C, moved4[i]))
	}
	for i := range r.Conns6 {
		errs = append(errs, auditPlace("conns6", i, &r.Conns6[i].C, moved6[i]))
	}
	return errors.Join(errs...)
}

func auditPlace(table string, i int, c *Conn, moved uint32) error {
	var errs []error
	if c.HomeMoved != moved {
		errs = append(errs, fmt.Errorf("%s[%d]: home_moved is %#x, should be %#x", table, i, c.HomeMoved, moved))
	}
	if c.HomeLock&1 != 0 {
		errs = append(errs, fmt.Errorf("%s[%d]: place is locked, %d", table, i, c.HomeLock))
	}
	return errors.Join(errs...)
}

// auditEntry looks at one entry.
func (r *rig) auditEntry(e *entry) error {
	var wrong []string
	is := func(bad bool, what string) {
		if bad {
			wrong = append(wrong, what)
		}
	}
	c := &e.conn
	hash := r.flowHash(e.key)
	is(c.Tag&tagMask != tagUsed, "not in use")
	is(c.Word&connDead != 0, "dead")
	is(uint32(c.Tag>>32) != uint32(hash>>32), "fingerprint")
	if isWayBack(c.Word) {
		is(ConnState(c) > uint8(directorConnStateREPLY_PROVEN), fmt.Sprintf("state %d", ConnState(c)))
		return r.wrong(e, wrong)
	}
	if IsTemplate(c) {
		is(ConnState(c) > uint8(directorConnStateTEMPLATE_ASSURED), fmt.Sprintf("state %d", ConnState(c)))
		is(e.key.protocol&templateProtocol == 0 || e.slot < 0, "place of a connection")
		return r.wrong(e, wrong)
	}
	is(stateNames[ConnState(c)] == "", fmt.Sprintf("state %d", ConnState(c)))
	is(protocolOf(ConnState(c)) != e.key.protocol, "state of another protocol")
	is(r.names[c.Real] == "", fmt.Sprintf("real server %d", c.Real))
	is((c.Tag&uint64(directorConnTagTAG_OVERFLOW) != 0) != (e.slot < 0), "overflow bit")
	if e.slot >= 0 {
		home, second := r.sets(e)
		set := uint32(e.slot) / ways
		is(e.second && set != second || !e.second && set != home, fmt.Sprintf("in set %d, belongs to %d or %d", set, home, second))
	}
	return r.wrong(e, wrong)
}

func (r *rig) wrong(e *entry, what []string) error {
	if what == nil {
		return nil
	}
	return fmt.Errorf("%s, %v, %+v: %s", e.where, e.key, e.conn, strings.Join(what, ", "))
}

// protocolOf is whose state it is.
func protocolOf(state uint8) uint8 {
	switch {
	case state == StateUDP:
		return udpProto
	case state >= 32:
		return sctpProto
	default:
		return tcpProto
	}
}

// sets are the two sets of an entry's key.
func (r *rig) sets(e *entry) (first, second uint32) {
	places := both(family{vip: e.key.dst}, len(r.Conns4), len(r.Conns6))
	mask := uint32(places)/ways - 1
	first = uint32(e.home) / ways
	fingerprint := uint32(r.flowHash(e.key) >> 32)
	return first, (first ^ (fingerprint*0x9e3779b1>>7 | 1)) & mask
}

// check fails the test if the audit finds something.
func (r *rig) check(t testing.TB) {
	t.Helper()
	if err := r.audit(); err != nil {
		t.Errorf("audit:\n%v", err)
	}
}
