// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"
)

// repeat are the flags --watch and --interval.
type repeat struct {
	on       bool
	interval time.Duration
}

func addRepeat(flags *pflag.FlagSet) *repeat {
	r := &repeat{}
	flags.BoolVarP(&r.on, "watch", "w", false, "print again and again until interrupted")
	flags.DurationVar(&r.interval, "interval", 2*time.Second, "time between two prints of --watch")
	return r
}

// print calls page once, or until ctx ends, which is no error then. Once it
// has worked, a later error is shown and the next try follows: a watcher
// outlives the daemon's restart.
func (a *app) print(ctx context.Context, r *repeat, page func(io.Writer) error) error {
	if !r.on {
		return a.printPage(page)
	}
	if r.interval <= 0 {
		return usagef("interval %s is not above 0", r.interval)
	}
	ticker := time.NewTicker(r.interval)
	defer ticker.Stop()
	for first := true; ; first = false {
		a.clear()
		err := a.printPage(page)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (first || a.out.err != nil):
			return err
		case err != nil:
			a.printError(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// printPage writes the page when it is whole.
func (a *app) printPage(page func(io.Writer) error) error {
	var buf bytes.Buffer
	if err := page(&buf); err != nil {
		return err
	}
	_, err := a.out.Write(buf.Bytes())
	return err
}

// clear empties a terminal (ECMA-48 CUP and ED).
func (a *app) clear() {
	if a.StdoutIsTerminal {
		fmt.Fprint(a.out, "\x1b[H\x1b[2J")
	}
}

// writeJSON writes one value in a form for people.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
