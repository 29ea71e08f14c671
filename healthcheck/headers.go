// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"strconv"
	"strings"
)

// answer is one of a protocol that looks like HTTP: RTSP, SIP.
type answer struct {
	status int
	line   string              // the first
	header map[string][]string // by lower-case names
}

// first gives a header's first value.
func (a answer) first(name string) string {
	if values := a.header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// maxHeaders is how many lines the head of an answer can have.
const maxHeaders = 200

// answerOf reads the head of an answer. protocol is what its first line begins with.
func (t *talk) answerOf(what, protocol string) (a answer, err error) {
	if a.line, err = t.line(what); err != nil {
		return a, err
	}
	if a.status, err = parseStatusLine(what, protocol, a.line); err != nil {
		return a, err
	}
	a.header = make(map[string][]string)
	for range maxHeaders {
		line, err := t.line(what)
		if err != nil || line == "" {
			return a, err
		}
		a.add(line)
	}
	return a, fail(L7RSP, 0, "%s: more than %d headers", what, maxHeaders)
}

func (a answer) add(line string) {
	name, value, _ := strings.Cut(line, ":")
	name = strings.ToLower(strings.TrimSpace(name))
	a.header[name] = append(a.header[name], strings.TrimSpace(value))
}

// parseStatusLine reads "RTSP/1.0 200 OK".
func parseStatusLine(what, protocol, line string) (int, error) {
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if !strings.HasPrefix(version, protocol+"/") || err != nil || status < 100 || status > 999 {
		return 0, fail(L7RSP, 0, "%s: no answer of %s: %s", what, protocol, excerpt(line))
	}
	return status, nil
}

// body reads what follows the head.
func (t *talk) body(what string, a answer) ([]byte, error) {
	length := a.first("content-length")
	if length == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > maxBody {
		return nil, fail(L7RSP, 0, "%s: a body of %s bytes (at most %d)", what, excerpt(length), maxBody)
	}
	return t.block(what, n)
}

// maxBody is how long such an answer's body can be, in bytes.
const maxBody = 64 << 10
