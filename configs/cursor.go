// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// cursor is one place in a file. It is small, as each setting keeps its own.
type cursor struct {
	path *path
	at   *yaml.Node // where it is written, the position in errors; maybe an alias
}

// path is the way from the top to a place, last step first.
type path struct {
	parent *path
	doc    *document // of the top, which has no parent, only
	key    string    // of an object; empty: an element of a list
	index  int
}

// document is what the place is in.
func (p *path) document() *document {
	for p.parent != nil {
		p = p.parent
	}
	return p.doc
}

// String is as in services[0].reals[2].port.
func (p *path) String() string {
	if p.parent == nil {
		return ""
	}
	parent := p.parent.String()
	switch {
	case p.key == "":
		return parent + "[" + strconv.Itoa(p.index) + "]"
	case parent == "":
		return p.key
	default:
		return parent + "." + p.key
	}
}

// child is the value of a key.
func (c cursor) child(key string, value *yaml.Node) cursor {
	return cursor{&path{parent: c.path, key: key}, value}
}

// elements are the places of a list's elements.
func (c cursor) elements() iter.Seq2[int, cursor] {
	return func(yield func(int, cursor) bool) {
		for i, e := range c.node().Content {
			if !yield(i, cursor{&path{parent: c.path, index: i}, e}) {
				return
			}
		}
	}
}

// node is what is written here, or what that is an alias of.
func (c cursor) node() *yaml.Node { return target(c.at) }

func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func (c cursor) failf(format string, args ...any) {
	c.path.document().fail(c.at.Line, c.at.Column, c.path.String(), fmt.Sprintf(format, args...))
}

// expected fails because of what is found here; a note is added in brackets.
func (c cursor) expected(what, note string) {
	message := "expected " + what + ", found " + describe(c.node())
	if note != "" {
		message += " (" + note + ")"
	}
	c.failf("%s", message)
}

func describe(n *yaml.Node) string {
	switch {
	case !hasCoreTag(n):
		return "the unknown tag " + clip(n.Tag)
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	case n.Tag == "!!str" || isQuoted(n) || strings.ContainsFunc(n.Value, unicode.IsControl):
		return quote(n.Value)
	default:
		return clip(n.Value)
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func isQuoted(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
}

// hasCoreTag is false for tags that would need somebody to act on them.
func hasCoreTag(n *yaml.Node) bool {
	switch n.Tag {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!map", "!!seq", "!!merge":
		return true
	}
	return false
}

// quote is for text of the file in messages, which must stay on their line.
func quote(text string) string { return strconv.Quote(clip(text)) }

func clip(text string) string {
	const most = 64
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
