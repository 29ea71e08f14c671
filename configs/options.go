// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"xdplvs/healthcheck"
)

// option is a key whose value goes straight into options of another package, which
// know what zero stands for. Nothing has to know afterwards where it was written.
func option[T, V any](name string, k kind[V], in func(*T) *V, doc string) field[T] {
	return field[T]{key: name, doc: doc, schema: k.schema, decode: func(c cursor, into *T) {
		if v, ok := k.decode(c); ok {
			*in(into) = v
		}
	}}
}

// text is any single value, as a text.
func text(what string) kind[string] {
	return parsed(what, schema{"type": []string{"string", "integer", "boolean", "number"}}, func(text string) (string, string, bool) {
		return text, "", utf8.ValidString(text)
	})
}

// as is a kind of a type that is another one's.
func as[W ~string](k kind[string]) kind[W] {
	return mapped(k, func(_ cursor, v string) (W, bool) { return W(v), true })
}

// oneOf is a choice of some texts.
func oneOf(what string, known ...string) kind[string] {
	return choice(what, func() []string { return known })
}

// plainNumber is a number where options want an int.
func plainNumber(low, high uint32) kind[int] {
	return mapped(number(low, high), func(_ cursor, n uint32) (int, bool) { return int(n), true })
}

// elements is a list that is decoded at once; what is wrong in it was reported.
func elements[V any](what string, k kind[V]) kind[[]V] {
	return mapped(listOf(what, k), func(_ cursor, l list[V]) (all []V, ok bool) {
		ok = true
		for _, e := range l.all {
			all = append(all, e.value)
			ok = ok && e.ok
		}
		return all, ok
	})
}

// oneOrMore is elements with a short form for one.
func oneOrMore[V any](what string, one kind[V]) kind[[]V] {
	many := elements(what, one)
	s := func() schema { return schema{"anyOf": []schema{one.schema(), many.schema()}} }
	return kind[[]V]{s, func(c cursor) ([]V, bool) {
		if !c.isScalar() {
			return many.decode(c)
		}
		v, ok := one.decode(c)
		return []V{v}, ok
	}}
}

// headers is a mapping whose keys are free. A value may say who asks, so each is a secret.
func headers() kind[map[string]healthcheck.Secret] {
	const what = "a mapping of headers"
	value := secret()
	s := func() schema { return schema{"type": "object"} }
	return kind[map[string]healthcheck.Secret]{s, func(c cursor) (map[string]healthcheck.Secret, bool) {
		n := c.node()
		if n.Kind != yaml.MappingNode || !hasCoreTag(n) {
			c.expected(what, "")
			return nil, false
		}
		all, ok := map[string]healthcheck.Secret{}, true
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := target(n.Content[i]).Value
			v, fine := value.decode(c.child(label(name), n.Content[i+1]))
			all[name] = v
			ok = ok && fine
		}
		return all, ok
	}}
}

// writtenSecret is where a secret comes from.
type writtenSecret struct{ file, env string }

var secretObject = object[writtenSecret]{
	what: "a mapping with file or env",
	fields: []field[writtenSecret]{
		option("file", absolutePath(longestPath), func(s *writtenSecret) *string { return &s.file },
			"File whose content is the secret; a line break at its end does not belong to it."),
		option("env", text("the name of an environment variable"), func(s *writtenSecret) *string { return &s.env },
			"Environment variable of the director."),
	},
}

// secret is a text, which no message shows, or where it comes from.
func secret() kind[healthcheck.Secret] {
	long := mapped(secretObject.kind(), func(c cursor, w writtenSecret) (s healthcheck.Secret, ok bool) {
		s, err := w.read()
		if err != nil {
			c.failf("%v", err)
		}
		return s, err == nil
	})
	const what = "a secret: a text, or a mapping with file or env"
	s := func() schema {
		return schema{"anyOf": []schema{{"type": []string{"string", "integer"}}, long.schema()}}
	}
	return kind[healthcheck.Secret]{s, func(c cursor) (none healthcheck.Secret, ok bool) {
		switch {
		case c.isScalar() && c.node().Value == hidden:
			c.failf("%s stands for a secret that is not shown: write the secret, or where it is (file, env)", hidden)
			return none, false
		case c.isScalar() && hasCoreTag(c.node()):
			return healthcheck.NewSecret(c.node().Value), true
		case c.node().Kind != yaml.MappingNode:
			c.expected(what, "")
			return none, false
		}
		return long.decode(c)
	}}
}

func (w writtenSecret) read() (healthcheck.Secret, error) {
	switch {
	case (w.file == "") == (w.env == ""):
		return healthcheck.Secret{}, fmt.Errorf("expected one of file and env")
	case w.file != "":
		return healthcheck.SecretFromFile(w.file)
	default:
		return healthcheck.SecretFromEnv(w.env)
	}
}

// authorities are the certificates in a file.
func authorities() kind[healthcheck.CAs] {
	return mapped(absolutePath(longestPath), func(c cursor, path string) (healthcheck.CAs, bool) {
		cas, err := healthcheck.ReadCAs(path)
		if err != nil {
			c.failf("%v", err)
		}
		return cas, err == nil
	})
}

var patternObject = object[healthcheck.Pattern]{
	what: "a mapping with text or regex",
	fields: []field[healthcheck.Pattern]{
		option("text", text("a text"), func(p *healthcheck.Pattern) *string { return &p.Text },
			"What must be contained."),
		option("regex", text("a regular expression"), func(p *healthcheck.Pattern) *string { return &p.Regex },
			"What must match, as Go's package regexp has it."),
		option("not", boolean(), func(p *healthcheck.Pattern) *bool { return &p.Not },
			"Turns it round: it must not be contained, or match."),
	},
}

// pattern is a text that must be contained, or the long form.
func pattern() kind[healthcheck.Pattern] {
	return either("a text, or a mapping with text or regex", mapped(text("a text"), func(_ cursor, v string) (healthcheck.Pattern, bool) {
		return healthcheck.Pattern{Text: v}, true
	}), patternObject.kind())
}

// whole makes a pointer of a mapping: options that are nil where the key is absent.
func whole[T any](o *object[T]) kind[*T] {
	return mapped(o.kind(), func(_ cursor, v T) (*T, bool) { return &v, true })
}

// sortedKeys are those of a map, for messages.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
