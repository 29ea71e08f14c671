// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
)

// Pattern is what an answer must contain: a text, a regular expression (of Go's package regexp, whose
// time is linear), or both. The zero value accepts everything.
type Pattern struct {
	Text  string
	Regex string
	// Not turns it round: the answer must not contain it.
	Not bool
}

// matcher is a compiled Pattern.
type matcher struct {
	Pattern
	re *regexp.Regexp
}

func (p Pattern) compile() (m matcher, err error) {
	m.Pattern = p
	if p.Regex != "" {
		m.re, err = regexp.Compile(p.Regex)
	}
	if err == nil && p.Not && p.isZero() {
		err = errors.New("not needs a text or a regex")
	}
	return m, err
}

func (p Pattern) isZero() bool { return p.Text == "" && p.Regex == "" }

// found tells whether the data has what the pattern describes, leaving out Not.
func (m matcher) found(data []byte) bool {
	return bytes.Contains(data, []byte(m.Text)) && (m.re == nil || m.re.Match(data))
}

// end is where in the data that was found ends.
func (m matcher) end(data []byte) int {
	end := bytes.Index(data, []byte(m.Text)) + len(m.Text)
	if m.re != nil {
		end = max(end, m.re.FindIndex(data)[1])
	}
	return end
}

// judge says what is wrong with the data, or nothing.
func (m matcher) judge(data []byte) string {
	if m.isZero() || m.found(data) != m.Not {
		return ""
	}
	if m.Not {
		return fmt.Sprintf("%s contains %s", excerpt(data), m)
	}
	return fmt.Sprintf("%s does not contain %s", excerpt(data), m)
}

// String is the pattern as evidence shows it.
func (m matcher) String() string {
	switch {
	case m.Regex == "":
		return excerpt(m.Text)
	case m.Text == "":
		return "/" + m.Regex + "/"
	default:
		return excerpt(m.Text) + " and /" + m.Regex + "/"
	}
}
