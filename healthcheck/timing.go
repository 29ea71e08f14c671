// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"fmt"
	"time"
)

// Timing says how often a target is asked and how many results make a verdict. Intervals count from the
// beginning of a probe to the beginning of the next; a probe that takes longer delays the next one.
//
// A server that dies is down after at most Interval * Fall + Timeout.
type Timing struct {
	// Interval between probes while nothing changes. 0: 5 s.
	Interval time.Duration
	// Timeout of one probe, no longer than Interval. 0: Interval, at most 3 s.
	Timeout time.Duration
	// Fast is the interval while a change is pending: the last known result was another than the
	// verdict. 0: Interval, at most 1 s.
	Fast time.Duration
	// Retry is the interval while the target is down, and after a probe that could not be sent.
	// 0: Interval.
	Retry time.Duration
	// Rise and Fall are how many results in a row it takes to become better, and worse. The first
	// result that is known decides alone. 0: 2 and 3.
	Rise, Fall int
	// Spread is the time over which first probes are spread at random. 0: Interval, at most 1 s;
	// negative: none.
	Spread time.Duration
}

// MinInterval is the shortest interval.
const MinInterval = 10 * time.Millisecond

// WithDefaults gives the timing with zeros replaced.
func (t Timing) WithDefaults() Timing {
	t.Interval = orElse(t.Interval, 5*time.Second)
	t.Timeout = orElse(t.Timeout, min(t.Interval, 3*time.Second))
	t.Fast = orElse(t.Fast, min(t.Interval, time.Second))
	t.Retry = orElse(t.Retry, t.Interval)
	t.Rise, t.Fall = orElse(t.Rise, 2), orElse(t.Fall, 3)
	t.Spread = orElse(t.Spread, min(t.Interval, time.Second))
	return t
}

func orElse[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// maxCount bounds rise and fall.
const maxCount = 1000

// Validate names every mistake.
func (t Timing) Validate() error {
	t = t.WithDefaults()
	m := mistakes{kind: "timing of a"}
	atLeast := func(name string, d time.Duration) {
		if d < MinInterval {
			m.add(name, "%s is less than %s", d, MinInterval)
		}
	}
	atLeast("interval", t.Interval)
	atLeast("fast interval", t.Fast)
	atLeast("retry interval", t.Retry)
	if t.Timeout <= 0 || t.Timeout > t.Interval {
		m.add("timeout", "%s is not between 0 and the interval, %s", t.Timeout, t.Interval)
	}
	if t.Fast > t.Interval {
		m.add("fast interval", "%s is more than the interval, %s", t.Fast, t.Interval)
	}
	counts := func(name string, n int) {
		if n < 1 || n > maxCount {
			m.add(name, "%d is not between 1 and %d", n, maxCount)
		}
	}
	counts("rise", t.Rise)
	counts("fall", t.Fall)
	return m.err()
}

// Check is a probe that somebody wants, and how its results become a verdict.
type Check struct {
	Target  Target
	Checker Checker
	Timing  Timing
	// Initial is the verdict before the first result, for instance of before a restart. If it is not
	// Unknown, rise and fall count from the first result on.
	Initial Verdict
	// Former is all that was known before, in the place of Initial; only its counters begin anew.
	Former State
}

func (c Check) validate() error {
	if c.Checker == nil {
		return fmt.Errorf("checker missing")
	}
	if err := c.Target.validate(); err != nil {
		return err
	}
	return c.Timing.Validate()
}
