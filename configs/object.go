// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// setting is a key's value as the file has it. Its zero value means that the key
// is absent.
type setting[V any] struct {
	value V
	at    cursor
	ok    bool // value is usable; not so if what is written there is wrong
}

func (s setting[V]) given() bool { return s.at.at != nil }

// wrong means that an error was already reported, which no others should follow.
func (s setting[V]) wrong() bool { return s.given() && !s.ok }

// or is the value, or a default.
func (s setting[V]) or(fallback V) V {
	if s.ok {
		return s.value
	}
	return fallback
}

// object is the declaration of a mapping in the file that becomes a T: the one
// source of known keys, decoding, error texts and schema.
type object[T any] struct {
	what   string // as in "a mapping with name and mode"
	fields []field[T]
	// extensible objects have keys that begin with x-, for anchors, which are ignored.
	extensible bool
}

// field is one key of an object. Fields are decoded in the order of their table,
// whatever the file's is.
type field[T any] struct {
	key, doc string
	required bool
	schema   func() schema
	decode   func(c cursor, into *T)
}

// key declares a key: its name, its kind, where its setting goes, what it is for.
func key[T, V any](name string, k kind[V], in func(*T) *setting[V], doc string) field[T] {
	return field[T]{key: name, doc: doc, schema: k.schema, decode: func(c cursor, into *T) {
		v, ok := k.decode(c)
		*in(into) = setting[V]{v, c, ok}
	}}
}

func (f field[T]) must() field[T] {
	f.required = true
	return f
}

// kind makes the object the kind of a key, or of the elements of a list.
func (o *object[T]) kind() kind[T] { return kind[T]{o.schema, o.decode} }

// decode fails only if there is no mapping; what is wrong inside is reported and
// marked in the settings. An empty place is an empty mapping.
func (o *object[T]) decode(c cursor) (v T, ok bool) {
	if isNull(c.node()) {
		o.missing(c, nil)
		return v, true
	}
	if c.node().Kind != yaml.MappingNode || !hasCoreTag(c.node()) {
		c.expected(o.what, "")
		return v, false
	}
	g := gathering[T]{object: o, at: c, found: make([]entry, len(o.fields))}
	g.mapping(c.node())
	for i, e := range g.found {
		if e.value != nil {
			o.fields[i].decode(c.child(o.fields[i].key, e.value), &v)
		}
	}
	o.missing(c, g.found)
	return v, true
}

func (o *object[T]) missing(c cursor, found []entry) {
	for i, f := range o.fields {
		if f.required && (found == nil || found[i].value == nil) {
			c.failf("key %s is missing", f.key)
		}
	}
}

func (o *object[T]) index(key string) int {
	for i := range o.fields {
		if o.fields[i].key == key {
			return i
		}
	}
	return -1
}

func (o *object[T]) keys() []string {
	keys := make([]string, len(o.fields))
	for i, f := range o.fields {
		keys[i] = f.key
	}
	return keys
}

// entry is a key of a mapping in the file, and the mapping that it is written in.
type entry struct{ key, value, owner *yaml.Node }

// gathering collects an object's entries from a mapping and those merged into it.
// As the YAML merge key type says, a mapping's own keys win over merged ones, and
// earlier merged mappings over later ones.
type gathering[T any] struct {
	object *object[T]
	at     cursor
	found  []entry
	extra  map[string]entry    // unknown and ignored keys
	merged map[*yaml.Node]bool // a mapping adds nothing the second time, and may contain itself
}

func (g *gathering[T]) mapping(m *yaml.Node) {
	var merges []*yaml.Node
	var merge entry
	for i := 0; i+1 < len(m.Content); i += 2 {
		e := entry{target(m.Content[i]), m.Content[i+1], m}
		switch {
		case e.key.Kind != yaml.ScalarNode:
			g.failAt(m.Content[i], "", "expected a key, found "+describe(e.key))
		case e.key.Tag == "!!merge":
			g.once(&merge, e)
			merges = append(merges, e.value)
		default:
			g.entry(e)
		}
	}
	for _, from := range merges {
		g.merge(from, true)
	}
}

func (g *gathering[T]) entry(e entry) {
	if i := g.object.index(e.key.Value); i >= 0 {
		g.once(&g.found[i], e)
		return
	}
	if g.extra == nil {
		g.extra = map[string]entry{}
	}
	first, name := g.extra[e.key.Value], e.key.Value
	g.once(&first, e)
	g.extra[name] = first
	if g.object.extensible && strings.HasPrefix(name, "x-") {
		return
	}
	g.failAt(e.key, label(name), "unknown key"+knownNote(name, g.object.keys()))
}

// once stores an entry if the key is new, and fails if it is twice in one mapping.
func (g *gathering[T]) once(first *entry, e entry) {
	switch {
	case first.key == nil:
		*first = e
	case first.owner == e.owner:
		g.failAt(e.key, label(e.key.Value), "duplicate key, the first is in line "+strconv.Itoa(first.key.Line))
	}
}

func (g *gathering[T]) merge(from *yaml.Node, lists bool) {
	n := target(from)
	switch {
	case n.Kind == yaml.MappingNode && (g.merged[n] || n == g.at.node()):
	case n.Kind == yaml.MappingNode:
		if g.merged == nil {
			g.merged = map[*yaml.Node]bool{}
		}
		g.merged[n] = true
		g.mapping(n)
	case n.Kind == yaml.SequenceNode && lists:
		for _, e := range n.Content {
			g.merge(e, false)
		}
	default:
		g.failAt(from, "<<", "expected an alias of a mapping, or a list of them, found "+describe(n))
	}
}

// failAt fails at a node of the file rather than where the object is.
func (g *gathering[T]) failAt(n *yaml.Node, key, message string) {
	p := g.at.path
	if key != "" {
		p = &path{parent: p, key: key}
	}
	p.document().fail(n.Line, n.Column, p.String(), message)
}

// label is a key of the file in paths; unusual ones are quoted.
func label(key string) string {
	if key == "" {
		return `""`
	}
	for _, r := range key {
		if r <= ' ' || r > '~' || strings.ContainsRune(`."':[]`, r) {
			return quote(key)
		}
	}
	return clip(key)
}
