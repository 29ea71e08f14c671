// SPDX-License-Identifier: Apache-2.0

// Command bench measures the data plane and writes the figures as JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"xdplvs/internal/bench"
)

// what there is to measure; "" is everything that a packet costs here.
var what = map[string]func(out string, opts bench.Options) error{
	"":           figures,
	"count":      count,
	"count-here": countHere,
}

func main() {
	out := flag.String("o", "", "where the figures are written")
	quick := flag.Bool("quick", false, "fewer and shorter measurements")
	flag.Parse()
	if err := run(flag.Arg(0), *out, *quick); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(name, out string, quick bool) error {
	measure := what[name]
	if measure == nil {
		known := slices.Sorted(maps.Keys(what))
		return fmt.Errorf("nothing is called %q (known: %s)", name, strings.Join(known[1:], ", "))
	}
	opts := bench.Thorough
	if quick {
		opts = bench.Quick
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
