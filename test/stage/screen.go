// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Screen prints what happens. Colours follow no-color.org.
type Screen struct {
	out    io.Writer
	colour bool
	fail   context.CancelCauseFunc // called when nobody reads any more
	steps  int
	fresh  bool // a step has just begun
}

// NewScreen prints to a writer, in colour if that is a terminal.
func NewScreen(out io.Writer, fail context.CancelCauseFunc) *Screen {
	file, ok := out.(*os.File)
	colour := ok && IsTerminal(file) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return &Screen{out: out, colour: colour, fail: fail, fresh: true}
}

// IsTerminal tells whether a person is at the other end.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// The SGR codes (ECMA-48 8.3.117) that are used.
const (
	Bold  = "1"
	Green = "32"
	cyan  = "1;36"
)

// Mark gives text a colour.
func (s *Screen) Mark(code, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Text prints text as it is.
func (s *Screen) Text(text string) {
	if _, err := io.WriteString(s.out, text); err != nil {
		s.fail(fmt.Errorf("print: %w", err))
	}
}

// Step begins a step: its title, and a sentence about what is seen.
func (s *Screen) Step(title, sentence string) {
	s.steps++
	s.fresh = true
	s.Text(fmt.Sprintf("\n%s\n%s\n\n", s.Mark(cyan, fmt.Sprintf("%d. %s", s.steps, title)), sentence))
}

// Block prints lines, indented, and apart from other blocks of the step.
func (s *Screen) Block(text string) {
	if !s.fresh {
		s.Text("\n")
	}
	s.fresh = false
	for line := range strings.Lines(text) {
		s.Text(strings.TrimRight("    "+line, " \n") + "\n")
	}
}

// Command prints a command as it is typed, and what it printed.
func (s *Screen) Command(command, output string) {
	s.Block(s.Mark(Bold, "# "+command) + "\n" + output)
}
