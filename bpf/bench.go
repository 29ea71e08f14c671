// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
)

// Target is what a benchmark measures: the name of a program.
type Target string

// The targets; all but TargetDirector are baselines.
const (
	TargetPass     Target = benchProgBenchPass // returns XDP_PASS
	TargetRaw      Target = benchProgBenchRaw  // swaps the link-layer addresses, XDP_TX
	TargetDrop     Target = benchProgBenchDrop // returns XDP_DROP
	TargetDirector Target = directorProgDirector
)

// Bench runs one program with test runs, a packet drawn for each run.
type Bench struct {
	objects *ebpf.Collection
	state   view[benchBenchState]
}

// NewBench makes ready to measure a target of the loaded data plane.
func NewBench(d *DataPlane, target Target) (*Bench, error) {
	spec, err := loadBench()
	if err != nil {
		return nil, fmt.Errorf("read benchmark object: %w", err)
	}
	objects, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load benchmark: %w", err)
	}
	b := &Bench{objects: objects}
	program := objects.Programs[string(target)]
	if target == TargetDirector {
		program = d.objects.Programs[directorProgDirector]
	}
	if err := objects.Maps[benchMapBenchTarget].Put(uint32(0), program); err != nil {
		return nil, errors.Join(fmt.Errorf("set benchmark target: %w", err), b.Close())
	}
	b.state, err = mapArray[benchBenchState](objects.Maps[".data.bench"])
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.state.items[0].Random = 0x9e3779b97f4a7c15
	return b, nil
}

// Close frees the programs.
func (b *Bench) Close() error {
	err := b.state.close()
	b.objects.Close()
	return err
}

func (b *Bench) attach(name string, index int) (io.Closer, error) {
	a, err := attachXDP(b.objects.Programs[name], index, Native)
	if err != nil {
		return nil, fmt.Errorf("attach %s to interface %d: %w", name, index, err)
	}
	return a.link, nil
}

// AttachTarget puts a baseline on an interface.
func (b *Bench) AttachTarget(t Target, index int) (io.Closer, error) {
	return b.attach(string(t), index)
}

// AttachSink counts and drops what arrives at an interface.
func (b *Bench) AttachSink(index int) (io.Closer, error) { return b.attach(benchProgBenchSink, index) }

// Received is how many frames the sink has counted.
func (b *Bench) Received() (n uint64, err error) {
	var perCPU []uint64
	if err := b.objects.Maps[benchMapBenchReceived].Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read received frames: %w", err)
	}
	for _, v := range perCPU {
		n += v
	}
	return n, nil
}

// Watch makes Pace speak of the frames that arrive from now on.
func (b *Bench) Watch() { b.state.items[0].FirstNs = 0 }

// Pace is the mean time between two frames at the sink, in nanoseconds; 0: too few came.
func (b *Bench) Pace() float64 {
	s := &b.state.items[0]
	if s.FirstNs == 0 || s.Last == s.First {
		return 0
	}
	return float64(s.LastNs-s.FirstNs) / float64(s.Last-s.First)
}

// Send transmits count frames by the interface, as fast as it can, a flow drawn
// for each. It must be called in the interface's network namespace.
func (b *Bench) Send(index int, frame []byte, flows Flows, count uint32) error {
	b.setFlows(frame, flows)
	const liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	context := struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{
		DataEnd: uint32(len(frame)), Ingress: uint32(index),
	}
	_, err := b.objects.Programs[benchProgBenchSend].Run(&ebpf.RunOptions{
		Data: frame, Repeat: count, Flags: liveFrames, Context: context,
	})
	if err != nil {
		return fmt.Errorf("send live frames: %w", err)
	}
	return nil
}

// Flows says which packets a run sees.
type Flows struct {
	Count    uint32 // a power of two; 1: the frame's own
	Counting bool   // one after the other; otherwise drawn at random
	// Growth is by how many bytes the target makes the frame larger, which is undone
	// before each run; for one flow of IPv4.
	Growth uint32
	// Undo is for programs that rewrite the packet: each run sees the addresses, ports and IPv4
	// checksum of the frame again. Baselines take the same time for it.
	Undo bool
	// SYN is for programs that answer: each run sees all of the frame again but for its link-layer addresses. It is one
	// of IPv4, and has 20 bytes of TCP options, as the answer.
	SYN bool
}

// Splice makes every connection one that a SYN cookie began, and whose real server has answered.
func (t *Tables) Splice() {
	const seq, stamp, scale = uint64(1) << uint(directorSplicePartSPLICE_SEQ), uint64(directorSplicePartSPLICE_SHIFT_LOW) + 1, 7
	for _, b := range []table{t.table4(), t.table6()} {
		for i := range b.n {
			if c := b.slot(i); c.Tag&tagMask == tagUsed && !isTemplate(c.Word) && !isWayBack(c.Word) {
				*b.splice(i) = seq | stamp | uint64(directorSplicePartSPLICE_ANSWERED|directorSplicePartSPLICE_GRANTED) | scale
				c.Word |= connSpliced
			}
		}
	}
}

// ConnMemory is the kernel memory of the maps of connections, in bytes, with
// what the kernel itself needs for them. What SYN cookies need is counted in.
type ConnMemory struct{ Conns4, Conns6, Overflow uint64 }

// ConnMemory asks the kernel for it (memlock in /proc/PID/fdinfo).
func (d *DataPlane) ConnMemory() (m ConnMemory, err error) {
	for name, bytes := range map[string]*uint64{
		directorMapConns4: &m.Conns4, directorMapSplices4: &m.Conns4, directorMapConns6: &m.Conns6, directorMapOverflow: &m.Overflow,
	} {
		info, err := d.objects.Maps[name].Info()
		if err != nil {
			return m, fmt.Errorf("read memory of map %s: %w", name, err)
		}
		taken, known := info.Memlock()
		if !known {
			return m, fmt.Errorf("read memory of map %s: the kernel does not tell", name)
		}
		*bytes += taken
	}
	return m, nil
}

// Run gives frame to the target, repeat times. It returns the last verdict (an
// XDP action) and the mean time of one run in whole nanoseconds, drawing
// included. The kernel's clock is read inside the call: outside it, waits for
// grace periods would be counted too.
func (b *Bench) Run(frame []byte, flows Flows, repeat int) (action uint32, each time.Duration, err error) {
	b.setFlows(frame, flows)
	program := benchProgBenchDraw
	switch {
	case flows.Growth > 0: // the first run finds it as the others do
		program = benchProgBenchGrown
		frame = append(make([]byte, flows.Growth), frame...)
	case flows.SYN:
		program = benchProgBenchSyn
	case flows.Count == 1:
		program = benchProgBenchHot
	}
	return b.objects.Programs[program].Benchmark(frame, repeat, nil)
}

// Place is where the drawing of flows has come to.
type Place struct{ state benchBenchState }

// Place returns it.
func (b *Bench) Place() Place { return Place{b.state.items[0]} }

// Return makes the runs that follow draw the flows again that were drawn since.
func (b *Bench) Return(to Place) { b.state.items[0] = to.state }

func (b *Bench) setFlows(frame []byte, flows Flows) {
	state := &b.state.items[0]
	state.Size, state.Growth = uint32(len(frame)), flows.Growth
	for i := range state.Mac {
		state.Mac[i] = binary.NativeEndian.Uint32(frame[4*i:])
	}
	state.Mask = flows.Count - 1
	state.Counting = 0
	if flows.Counting {
		state.Counting = 1
	}
	if flows.SYN {
		for i := range state.Syn {
			state.Syn[i] = binary.NativeEndian.Uint32(frame[14+4*i:])
		}
	}
	if state.Undo = 0; flows.Undo {
		state.setEnds(frame)
	}
}

// setEnds notes the addresses and ports of an untagged frame without options.
func (s *benchBenchState) setEnds(frame []byte) {
	at, words := 14+12, 1 // of the addresses
	if frame[12] == 0x86 {
		at, words = 14+8, 4
	}
	if words == 1 {
		s.Check = uint32(binary.NativeEndian.Uint16(frame[14+10:]))
	}
	for i := range words {
		s.Addr[i] = binary.NativeEndian.Uint64(frame[at+8*i:])
	}
	s.Ports, s.Undo = binary.NativeEndian.Uint32(frame[at+8*words:]), 1
}
