// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/pcap"
)

// Replay gives the packets of a capture to the program, with a copy of the tables as they are now, and with the
// capture's own time. in is the interface of packets whose own is none of the director's; empty: the first one.
// An error is *QuestionError if the capture or the interface is at fault.
func (e *Explainer) Replay(ctx context.Context, from io.Reader, in string, yield func(*director.TraceLine) error) error {
	capture, err := pcap.NewReader(from)
	if err != nil {
		return ofCapture(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	state, err := e.director.Snapshot(ctx)
	if err != nil {
		return err
	}
	entry, err := entrance(state, in)
	if err != nil {
		return &QuestionError{err}
	}
	naming, err := e.director.Naming(ctx, linkName)
	if err != nil {
		return err
	}
	r := &replay{capture: capture, naming: naming, state: state, entry: entry.Index, yield: yield}
	if r.copy, err = e.copied(ctx); err != nil {
		return err
	}
	return errors.Join(r.run(ctx), r.copy.Close())
}

// ofCapture is an error of reading one: of its bytes, or of who sends them.
func ofCapture(err error) error {
	var format *pcap.FormatError
	if errors.As(err, &format) {
		return &QuestionError{err}
	}
	return fmt.Errorf("read capture: %w", err)
}

func linkName(index int) string {
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return strconv.Itoa(index)
	}
	return link.Name
}

// replay is one that is under way.
type replay struct {
	capture *pcap.Reader
	naming  *director.Naming
	state   *director.Snapshot
	entry   int // interface
	copy    *bpf.Rehearsal
	traces  *bpf.Traces
	yield   func(*director.TraceLine) error

	number      uint64
	first, last time.Time
}

func (r *replay) run(ctx context.Context) (err error) {
	if r.traces, err = r.copy.TellAll(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.traces.Close()) }()
	for ctx.Err() == nil {
		var p pcap.Packet
		err := r.capture.Next(&p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return ofCapture(err)
		}
		r.number++
		line, err := r.packet(&p)
		if err == nil {
			err = r.yield(line)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// shortest is the length of a frame's head: the kernel takes none without one.
const shortest = 14

// packet gives one to the program, if it is whole, and came to the director.
func (r *replay) packet(p *pcap.Packet) (*director.TraceLine, error) {
	switch {
	case p.Direction == pcap.Outbound:
		return r.skip("it is one that was sent"), nil
	case len(p.Data) < shortest:
		return r.skip("%d bytes are no frame", len(p.Data)), nil
	case len(p.Data) < p.Length:
		return r.skip("only %d of its %d bytes were captured", len(p.Data), p.Length), nil
	}
	r.setTime(p.Time)
	told, result, err := r.copy.Tell(r.traces, p.Data, r.ingress(p.Interface))
	if errors.Is(err, unix.EINVAL) {
		return r.skip("the kernel takes no frame of %d bytes for a test", len(p.Data)), nil
	}
	if err != nil {
		return nil, err
	}
	t := r.naming.Describe(&told, p.Time)
	t.Number, t.Before, t.After = r.number, p.Data, nil
	if told.Left > 0 {
		t.After = result.Frame
	}
	return &director.TraceLine{Packet: &t}, nil
}

func (r *replay) skip(format string, args ...any) *director.TraceLine {
	return &director.TraceLine{Skipped: &director.SkippedPacket{Number: r.number, Why: fmt.Sprintf(format, args...)}}
}

// setTime makes it the time of a packet: as long after the first one as in the capture. Where that goes back, as it may
// between CPUs, time stands still.
func (r *replay) setTime(at time.Time) {
	if r.first.IsZero() {
		r.first, r.last = at, at
	}
	if at.After(r.last) {
		r.last = at
	}
	r.copy.At(r.last.Sub(r.first))
}

// ingress is the interface that a packet came in by, if the director has it.
func (r *replay) ingress(name string) int {
	if in, err := entrance(r.state, name); name != "" && err == nil {
		return in.Index
	}
	return r.entry
}
