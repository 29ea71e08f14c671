// SPDX-License-Identifier: Apache-2.0

// Package trace tells of packets as they go through the data plane, to several who ask at a time.
package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/api/connfilter"
)

const (
	// renewEvery is how often the data plane is told that somebody is still there, and lifetime how long it
	// believes that.
	renewEvery = time.Second
	lifetime   = 5 * time.Second
	// rate is how many packets each CPU tells of in a second: some more than one reader can take.
	rate = 50000
	// headBytes of each frame are wanted at least: with them the EtherType is known.
	headBytes = 64
	// queued are the packets that wait for one who asks, and batched those that it gets at once.
	queued  = 4096
	batched = 256
)

// Clock tells the time in jiffies.
type Clock interface {
	Now() (uint32, error)
	Jiffies(time.Duration) uint32
}

// Tracer reads what the data plane tells, while Run runs.
type Tracer struct {
	log      *slog.Logger
	traces   *bpf.Traces
	clock    Clock
	director *director.Director

	mu      sync.Mutex
	readers [bpf.MaxTraces]*reader
	asking  int    // readers
	number  uint32 // of the switch, when it was turned on last

	naming  *director.Naming // Run's
	renewed time.Time        // likewise
	named   time.Time
}

// reader is one who asks.
type reader struct {
	Query
	began   time.Time
	packets chan director.Traced
	missed  atomic.Uint64 // since nobody took them
}

// Query says which packets are wanted.
type Query struct {
	Filter *connfilter.Packets
	Bytes  int // of each frame, director.TracedBytes at most
}

// New ends what a former process may have left.
func New(log *slog.Logger, plane *bpf.DataPlane, clock Clock, d *director.Director) (*Tracer, error) {
	traces, err := plane.OpenTraces()
	if err != nil {
		return nil, err
	}
	return &Tracer{log: log, traces: traces, clock: clock, director: d, number: rand.Uint32()}, nil
}

// Run reads until ctx ends, and turns tracing off then.
func (t *Tracer) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		if err := t.traces.Close(); err != nil {
			t.log.Error("close traces", "event", "trace_failed", "error", err)
		}
	})
	defer stop()
	var p bpf.Traced
	for {
		err := t.traces.Read(&p, time.Now().Add(renewEvery))
		switch {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case err == nil:
			err = t.tell(ctx, &p)
		default:
			err = nil
		}
		if err == nil {
			err = t.renew()
		}
		if err != nil && ctx.Err() == nil {
			t.log.Error("trace packets", "event", "trace_failed", "error", err)
		}
	}
}

// renew lets the data plane go on telling, while anybody asks.
func (t *Tracer) renew() error {
	if time.Since(t.renewed) < renewEvery {
		return nil
	}
	t.renewed = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.turn()
}

// turn turns tracing on or off, as it has to be. The lock is held.
func (t *Tracer) turn() error {
	if t.asking == 0 {
		t.traces.Switch(0)
		return nil
	}
	now, err := t.clock.Now()
	if err != nil {
		return err
	}
	bytes := headBytes
	for _, r := range t.readers {
		if r != nil {
			bytes = max(bytes, r.Bytes)
		}
	}
	t.traces.Rate(rate, bytes)
	t.traces.Until(now + t.clock.Jiffies(lifetime))
	if t.traces.Number() == 0 {
		t.number = max(t.number+1, 1)
		t.traces.Switch(t.number)
	}
	return nil
}

// ErrTooMany is the answer to one who asks when enough do already.
var ErrTooMany = fmt.Errorf("%d traces and captures are under way, which is the limit", bpf.MaxTraces)

// UnknownServiceError says that a filter names a service that there is not.
type UnknownServiceError struct{ Name string }

// Error says which.
func (e *UnknownServiceError) Error() string { return fmt.Sprintf("there is no service %q", e.Name) }

// Trace gives packets in batches until ctx ends or yield fails, and how many that were wanted are missing so
// far. The first batch is empty: from then on packets are seen.
func (t *Tracer) Trace(ctx context.Context, q Query, yield func(batch []director.Traced, lost uint64) error) error {
	naming, err := t.director.Naming(ctx, linkName)
	if err != nil {
		return err
	}
	filter, err := coarse(q, naming)
	if err != nil {
		return err
	}
	r := &reader{Query: q, began: time.Now(), packets: make(chan director.Traced, queued)}
	n, err := t.begin(r, filter)
	if err != nil {
		return err
	}
	defer t.end(n)
	return t.feed(ctx, n, r, yield)
}

func (t *Tracer) feed(ctx context.Context, n int, r *reader, yield func([]director.Traced, uint64) error) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	var batch []director.Traced
	for told := ^uint64(0); ; {
		lost := t.traces.Lost(n) + r.missed.Load()
		if len(batch) > 0 || lost != told {
			if err := yield(batch, lost); err != nil {
				return err
			}
			told = lost
		}
		batch = batch[:0]
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case p := <-r.packets:
			batch = r.more(append(batch, p))
		}
	}
}

// more adds what waits.
func (r *reader) more(batch []director.Traced) []director.Traced {
	for len(batch) < batched {
		select {
		case p := <-r.packets:
			batch = append(batch, p)
		default:
			return batch
		}
	}
	return batch
}

// begin finds a place for one who asks.
func (t *Tracer) begin(r *reader, f *bpf.TraceFilter) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n = range t.readers {
		if t.readers[n] == nil {
			t.readers[n] = r
			t.asking++
			t.traces.Begin(n, f)
			if err := t.turn(); err != nil {
				t.leave(n)
				return 0, err
			}
			return n, nil
		}
	}
	return 0, ErrTooMany
}

func (t *Tracer) end(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leave(n)
	if err := t.turn(); err != nil {
		t.log.Error("trace packets", "event", "trace_failed", "error", err)
	}
}

func (t *Tracer) leave(n int) {
	t.traces.End(n)
	t.readers[n] = nil
	t.asking--
}

// coarse is the part of a filter that the data plane looks at.
func coarse(q Query, naming *director.Naming) (*bpf.TraceFilter, error) {
	needs := &q.Filter.Needs
	f := &bpf.TraceFilter{
		Verdicts: needs.Verdicts, Client: needs.Client, Virtual: needs.Virtual, Real: needs.Real, Bytes: max(headBytes, q.Bytes),
		ClientPorts:  bpf.PortRange{First: needs.ClientPorts[0], Last: needs.ClientPorts[1]},
		VirtualPorts: bpf.PortRange{First: needs.VirtualPorts[0], Last: needs.VirtualPorts[1]},
	}
	f.Protocol, _ = director.ProtocolNumber(needs.Protocol)
	for _, name := range needs.Services {
		key, ok := naming.Service(name)
		if !ok {
			return nil, &UnknownServiceError{name}
		}
		if len(needs.Services) == 1 && key.Mark == 0 {
			f.Protocol = uint8(key.Protocol)
			f.Virtual, _ = key.Addr.Prefix(key.Addr.BitLen()) // never fails
			f.VirtualPorts = bpf.PortRange{First: key.Port, Last: key.Port}
		}
	}
	return f, nil
}

// tell gives a packet to all who want it.
func (t *Tracer) tell(ctx context.Context, p *bpf.Traced) error {
	if time.Since(t.named) > renewEvery {
		naming, err := t.director.Naming(ctx, newLinks().name)
		if err != nil {
			return err
		}
		t.naming, t.named = naming, time.Now()
	}
	at := time.Now().Add(-p.Age)
	packet := t.naming.Describe(p, at)
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, r := range t.readers {
		if r != nil && p.Traces>>n&1 != 0 && !at.Before(r.began) && r.Filter.Match(&packet) {
			r.take(packet)
		}
	}
	return nil
}

// take puts a packet in the queue, with frames of its own.
func (r *reader) take(p director.Traced) {
	p.Before, p.After = head(p.Before, r.Bytes), head(p.After, r.Bytes)
	select {
	case r.packets <- p:
	default:
		r.missed.Add(1)
	}
}

func head(frame []byte, n int) []byte {
	if n == 0 {
		return nil
	}
	return append([]byte(nil), frame[:min(n, len(frame))]...)
}

// links names interfaces by their indexes, of which each is looked up once.
type links map[int]string

func newLinks() links { return links{} }

func (l links) name(index int) string {
	name, ok := l[index]
	if !ok {
		name = linkName(index)
		l[index] = name
	}
	return name
}

// linkName is an interface's name, or its number if it is gone.
func linkName(index int) string {
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return strconv.Itoa(index)
	}
	return link.Name
}
