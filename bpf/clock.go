// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
)

// Clock tells the time in the unit of the tables.
type Clock struct {
	program *ebpf.Program
	hz      uint64
}

// initialJiffies is what the counter starts with at boot: it runs over after
// five minutes, so that errors show early (INITIAL_JIFFIES, linux/jiffies.h).
func initialJiffies(hz uint64) uint64 { return uint64(uint32(-300 * int64(hz))) }

// Clock finds out the rate of jiffies. It fails on a kernel whose rate is none
// of the four that Linux can be built with.
func (d *DataPlane) Clock() (*Clock, error) {
	c := &Clock{program: d.objects.Programs[directorProgReadClock]}
	r, err := c.read()
	if err != nil {
		return nil, err
	}
	c.hz, err = rateOf(r.Jiffies, time.Duration(r.MonotonicNs))
	return c, err
}

// rateOf is the rate that explains the counter's value after so much time.
func rateOf(jiffies uint64, up time.Duration) (uint64, error) {
	for _, hz := range []uint64{100, 250, 300, 1000} {
		expected := float64(initialJiffies(hz)) + up.Seconds()*float64(hz)
		if math.Abs(expected-float64(jiffies)) < 2*float64(hz)+0.001*up.Seconds()*float64(hz) {
			return hz, nil
		}
	}
	return 0, fmt.Errorf("find rate of jiffies: %d after %v fits none", jiffies, up)
}

func (c *Clock) read() (r directorClockReading, err error) {
	if _, err := c.program.Run(&ebpf.RunOptions{Context: &r, ContextOut: &r}); err != nil {
		return r, fmt.Errorf("read clock: %w", err)
	}
	return r, nil
}

// Now is the low half of jiffies, as connections are stamped with.
func (c *Clock) Now() (uint32, error) {
	r, err := c.read()
	return uint32(r.Jiffies), err
}

// Jiffies is d in the unit of the tables, rounded up.
func (c *Clock) Jiffies(d time.Duration) uint32 {
	ticks := (uint64(d)*c.hz + uint64(time.Second) - 1) / uint64(time.Second)
	return uint32(min(ticks, math.MaxInt32))
}

// Duration is a number of jiffies, which may be negative.
func (c *Clock) Duration(jiffies int32) time.Duration {
	return time.Duration(jiffies) * time.Second / time.Duration(c.hz)
}
