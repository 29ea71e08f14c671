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
}

// ErrFull is returned when a table has no room left.
var ErrFull = errors.New("table is full")

// KeyTable writes the look-up of services: the filter, which tells at the cost
// of one load that a packet is no service's, and the table behind it. It is
// not safe for concurrent use; packets may look up at any moment.
type KeyTable struct {
	t    *Tables
	refs map[uint64]int // how many keys stand behind a bit of the filter
}

// NewKeyTable takes over what the tables hold already, and repairs the filter.
func NewKeyTable(t *Tables) *KeyTable {
	k := &KeyTable{t: t, refs: map[uint64]int{}}
	for _, e := range k.All() {
		k.refs[filterBit(e.Key.hash())]++
	}
	words := make([]uint64, len(t.Filter))
	for bit := range k.refs {
		words[bit/64] |= 1 << (bit % 64)
	}
	for i, word := range words {
		if t.Filter[i] != word {
			atomic.StoreUint64(&t.Filter[i], word)
		}
	}
	return k
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
	return Key{netip.AddrFrom16(s.Addr).Unmap(), bits.ReverseBytes16(s.Port), s.Protocol}
}

// Set stores key, or changes the service of one that is stored. The table
// comes first, then the filter, so that no packet finds half of it.
func (k *KeyTable) Set(key Key, service uint32) error {
	if slot := k.find(key); slot != nil {
		atomic.StoreUint32(&slot.Id, service+1)
		return nil
	}
	slot := k.room(key)
	if slot == nil {
		return fmt.Errorf("store service key %v: %w", key, ErrFull)
	}
	slot.Addr, slot.Port, slot.Protocol = key.Addr.As16(), bits.ReverseBytes16(key.Port), key.Protocol
	atomic.StoreUint32(&slot.Id, service+1)
	bit := filterBit(key.hash())
	k.refs[bit]++
	k.storeFilterWord(bit / 64)
	return nil
}

// Delete removes key; one that is not stored is no error.
func (k *KeyTable) Delete(key Key) {
	slot := k.find(key)
	if slot == nil {
		return
	}
	atomic.StoreUint32(&slot.Id, 0)
	bit := filterBit(key.hash())
	if k.refs[bit]--; k.refs[bit] == 0 {
		delete(k.refs, bit)
	}
	k.storeFilterWord(bit / 64)
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
	return &k.t.Keys[h&mask], &k.t.Keys[h*0x9e3779b97f4a7c15>>32&mask]
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
	addr := k.Addr.As16()
	hi, lo := binary.LittleEndian.Uint64(addr[:8]), binary.LittleEndian.Uint64(addr[8:])
	ends := uint64(bits.ReverseBytes16(k.Port)) | uint64(k.Protocol)<<16
	h := lo ^ hi*0x9e3779b97f4a7c15
	h = ((h ^ h>>32) + ends*0x94d049bb133111eb) * 0xbf58476d1ce4e5b9
	return h ^ h>>32
}

func filterBit(hash uint64) uint64 {
	return hash>>6&(uint64(directorLimitFILTER_WORDS)-1)*64 + hash&63
}
