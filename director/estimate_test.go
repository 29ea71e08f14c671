// SPDX-License-Identifier: Apache-2.0

package director

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// recordedRates are the rates that a kernel showed, one after the other, each once.
func recordedRates(t *testing.T) []Rates {
	t.Helper()
	text, err := os.ReadFile("testdata/ipvs-6.1/estimator.json")
	if err != nil {
		t.Fatal(err)
	}
	var recording struct {
		Scenarios []struct {
			Steps []struct {
				Vals []json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(text, &recording); err != nil {
		t.Fatal(err)
	}
	var all []Rates
	for _, s := range recording.Scenarios {
		for _, step := range s.Steps {
			for _, raw := range step.Vals {
				var v struct {
					Lines []string `json:"rate_and_totals"` // of --rate, of --stats
				}
				if json.Unmarshal(raw, &v) != nil || len(v.Lines) == 0 {
					continue // another kind of note
				}
				var r Rates
				if _, err := fmt.Sscanf(strings.Fields(v.Lines[0])[1]+" "+strings.Join(strings.Fields(v.Lines[0])[2:], " "),
					"10.2.0.11:80 %d %d %d %d %d", &r.CPS, &r.InPPS, &r.OutPPS, &r.InBPS, &r.OutBPS); err != nil {
					t.Fatalf("%q: %v", v.Lines[0], err)
				}
				if len(all) == 0 || all[len(all)-1] != r {
					all = append(all, r)
				}
			}
		}
	}
	return all
}

// TestEstimatorAgrees: 500 connections within one interval, then silence, as a
// kernel was recorded with.
func TestEstimatorAgrees(t *testing.T) {
	recorded := recordedRates(t)
	if len(recorded) < 10 || recorded[0] != (Rates{}) {
		t.Fatalf("recording has %d rates, the first is %v", len(recorded), recorded[0])
	}
	var e estimator
	e.update(Counters{})
	expect(t, "before", e.rates(), recorded[0])
	burst := Counters{Conns: 500, InPkts: 500, OutPkts: 500, InBytes: 50000, OutBytes: 100000}
	for i, want := range recorded[1:] {
		e.update(burst)
		expect(t, fmt.Sprintf("interval %d", i+1), e.rates(), want)
	}
}

// TestEstimator: IPVS.md section 13 in numbers.
func TestEstimator(t *testing.T) {
	t.Run("conns shown", func(t *testing.T) {
		var e estimator
		var shown []uint64
		for range 4 {
			e.update(Counters{Conns: 500})
			shown = append(shown, e.rates().CPS)
		}
		expect(t, "CPS", fmt.Sprint(shown), "[62 47 35 26]")
	})
	t.Run("steady", func(t *testing.T) {
		var e estimator
		for i := range uint64(200) {
			e.update(Counters{InPkts: i * 2000, InBytes: i * 2_000_000_000})
		}
		expect(t, "InPPS", e.rates().InPPS, 1000)
		expect(t, "InBPS", e.rates().InBPS, 1_000_000_000)
	})
	t.Run("fast", func(t *testing.T) {
		var e estimator // 100 Gbit/s and 148 Mpps for a day
		for i := range uint64(43200) {
			e.update(Counters{InPkts: i * 2 * 148_000_000, InBytes: i * 2 * 12_500_000_000})
		}
		expect(t, "InPPS", e.rates().InPPS, 148_000_000)
		expect(t, "InBPS", e.rates().InBPS, 12_500_000_000)
	})
	t.Run("down to nothing", func(t *testing.T) {
		var e estimator
		c := Counters{Conns: 1000, InPkts: 1000, OutPkts: 1000, InBytes: 1000, OutBytes: 1000}
		for range 100 {
			e.update(c)
		}
		expect(t, "rates", e.rates(), Rates{})
	})
}

// TestRates: of a real server, its service and all; a removed one's traffic stays
// in the totals and is no rate; neither is what a former process counted.
func TestRates(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1), real4(2, 1)))
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
	first := w.d.services[key4(1)].reals[1].id
	w.count(first, 80, 8000)
	w.tick()
	check := func(what string, real, service, total, conns uint64) {
		t.Helper()
		s, err := w.d.snapshot()
		if err != nil {
			t.Fatal(err)
		}
		v := s.Services[0]
		expect(t, what+": real server's CPS", v.Reals[len(v.Reals)-1].Rates.CPS, real)
		expect(t, what+": service's CPS", v.Rates.CPS, service)
		expect(t, what+": total CPS", s.Rates.CPS, total)
		expect(t, what+": total conns", s.Total.Conns, conns)
	}
	check("first interval", 10, 10, 10, 80)
	w.mustWant(one("rr", real4(2, 1)))
	check("removed", 0, 10, 10, 80)
	w.tick()
	check("next interval", 0, 7, 7, 80)
	w.restart()
	w.mustWant(one("rr", real4(2, 1)))
	w.tick()
	check("restarted", 0, 0, 0, 80)
	w.count(w.d.services[key4(1)].reals[0].id, 8, 100)
	w.tick()
	check("after it", 1, 1, 1, 88)
	w.mustWant(Desired{})
	w.tick()
	s, err := w.d.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "total of no services", s.Total.Conns, 88)
	expect(t, "total bytes of no services", s.Total.InBytes, 8100)
}
