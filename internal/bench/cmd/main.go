// SPDX-License-Identifier: Apache-2.0

// Command bench measures the data plane and writes the figures as JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"xdplvs/internal/bench"
)

// what there is to measure; "" is everything that a packet costs here.
var what = map[string]func(out string, opts bench.Options) error{
	"":           figures,
	"count":      count,
	"count-here": countHere,
	"peers":      peers,
	"peers-here": peersHere,
	"scale":      scale,
	"checks":     checks,
}

func main() {
	out := flag.String("o", "", "where the figures are written")
	quick := flag.Bool("quick", false, "fewer and shorter measurements")
	only := flag.String("only", "", "the figures of test runs whose keys this `expression` finds, which are written nowhere")
	flag.Parse()
	if err := run(flag.Arg(0), *out, *only, *quick); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(name, out, only string, quick bool) error {
	measure := what[name]
	if measure == nil {
		known := slices.Sorted(maps.Keys(what))
		return fmt.Errorf("nothing is called %q (known: %s)", name, strings.Join(known[1:], ", "))
	}
	opts := bench.Thorough
	if quick {
		opts = bench.Quick
	}
	if only != "" {
		chosen, err := regexp.Compile(only)
		if err != nil {
			return fmt.Errorf("-only: %w", err)
		}
		opts.Only = chosen
	}
	opts.Log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	return measure(out, opts)
}

func figures(out string, opts bench.Options) error {
	report, err := bench.Run(opts)
	if err != nil {
		return err
	}
	report.Print(os.Stdout)
	if opts.Only != nil {
		return nil
	}
	return bench.WriteJSON(out, report.Values())
}

// count has countHere run in the machine whose clock counts instructions.
func count(out string, _ bench.Options) error {
	var c bench.Counted
	if err := bench.Emulated("count-here", &c); err != nil {
		return err
	}
	c.Print(os.Stdout)
	return bench.WriteJSON(out, c)
}

func countHere(string, bench.Options) error {
	c, err := bench.Counts()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}

// peersHere is what peers has run in the machine whose clock counts instructions.
func peersHere(string, bench.Options) error {
	c, err := bench.Compare(bench.PeersCounted, true)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}

// peers compares the director with others: here by time, in the emulated machine by instructions. out is a folder.
func peers(out string, opts bench.Options) error {
	report := bench.NewPeersReport()
	packets, connections := bench.PeersHost, bench.ProxiedThorough
	if opts.Rounds == bench.Quick.Rounds {
		packets, connections = bench.PeersQuick, bench.ProxiedQuick
	}
	here, err := bench.Compare(packets, false)
	if err != nil {
		return err
	}
	report.Comparisons = append(report.Comparisons, here)
	if report.Proxied, err = bench.CompareConnections(connections); err != nil {
		return err
	}
	var counted bench.Comparison
	if err := bench.Emulated("peers-here", &counted); err != nil {
		report.Skipped = append(report.Skipped, "Linux IPVS in an emulated machine: "+err.Error())
	} else {
		report.Comparisons = append(report.Comparisons, &counted)
	}
	fmt.Print(report.Markdown())
	return report.WriteAll(out)
}

// scale measures how costs grow. out is a folder.
func scale(out string, opts bench.Options) error {
	s, err := bench.MeasureScale(opts)
	if err != nil {
		return err
	}
	fmt.Print(s.Markdown())
	return s.WriteAll(out)
}

// checks measures what health checks cost, and fails where it is too much.
func checks(out string, opts bench.Options) error {
	gauges, err := bench.Checks(opts)
	if err != nil {
		return err
	}
	report := bench.Report{Gauges: gauges}
	report.PrintGauges(os.Stdout)
	values := map[string]float64{}
	for _, g := range gauges {
		values[g.Key] = g.Value
	}
	if err := bench.WriteJSON(out, values); err != nil {
		return err
	}
	return report.Missed()
}
