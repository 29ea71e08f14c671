// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"encoding/json"
	"maps"
	"net"
	"net/mail"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"xdplvs/configs"
	"xdplvs/director"
)

// checking are the keys of our file that are about checks: without them the rest still stands.
var checking = []string{"check", "checks"}

// seconds reads a time as most configurations write it: a number of seconds, which may have a fraction.
func seconds(text string) (time.Duration, bool) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n < 0 || n > 1e6 {
		return 0, false
	}
	return time.Duration(n * float64(time.Second)), true
}

// number reads a count.
func number(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0
}

// timing is when a check asks, and how results become a verdict.
type timing struct {
	interval, timeout, again time.Duration // again: while a server that was up does not answer
	spread                   time.Duration
	fall                     int
}

// write adds it to a check. Where we want more of it than others do, it is fitted: a probe lasts no longer than the
// interval.
func (t *timing) write(check settings) {
	t.interval = max(t.interval, 100*time.Millisecond)
	check["interval"] = t.interval
	check["timeout"] = min(t.timeout, t.interval)
	if t.again > 0 {
		check["fast_interval"] = min(max(t.again, 100*time.Millisecond), t.interval)
	}
	if t.spread > 0 {
		check["jitter"] = min(t.spread, t.interval)
	}
	check["rise"], check["fall"] = 1, min(max(t.fall, 1), 1000)
}

// sound tells whether our file can have a check; if not, its line is listed.
func (b *builder) sound(line int, check settings) bool {
	set := settings{"address": "192.0.2.1", "port": 80, "check": check}
	if _, err := configs.Default().EditService(nil, set.raw()); err != nil {
		b.note(line, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return false
	}
	return true
}

// used are the checks of a service or a real server, as our file has them.
func used(set settings, all []settings) {
	switch len(all) {
	case 0:
	case 1:
		set["check"] = all[0]
	default:
		set["checks"] = all
	}
}

// pattern is a regular expression that must match.
func pattern(text string) settings { return settings{"regex": text} }

// put sets a key that has a text.
func (s settings) put(key, text string) {
	if text != "" {
		s[key] = text
	}
}

// notification is who is told of what becomes of real servers.
type notification struct {
	from, server string
	to           []string
}

// text is it as the key notify of our file; nothing if nobody is told.
func (n *notification) text() []byte {
	if len(n.to) == 0 {
		return nil
	}
	s := settings{"from": "root@localhost", "to": n.to}
	s.put("from", n.from)
	s.put("server", n.server)
	return []byte("notify:\n  - mail: " + s.line() + "\n")
}

// mailTo adds addresses that mails go to; mailFrom and mailBy are where they come from, and the server. What is none is listed.
func (b *builder) mailTo(line int, words ...string) {
	for _, word := range words {
		if b.isMail(line, word) {
			b.mail.to = append(b.mail.to, word)
		}
	}
}

func (b *builder) mailFrom(line int, word string) {
	if word != "" && b.isMail(line, word) {
		b.mail.from = word
	}
}

func (b *builder) mailBy(line int, server string) {
	if host, port, err := net.SplitHostPort(server); err == nil && (host == "" || port == "") {
		b.note(line, "%q is no mail server", server)
		return
	}
	b.mail.server = server
}

func (b *builder) isMail(line int, word string) bool {
	a, err := mail.ParseAddress(word)
	if err != nil || a.Address != word {
		b.note(line, "%q is no mail address", word)
		return false
	}
	return true
}

// line is a mapping on one line, with its keys in order.
func (s settings) line() string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(s)) {
		parts = append(parts, key+": "+written(s[key]))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// bare are texts that need no quotes: they are nothing else in YAML, but for some words.
var bare = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9./_-]*$`)

var wordsOfYAML = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

// written is a value as our file has it, on one line.
func written(value any) string {
	switch v := value.(type) {
	case settings:
		return v.line()
	case []settings:
		return writtenList(v)
	case []string:
		return writtenList(v)
	case time.Duration:
		return cmp.Or(director.FormatTimeout(v), "0s")
	case string:
		if bare.MatchString(v) && !slices.Contains(wordsOfYAML, strings.ToLower(v)) {
			return v
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // texts, numbers and truths
	}
	return string(text)
}

func writtenList[V any](all []V) string {
	var parts []string
	for _, v := range all {
		parts = append(parts, written(v))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// figure is a number, if the text is one; else our file's parser says what is wrong with it.
func figure(text string) any {
	if n, ok := number(text); ok {
		return n
	}
	return text
}

// without takes keys away.
func without(set map[string]json.RawMessage, keys ...string) map[string]json.RawMessage {
	rest := maps.Clone(set)
	for _, key := range keys {
		delete(rest, key)
	}
	return rest
}
