// SPDX-License-Identifier: Apache-2.0

// Command gotest runs go test and prints one line for each package, the output of tests that failed, and at the end
// how many were skipped and why. Packages run two at a time, since most have one processor
// at work; those that match -alone, which load or time the whole machine, run one by one when the others have. What
// follows -- is for go test:
//
//	go run ./tools/gotest -alone ./test/e2e,./test/uses -beside -race ./... -- -count=1
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
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
	var forGo []string
	if at := slices.Index(args, "--"); at >= 0 {
		args, forGo = args[:at], args[at+1:]
	}
	flags := flag.NewFlagSet("gotest", flag.ContinueOnError)
	patterns := flags.String("alone", "", "patterns of packages, by commas, that run one after the other when all others have")
	beside := flags.String("beside", "", "a flag of go test for all packages but those of -alone")
	if err := flags.Parse(args); err != nil {
		return true, err
	}
	packages := flags.Args()
	if len(packages) == 0 {
		packages = []string{"."}
	}
	together, alone, err := split(packages, *patterns)
	if err != nil {
		return true, err
	}
	// go test gets an interrupt too, and ends; its last words are worth waiting for. Caught and not
	// ignored: what is ignored here would be ignored there.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	r := newReport(out)
	err = r.test(together, slices.Concat([]string{"-p=2"}, strings.Fields(*beside), forGo))
	if err == nil && len(interrupted) == 0 {
		err = r.test(alone, append([]string{"-p=1"}, forGo...))
	}
	r.summarize()
	return r.anyFailed() || err != nil, err
}

// split parts the packages that the patterns name into those that may run together, and those that match the
// patterns of -alone.
func split(packages []string, patterns string) (together, alone []string, err error) {
	if patterns == "" {
		return packages, nil, nil
	}
	all, err := list(packages)
	if err != nil {
		return nil, nil, err
	}
	apart, err := list(strings.Split(patterns, ","))
	if err != nil {
		return nil, nil, err
	}
	for _, name := range all {
		if slices.Contains(apart, name) {
			alone = append(alone, name)
		} else {
			together = append(together, name)
		}
	}
	return together, alone, nil
}

// list resolves patterns; a package that does not compile has a name, too.
func list(patterns []string) ([]string, error) {
	cmd := exec.Command("go", append([]string{"list", "-e"}, patterns...)...)
	cmd.Stderr = os.Stderr
	names, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	return strings.Fields(string(names)), nil
}

// test runs go test with flags on packages, if there are any, and takes what it says.
func (r *report) test(packages, flags []string) error {
	if len(packages) == 0 {
		return nil
	}
	cmd := exec.Command("go", slices.Concat([]string{"test", "-json"}, flags, packages)...)
	cmd.Env = append([]string{"GORACE=atexit_sleep_ms=0"}, os.Environ()...) // a package's end is a second nearer; the last of a variable counts
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	if err := r.read(events); err != nil {
		return fmt.Errorf("read go test -json: %w", err)
	}
	if err := cmd.Wait(); err != nil && !r.anyFailed() { // such as an unknown flag
		return fmt.Errorf("run go test: %w", err)
	}
	return nil
}
