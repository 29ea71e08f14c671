// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// The keys of FlowTable's two hashes. Any would do; these are mh's swapped, so
// that nobody expects the tables to be equal.
const (
	flowKey1 = mhKey2
	flowKey2 = mhKey1
)

// FlowTable returns a hash plan over the usable servers of any service, slot ->
// server id, for flows that nobody remembers (floods, full tables). It is
// Maglev's table with exact shares: each server holds size × weight / sum of
// weights slots, rounded, and at least one if there are enough. It depends on the
// addresses, ports and weights alone, not on the order of the list, so that all
// directors agree, and losing a server moves few flows of the others.
//
// size should be a prime, best a hundred times the number of servers or more.
// Without usable servers all slots are NoServer; a size below 1 or above
// MaxTableSize gives nil.
func FlowTable(servers []Server, size int) []uint32 {
	if size < 1 || size > MaxTableSize {
		return nil
	}
	order := flowOrder(servers)
	walks := make([]walk, len(order))
	for i, s := range order {
		walks[i] = flowWalk(s, size)
	}
	return deal(order, walks, size).ids(order)
}

// flowOrder is the usable servers in the order in which ties are broken.
func flowOrder(servers []Server) []Server {
	order := slices.DeleteFunc(slices.Clone(servers), func(s Server) bool { return !s.Usable() })
	slices.SortFunc(order, func(a, b Server) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.ID, b.ID))
	})
	return order
}

func flowWalk(s Server, size int) walk {
	w := walk{at: int(flowHash(flowKey1, s) % uint64(size)), skip: 1}
	if size > 2 {
		w.skip += int(flowHash(flowKey2, s) % uint64(size-1))
	}
	// In a table of prime size every step visits all slots; in others not, and
	// the walk would never end.
	for gcd(int64(w.skip), int64(size)) != 1 {
		w.skip++
	}
	return w
}

// flowHash is SipHash-1-3 of address and port, 18 bytes in network order. An IPv4
// address counts as its IPv4-mapped form.
func flowHash(key uint64, s Server) uint64 {
	var addr [16]byte
	if s.Addr.IsValid() {
		addr = s.Addr.As16()
	}
	h := newSip(key)
	h.write(binary.LittleEndian.Uint64(addr[:8]))
	h.write(binary.LittleEndian.Uint64(addr[8:]))
	h.write(18<<56 | uint64(s.Port>>8|s.Port<<8))
	return h.sum()
}

// deal gives the slots one at a time to the server whose share is most behind.
// After k slots a server's claim is (2k+1)/weight: Webster's rule, which rounds
// every share to the nearest. A first claim of 0 goes before it, if all can have one.
func deal(order []Server, walks []walk, size int) table {
	t := newTable(size)
	claims := newField(len(order))
	for i, s := range order {
		first := uint64(1)
		if len(order) <= size {
			first = 0
		}
		claims.enter(i, Cost{first, uint64(s.Weight)})
	}
	claims.heapify()
	for range size {
		i := claims.top()
		if i < 0 {
			return t
		}
		walks[i].claim(t, i)
		held := claims.cost[i]
		claims.settle(Cost{(held.Num | 1) + 2, held.Den}, true)
	}
	return t
}
