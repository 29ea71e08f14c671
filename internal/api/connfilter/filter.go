// SPDX-License-Identifier: Apache-2.0

// Package connfilter selects connections by a text in ss's words:
//
//	src 10.0.0.0/8 and dport = :443 state established,syn_recv service web
//
//	filter   = [ term { ["and"] term } ]
//	term     = ( "src" | "dst" | "real" ) PREFIX      client, virtual, real server's address
//	         | ( "sport" | "dport" | "rport" ) OP PORT    their ports
//	         | "state" WORDS | "service" WORDS | "protocol" WORDS
//	PREFIX   = address or address/length
//	OP       = "=" "==" "!=" "<" "<=" ">" ">=" or eq ne neq lt le leq gt ge geq
//	PORT     = 443 or :443
//	WORDS    = one or more, with commas: any of them
//
// All terms must hold. Unknown text is an error with its column.
package connfilter

import (
	"fmt"
	"strings"

	"xdplvs/director"
)

// Filter is a parsed text. The zero Filter lets every connection through. It
// is safe for use from several goroutines.
type Filter struct {
	terms []func(*director.Conn) bool
}

// Match tells whether all terms hold for c.
func (f *Filter) Match(c *director.Conn) bool {
	for _, term := range f.terms {
		if !term(c) {
			return false
		}
	}
	return true
}

// Error is a mistake in a filter's text.
type Error struct {
	Text    string
	Offset  int // of the mistake in Text, in bytes
	Message string
}

// Error is filter: column N: message; columns count from 1.
func (e *Error) Error() string {
	return fmt.Sprintf("filter: column %d: %s", e.Offset+1, e.Message)
}

// Pointer is the text with a caret under the mistake, as two lines.
func (e *Error) Pointer() string {
	return e.Text + "\n" + strings.Repeat(" ", e.Offset) + "^"
}
