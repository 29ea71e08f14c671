// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding"
	"fmt"
	"slices"
	"strings"
)

// choice is one of some texts, which are asked for each time.
func choice(what string, known func() []string) kind[string] {
	s := func() schema { return schema{"enum": known()} }
	return kind[string]{s, func(c cursor) (string, bool) {
		texts := known()
		text, ok := literal(c, "one of "+strings.Join(texts, ", "))
		if !ok || slices.Contains(texts, text) {
			return text, ok
		}
		c.failf("unknown %s %s%s", what, quote(text), knownNote(text, texts))
		return "", false
	}}
}

// enumerable is an enumeration of package director.
type enumerable[V any] interface {
	*V
	encoding.TextUnmarshaler
	fmt.Stringer
}

// enumeration is a choice of all that package director has texts for.
func enumeration[V ~uint8, P enumerable[V]](what string) kind[V] {
	known := textsOf[V, P]()
	return mapped(choice(what, func() []string { return known }), func(_ cursor, text string) (v V, ok bool) {
		err := P(&v).UnmarshalText([]byte(text))
		return v, err == nil
	})
}

// textsOf finds an enumeration's texts by trying its 256 values.
func textsOf[V ~uint8, P enumerable[V]]() (texts []string) {
	for i := range 256 {
		v := V(i)
		text := P(&v).String()
		if err := P(&v).UnmarshalText([]byte(text)); err == nil && int(v) == i {
			texts = append(texts, text)
		}
	}
	return texts
}

// available refuses what this version cannot do.
func available[V fmt.Stringer](k kind[V], list func() []V) kind[V] {
	texts := func() (texts []string) {
		for _, v := range list() {
			texts = append(texts, v.String())
		}
		return texts
	}
	decode := func(c cursor) (V, bool) {
		v, ok := k.decode(c)
		if ok && !slices.Contains(texts(), v.String()) {
			c.failf("%s is not available in this version (available: %s)", v, strings.Join(texts(), ", "))
			return v, false
		}
		return v, ok
	}
	return kind[V]{func() schema { return schema{"enum": texts()} }, decode}
}
