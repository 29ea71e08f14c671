// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

// test is one test; the zero name is its package's own output.
type test struct{ pkg, name string }

// report gathers what go test says.
type report struct {
	out    io.Writer
	began  time.Time
	output map[test]*strings.Builder
	builds map[string]*strings.Builder // compilers' output by import path

	passed, failed, skipped int
	packagesFailed          int
	reasons                 map[string]int // tests skipped for it
}

func newReport(out io.Writer) *report {
	return &report{out: out, began: time.Now(), reasons: map[string]int{},
		output: map[test]*strings.Builder{}, builds: map[string]*strings.Builder{}}
}

// read takes the events, until there are no more.
func (r *report) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil { // go's own words
		r.out.Write(line)
		return
	}
	switch {
	case e.Action == "build-output":
		builder(r.builds, e.ImportPath).WriteString(e.Output)
	case e.Action == "output":
		builder(r.output, test{e.Package, e.Test}).WriteString(e.Output)
	case e.Test == "":
		r.endPackage(&e)
	default:
		r.endTest(&e)
	}
}

func builder[K comparable](m map[K]*strings.Builder, k K) *strings.Builder {
	if m[k] == nil {
		m[k] = &strings.Builder{}
	}
	return m[k]
}

func (r *report) endTest(e *event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "pass":
		r.passed++
		delete(r.output, t)
	case "skip":
		r.skipped++
		r.reasons[skipReason(builder(r.output, t).String())]++
		delete(r.output, t)
	case "fail":
		r.failed++
	}
}

// logLine is where a test's log begins: "    file_test.go:12: ".
var logLine = regexp.MustCompile(`^\s+[\w./-]+\.go:\d+: `)

// skipReason is the last thing the test logged.
func skipReason(output string) string {
	reason := "no reason given"
	for line := range strings.Lines(output) {
		if at := logLine.FindStringIndex(line); at != nil {
			reason = strings.TrimSpace(line[at[1]:])
		}
	}
	return reason
}

func (r *report) endPackage(e *event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok    %-32s %6.1f s\n", e.Package, e.Elapsed)
	case "fail":
		r.packagesFailed++
		fmt.Fprintf(r.out, "FAIL  %-32s %6.1f s\n", e.Package, e.Elapsed)
		r.printFailures(e)
	case "skip": // no test files
	default: // start
		return
	}
	maps.DeleteFunc(r.output, func(t test, _ *strings.Builder) bool { return t.pkg == e.Package })
}

// printFailures prints what the tests that did not pass and the package itself said.
func (r *report) printFailures(e *event) {
	if e.FailedBuild != "" {
		io.WriteString(r.out, builder(r.builds, e.FailedBuild).String())
	}
	var tests []test
	for t := range r.output {
		if t.pkg == e.Package {
			tests = append(tests, t)
		}
	}
	slices.SortFunc(tests, func(a, b test) int { return cmp.Compare(a.name, b.name) })
	for _, t := range tests {
		io.WriteString(r.out, noise.ReplaceAllString(r.output[t].String(), ""))
	}
}

// noise are the lines that go test shows only with -v, and those that say no more than ours do.
var noise = regexp.MustCompile(`(?m)^(=== (RUN|PAUSE|CONT|NAME) .*|FAIL|FAIL\t.*|exit status \d+)\n`)

func (r *report) anyFailed() bool { return r.failed+r.packagesFailed > 0 }

// summarize prints the counts, and the reasons for skips with the most frequent first.
func (r *report) summarize() {
	reasons := slices.SortedFunc(maps.Keys(r.reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.reasons[b], r.reasons[a]), cmp.Compare(a, b))
	})
	for _, reason := range reasons {
		fmt.Fprintf(r.out, "skipped %d: %s\n", r.reasons[reason], reason)
	}
	if r.skipped > 0 && os.Geteuid() != 0 {
		fmt.Fprintln(r.out, "not run as root: privileged tests were skipped, and packets not tried")
	}
	fmt.Fprintf(r.out, "took %.0f s\ntests: %d passed, %d failed, %d skipped\n",
		time.Since(r.began).Seconds(), r.passed, r.failed, r.skipped)
	if r.packagesFailed > 0 {
		fmt.Fprintf(r.out, "FAIL: %d packages\n", r.packagesFailed)
	}
}
