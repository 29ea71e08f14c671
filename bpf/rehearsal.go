// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Rehearsal is the program of a data plane once more, with tables of its own: what a packet would
// do is seen by letting it do it there. The data plane itself is read, and never written.
type Rehearsal struct {
	*DataPlane
	of *DataPlane
}

// Rehearse loads the program with empty tables of the same sizes; nothing is pinned or attached. That
// takes as long as a start does. It may be called beside all other methods.
func (d *DataPlane) Rehearse() (*Rehearsal, error) {
	spec, err := sizedSpec(d.sizes)
	if err != nil {
		return nil, err
	}
	own, err := load(spec, nil, d.sizes)
	if err != nil {
		return nil, fmt.Errorf("rehearse: %w", err)
	}
	return &Rehearsal{own, d}, nil
}

// errUnclear: the counters do not tell what became of the packet.
var errUnclear = errors.New("the rehearsal counted no packet, or several")

// CopyConns copies the connections. Packets go on changing them: what is copied is of one moment for
// each entry, not for all.
func (r *Rehearsal) CopyConns() error {
	copy(r.Tables.Conns4, r.of.Tables.Conns4)
	copy(r.Tables.Conns6, r.of.Tables.Conns6)
	copy(r.Tables.Counts, r.of.Tables.Counts)
	return errors.Join(r.copyMap(directorMapOverflow), r.copyMap(directorMapDestinations))
}

// CopyRows copies what userspace writes. Counters of traffic begin at 0.
func (r *Rehearsal) CopyRows() error {
	to, from := r.Tables, r.of.Tables
	*to.Settings, *to.Defense = *from.Settings, *from.Defense
	to.Settings.Trace = 0 // who traces wants to see packets
	copy(to.Filter, from.Filter)
	copy(to.Services, from.Services)
	copy(to.Keys, from.Keys)
	copy(to.Plans, from.Plans)
	copy(to.Reals, from.Reals)
	copy(to.Sources, from.Sources)
	copy(to.Pools, from.Pools)
	copy(to.MarkShapes, from.MarkShapes)
	copy(to.MarkRules, from.MarkRules)
	copy(to.Guards, from.Guards)
	copy(to.Prefixes, from.Prefixes)
	copy(to.Trees, from.Trees)
	copy(to.Budgets, from.Budgets)
	return errors.Join(r.copyMap(directorMapAnswered), r.copyMap(directorMapClosed), r.copyMap(directorMapTxPorts))
}

// copyMap copies a map that is no memory of ours, into an empty one.
func (r *Rehearsal) copyMap(name string) error {
	from, to := r.of.objects.Maps[name], r.objects.Maps[name]
	key, value := make([]byte, from.KeySize()), make([]byte, from.ValueSize())
	entries := from.Iterate()
	for entries.Next(&key, &value) {
		if err := to.Put(key, value); err != nil {
			return fmt.Errorf("copy map %s: %w", name, err)
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("copy map %s: %w", name, err)
	}
	return nil
}

// Rehearsed is what became of a packet.
type Rehearsed struct {
	Result
	Verdict string
	Real    uint32 // that it went to, or came from; NoReal
}

// Try gives the first and only packet to the program, as Run does.
func (r *Rehearsal) Try(frame []byte, ingress int) (t Rehearsed, err error) {
	if t.Result, err = r.Run(frame, ingress); err != nil {
		return t, err
	}
	counts, err := r.Verdicts()
	if err != nil {
		return t, err
	}
	for name, n := range counts {
		if n == 0 {
			continue
		}
		if n > 1 || t.Verdict != "" {
			return t, errUnclear
		}
		t.Verdict = name
	}
	if t.Verdict == "" {
		return t, errUnclear
	}
	t.Real = r.counted()
	return t, nil
}

// counted is the real server that the packet was counted for.
func (r *Rehearsal) counted() uint32 {
	for i := range r.Tables.Traffic {
		if n := &r.Tables.Traffic[i].N; n.InPackets+n.OutPackets > 0 {
			return uint32(i / r.Tables.CPUs)
		}
	}
	return NoReal
}
