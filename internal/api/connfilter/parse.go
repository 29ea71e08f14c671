// SPDX-License-Identifier: Apache-2.0

package connfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"xdplvs/director"
)

// Parse reads a filter. The error is an *Error.
func Parse(text string) (*Filter, error) {
	f := &Filter{}
	err := eachTerm(text, func(p *parser) error {
		term, err := p.term()
		f.terms = append(f.terms, term)
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// eachTerm calls take at the beginning of each term, and reads what stands between them.
func eachTerm(text string, take func(*parser) error) error {
	p := &parser{text: text, tokens: lex(text)}
	for p.more() {
		if err := take(p); err != nil {
			return err
		}
		if p.more() && p.peek().text == "and" {
			and := p.take()
			if !p.more() {
				return p.mistake(and, `nothing follows "and"`)
			}
		}
	}
	return nil
}

// token is a word or an operator with its place.
type token struct {
	text   string
	offset int
}

const operatorBytes = "=!<>"

// lex splits at blanks and around operators, so that dport=:443 is three tokens.
func lex(text string) (tokens []token) {
	start := 0
	cut := func(end int) {
		if end > start {
			tokens = append(tokens, token{text[start:end], start})
		}
		start = end
	}
	for i := range len(text) {
		switch {
		case text[i] == ' ' || text[i] == '\t' || text[i] == '\n':
			cut(i)
			start = i + 1
		case i > start && isOperator(text[i]) != isOperator(text[i-1]):
			cut(i)
		}
	}
	cut(len(text))
	return tokens
}

func isOperator(b byte) bool { return strings.IndexByte(operatorBytes, b) >= 0 }

// parser is a cursor over tokens.
type parser struct {
	text   string
	tokens []token
}

func (p *parser) more() bool  { return len(p.tokens) > 0 }
func (p *parser) peek() token { return p.tokens[0] }

func (p *parser) take() token {
	t := p.tokens[0]
	p.tokens = p.tokens[1:]
	return t
}

func (p *parser) mistake(at token, format string, args ...any) error {
	return &Error{Text: p.text, Offset: at.offset, Message: fmt.Sprintf(format, args...)}
}

// operand is the word that key needs after it.
func (p *parser) operand(key token, what string) (token, error) {
	if !p.more() {
		return token{}, p.mistake(key, "%q needs %s after it", key.text, what)
	}
	return p.take(), nil
}

// keywords are the words a term begins with, each with its parser.
var keywords = []struct {
	word  string
	parse func(*parser, token) (func(*director.Conn) bool, error)
}{
	{"src", prefixOf(func(c *director.Conn) netip.AddrPort { return c.Client })},
	{"dst", prefixOf(func(c *director.Conn) netip.AddrPort { return c.Virtual })},
	{"real", prefixOf(func(c *director.Conn) netip.AddrPort { return c.Real })},
	{"sport", portOf(func(c *director.Conn) netip.AddrPort { return c.Client })},
	{"dport", portOf(func(c *director.Conn) netip.AddrPort { return c.Virtual })},
	{"rport", portOf(func(c *director.Conn) netip.AddrPort { return c.Real })},
	{"state", (*parser).state},
	{"service", (*parser).service},
	{"protocol", (*parser).protocol},
}

func (p *parser) term() (func(*director.Conn) bool, error) {
	key := p.take()
	for _, k := range keywords {
		if k.word == key.text {
			return k.parse(p, key)
		}
	}
	return nil, p.mistake(key, "unknown word %q (known: %s, and)", key.text, knownWords())
}

func knownWords() string {
	var words []string
	for _, k := range keywords {
		words = append(words, k.word)
	}
	return strings.Join(words, ", ")
}

// prefixOf parses the term for the address that of selects.
func prefixOf(of func(*director.Conn) netip.AddrPort) func(*parser, token) (func(*director.Conn) bool, error) {
	return func(p *parser, key token) (func(*director.Conn) bool, error) {
		prefix, err := p.prefix(key)
		return func(c *director.Conn) bool { return prefix.Contains(of(c).Addr()) }, err
	}
}

func (p *parser) prefix(key token) (netip.Prefix, error) {
	word, err := p.operand(key, "an address or a prefix")
	if err != nil {
		return netip.Prefix{}, err
	}
	prefix, err := parsePrefix(word.text)
	if err != nil {
		return prefix, p.mistake(word, "%q is no address or prefix such as 10.0.0.0/8 or 2001:db8::/32", word.text)
	}
	return prefix, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Prefix(a.BitLen())
}

// comparisons are ss's operators.
var comparisons = []struct {
	words []string
	holds func(a, b uint16) bool
}{
	{[]string{"=", "==", "eq"}, func(a, b uint16) bool { return a == b }},
	{[]string{"!=", "ne", "neq"}, func(a, b uint16) bool { return a != b }},
	{[]string{"<", "lt"}, func(a, b uint16) bool { return a < b }},
	{[]string{"<=", "le", "leq"}, func(a, b uint16) bool { return a <= b }},
	{[]string{">", "gt"}, func(a, b uint16) bool { return a > b }},
	{[]string{">=", "ge", "geq"}, func(a, b uint16) bool { return a >= b }},
}

// portOf parses the term for the port that of selects.
func portOf(of func(*director.Conn) netip.AddrPort) func(*parser, token) (func(*director.Conn) bool, error) {
	return func(p *parser, key token) (func(*director.Conn) bool, error) {
		holds, err := p.port(key)
		return func(c *director.Conn) bool { return holds(of(c).Port()) }, err
	}
}

// port tells whether a port is the one that is meant.
func (p *parser) port(key token) (func(uint16) bool, error) {
	holds, err := p.comparison(key)
	if err != nil {
		return nil, err
	}
	word, err := p.operand(key, "a comparison and a port")
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(strings.TrimPrefix(word.text, ":"), 10, 16)
	if err != nil {
		return nil, p.mistake(word, "%q is no port such as :443", word.text)
	}
	return func(of uint16) bool { return holds(of, uint16(port)) }, nil
}

func (p *parser) comparison(key token) (func(a, b uint16) bool, error) {
	word, err := p.operand(key, "a comparison and a port")
	if err != nil {
		return nil, err
	}
	for _, c := range comparisons {
		if slices.Contains(c.words, word.text) {
			return c.holds, nil
		}
	}
	return nil, p.mistake(word, "unknown comparison %q (known: = != < <= > >=)", word.text)
}

// words parses a list with commas; check makes each word canonical or rejects it.
func (p *parser) words(key token, what string, check func(string) (string, error)) ([]string, error) {
	list, err := p.operand(key, what)
	if err != nil {
		return nil, err
	}
	var words []string
	offset := list.offset
	for word := range strings.SplitSeq(list.text, ",") {
		canonical, err := check(word)
		if word == "" {
			err = fmt.Errorf("%q has an empty word in its list", key.text)
		}
		if err != nil {
			return nil, p.mistake(token{word, offset}, "%s", err)
		}
		words = append(words, canonical)
		offset += len(word) + 1
	}
	return words, nil
}

func (p *parser) state(key token) (func(*director.Conn) bool, error) {
	words, err := p.words(key, "a state", canonicalState)
	return func(c *director.Conn) bool { return slices.Contains(words, c.State) }, err
}

func (p *parser) service(key token) (func(*director.Conn) bool, error) {
	words, err := p.words(key, "a service's name", func(w string) (string, error) { return w, nil })
	return func(c *director.Conn) bool { return slices.Contains(words, c.Service) }, err
}

func (p *parser) protocol(key token) (func(*director.Conn) bool, error) {
	words, err := p.words(key, "a protocol", func(w string) (string, error) {
		var protocol director.Protocol
		err := protocol.UnmarshalText([]byte(strings.ToLower(w)))
		return protocol.String(), err
	})
	return func(c *director.Conn) bool { return slices.Contains(words, c.Protocol.String()) }, err
}

// States are the names that Linux's IPVS gives to the states of TCP, UDP and
// SCTP connections (ip_vs_proto_tcp.c, _udp.c, _sctp.c).
var States = []string{
	"NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT",
	"CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "SYNACK",
	"UDP",
	"INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED",
	"S-SENT", "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED",
}

// canonicalState is the state as IPVS writes it; upper or lower case, - or _
// do not matter, as in ss's syn-recv.
func canonicalState(word string) (string, error) {
	fold := func(s string) string { return strings.ReplaceAll(strings.ToUpper(s), "-", "_") }
	for _, s := range States {
		if fold(s) == fold(word) {
			return s, nil
		}
	}
	return "", fmt.Errorf("unknown state %q (known: %s)", word, strings.ToLower(strings.Join(States, ", ")))
}
