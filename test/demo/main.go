// SPDX-License-Identifier: Apache-2.0

// Command demo shows a director at work: it builds a network of namespaces with a client, a director
// and three real servers, runs the director's binary in it, sends real traffic and tells what is
// seen. It leaves nothing behind, also when it is interrupted. make demo runs it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"xdplvs/test/stage"
)

func main() {
	director := flag.String("director", "build/director", "the director's binary, a `PATH`")
	keep := flag.Bool("keep", false, "leave everything running until Enter or Ctrl-C")
	use := flag.String("use", "", "play this use, a `NAME` as of docs/uses")
	method := flag.String("method", "", "by this forwarding `METHOD`")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: needs root, for network namespaces and XDP: sudo make demo")
		os.Exit(1)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	catchSignals(cancel)
	if *use != "" {
		os.Exit(exitCode(because(ctx, play(ctx, cancel, *director, *use, *method))))
	}
	os.Exit(exitCode(run(ctx, cancel, *director, *keep)))
}

// run plays the demo and removes what it made, whatever happens in between.
func run(ctx context.Context, cancel context.CancelCauseFunc, director string, keep bool) (err error) {
	screen := stage.NewScreen(os.Stdout, cancel)
	if err := stage.RemoveStale(prefix); err != nil {
		return err
	}
	s := &theatre{binary: director, fail: cancel}
	defer func() {
		if interrupt := (interrupted{}); err != nil && !errors.As(err, &interrupt) && s.director != nil {
			s.director.ShowLog(os.Stderr)
		}
		struck := s.strike()
		if struck == nil && s.lab != nil {
			screen.Text("\nEverything is removed again: processes, namespaces, pinned maps, files.\n")
		}
		err = errors.Join(err, struck)
	}()
	t := &tale{theatre: s, screen: screen, keep: keep}
	if err := t.tell(ctx); err != nil || !keep {
		return because(ctx, err)
	}
	return waitForEnd(ctx)
}

// because prefers the reason why everything ends to its consequences.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// waitForEnd returns at a line on standard input, a signal, or when something broke.
func waitForEnd(ctx context.Context) error {
	line := make(chan struct{})
	go func() {
		// The end of a file is no line: in the background there is none to read.
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err == nil || stage.IsTerminal(os.Stdin) {
			close(line)
		}
	}()
	select {
	case <-line:
		return nil
	case <-ctx.Done():
	}
	if interrupt := (interrupted{}); errors.As(context.Cause(ctx), &interrupt) {
		return nil // which is how one ends it
	}
	return context.Cause(ctx)
}

// interrupted is the reason when a signal ends the demo.
type interrupted struct{ signal syscall.Signal }

// Error names the signal.
func (i interrupted) Error() string { return fmt.Sprintf("ended by a signal: %v", i.signal) }

// catchSignals makes the first signal cancel; more of them change nothing, so that an impatient
// second Ctrl-C does not cut short the removal. SIGPIPE (make demo | head) becomes an error of
// writing, SIGTTIN (make demo KEEP=1 &) one of reading.
func catchSignals(cancel context.CancelCauseFunc) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGTTIN)
	go func() {
		for s := range signals {
			cancel(interrupted{s.(syscall.Signal)})
		}
	}()
}

// exitCode says what went wrong. A signal's code is the shell's.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	if interrupt := (interrupted{}); errors.As(err, &interrupt) {
		return 128 + int(interrupt.signal)
	}
	return 1
}
