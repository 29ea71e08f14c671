// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/bpf"
	"xdplvs/director"
)

// sweptConns are in the IPv4 table that is swept, which has twice as many places.
// The IPv6 table has its default size, and is empty.
const sweptConns = 1 << 20

// smallestTable is as small as a configuration may make it.
const smallestTable = 1024

// sweeping measures what it costs to find expired connections among a million.
func sweeping(opts Options) ([]Gauge, error) {
	p, err := newPlane(largeTable, director.DefaultLimits.Connections6, 4)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if _, err := p.establish(vip4, bpf.Flows{Count: 1 << 31, Counting: true}, sweptConns); err != nil {
		return nil, err
	}
	passes, err := p.passes(opts.Rounds)
	if err != nil {
		return nil, err
	}
	shares, err := p.shares(opts)
	if err != nil {
		return nil, err
	}
	return []Gauge{
		gauged(opts, Gauge{Key: "sweep_1m_ms", Unit: "ms", What: "one pass of the sweep over a million connections"}, passes),
		gauged(opts, Gauge{Key: "sweep_cpu_percent", Unit: "%", Limit: 2, What: "of one core, for the sweeps of a director with a million connections"}, shares),
	}, nil
}

// passes are the milliseconds of processor time that passes over the IPv4 table take.
func (p *plane) passes(n int) (ms []float64, err error) {
	clock, err := p.data.Clock()
	if err != nil {
		return nil, err
	}
	now, err := clock.Now()
	if err != nil {
		return nil, err
	}
	sweep := bpf.NewSweep4(p.data.Tables)
	for range n {
		took, err := processorTime(func() error {
			if freed, passed := sweep.Next(now, len(p.data.Tables.Conns4)); freed > 0 || !passed {
				return fmt.Errorf("sweep: passed %v, %d connections freed of which none had expired", passed, freed)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		ms = append(ms, float64(took.Nanoseconds())/1e6)
	}
	return ms, nil
}

// idler is a director that has nothing to do but to sweep. Its goroutine has a
// thread of its own, so that its processor time is known.
type idler struct {
	thread int
	stop   context.CancelFunc
	ended  chan error
}

// idle starts one on the tables; their connections stay, as if of real servers
// that are no more.
func (p *plane) idle() (*idler, error) {
	clock, err := p.data.Clock()
	if err != nil {
		return nil, err
	}
	t := p.data.Tables
	clear(t.Services)
	clear(t.Keys)
	clear(t.Reals)
	d := director.New(director.Options{Tables: t, Plane: sweptPlane{p.data}, Clock: clock})
	ctx, stop := context.WithCancel(context.Background())
	i := &idler{stop: stop, ended: make(chan error, 1)}
	started := make(chan int)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		started <- unix.Gettid()
		i.ended <- d.Run(ctx)
	}()
	i.thread = <-started
	return i, nil
}

func (i *idler) close() error {
	i.stop()
	return <-i.ended
}

// shares are the percent of a core that a director uses for its sweeps, with its
// own period: what it uses more than one with small tables at the same time.
func (p *plane) shares(opts Options) (percent []float64, err error) {
	small, err := newPlane(smallestTable, smallestTable, 4)
	if err != nil {
		return nil, err
	}
	defer small.close()
	base, err := small.idle()
	if err != nil {
		return nil, err
	}
	defer base.close()
	swept, err := p.idle()
	if err != nil {
		return nil, err
	}
	defer swept.close()
	for range opts.Windows {
		share, err := moreTime(threadClock(swept.thread), threadClock(base.thread), opts.Window)
		if err != nil {
			return nil, err
		}
		percent = append(percent, share)
	}
	return percent, nil
}

// moreTime is how much more of a core the first clock's thread or process uses than the
// second's, in percent of the window.
func moreTime(a, b int32, window time.Duration) (float64, error) {
	difference := func() (time.Duration, error) {
		x, err := used(a)
		if err != nil {
			return 0, err
		}
		y, err := used(b)
		return x - y, err
	}
	before, err := difference()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	time.Sleep(window)
	after, err := difference()
	return 100 * float64(after-before) / float64(time.Since(start)), err
}

// sweptPlane is the data plane of a director without interfaces.
type sweptPlane struct{ *bpf.DataPlane }

var errNoInterface = errors.New("there are no interfaces")

// Attach implements director.Plane.
func (sweptPlane) Attach(int, director.AttachMode) (director.Attachment, error) {
	return nil, errNoInterface
}

// Detach implements director.Plane.
func (sweptPlane) Detach(director.Attachment) error { return errNoInterface }

// Repair implements director.Plane.
func (sweptPlane) Repair(director.Attachment) (bool, error) { return false, errNoInterface }
