// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"strings"
	"testing"
	"time"
)

// Time in which a thread waits is none of its processor time.
func TestProcessorTime(t *testing.T) {
	idle, err := processorTime(func() error { time.Sleep(50 * time.Millisecond); return nil })
	if err != nil {
		t.Fatal(err)
	}
	busy, err := processorTime(func() error {
		for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if idle > 25*time.Millisecond || busy <= idle {
		t.Errorf("50 ms of sleep used %v of a processor, 50 ms of work %v", idle, busy)
	}
}

// A gauge is written under its key, and printed with its bound and whether it is kept.
func TestReportGauges(t *testing.T) {
	r := &Report{Gauges: []Gauge{
		{Key: "kept", Unit: "bytes", Value: 88.69, Limit: 100, What: "memory"},
		{Key: "over", Unit: "%", Value: 0.6, Limit: 0.5, What: "places"},
		{Key: "free", Unit: "/s", Value: 1234567.8, What: "connections"},
	}}
	values := r.Values()
	for _, g := range r.Gauges {
		if values[g.Key] != g.Value {
			t.Errorf("value of %s is %v, want %v", g.Key, values[g.Key], g.Value)
		}
	}
	if err := r.Missed(); err == nil || err.Error() != "over is 0.6 %, more than 0.5" {
		t.Errorf("missed is %v", err)
	}
	var out strings.Builder
	r.Print(&out)
	var words []string
	for line := range strings.Lines(out.String()) {
		words = append(words, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{"kept 88.7 bytes 100 ok memory", "over 0.6 % 0.5 OVER places", "free 1234568 /s - connections"} {
		if !strings.Contains(strings.Join(words, "\n"), want) {
			t.Errorf("no line %q is printed in\n%s", want, out.String())
		}
	}
}

// Every scheduler is measured with few and many real servers, and its plans are whole.
func TestSchedulerCases(t *testing.T) {
	keys := map[string]bool{}
	for _, c := range schedulerCases() {
		keys[c.key] = len(c.service.Reals) == c.reals
		if err := c.service.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, key := range []string{"new4_rr_2_over_raw_ns", "new4_wlc_100_over_raw_ns", "new4_mh_1000_over_raw_ns"} {
		if !keys[key] {
			t.Errorf("%s is not measured, or with another number of real servers", key)
		}
	}
	for _, name := range []string{"wlc", "mh"} {
		if ms, err := rebuilds(name, 50, 3); err != nil || len(ms) != 3 || ms[0] <= 0 {
			t.Errorf("%s: %v ms, %v", name, ms, err)
		}
	}
}
