// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Report is everything that one run measured.
type Report struct {
	Figures []Figure
	Gauges  []Gauge
	Live    Live
	Options Options
	Machine string
}

// Run measures everything.
func Run(opts Options) (*Report, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root: programs are loaded and network namespaces are made")
	}
	figures, err := Micro(opts)
	if err != nil {
		return nil, err
	}
	if opts.Only != nil {
		return &Report{Figures: figures, Options: opts, Machine: machine()}, nil
	}
	byScheduler, growth, err := Schedulers(opts)
	if err != nil {
		return nil, err
	}
	figures = append(figures, byScheduler...)
	live, err := RunLive(opts)
	if err != nil {
		return nil, err
	}
	gauges, err := Gauges(opts)
	if err != nil {
		return nil, err
	}
	gauges = append(growth, gauges...)
	return &Report{figures, append(gauges, live.New), live, opts, machine()}, nil
}

// liveLimit is what live_ratio, that of direct routing, must reach.
const liveLimit = 0.80

// Values are the figures by key.
func (r *Report) Values() map[string]any {
	v := map[string]any{
		"repetitions":   r.Options.Rounds,
		"live_raw_mpps": r.Live.Raw,
		"machine":       r.Machine,
		"date":          time.Now().UTC().Format(time.DateOnly),
	}
	for _, w := range r.Live.Ways {
		v[w.rateKey()], v[w.ratioKey()] = w.Mpps, w.Ratio
	}
	for _, f := range r.Figures {
		v[f.Key] = f.Value
		v[baselineKey(f.Key)] = f.Baseline
	}
	for _, g := range r.Gauges {
		v[g.Key] = g.Value
	}
	return v
}

func (w Way) rateKey() string { return "live_" + w.Name + "_mpps" }

// ratioKey of direct routing has no name in it: it was the first.
func (w Way) ratioKey() string {
	if w.Name == "dr" {
		return "live_ratio"
	}
	return "live_" + w.Name + "_ratio"
}

// limit is what the ratio must reach; 0: no promise.
func (w Way) limit() float64 {
	if w.Name == "dr" {
		return liveLimit
	}
	return 0
}

// baselineKey is where the absolute baseline of a figure stands.
func baselineKey(key string) string { return key[:len(key)-len("_ns")] + "_baseline_ns" }

// WriteJSON writes figures to a file, which appears whole or not at all; without a path, nowhere.
func WriteJSON(path string, figures any) error {
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return fmt.Errorf("encode figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return nil
}

// Print prints a table for people.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\nmedians of %d rounds, nanoseconds a packet over the baseline of the same round\n\n", r.Machine, r.Options.Rounds)
	fmt.Fprintf(w, "%-36s %8s %9s %8s  %s\n", "", "over", "baseline", "bound", "")
	for _, f := range r.Figures {
		fmt.Fprintf(w, "%-36s %8.1f %9.1f %8s  %s%s\n", f.Key, f.Value, f.Baseline, bound(f.Limit), verdict(f.Value <= f.Limit, f.Limit), f.What)
	}
	if r.Options.Only != nil {
		return
	}
	fmt.Fprintf(w, "\n%-36s %8.2f Mpps\n", "live_raw_mpps", r.Live.Raw)
	for _, way := range r.Live.Ways {
		fmt.Fprintf(w, "%-36s %8.2f Mpps\n", way.rateKey(), way.Mpps)
		fmt.Fprintf(w, "%-36s %8.2f %9s %8s  %s\n", way.ratioKey(), way.Ratio, "", bound(way.limit()), verdict(way.Ratio >= way.limit(), way.limit()))
	}
	fmt.Fprintln(w)
	r.PrintGauges(w)
}

// PrintGauges prints the figures that have no baseline.
func (r *Report) PrintGauges(w io.Writer) {
	fmt.Fprintf(w, "%-36s %8s %9s %8s\n", "", "value", "", "bound")
	for _, g := range r.Gauges {
		fmt.Fprintf(w, "%-36s %8s %-9s %8s  %s%s\n", g.Key, number(g.Value), g.Unit, bound(g.Limit), verdict(g.Value <= g.Limit, g.Limit), g.What)
	}
}

// Missed is an error that names the gauges above their bounds.
func (r *Report) Missed() error {
	var errs []error
	for _, g := range r.Gauges {
		if g.Limit != 0 && g.Value > g.Limit {
			errs = append(errs, fmt.Errorf("%s is %s %s, more than %s", g.Key, number(g.Value), g.Unit, bound(g.Limit)))
		}
	}
	return errors.Join(errs...)
}

// number is a value in eight columns at most: as it is read best.
func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func bound(limit float64) string {
	if limit == 0 {
		return "-"
	}
	return fmt.Sprintf("%g", limit)
}

func verdict(ok bool, limit float64) string {
	switch {
	case limit == 0:
		return ""
	case ok:
		return "ok    "
	default:
		return "OVER  "
	}
}
