// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one fault of a file.
type Error struct {
	File         string
	Line, Column int    // from 1, the column in characters; 0 if the file as a whole is meant
	Path         string // as in services[2].reals[0].port, counted from 0; empty for the file
	Message      string
}

// Error is file:line:col: path: message, without the parts that are not known.
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	return b.String() + e.Message
}

// Errors are all faults of a file, in the order of their positions.
type Errors []Error

// Error is one line for each fault.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted orders by position and keeps one of those that say the same of the same
// place: what is wrong in an anchor is wrong in each of its uses.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	said := map[Error]bool{}
	return slices.DeleteFunc(e, func(one Error) bool {
		one.Path = ""
		again := said[one]
		said[one] = true
		return again
	})
}
