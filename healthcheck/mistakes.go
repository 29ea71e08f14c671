// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// mistakes gathers what is wrong with a checker's options, all at once.
type mistakes struct {
	kind string
	list []error
}

// add notes a mistake in a field.
func (m *mistakes) add(field, format string, args ...any) {
	m.list = append(m.list, fmt.Errorf("%s check: %s: "+format, append([]any{m.kind, field}, args...)...))
}

// known wants a value that is one of those; the empty one, if allowed, is among them as "".
func (m *mistakes) known(field, value string, values ...string) {
	if slices.Contains(values, value) {
		return
	}
	named := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
	m.add(field, "unknown %q (known: %s)", value, strings.Join(named, ", "))
}

// line wants a text that cannot break out of its line of a protocol.
func (m *mistakes) line(field, value string) {
	if i := strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		m.add(field, "control character %q", value[i:i+1])
	}
}

// try notes an error of something below the field.
func (m *mistakes) try(field string, err error) {
	if err != nil {
		m.add(field, "%w", err)
	}
}

func (m *mistakes) err() error { return errors.Join(m.list...) }
