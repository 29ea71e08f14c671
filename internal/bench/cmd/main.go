// SPDX-License-Identifier: Apache-2.0

// Command bench measures the data plane and writes the figures as JSON.
package main

import (
	"flag"
	"fmt"
	"os"

	"xdplvs/internal/bench"
)

func main() {
	out := flag.String("o", "build/bench.json", "where the figures are written")
	quick := flag.Bool("quick", false, "fewer and shorter measurements")
	flag.Parse()
	if err := run(*out, *quick); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(out string, quick bool) error {
	opts := bench.Thorough
	if quick {
		opts = bench.Quick
	}
	opts.Log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	report, err := bench.Run(opts)
	if err != nil {
		return err
	}
	report.Print(os.Stdout)
	return report.Write(out)
}
