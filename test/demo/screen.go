// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// screen prints the tale. Colours follow no-color.org.
type screen struct {
	out    io.Writer
	colour bool
	fail   context.CancelCauseFunc // called when nobody reads any more
	steps  int
	fresh  bool // a step has just begun
}

func newScreen(out *os.File, fail context.CancelCauseFunc) *screen {
	colour := isTerminal(out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return &screen{out: out, colour: colour, fail: fail}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// The SGR codes (ECMA-48 8.3.117) that are used.
const (
	bold  = "1"
	green = "32"
	cyan  = "1;36"
)

func (s *screen) mark(code, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// text prints text as it is.
func (s *screen) text(text string) {
	if _, err := io.WriteString(s.out, text); err != nil {
		s.fail(fmt.Errorf("print: %w", err))
	}
}

// step begins a step: its title, and a sentence about what is seen.
func (s *screen) step(title, sentence string) {
	s.steps++
	s.fresh = true
	s.text(fmt.Sprintf("\n%s\n%s\n\n", s.mark(cyan, fmt.Sprintf("%d. %s", s.steps, title)), sentence))
}

// block prints lines, indented, and apart from other blocks of the step.
func (s *screen) block(text string) {
	if !s.fresh {
		s.text("\n")
	}
	s.fresh = false
	for line := range strings.Lines(text) {
		s.text(strings.TrimRight("    "+line, " \n") + "\n")
	}
}

// command prints a command as it is typed, and what it printed.
func (s *screen) command(command, output string) {
	s.block(s.mark(bold, "# "+command) + "\n" + output)
}

// barWidth is the longest bar, in characters.
const barWidth = 12

// columnWidth fits "[2001:db8::10]:80 wrr", and a number with its bar.
const columnWidth = 22

// spread prints how requests were spread: a line for each real server, a column for each service.
func (s *screen) spread(reals []string, weights map[string]int, tallies []tally) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-5s %6s", "", "weight")
	for _, t := range tallies {
		fmt.Fprintf(&b, "  %-*s", columnWidth, fmt.Sprintf("%s %s", t.service.virtual, t.service.scheduler))
	}
	lines := s.mark(bold, strings.TrimRight(b.String(), " ")) + "\n"
	for _, r := range reals {
		b.Reset()
		fmt.Fprintf(&b, "%-5s %6d", r, weights[r])
		for _, t := range tallies {
			bar := strings.Repeat("#", (t.answers[r]*barWidth+t.largest()/2)/max(1, t.largest()))
			fmt.Fprintf(&b, "  %6d %s%*s", t.answers[r], s.mark(green, bar), columnWidth-7-len(bar), "")
		}
		lines += b.String() + "\n"
	}
	s.block(lines)
}
