// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"xdplvs/bpf"
)

const (
	// capacityTable are the places of each table: as many as the director's default for IPv4.
	capacityTable = 1 << 18
	// capacityLoad are the connections in it: 75 %.
	capacityLoad = capacityTable / 4 * 3
	// capacityStep are those that are made at a time, once a quarter is there. Until they are
	// established they may have to make room for each other.
	capacityStep = capacityTable / 16
)

// fillings are the ways in which a table comes to its load.
var fillings = []struct {
	name  string
	dst   netip.Addr
	flows bpf.Flows
}{
	{"IPv4, port after port of address after address", vip4, bpf.Flows{Count: 1 << 31, Counting: true}},
	{"IPv6, port after port of address after address", vip6, bpf.Flows{Count: 1 << 31, Counting: true}},
	{"IPv4, random", vip4, bpf.Flows{Count: 1 << 31}},
	{"IPv6, random", vip6, bpf.Flows{Count: 1 << 31}},
}

// capacity measures what a connection takes in memory, and how many find no
// place in their two sets, in tables of 75 % load.
func capacity(opts Options) ([]Gauge, error) {
	p, err := newPlane(capacityTable, capacityTable, 4)
	if err != nil {
		return nil, err
	}
	defer p.close()
	memory, err := p.data.ConnMemory()
	if err != nil {
		return nil, err
	}
	var placeless []float64
	for range opts.Fills {
		worst := 0.0
		for _, f := range fillings {
			percent, err := p.placeless(f.dst, f.flows)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			worst = max(worst, percent)
		}
		placeless = append(placeless, worst)
	}
	// The map is for the connections of both families.
	share := float64(memory.Overflow) / (2 * capacityLoad)
	bytes := func(table uint64) []float64 { return []float64{float64(table)/capacityLoad + share} }
	return []Gauge{
		gauged(opts, Gauge{Key: "conn4_bytes", Unit: "bytes", Limit: 100,
			What: "memory for an IPv4 connection, tables 75 % full"}, bytes(memory.Conns4)),
		gauged(opts, Gauge{Key: "conn6_bytes", Unit: "bytes", Limit: 180,
			What: "memory for an IPv6 connection, tables 75 % full"}, bytes(memory.Conns6)),
		gauged(opts, Gauge{Key: "overflow_percent_at_75", Unit: "%", Limit: 0.5,
			What: "connections without a place in their two sets, the worst of the fillings"}, placeless),
	}, nil
}

// placeless is the part of the connections, in percent, that found no place when
// a table is filled to its load: in the overflow map, or not recorded at all.
func (p *plane) placeless(dst netip.Addr, flows bpf.Flows) (float64, error) {
	if err := p.rekey(); err != nil {
		return 0, err
	}
	conns := 0
	for conns < capacityLoad {
		step := min(capacityStep, capacityLoad-conns)
		if conns == 0 {
			step = capacityTable / 4
		}
		n, err := p.establish(dst, flows, step)
		if err != nil {
			return 0, err
		}
		conns += n
	}
	return 100 * float64(conns-p.placed()) / float64(conns), nil
}

// placed are the connections that have a place in the tables.
func (p *plane) placed() (n int) {
	t := p.data.Tables
	for i := range t.Conns4 {
		if _, ok := bpf.ReadConn4(&t.Conns4[i]); ok {
			n++
		}
	}
	for i := range t.Conns6 {
		if _, ok := bpf.ReadConn6(&t.Conns6[i]); ok {
			n++
		}
	}
	return n
}

// rekey forgets every connection and draws another secret for the flow hash,
// which decides what sets become full.
func (p *plane) rekey() error {
	var keys []bpf.ConnKey
	err := p.data.Overflow(func(key *bpf.ConnKey, _ *bpf.Conn) bool {
		keys = append(keys, *key)
		return true
	})
	if err != nil {
		return err
	}
	for i := range keys {
		if err := p.data.FreeOverflow(&keys[i]); err != nil {
			return err
		}
	}
	p.empty()
	key := &p.data.Tables.Settings.HashKey
	key.Factor = rand.Uint64() | 1
	for i := range key.Word {
		key.Word[i] = rand.Uint32()
	}
	return nil
}
