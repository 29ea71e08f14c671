// SPDX-License-Identifier: Apache-2.0

package configs

import "gopkg.in/yaml.v3"

// kind is how a value is written: the schema that editors get, and the decoder,
// which reports what is wrong and then returns false.
type kind[V any] struct {
	schema func() schema
	decode func(c cursor) (V, bool)
}

// parsed is a kind of single value. What completes "expected …"; the parser's note,
// which may be empty, tells what is wrong with a text that it refuses.
func parsed[V any](what string, s schema, parse func(text string) (v V, note string, ok bool)) kind[V] {
	return kind[V]{s.self, func(c cursor) (none V, ok bool) {
		text, ok := literal(c, what)
		if !ok {
			return none, false
		}
		v, note, ok := parse(text)
		if !ok {
			c.expected(what, note)
			return none, false
		}
		return v, true
	}}
}

// literal is the text of a single value, however it is quoted.
func literal(c cursor, what string) (string, bool) {
	if c.node().Kind != yaml.ScalarNode || isNull(c.node()) || !hasCoreTag(c.node()) {
		c.expected(what, "")
		return "", false
	}
	return c.node().Value, true
}

// unquoted keeps a kind from being written as text in quotes.
func unquoted[V any](what string, k kind[V]) kind[V] {
	return kind[V]{k.schema, func(c cursor) (none V, ok bool) {
		if c.node().Kind == yaml.ScalarNode && isQuoted(c.node()) {
			c.expected(what, "write it without quotes")
			return none, false
		}
		return k.decode(c)
	}}
}

// mapped goes on where another kind was decoded.
func mapped[V, W any](k kind[V], f func(cursor, V) (W, bool)) kind[W] {
	return kind[W]{k.schema, func(c cursor) (none W, ok bool) {
		v, ok := k.decode(c)
		if !ok {
			return none, false
		}
		return f(c, v)
	}}
}

// either is a kind with a short form, a single value, and a long one.
func either[V any](what string, short, long kind[V]) kind[V] {
	s := func() schema { return schema{"anyOf": []schema{short.schema(), long.schema()}} }
	return kind[V]{s, func(c cursor) (none V, ok bool) {
		switch {
		case isNull(c.node()) || !hasCoreTag(c.node()) || c.node().Kind == yaml.SequenceNode:
			c.expected(what, "")
			return none, false
		case c.node().Kind == yaml.ScalarNode:
			return short.decode(c)
		default:
			return long.decode(c)
		}
	}}
}

// isScalar reports whether a single value is written there.
func (c cursor) isScalar() bool { return c.node().Kind == yaml.ScalarNode && !isNull(c.node()) }

// list is a list in the file whose elements are decoded by whoever walks it,
// who thus can stop. Its zero value is empty.
type list[V any] struct {
	at      cursor
	element kind[V]
}

// listOf is a kind for lists; an empty place is an empty list.
func listOf[V any](what string, element kind[V]) kind[list[V]] {
	s := func() schema { return schema{"type": []string{"array", "null"}, "items": element.schema()} }
	return kind[list[V]]{s, func(c cursor) (list[V], bool) {
		if c.node().Kind != yaml.SequenceNode && !isNull(c.node()) || !hasCoreTag(c.node()) {
			c.expected("a list of "+what, "")
			return list[V]{}, false
		}
		return list[V]{c, element}, true
	}}
}

func (l list[V]) len() int {
	if l.at.at == nil {
		return 0
	}
	return len(l.at.node().Content)
}

// all walks over the elements; those that are wrong were reported.
func (l list[V]) all(yield func(int, setting[V]) bool) {
	if l.len() == 0 {
		return
	}
	for i, c := range l.at.elements() {
		v, ok := l.element.decode(c)
		if !yield(i, setting[V]{v, c, ok}) {
			return
		}
	}
}
