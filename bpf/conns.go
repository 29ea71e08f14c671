// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
)

const (
	tagFree = uint64(directorConnTagTAG_FREE)
	tagBusy = uint64(directorConnTagTAG_BUSY)
	tagUsed = uint64(directorConnTagTAG_USED)
	tagMask = uint64(directorConnTagTAG_MASK)

	tagSecond     = uint64(directorConnTagTAG_SECOND)
	tagVersionOne = uint64(1) << 16
	tagVersion    = uint64(0xffff) << 16

	movedSecond = uint32(1) << 8

	connDead       = uint32(directorConnStateCONN_DEAD)
	connControlled = uint32(directorConnFlagCONN_CONTROLLED)
	connSpliced    = uint32(directorConnFlagCONN_SPLICED)

	activeOne   = uint64(1)
	inactiveOne = uint64(1) << 32
)

// ConnState is the state of a connection, a number of enum conn_state.
func ConnState(c *Conn) uint8 { return uint8(c.Word &^ connDead) }

// ConnProtocol is the IP protocol of a connection.
func ConnProtocol(c *Conn) uint8 { return uint8(c.Tag >> 8) }

// ReadConn4 copies a connection, or a template, out of its slot; false if there is
// none, or if it changed hands meanwhile.
func ReadConn4(slot *Conn4) (c Conn4, ok bool) { return readSlot(slot, &slot.C) }

// ReadConn6 is ReadConn4 for IPv6.
func ReadConn6(slot *Conn6) (c Conn6, ok bool) { return readSlot(slot, &slot.C) }

func readSlot[T any](slot *T, head *Conn) (c T, ok bool) {
	tag := atomic.LoadUint64(&head.Tag)
	if tag&tagMask != tagUsed {
		return c, false
	}
	c = *slot
	word := atomic.LoadUint32(&head.Word)
	return c, atomic.LoadUint64(&head.Tag) == tag && word&connDead == 0 && !isWayBack(word)
}

// isWayBack reports whether an entry is no connection but leads replies to one.
func isWayBack(word uint32) bool {
	return uint8(word&^connDead) >= uint8(directorConnStateREPLY_NEW) && !isTemplate(word)
}

// IsTemplate reports whether an entry is no connection but a template, which
// persistence has made.
func IsTemplate(c *Conn) bool { return isTemplate(c.Word) }

func isTemplate(word uint32) bool {
	return uint8(word&^connDead) >= uint8(directorConnStateTEMPLATE_NONE)
}

// isActive is state_is_active of state.h.
func isActive(state uint8) bool {
	switch directorConnState(state) {
	case directorConnStateTCP_ESTABLISHED, directorConnStateTCP_SYN_SENT, directorConnStateTCP_SYN_RECV,
		directorConnStateTCP_SYNACK, directorConnStateSCTP_ESTABLISHED:
		return true
	}
	return false
}

// Free4 takes out the connection that ReadConn4 found in slot i; false if it is
// another one, or was used, meanwhile.
func (t *Tables) Free4(i int, c *Conn) bool { return t.table4().free(i, c.Tag, c.Word) }

// Free6 is Free4 for an IPv6 connection.
func (t *Tables) Free6(i int, c *Conn) bool { return t.table6().free(i, c.Tag, c.Word) }

func countOf(word uint32) uint64 {
	if isWayBack(word) || isTemplate(word) {
		return 0
	}
	if isActive(uint8(word &^ connDead)) {
		return activeOne
	}
	return inactiveOne
}

// Expired reports whether the time of the connection, or template, is over at
// now, in jiffies.
func (t *Tables) Expired(c *Conn, now uint32) bool {
	if IsTemplate(c) {
		return t.templateIdle(c, now) > 0
	}
	state := ConnState(c) % uint8(len(t.Settings.Timeout))
	idle := int32(now - atomic.LoadUint32(&c.LastUse))
	return idle > int32(atomic.LoadUint32(&t.Settings.Timeout[state]))
}

// leave gives back what a connection counted for its template and its real server.
func (t *Tables) leave(c *Conn, word uint32) {
	real := c.Real
	if word&connControlled != 0 {
		t.uncontrol(atomic.LoadUint64(&c.Link))
	}
	if int(real) >= len(t.Counts) {
		return
	}
	if isTemplate(word) {
		atomic.AddUint32(&t.Counts[real].Templates, ^uint32(0))
	}
	now := atomic.AddUint64(&t.Counts[real].Conns, -countOf(word))
	r := &t.Reals[real]
	if atomic.LoadUint32(&r.Flags)&RealOverloaded != 0 && uint64(uint32(now))+now>>32 < uint64(r.Lower) {
		atomic.AndUint32(&r.Flags, ^RealOverloaded)
	}
}

// table is one of the two connection tables, whatever the size of its slots.
type table struct {
	t    *Tables
	base unsafe.Pointer
	size uintptr
	n    int
}

func (t *Tables) table4() table {
	return table{t, unsafe.Pointer(unsafe.SliceData(t.Conns4)), unsafe.Sizeof(Conn4{}), len(t.Conns4)}
}

func (t *Tables) table6() table {
	return table{t, unsafe.Pointer(unsafe.SliceData(t.Conns6)), unsafe.Sizeof(Conn6{}), len(t.Conns6)}
}

// splice is where it stands what is translated of a connection in slot i, if a SYN cookie began it.
func (b table) splice(i int) *uint64 {
	if b.size == unsafe.Sizeof(Conn6{}) {
		return &b.t.Conns6[i].More
	}
	return &b.t.Splices4[i]
}

// slot is the head of slot i.
func (b table) slot(i int) *Conn { return (*Conn)(unsafe.Add(b.base, uintptr(i)*b.size)) }

// home is the place that the key of an entry in slot i belongs to.
func (b table) home(i int, tag uint64) int {
	fingerprint := uint32(tag >> 32)
	set := uint32(i) / ways
	if tag&tagSecond != 0 {
		set = b.other(set, fingerprint)
	}
	return int(set*ways + fingerprint%ways)
}

// free takes out the entry that was seen in slot i with tag and word, in the
// order of conn_retire (conn.h): dead, busy, home, count, free. False: the entry
// changed, or somebody else was faster.
func (b table) free(i int, tag uint64, word uint32) bool {
	c := b.slot(i)
	if word&connDead != 0 || !atomic.CompareAndSwapUint32(&c.Word, word, word|connDead) {
		return false
	}
	return b.freeDead(i, tag)
}

// freeDead goes on where the word is dead.
func (b table) freeDead(i int, tag uint64) bool {
	c := b.slot(i)
	if !atomic.CompareAndSwapUint64(&c.Tag, tag, tag&^tagMask|tagBusy) {
		return false
	}
	b.forget(i, tag)
	b.t.leave(c, atomic.LoadUint32(&c.Word))
	atomic.StoreUint64(&c.Tag, (tag+tagVersionOne)&tagVersion)
	return true
}

// forget tells the home of an entry in slot i that it is not there any more.
func (b table) forget(i int, tag uint64) {
	switch home := b.home(i, tag); {
	case tag&tagSecond != 0:
		atomic.AddUint32(&b.slot(home).HomeMoved, ^(movedSecond - 1))
	case home != i:
		atomic.AndUint32(&b.slot(home).HomeMoved, ^(1 << (uint32(i) % ways)))
	}
}

// LocalPorts is a range of local ports for full-NAT as the settings have it.
func LocalPorts(first, count uint16) uint32 { return uint32(first) | uint32(count)<<16 }

// keepWaysBack gives them no time of their own: they go with their connections.
// The time of a template is in its entry.
func (s *Settings) keepWaysBack() {
	for state := int(directorConnStateREPLY_NEW); state < len(s.Timeout); state++ {
		s.Timeout[state] = 1 << 30
	}
}

// target is the slot that a link leads to, and its tag; nil and 0 if another entry has it.
func (b table) target(link uint64) (c *Conn, tag uint64) {
	slot, version := int(uint32(link))-1, link>>uint(directorLinkLINK_VERSION)&0xffff
	if slot < 0 || slot >= b.n {
		return nil, 0
	}
	c = b.slot(slot)
	if tag = atomic.LoadUint64(&c.Tag); tag>>16&0xffff != version {
		return nil, 0
	}
	return c, tag
}

// linked is the entry that a link leads to; nil if it is gone.
func (b table) linked(link uint64) *Conn {
	c, tag := b.target(link)
	if tag&tagMask != tagUsed {
		return nil
	}
	return c
}

// leads reports whether the connection that a way back leads to is still there. It may be in the
// making: by full-NAT its way back is stored first.
func (b table) leads(c *Conn) bool {
	_, tag := b.target(atomic.LoadUint64(&c.Link))
	return tag&tagMask != tagFree
}

// Sweep frees expired connections, some slots at a time. It also finishes what a
// process that was killed in the middle of it has left half freed, and counts
// the connections of every real server on its way, see Recount.
type Sweep struct {
	table  table
	next   int
	before map[int]uint64 // tags of slots that were half freed at the last pass
	now    map[int]uint64 // and at this one
	tally  tally          // of this pass
	last   tally          // of the last one that was finished
	locals [2][Sources]uint64
	used   [2]int // places: of the last pass, of this one
	fired  *firedTemplates
}

// tally is what a pass has found, by real server.
type tally struct {
	conns     []uint64 // as RealCounts.Conns
	templates []uint32
	entries   Entries
}

// Entries are how many entries of a table are in each state, whose numbers are those of enum conn_state.
type Entries [directorConnStateCONN_DEAD]uint64

// WaysBack are the entries that lead replies to connections.
func (e *Entries) WaysBack() uint64 {
	return e[directorConnStateREPLY_NEW] + e[directorConnStateREPLY_PROVEN]
}

// Templates are those of persistence.
func (e *Entries) Templates() uint64 {
	return e[directorConnStateTEMPLATE_NONE] + e[directorConnStateTEMPLATE_ASSURED]
}

// Sum is all of them.
func (e *Entries) Sum() (n uint64) {
	for _, of := range e {
		n += of
	}
	return n
}

func newTally(reals int) tally {
	return tally{conns: make([]uint64, reals), templates: make([]uint32, reals)}
}

func (t *tally) clear() {
	clear(t.conns)
	clear(t.templates)
	t.entries = Entries{}
}

// NewSweep4 sweeps the IPv4 connections.
func NewSweep4(t *Tables) *Sweep { return newSweep(t.table4()) }

// NewSweep6 sweeps the IPv6 connections.
func NewSweep6(t *Tables) *Sweep { return newSweep(t.table6()) }

func newSweep(t table) *Sweep {
	return &Sweep{
		table: t, before: map[int]uint64{}, now: map[int]uint64{},
		tally: newTally(len(t.t.Reals)), last: newTally(len(t.t.Reals)), fired: &firedTemplates{},
	}
}

// Next looks at n more slots at the time now, in jiffies. It returns how many
// connections it freed, and whether it reached the last slot; then it begins
// again.
func (s *Sweep) Next(now uint32, n int) (freed int, passed bool) {
	for range min(n, s.table.n-s.next) {
		if s.one(s.next, now) {
			freed++
		}
		s.next++
	}
	if s.next < s.table.n {
		return freed, false
	}
	s.next = 0
	s.before, s.now = s.now, map[int]uint64{}
	s.tally, s.last = s.last, s.tally
	s.tally.clear()
	s.locals[0], s.locals[1] = s.locals[1], [Sources]uint64{}
	s.used[0], s.used[1] = s.used[1], 0
	return freed, true
}

func (s *Sweep) one(i int, now uint32) bool {
	c := s.table.slot(i)
	tag := atomic.LoadUint64(&c.Tag)
	word := atomic.LoadUint32(&c.Word)
	if tag&tagMask == tagFree {
		return false
	}
	s.used[1]++
	if s.entry(i, c, tag, word, now) {
		return true
	}
	if tag&tagMask == tagUsed && word&connDead == 0 {
		s.tally.entries[uint8(word)]++
	}
	return false
}

// entry frees an entry that has to go, and counts one that stays.
func (s *Sweep) entry(i int, c *Conn, tag uint64, word, now uint32) (freed bool) {
	switch {
	case tag&tagMask == tagBusy || word&connDead != 0:
		return s.halfFreed(i, tag)
	case isWayBack(word):
		return !s.table.leads(c) && s.table.free(i, tag, word)
	case isTemplate(word):
		return s.template(i, tag, word, now)
	case s.table.t.Expired(c, now):
		return s.table.free(i, tag, word)
	}
	if real := int(c.Real); real < len(s.tally.conns) {
		s.tally.conns[real] += countOf(word)
	}
	if word&connControlled != 0 {
		s.fired.found(c)
	}
	s.locals[1][c.Source]++
	return false
}

// Entries are those that the last pass left in the table.
func (s *Sweep) Entries() *Entries { return &s.last.entries }

// Locals is how many connections the last pass found that have the source of a
// number; those of number 0 have none.
func (s *Sweep) Locals(source uint8) uint64 { return s.locals[0][source] }

// Used is how many places the last pass found in use.
func (s *Sweep) Used() int { return s.used[0] }

// halfFreed finishes what has not moved for a whole pass: a packet takes less
// than a microsecond for it.
func (s *Sweep) halfFreed(i int, tag uint64) bool {
	if s.before[i] != tag {
		s.now[i] = tag
		return false
	}
	if tag&tagMask == tagUsed {
		return s.table.freeDead(i, tag)
	}
	// Whether it was uncounted is not known: Recount finds out.
	atomic.StoreUint64(&s.table.slot(i).Tag, (tag+tagVersionOne)&tagVersion)
	return true
}

// Overflow calls yield for each connection that found no place in the tables,
// until it returns false. The values are copies.
func (d *DataPlane) Overflow(yield func(*ConnKey, *Conn) bool) error {
	var key ConnKey
	var c Conn
	entries := d.objects.Maps[directorMapOverflow].Iterate()
	for entries.Next(&key, &c) {
		if !yield(&key, &c) {
			return nil
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list overflow connections: %w", err)
	}
	return nil
}

// SweepOverflow frees the expired ones among them.
func (d *DataPlane) SweepOverflow() error {
	if _, err := d.objects.Programs[directorProgSweepOverflow].Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("sweep overflow connections: %w", err)
	}
	return nil
}

// FreeOverflow takes out a connection that found no place in the tables; one
// that is not there is no error.
func (d *DataPlane) FreeOverflow(key *ConnKey) error {
	if _, err := d.objects.Programs[directorProgFreeOverflow].Run(&ebpf.RunOptions{Context: key}); err != nil {
		return fmt.Errorf("free overflow connection: %w", err)
	}
	return nil
}

// Verdicts are the packets counted under each verdict since the tables exist,
// by its name in lower case.
func (d *DataPlane) Verdicts() (map[string]uint64, error) {
	counts := make(map[string]uint64, len(verdictNames()))
	perCPU := make([]uint64, d.Tables.CPUs)
	for i, name := range verdictNames() {
		if err := d.objects.Maps[directorMapVerdicts].Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read verdict %s: %w", name, err)
		}
		for _, n := range perCPU {
			counts[name] += n
		}
	}
	return counts, nil
}
