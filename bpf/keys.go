// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"sync/atomic"
)

// Key is what packets of a service are known by.
type Key struct {
	Addr     netip.Addr
	Port     uint16 // host byte order; 0: any
	Protocol uint8
	Mark     uint32 // not 0: a firewall mark; Addr is unspecified, and the rest 0
	Sorry    bool   // the sorry servers of the service with this key; stored to be found again, not by packets
}

// ErrFull is returned when a table has no room left.
var ErrFull = errors.New("table is full")

// KeyTable writes the look-up of services: the filter, which tells at the cost
// of one load that a packet is no service's, and the table behind it. It is
// not safe for concurrent use; packets may look up at any moment.
type KeyTable struct {
	t      *Tables
	refs   map[uint64]int // how many keys stand behind a bit of the filter
	nat    int            // real servers by nat that are marked
	marked []Key          // what marking rules have told the filter
	natAny int            // and those of them whose replies may come from any port
	tun    int            // real servers by tun
}

// NewKeyTable takes over what the tables hold already, and repairs the filter.
func NewKeyTable(t *Tables) *KeyTable {
	k := &KeyTable{t: t, refs: map[uint64]int{}}
	for _, e := range k.All() {
		k.refs[filterBit(e.Key.hash())]++
	}
	for i := range t.Reals {
		switch r := &t.Reals[i]; {
		case r.isNAT():
			k.nat++
			if t.Services[r.Service].anyPort() {
				k.natAny++
			}
			for _, key := range t.replyKeys(r) {
				k.refs[filterBit(key.hash())]++
			}
		case r.isTunnel():
			k.tun++
		}
	}
	k.tellMethods()
	if t.Settings.Marking != MarksNone { // what the filter knew of marks is lost until they are set again
		atomic.StoreUint32(&t.Settings.Marking, MarksAny)
	}
	k.repairFilter()
	return k
}

// isNAT reports whether it is the row of a real server by nat or fullnat.
func (r *Real) isNAT() bool {
	switch directorForwardMethod(r.Method) {
	case directorForwardMethodMETHOD_NAT, directorForwardMethodMETHOD_FULLNAT:
		return r.Addr != [16]byte{}
	}
	return false
}

// isTunnel is isNAT for tun.
func (r *Real) isTunnel() bool {
	return r.Method == uint8(directorForwardMethodMETHOD_TUN) && r.Addr != [16]byte{}
}

// natProtocol is NAT_PROTOCOL of nat.h.
const natProtocol = 0x80

// replyKeys are what packets that a real server sends may be known by: those of
// its port, or of any port where the service has several, and, for fragments,
// all of its address.
func (t *Tables) replyKeys(r *Real) []Key {
	s := &t.Services[r.Service]
	addr, icmp := netip.AddrFrom16(r.Addr).Unmap(), uint8(1)
	if addr.Is6() {
		icmp = 58
	}
	keys := []Key{{Addr: addr, Protocol: icmp | natProtocol}}
	switch {
	case s.Mark != 0:
		for _, protocol := range []uint8{protoTCP, protoUDP, protoSCTP} {
			keys = append(keys, Key{Addr: addr, Protocol: protocol | natProtocol})
		}
	case s.anyPort():
		keys = append(keys, Key{Addr: addr, Protocol: s.Protocol | natProtocol})
	default:
		keys = append(keys, Key{Addr: addr, Port: bits.ReverseBytes16(r.Port), Protocol: s.Protocol | natProtocol})
	}
	return keys
}

// Numbers of the protocols that services have.
const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// anyPort reports whether the service's connections have other ports than its own:
// it has none, or is an FTP service that may have persistence.
func (s *Service) anyPort() bool {
	return s.Port == 0 || s.Port == bits.ReverseBytes16(21) && s.Protocol == protoTCP
}

// MarkReal lets packets look for the replies of a real server, if it is one by
// nat, and for errors about its tunnel, if it is one by tun. Its row must be written, with the service's protocol. They are in the
// filter only, so there is always room.
func (k *KeyTable) MarkReal(r *Real) { k.markReal(r, 1) }

// UnmarkReal undoes MarkReal; the row must still be what it was.
func (k *KeyTable) UnmarkReal(r *Real) { k.markReal(r, -1) }

func (k *KeyTable) markReal(r *Real, by int) {
	switch {
	case r.isNAT():
		k.nat += by
		if k.t.Services[r.Service].anyPort() {
			k.natAny += by
		}
		for _, key := range k.t.replyKeys(r) {
			k.count(key, by)
		}
	case r.isTunnel():
		k.tun += by
	}
	k.tellMethods()
}

// tellMethods spares packets the question where no real server is by nat, a
// second one where the ports of their replies are known, and where none is by tun.
func (k *KeyTable) tellMethods() {
	atomic.StoreUint32(&k.t.Settings.NatAnyPort, uint32(min(k.natAny, 1)))
	atomic.StoreUint32(&k.t.Settings.Nat, uint32(min(k.nat, 1)))
	atomic.StoreUint32(&k.t.Settings.Tunnels, uint32(min(k.tun, 1)))
}

// count notes one key more, or less, behind a bit of the filter.
func (k *KeyTable) count(key Key, by int) {
	bit := filterBit(key.hash())
	if k.refs[bit] += by; k.refs[bit] == 0 {
		delete(k.refs, bit)
	}
	k.storeFilterWord(bit / 64)
}

// KeyEntry is a key and the id of its service.
type KeyEntry struct {
	Key     Key
	Service uint32
}

// All returns what is stored.
func (k *KeyTable) All() []KeyEntry {
	var all []KeyEntry
	for b := range k.t.Keys {
		for w := range k.t.Keys[b].Key {
			slot := &k.t.Keys[b].Key[w]
			if slot.Id != 0 {
				all = append(all, KeyEntry{slot.key(), slot.Id - 1})
			}
		}
	}
	return all
}

func (s *ServiceKey) key() Key {
	protocol, sorry := s.Protocol&^sorryProtocol, s.Protocol&sorryProtocol != 0
	if protocol != 0 {
		return Key{Addr: netip.AddrFrom16(s.Addr).Unmap(), Port: bits.ReverseBytes16(s.Port), Protocol: protocol, Sorry: sorry}
	}
	addr := s.Addr
	clear(addr[:4])
	return Key{Addr: netip.AddrFrom16(addr).Unmap(), Mark: binary.BigEndian.Uint32(s.Addr[:]), Sorry: sorry}
}

// sorryProtocol makes a key that no service has: no protocol of services has the bit.
const sorryProtocol = 0x40

// protocol is the stored one.
func (k Key) protocol() uint8 {
	if k.Sorry {
		return k.Protocol | sorryProtocol
	}
	return k.Protocol
}

// addr is what stands for the key's address, and for a mark: see mark_query in service.h.
func (k Key) addr() [16]byte {
	addr := k.Addr.As16()
	if k.Mark != 0 {
		binary.BigEndian.PutUint32(addr[:], k.Mark)
	}
	return addr
}

// Set stores key, or changes the service of one that is stored. The table
// comes first, then the filter, so that no packet finds half of it.
func (k *KeyTable) Set(key Key, service uint32) error {
	if slot := k.find(key); slot != nil {
		atomic.StoreUint32(&slot.Id, service+1)
		return nil
	}
	if err := k.place(key, service); err != nil {
		return err
	}
	k.count(key, 1)
	return nil
}

// place stores a key that is not stored, and tells the filter nothing.
func (k *KeyTable) place(key Key, service uint32) error {
	slot := k.room(key)
	if slot == nil {
		return fmt.Errorf("store service key %v: %w", key, ErrFull)
	}
	slot.Addr, slot.Port, slot.Protocol = key.addr(), bits.ReverseBytes16(key.Port), key.protocol()
	atomic.StoreUint32(&slot.Id, service+1)
	return nil
}

// Delete removes key; one that is not stored is no error.
func (k *KeyTable) Delete(key Key) {
	slot := k.find(key)
	if slot == nil {
		return
	}
	atomic.StoreUint32(&slot.Id, 0)
	k.count(key, -1)
}

// Repair makes what is stored the wanted keys and services, which this KeyTable has stored before, and the
// filter what it should be. It returns how many entries and words others had changed.
func (k *KeyTable) Repair(want map[Key]uint32) (repaired int) {
	have := make(map[Key]bool, len(want))
	for b := range k.t.Keys {
		for w := range k.t.Keys[b].Key {
			slot := &k.t.Keys[b].Key[w]
			if slot.Id == 0 {
				continue
			}
			key := slot.key()
			service, wanted := want[key]
			misplaced := !wanted || have[key] || k.find(key) != slot
			switch {
			case misplaced:
				atomic.StoreUint32(&slot.Id, 0)
			case slot.Id != service+1:
				atomic.StoreUint32(&slot.Id, service+1)
				have[key] = true
			default:
				have[key] = true
				continue
			}
			repaired++
		}
	}
	for key, service := range want {
		if !have[key] && k.place(key, service) == nil {
			repaired++
		}
	}
	return repaired + k.repairFilter()
}

func (k *KeyTable) repairFilter() (repaired int) {
	words := make([]uint64, len(k.t.Filter))
	for bit := range k.refs {
		words[bit/64] |= 1 << (bit % 64)
	}
	for i, word := range words {
		if atomic.LoadUint64(&k.t.Filter[i]) != word {
			atomic.StoreUint64(&k.t.Filter[i], word)
			repaired++
		}
	}
	return repaired
}

// storeFilterWord writes 64 bits of the filter as refs says.
func (k *KeyTable) storeFilterWord(word uint64) {
	var value uint64
	for bit := range uint64(64) {
		if k.refs[word*64+bit] > 0 {
			value |= 1 << bit
		}
	}
	if atomic.LoadUint64(&k.t.Filter[word]) != value {
		atomic.StoreUint64(&k.t.Filter[word], value)
	}
}

func (k *KeyTable) buckets(key Key) (*Bucket, *Bucket) {
	h, mask := key.hash(), uint64(len(k.t.Keys)-1)
	return &k.t.Keys[h&mask], &k.t.Keys[uint64(secondBucket(h))&mask]
}

func (k *KeyTable) find(key Key) *ServiceKey {
	first, second := k.buckets(key)
	for _, b := range []*Bucket{first, second} {
		for w := range b.Key {
			if slot := &b.Key[w]; slot.Id != 0 && slot.key() == key {
				return slot
			}
		}
	}
	return nil
}

// room is a free slot in the emptier one of the key's buckets.
func (k *KeyTable) room(key Key) *ServiceKey {
	first, second := k.buckets(key)
	slot, n := first.room()
	if other, m := second.room(); m > n {
		return other
	}
	return slot
}

func (b *Bucket) room() (slot *ServiceKey, n int) {
	for w := range b.Key {
		if b.Key[w].Id == 0 {
			slot = &b.Key[w]
			n++
		}
	}
	return slot, n
}

// hash is service_hash of service.h.
func (k Key) hash() uint64 {
	addr := k.addr()
	hi, lo := binary.LittleEndian.Uint64(addr[:8]), binary.LittleEndian.Uint64(addr[8:])
	ends := uint64(bits.ReverseBytes16(k.Port)) | uint64(k.protocol())<<16
	h := (hi ^ lo<<32) * 0x9e3779b97f4a7c15
	h = (h + (lo>>32 | ends<<32)) * 0xbf58476d1ce4e5b9
	return h ^ h>>32
}

func filterBit(hash uint64) uint64 {
	return hash>>6&(uint64(directorLimitFILTER_WORDS)-1)*64 + hash&63
}
