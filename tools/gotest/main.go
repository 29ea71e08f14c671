// SPDX-License-Identifier: Apache-2.0

// Command gotest runs go test with the given arguments and prints one line for each package, the
// output of tests that failed, and at the end how many were skipped and why:
//
//	go run ./tools/gotest -race ./...
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
)

func main() {
	failed, err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

// run returns whether a test failed; err is what kept go test from telling.
func run(args []string, out io.Writer) (failed bool, err error) {
	// go test gets an interrupt too, and ends; its last words are worth waiting for. Caught and not
	// ignored: what is ignored here would be ignored there.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return false, fmt.Errorf("run go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("run go test: %w", err)
	}
	r := newReport(out)
	if err := r.read(events); err != nil {
		return false, fmt.Errorf("read go test -json: %w", err)
	}
	err = cmd.Wait()
	r.summarize()
	if err != nil && !r.anyFailed() { // such as an unknown flag
		return true, fmt.Errorf("run go test: %w", err)
	}
	return r.anyFailed(), nil
}
