// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Verdict is what is known of a server.
type Verdict uint8

// The verdicts. The zero value is that nothing is known.
const (
	Unknown Verdict = iota
	Up
	Down
)

// String is the verdict in lower case.
func (v Verdict) String() string {
	switch v {
	case Up:
		return "up"
	case Down:
		return "down"
	default:
		return "unknown"
	}
}

// Code says at which layer a probe ended and how, in HAProxy's words (its management guide,
// "check_status").
type Code string

// The codes. A layer 4 is TCP, UDP or ICMP, 6 is TLS, 7 is the protocol.
const (
	SOCKERR  Code = "SOCKERR"  // the probe could not be sent
	L4OK     Code = "L4OK"     // connected
	L4TOUT   Code = "L4TOUT"   // no answer in time
	L4CON    Code = "L4CON"    // refused or unreachable
	L6OK     Code = "L6OK"     // TLS established
	L6TOUT   Code = "L6TOUT"   // no TLS in time
	L6RSP    Code = "L6RSP"    // TLS refused, or a certificate that is not accepted
	L7OK     Code = "L7OK"     // the answer is right
	L7TOUT   Code = "L7TOUT"   // connected, but no whole answer in time
	L7RSP    Code = "L7RSP"    // no answer of this protocol
	L7STS    Code = "L7STS"    // a proper answer, not the wanted one
	PROCOK   Code = "PROCOK"   // command ended well
	PROCERR  Code = "PROCERR"  // command failed
	PROCTOUT Code = "PROCTOUT" // command took too long
)

// MaxText is how long the texts of a Result can be, in bytes.
const MaxText = 256

// NoLag is the lag of a server that could not tell one.
const NoLag = -1

// Result is what a probe found out.
type Result struct {
	Verdict Verdict
	Code    Code
	// Status is the protocol's own number, as HTTP's 503; 0 if it has none.
	Status int
	// Text is the evidence in words: printable, at most MaxText bytes, without secrets.
	Text string
	// Warning is what does no harm yet, such as a certificate that expires soon. Like Text.
	Warning  string
	Begin    time.Time
	Duration time.Duration
	// Factor is the share of its configured weight that the server can take, in percent. It is 0
	// unless the verdict is Up.
	Factor int
	// Drain says that the server keeps the connections that it has and wants no new ones. The
	// verdict is Up, the factor 0.
	Drain bool
	// Reserve says of a server that is down that it works, only not well enough: one that lags, for
	// instance. MinUp falls back upon such.
	Reserve bool
	// Lag is how far a replica is behind; NoLag when it should say and cannot.
	Lag time.Duration
}

// String is like HAProxy's LastChk with the evidence behind: "L7STS/503 in 12ms: …".
func (r Result) String() string {
	s := string(r.Code)
	if r.Status != 0 {
		s += "/" + strconv.Itoa(r.Status)
	}
	s += fmt.Sprintf(" in %dms", r.Duration.Milliseconds())
	if r.Text != "" {
		s += ": " + r.Text
	}
	if r.Warning != "" {
		s += " (" + r.Warning + ")"
	}
	return s
}

// level orders what a server can be used for. Rise and fall count steps of it.
type level uint8

const (
	levelNone level = iota // nothing is known
	levelDown
	levelDrain
	levelUp
)

func (r Result) level() level { return levelOf(r.Verdict, r.Drain) }

func levelOf(v Verdict, drain bool) level {
	switch {
	case v == Unknown:
		return levelNone
	case v == Down:
		return levelDown
	case drain:
		return levelDrain
	default:
		return levelUp
	}
}

// good is a Result of a server that works.
func good(code Code, format string, args ...any) Result {
	return Result{Verdict: Up, Code: code, Text: fmt.Sprintf(format, args...), Factor: 100}
}

// printable makes text safe to show, and cuts it to at most limit bytes.
func printable(text string, limit int) string {
	var b strings.Builder
	const more = "…"
	for _, r := range text {
		part := string(r)
		if r == utf8.RuneError || !unicode.IsGraphic(r) {
			quoted := strconv.QuoteRuneToASCII(r)
			part = quoted[1 : len(quoted)-1]
		}
		if b.Len()+len(part) > limit-len(more) {
			return b.String() + more
		}
		b.WriteString(part)
	}
	return b.String()
}

// maxExcerpt is how much of a server's answer is shown as evidence.
const maxExcerpt = 80

// excerpt quotes the beginning of what a server said.
func excerpt[T string | []byte](said T) string {
	if len(said) > maxExcerpt {
		return strconv.Quote(string(said[:maxExcerpt])) + "…"
	}
	return strconv.Quote(string(said))
}
