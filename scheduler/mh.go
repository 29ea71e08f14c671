// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"math/big"
	"math/bits"
	"slices"
)

// The keys of mh's two hashes: where a server begins, and how far it steps.
const (
	mhKey1 = 2654435761
	mhKey2 = 2654446892
)

// MaxTableSize bounds mh's table, to keep a typing error from taking all memory.
// The kernel's largest is 131071.
const MaxTableSize = 1 << 24

// defaultMHTableSize is the prime Debian builds mh with (CONFIG_IP_VS_MH_TAB_INDEX=12).
const defaultMHTableSize = 4093

// mh, Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): source hashing
// where a change of the set moves few clients. Equal configurations make equal
// tables on all directors, provided that the list order is equal too.
type mh struct {
	size    int
	flags   Flags
	table   table
	servers []Server // what table shall be made of, nil when it is
}

func newMH(o Options) (Scheduler, error) {
	size := o.MHTableSize
	if size == 0 {
		size = defaultMHTableSize
	}
	if size < 2 || size > MaxTableSize || !big.NewInt(int64(size)).ProbablyPrime(0) {
		return nil, fmt.Errorf("scheduler mh: table size %d is not a prime up to %d", size, MaxTableSize)
	}
	return &mh{size: size, flags: o.Flags, table: newTable(size)}, nil
}

func (m *mh) Name() string                    { return "mh" }
func (m *mh) Kind() Kind                      { return Hash }
func (m *mh) Clone() Scheduler                { m.fill(); c := *m; return &c }
func (m *mh) Table(servers []Server) []uint32 { m.fill(); return m.table.ids(servers) }

// Edit puts the work off until the table is looked at: filling a service of a
// thousand servers edits it a thousand times.
func (m *mh) Edit(servers []Server) { m.servers = append([]Server{}, servers...) }

func (m *mh) Pick(p Packet, servers []Server) int {
	m.fill()
	return m.table.pick(p, servers, m.Probe)
}

// Probe begins at the packet's entry. With mh-fallback one more follows for each
// entry of the table, each by a hash of its own.
func (m *mh) Probe(p Packet, attempt int) (slot int, ok bool) {
	port := uint16(0)
	if m.flags&MHPort != 0 {
		port = p.SrcPort
	}
	home := int(MHHash(p.Src, port, 0)) % m.size
	if attempt == 0 {
		return home, true
	}
	offset := (attempt - 1 + home) % m.size
	slot = int(MHHash(p.Src, port, uint32(offset))) % m.size
	return slot, m.flags&MHFallback != 0 && attempt <= m.size
}

// fill makes the table of the servers last given to Edit.
func (m *mh) fill() {
	if m.servers == nil {
		return
	}
	walks := make([]walk, len(m.servers))
	for i, turns := range m.turns() {
		walks[i] = mhWalk(m.servers[i], m.size)
		walks[i].turns = turns
	}
	m.table = populate(walks, m.size)
	m.servers = nil
}

// turns says how many entries each server claims at a time: its last weight over
// the greatest common divisor, scaled down so that few turns fill the table, but
// at least one. Weight 0 counts as the weight before, so that quiescing a server
// moves nobody else's clients.
func (m *mh) turns() []int {
	divisor, heaviest := int64(0), int64(0)
	for _, s := range m.servers {
		divisor = gcd(divisor, s.lastWeight())
		heaviest = max(heaviest, s.lastWeight())
	}
	turns := make([]int, len(m.servers))
	if divisor == 0 {
		return turns
	}
	shift := max(0, bits.Len64(uint64(heaviest/divisor))-bits.Len(uint(m.size))/2)
	for i, s := range m.servers {
		if s.lastWeight() > 0 {
			turns[i] = max(1, int(s.lastWeight()/divisor>>shift))
		}
	}
	return turns
}

// walk is a server's way through the table: a permutation of all its entries.
type walk struct{ at, skip, turns int }

func mhWalk(s Server, size int) walk {
	v := fold(s.Addr) + uint32(s.Port)
	return walk{
		at:   int(sip32(mhKey1, v)) % size,
		skip: int(sip32(mhKey2, v))%(size-1) + 1,
	}
}

// populate lets the walks claim free entries, each its turns, round after round.
func populate(walks []walk, size int) table {
	t := newTable(size)
	if !slices.ContainsFunc(walks, func(w walk) bool { return w.turns > 0 }) {
		return t
	}
	for free := size; ; {
		for i := range walks {
			for range walks[i].turns {
				walks[i].claim(t, i)
				if free--; free == 0 {
					return t
				}
			}
		}
	}
}

// claim takes the next free entry of the walk; there must be one.
func (w *walk) claim(t table, i int) {
	for t[w.at] >= 0 {
		w.at += w.skip
		if w.at >= len(t) {
			w.at -= len(t)
		}
	}
	t[w.at] = int32(i)
}
