// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/bpf"
)

// Gauge is a figure that needs no baseline.
type Gauge struct {
	Key   string
	What  string
	Unit  string
	Value float64   // median
	Limit float64   // what it may be; 0: no promise
	All   []float64 // every round, in order
}

// gauged makes the gauge of its rounds.
func gauged(opts Options, g Gauge, rounds []float64) Gauge {
	g.Value, g.All = median(rounds), rounds
	opts.Log("%-36s %7.4g %s", g.Key, g.Value, g.Unit)
	return g
}

// Gauges measures all of them.
func Gauges(opts Options) ([]Gauge, error) {
	var all []Gauge
	for _, measure := range []func(Options) ([]Gauge, error){capacity, sweeping, rebuilding} {
		gauges, err := measure(opts)
		if err != nil {
			return nil, err
		}
		all = append(all, gauges...)
	}
	return all, nil
}

// began is how many new connections the director has had, with those that it
// could not store.
func (p *plane) began() (uint64, error) {
	v, err := p.data.Verdicts()
	return v["tx_new"] + v["tx_untracked"], err
}

// establish makes new connections, as many as flows are drawn, less those that
// are known already. It returns how many, at least one.
func (p *plane) establish(dst netip.Addr, flows bpf.Flows, draws int) (conns int, err error) {
	director := p.targets[bpf.TargetDirector]
	begin := director.Place()
	before, err := p.began()
	if err != nil {
		return 0, err
	}
	if _, _, err := director.Run(frame(dst, tcpSYN), flows, draws); err != nil {
		return 0, err
	}
	after, err := p.began()
	if err != nil {
		return 0, err
	}
	if after == before {
		return 0, errors.New("establish connections: no packet began one")
	}
	director.Return(begin)
	_, _, err = director.Run(frame(dst, tcpACK), flows, draws)
	return int(after - before), err
}

// threadClock is the clock of the processor time that a thread of this process has used, by the id that gettid told.
func threadClock(tid int) int32 {
	const perThread, scheduled = 4, 2 // CPUCLOCK_PERTHREAD_MASK, CPUCLOCK_SCHED (linux/posix-timers_types.h)
	return int32(^tid<<3 | perThread | scheduled)
}

// processClock is that of all threads of a process.
func processClock(pid int) int32 {
	const scheduled = 2
	return int32(^pid<<3 | scheduled)
}

// used reads such a clock.
func used(clock int32) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// processorTime is what f uses of it, in its own thread.
func processorTime(f func() error) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	clock := threadClock(unix.Gettid())
	before, err := used(clock)
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := used(clock)
	return after - before, err
}
