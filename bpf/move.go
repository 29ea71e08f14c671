// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net/netip"
	"runtime"
	"sync/atomic"
	"unsafe"
)

// mover carries the entries of connection tables over to others, while packets go on using the former
// ones, and at last the new ones. It is told to look again and again: each pass carries what is new
// since the last one, and what has changed.
type mover struct {
	from, to *Tables
	families [2]familyMove
	overflow map[ConnKey]bool // that were carried
	spill    func(*ConnKey, *Conn) error
	words    *vocabulary // nil: all that entries say is known
	gone     []Conn      // entries that were not carried, or are counted twice: their counts are still to be given back
	n        Moved
}

// Moved is what tables of other sizes, or of another version, took over.
type Moved struct {
	Connections, Templates int
	Lost                   int  // entries that found no room, or say what this version does not know
	Rows                   bool // another version has written them, and laid rows out otherwise
	// Left are fields that the other version had, and this one has no place for.
	Left []string
}

// familyMove is one of the two tables.
type familyMove struct {
	from formerConns
	to   table
	key  uintptr // bytes of the addresses behind the head
	at   []carried
}

// carried is what became of a slot of the former table.
type carried struct {
	tag   uint64 // of the entry when it was carried; 0: none was
	link  uint64 // and what else it had then
	word  uint32
	place int32  // in the new table
	now   uint64 // its tag there; 0: there is none, or one that packets have made anew
}

// newMover: spill puts an entry into the new overflow map.
func newMover(old, new *DataPlane, spill func(*ConnKey, *Conn) error, words *vocabulary) (*mover, error) {
	const addrs4, addrs6 = 8, 32 // bytes of two addresses
	from, to := old.Tables, new.Tables
	from4, err4 := old.formerConns4()
	from6, err6 := old.formerConns6()
	return &mover{from: from, to: to, overflow: map[ConnKey]bool{}, spill: spill, words: words, families: [2]familyMove{
		{from4, to.table4(), addrs4, make([]carried, from4.n)},
		{from6, to.table6(), addrs6, make([]carried, from6.n)},
	}}, errors.Join(err4, err6)
}

// pass carries what the tables hold. Templates come first, since connections name their places, and
// connections before their ways back.
func (m *mover) pass() {
	var later [2][2][]int // connections, ways back; by family
	for f := range m.families {
		for i := range m.families[f].at {
			c, ok := m.families[f].read(i)
			switch {
			case !ok:
				m.families[f].drop(i)
			case isTemplate(c.head.Word):
				m.carry(f, i, &c)
			case isWayBack(c.head.Word):
				later[1][f] = append(later[1][f], i)
			default:
				later[0][f] = append(later[0][f], i)
			}
		}
	}
	for _, kind := range later {
		for f, slots := range kind {
			for _, i := range slots {
				if c, ok := m.families[f].read(i); ok {
					m.carry(f, i, &c)
				}
			}
		}
	}
}

// copied is a copy of an entry, whatever its family.
type copied struct {
	head   Conn
	rest   [unsafe.Sizeof(Conn6{}) - unsafe.Sizeof(Conn{})]byte
	splice uint64
}

// read copies a slot's entry; false if there is none.
func (f *familyMove) read(i int) (c copied, ok bool) {
	slot := f.from.entry(i)
	at := (*uint64)(unsafe.Add(slot, f.from.tag))
	tag := atomic.LoadUint64(at)
	if tag&tagMask != tagUsed {
		return c, false
	}
	to, from := unsafe.Slice((*byte)(unsafe.Pointer(&c)), unsafe.Sizeof(Conn6{})), unsafe.Slice((*byte)(slot), f.from.size)
	if f.from.other == nil {
		copy(to, from)
		c.head.Word = atomic.LoadUint32(&(*Conn)(slot).Word)
	} else {
		f.from.other.cast.row(to, from)
	}
	c.splice = f.spliced(&c, i)
	return c, atomic.LoadUint64(at) == tag && c.head.Tag == tag && c.head.Word&connDead == 0
}

// spliced is what is translated of the connection that was read from slot i, if a SYN cookie began it.
func (f *familyMove) spliced(c *copied, i int) uint64 {
	if six := (*Conn6)(unsafe.Pointer(c)); f.key == unsafe.Sizeof(six.Saddr)+unsafe.Sizeof(six.Daddr) {
		return six.More
	}
	if i >= len(f.from.t.Splices4) {
		return 0 // another version may have none
	}
	return atomic.LoadUint64(&f.from.t.Splices4[i])
}

// carry brings the entry of a slot to the new table, or up to date there.
func (m *mover) carry(f, i int, c *copied) {
	family := &m.families[f]
	at := &family.at[i]
	if at.tag == c.head.Tag {
		family.refresh(at, c)
		return
	}
	family.drop(i)
	hash := m.from.Settings.flowHash(&c.head, c.rest[:family.key])
	if uint32(hash>>32) != uint32(c.head.Tag>>32) {
		return // it changed hands while it was read: the next pass finds the new one
	}
	*at = carried{tag: c.head.Tag, link: c.head.Link, word: c.head.Word}
	if !m.words.knows(c.head.Word) {
		m.n.Lost++
		m.gone = append(m.gone, c.head)
		return
	}
	m.relink(f, &c.head)
	place, tag := family.to.store(c, family.key, hash)
	switch {
	case tag != 0:
		at.place, at.now = int32(place), tag
		m.count(c.head.Word)
	case place < 0 && m.spills(family, c, hash):
		m.count(c.head.Word)
	default:
		if place < 0 {
			m.n.Lost++
		} else {
			m.uncount(&c.head)
		}
		m.gone = append(m.gone, c.head)
	}
}

// giveBack uncounts what was not carried, when all counts are those of the new tables.
func (m *mover) giveBack() {
	for i := range m.gone {
		m.to.leave(&m.gone[i], m.gone[i].Word&^connControlled)
	}
}

// uncount takes back that a connection was made, since packets have made, and counted, it anew.
func (m *mover) uncount(c *Conn) {
	t := m.to
	if row := int(c.Real) * t.CPUs; countOf(c.Word) != 0 && row < len(t.Traffic) {
		atomic.AddUint64(&t.Traffic[row].N.Conns, ^uint64(0))
	}
}

// spills puts a connection that found no place into the overflow map, if it may lie there: nothing refers to it.
func (m *mover) spills(f *familyMove, c *copied, hash uint64) bool {
	word := c.head.Word
	if isTemplate(word) || isWayBack(word) || word&connControlled != 0 || int(c.head.Real) >= len(m.from.Reals) || m.from.Reals[c.head.Real].isNAT() {
		return false
	}
	key := ConnKey{Ports: c.head.Ports, Protocol: uint32(ConnProtocol(&c.head))}
	if f.key == unsafe.Sizeof(key.Saddr)+unsafe.Sizeof(key.Daddr) {
		copy(key.Saddr[:], c.rest[:16])
		copy(key.Daddr[:], c.rest[16:32])
	} else {
		key.Saddr, key.Daddr = mapped(c.rest[:4]), mapped(c.rest[4:8])
	}
	const one, most = uint32(1) << 16, uint32(0xff) << 16
	set, fingerprint := uint32(hash)&(uint32(f.to.n)/ways-1), uint32(hash>>32)
	home := f.to.slot(int(set*ways + fingerprint%ways))
	defer lockHome(home)()
	row := c.head
	row.Tag = hash&^0xffffffff | row.Tag&0xff00 | tagUsed | uint64(directorConnTagTAG_OVERFLOW) | uint64(row.LastUse)<<16&tagVersion
	row.HomeLock, row.HomeMoved, row.Word = 0, 0, word&0xffffff
	if atomic.LoadUint32(&home.HomeMoved) >= most || m.spill(&key, &row) != nil {
		return false
	}
	atomic.AddUint32(&home.HomeMoved, one)
	return true
}

func mapped(v4 []byte) [16]byte { return netip.AddrFrom4([4]byte(v4)).As16() }

// outside carries a connection of the former overflow map.
func (m *mover) outside(key *ConnKey, row *Conn) {
	if m.overflow[*key] {
		return
	}
	m.overflow[*key] = true
	c := &copied{head: *row}
	if !m.words.knows(row.Word) {
		m.n.Lost++
		m.gone = append(m.gone, *row)
		return
	}
	f := &m.families[1]
	if src := netip.AddrFrom16(key.Saddr); src.Is4In6() {
		f = &m.families[0]
		src4, dst4 := src.Unmap().As4(), netip.AddrFrom16(key.Daddr).Unmap().As4()
		copy(c.rest[:], src4[:])
		copy(c.rest[4:], dst4[:])
	} else {
		copy(c.rest[:], key.Saddr[:])
		copy(c.rest[16:], key.Daddr[:])
	}
	hash := m.from.Settings.flowHash(&c.head, c.rest[:f.key])
	place, tag := f.to.store(c, f.key, hash)
	if tag != 0 || place < 0 && m.spills(f, c, hash) {
		m.count(row.Word)
		return
	}
	m.gone = append(m.gone, *row)
}

func (m *mover) count(word uint32) {
	switch {
	case isTemplate(word):
		m.n.Templates++
	case !isWayBack(word):
		m.n.Connections++
	}
}

// relink makes an entry name the new place of the one that it is linked to.
func (m *mover) relink(f int, c *Conn) {
	target := f
	switch {
	case isTemplate(c.Word):
		return // its link tells its own version, which store knows
	case c.Word&connControlled != 0:
		target = int(c.Link >> uint(directorLinkLINK_V6) & 1)
	case !isWayBack(c.Word):
		return
	}
	t := &m.families[target]
	high := c.Link >> 48 << 48
	slot, version := int(uint32(c.Link))-1, c.Link>>uint(directorLinkLINK_VERSION)&0xffff
	if slot >= 0 && slot < len(t.at) && t.at[slot].now != 0 && t.at[slot].tag>>16&0xffff == version {
		at := &t.at[slot]
		c.Link = high | at.now>>16&0xffff<<uint(directorLinkLINK_VERSION) | uint64(at.place+1)
		return
	}
	c.Link, c.Word = high, c.Word&^connControlled
}

// refresh brings an entry that was carried up to date, as far as packets have not done it.
func (f *familyMove) refresh(at *carried, from *copied) {
	if at.now == 0 {
		return
	}
	c, to := &from.head, f.to.slot(int(at.place))
	if atomic.LoadUint64(&to.Tag) != at.now {
		return
	}
	if s := f.to.splice(int(at.place)); c.Word&connSpliced != 0 {
		was := atomic.LoadUint64(s)
		if was&uint64(directorSplicePartSPLICE_ANSWERED) == 0 { // the real server may have answered meanwhile
			atomic.CompareAndSwapUint64(s, was, from.splice)
		}
	}
	if c.Word != at.word {
		// What store and relink made of flags and version stays.
		now := atomic.LoadUint32(&to.Word)
		changed := (c.Word ^ at.word) & 0xffffff &^ connControlled
		if uint8(now) == uint8(at.word) && atomic.CompareAndSwapUint32(&to.Word, now, now^changed) {
			at.word = c.Word
		}
	}
	if last := atomic.LoadUint32(&to.LastUse); int32(c.LastUse-last) > 0 {
		atomic.StoreUint32(&to.LastUse, c.LastUse)
		to.Packets = max(to.Packets, c.Packets)
	}
	if isTemplate(c.Word) && c.Link != at.link {
		const fields = uint64(1)<<48 - 1 // but for the version
		by := c.Link&fields - at.link&fields
		for {
			old := atomic.LoadUint64(&to.Link)
			if atomic.CompareAndSwapUint64(&to.Link, old, old&^fields|(old+by)&fields) {
				break
			}
		}
		at.link = c.Link
	}
}

// drop takes an entry out again whose original is gone. Packets have uncounted that.
func (f *familyMove) drop(i int) {
	at := &f.at[i]
	if at.now != 0 {
		if word := atomic.LoadUint32(&f.to.slot(int(at.place)).Word); uint8(word) == uint8(at.word) {
			f.to.discard(int(at.place), at.now, word)
		}
	}
	*at = carried{}
}

// discard is free without uncounting.
func (b table) discard(i int, tag uint64, word uint32) {
	c := b.slot(i)
	if word&connDead != 0 || !atomic.CompareAndSwapUint32(&c.Word, word, word|connDead) ||
		!atomic.CompareAndSwapUint64(&c.Tag, tag, tag&^tagMask|tagBusy) {
		return
	}
	b.forget(i, tag)
	atomic.StoreUint64(&c.Tag, (tag+tagVersionOne)&tagVersion)
}

// store puts an entry where packets look for it, in the order of conn_store (conn.h): place is its slot, -1
// if there is no room, and tag what it has there, 0 if packets have stored one with its key.
func (b table) store(c *copied, key uintptr, hash uint64) (place int, tag uint64) {
	fingerprint := uint32(hash >> 32)
	set := uint32(hash) & (uint32(b.n)/ways - 1)
	home := b.slot(int(set*ways + fingerprint%ways))
	unlock := lockHome(home)
	defer unlock()
	second := b.other(set, fingerprint)
	want := hash&^0xffffffff | c.head.Tag&0xff00 | tagUsed
	if place := b.holds(c, key, want, set, second); place >= 0 {
		return place, 0
	}
	if place, tag = b.claim(int(set*ways+fingerprint%ways), set, second); place < 0 {
		return -1, 0
	}
	switch {
	case tag&tagSecond != 0:
		atomic.AddUint32(&home.HomeMoved, movedSecond)
	case b.slot(place) != home:
		atomic.OrUint32(&home.HomeMoved, 1<<(uint32(place)%ways))
	}
	b.fill(place, c, tag)
	tag = want | tag&(tagVersion|tagSecond)
	atomic.StoreUint64(&b.slot(place).Tag, tag)
	return place, tag
}

// lockHome waits for the lock of a home: who holds it needs it for less than a microsecond.
func lockHome(home *Conn) (unlock func()) {
	for {
		lock := atomic.LoadUint32(&home.HomeLock)
		if lock&1 == 0 && atomic.CompareAndSwapUint32(&home.HomeLock, lock, lock+1) {
			return func() { atomic.StoreUint32(&home.HomeLock, lock+2) }
		}
		runtime.Gosched()
	}
}

// other is the second set of a key.
func (b table) other(set, fingerprint uint32) uint32 {
	return (set ^ (fingerprint*0x9e3779b1>>7 | 1)) & (uint32(b.n)/ways - 1)
}

// holds is the slot of the two sets that has the key already; -1: none.
func (b table) holds(c *copied, key uintptr, want uint64, sets ...uint32) int {
	const ofKey = ^uint64(0xffffffff) | 0xff00 | tagMask
	for _, set := range sets {
		for i := int(set * ways); i < int(set*ways+ways); i++ {
			s := b.slot(i)
			rest := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(s), unsafe.Sizeof(Conn{}))), key)
			if atomic.LoadUint64(&s.Tag)&ofKey == want && s.Ports == c.head.Ports && string(rest) == string(c.rest[:key]) {
				return i
			}
		}
	}
	return -1
}

// claim takes a slot: home, or one of the first set while that is not crowded. tag: what it holds then.
func (b table) claim(home int, first, second uint32) (place int, tag uint64) {
	if tag, ok := b.seize(home, tagBusy); ok {
		return home, tag
	}
	free, other := b.freeWays(first), b.freeWays(second)
	order := []uint32{first, second}
	if bits.OnesCount32(free) < 2 && bits.OnesCount32(other) > bits.OnesCount32(free) {
		order = []uint32{second, first}
	}
	for _, set := range order {
		mark := tagBusy
		if set == second {
			mark |= tagSecond
		}
		for i := int(set * ways); i < int(set*ways+ways); i++ {
			if tag, ok := b.seize(i, mark); ok {
				return i, tag
			}
		}
	}
	return -1, 0
}

// seize claims a free slot.
func (b table) seize(i int, mark uint64) (tag uint64, ok bool) {
	c := b.slot(i)
	tag = atomic.LoadUint64(&c.Tag)
	if tag&tagMask != tagFree {
		return 0, false
	}
	claimed := tag&tagVersion | mark
	return claimed, atomic.CompareAndSwapUint64(&c.Tag, tag, claimed)
}

// freeWays are those of a set, as bits.
func (b table) freeWays(set uint32) (free uint32) {
	for i := range ways {
		if atomic.LoadUint64(&b.slot(int(set*ways+i)).Tag)&tagMask == tagFree {
			free |= 1 << i
		}
	}
	return free
}

// fill writes a claimed slot, but for its tag and what is not the entry's.
func (b table) fill(i int, c *copied, tag uint64) {
	s := b.slot(i)
	version := tag >> 16 & 0xffff
	head := c.head
	head.Tag, head.HomeLock, head.HomeMoved = tag, s.HomeLock, s.HomeMoved
	head.Word = head.Word&0xffffff | uint32(version)<<24
	if isTemplate(head.Word) {
		head.Link = head.Link&(1<<templateVersion-1) | version<<templateVersion
	}
	s.Ports, s.Real, s.Generation, s.LastUse = head.Ports, head.Real, head.Generation, head.LastUse
	s.Packets, s.Source, s.Port, s.Peer, s.Ingress = head.Packets, head.Source, head.Port, head.Peer, head.Ingress
	copy(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(s), unsafe.Sizeof(Conn{}))), b.size-unsafe.Sizeof(Conn{})), c.rest[:])
	atomic.StoreUint64(&s.Link, head.Link)
	if head.Word&connSpliced != 0 {
		atomic.StoreUint64(b.splice(i), c.splice)
	}
	atomic.StoreUint32(&s.Word, head.Word)
}

// flowHash is flow_hash of hash.h. addr are the addresses as they lie in the entry.
func (s *Settings) flowHash(c *Conn, addr []byte) uint64 {
	key := &s.HashKey
	h := uint64(c.Ports+key.Word[0]) * uint64(uint32(ConnProtocol(c))+key.Word[1])
	for i := 0; i < len(addr); i += 8 {
		a, b := binary.NativeEndian.Uint32(addr[i:]), binary.NativeEndian.Uint32(addr[i+4:])
		h += uint64(a+key.Word[2+i/4]) * uint64(b+key.Word[3+i/4])
	}
	h = (h ^ h>>32) * key.Factor
	return h ^ h>>32
}
