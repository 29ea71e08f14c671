// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Rehearsal is the program of a data plane once more, with tables of its own: what a packet would
// do is seen by letting it do it there. The data plane itself is read, and never written.
type Rehearsal struct {
	*DataPlane
	of    *DataPlane
	clock *Clock
	start uint64 // jiffies
}

// Rehearse loads the program with empty tables of the same sizes; nothing is pinned or attached. That
// takes as long as a start does. It may be called beside all other methods.
func (d *DataPlane) Rehearse() (*Rehearsal, error) {
	spec, err := sizedSpec(d.sizes)
	if err != nil {
		return nil, err
	}
	if err := rehearseClock(spec); err != nil {
		return nil, err
	}
	own, err := load(spec, nil, d.sizes)
	if err != nil {
		return nil, fmt.Errorf("rehearse: %w", err)
	}
	r := &Rehearsal{DataPlane: own, of: d}
	if err := r.startClock(); err != nil {
		return nil, errors.Join(err, own.Close())
	}
	return r, nil
}

// rehearsedJiffies is the function that a rehearsal asks for the time.
const rehearsedJiffies = "rehearsed_jiffies"

// rehearseClock makes the program ask the table of the defenses for the time, and not the kernel. Nothing else of the
// program changes, not even its length; and the one that packets meet pays nothing for it.
func rehearseClock(spec *ebpf.CollectionSpec) error {
	var word *btf.Int
	if err := spec.Types.TypeByName("unsigned long long", &word); err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	code := spec.Programs[directorProgDirector].Instructions
	for i := range code {
		if code[i].IsBuiltinCall() && asm.BuiltinFunc(code[i].Constant) == asm.FnJiffies64 {
			code[i].Src, code[i].Constant = asm.PseudoCall, -1
			code[i] = code[i].WithReference(rehearsedJiffies)
		}
	}
	at := uint32(unsafe.Offsetof(DefenseState{}.Rehearsed))
	first := asm.LoadMapValue(asm.R0, 0, at).WithReference(mapDefense).WithSymbol(rehearsedJiffies).
		WithSource(code[0].Source()) // each function has to have a line
	first = btf.WithFuncMetadata(first, &btf.Func{Name: rehearsedJiffies, Type: &btf.FuncProto{Return: word}, Linkage: btf.StaticFunc})
	spec.Programs[directorProgDirector].Instructions = append(code, first, asm.LoadMem(asm.R0, asm.R0, 0, asm.DWord), asm.Return())
	return nil
}

func (r *Rehearsal) startClock() (err error) {
	if r.clock, err = r.Clock(); err != nil {
		return err
	}
	now, err := r.clock.read()
	r.start = now.Jiffies
	r.At(0)
	return err
}

// At sets the time of the rehearsal: so long after it was made. Without, its time stands still.
func (r *Rehearsal) At(after time.Duration) {
	seconds, rest := uint64(after/time.Second), uint64(after%time.Second)
	r.Tables.Defense.Rehearsed = r.start + seconds*r.clock.hz + rest*r.clock.hz/uint64(time.Second)
}

// Tell gives a packet to the program, as Run does, and tells what became of it, by traces of the rehearsal's own.
func (r *Rehearsal) Tell(traces *Traces, frame []byte, ingress int) (p Traced, result Result, err error) {
	traces.Until(uint32(r.Tables.Defense.Rehearsed))
	if result, err = r.Run(frame, ingress); err != nil {
		return p, result, err
	}
	err = traces.Read(&p, time.Unix(1, 0))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errUnclear
	}
	return p, result, err
}

// TellAll opens traces for Tell.
func (r *Rehearsal) TellAll() (*Traces, error) {
	traces, err := r.OpenTraces()
	if err != nil {
		return nil, err
	}
	traces.Begin(0, &TraceFilter{Bytes: TraceBytes})
	traces.Rate(0, TraceBytes)
	traces.Switch(1)
	return traces, nil
}

// errUnclear: the counters do not tell what became of the packet.
var errUnclear = errors.New("the rehearsal counted no packet, or several")

// CopyConns copies the connections. Packets go on changing them: what is copied is of one moment for
// each entry, not for all.
func (r *Rehearsal) CopyConns() error {
	copy(r.Tables.Conns4, r.of.Tables.Conns4)
	copy(r.Tables.Conns6, r.of.Tables.Conns6)
	copy(r.Tables.Splices4, r.of.Tables.Splices4)
	copy(r.Tables.Counts, r.of.Tables.Counts)
	return errors.Join(r.copyMap(directorMapOverflow), r.copyMap(directorMapDestinations))
}

// CopyRows copies what userspace writes. Counters of traffic begin at 0.
func (r *Rehearsal) CopyRows() error {
	to, from := r.Tables, r.of.Tables
	*to.Settings, to.Defense.DropLeft = *from.Settings, from.Defense.DropLeft
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
