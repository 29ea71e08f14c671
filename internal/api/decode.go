// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"xdplvs/director"
)

// maxCached bounds what a decoder remembers of each kind.
const maxCached = 1 << 16

// decoder reads lines of a connection stream. Lines as AppendConn writes them
// take a short way; all others go through encoding/json. What many
// connections share is parsed once.
type decoder struct {
	protocols cache[director.Protocol]
	servers   cache[netip.AddrPort] // virtual and real; clients are too many
	words     cache[string]         // states and services
}

// cache remembers what texts mean.
type cache[V any] map[string]V

// get is the meaning of text; parse is asked the first time. An error is not remembered.
func (c *cache[V]) get(text []byte, parse func(string) (V, error)) (V, error) {
	if v, ok := (*c)[string(text)]; ok {
		return v, nil
	}
	v, err := parse(string(text))
	if err != nil || len(*c) >= maxCached {
		return v, err
	}
	if *c == nil {
		*c = cache[V]{}
	}
	(*c)[string(text)] = v
	return v, nil
}

func parseWord(s string) (string, error) { return s, nil }

func parseProtocol(s string) (p director.Protocol, err error) {
	err = p.UnmarshalText([]byte(s))
	return p, err
}

// parseAddrPort is AddrPort.UnmarshalText, which takes the empty text for the zero value.
func parseAddrPort(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	return netip.ParseAddrPort(s)
}

// decode reads one line. The error is the daemon's if the line is one.
func (d *decoder) decode(line []byte, c *director.Conn) error {
	if d.short(line, c) {
		return nil
	}
	var body struct {
		director.Conn
		errorBody
	}
	if err := json.Unmarshal(line, &body); err != nil {
		return fmt.Errorf("decode connection: %w", err)
	}
	if body.Error != "" {
		return errors.New(body.Error)
	}
	*c = body.Conn
	return nil
}

// short decodes the exact form that AppendConn writes, or returns false.
func (d *decoder) short(line []byte, c *director.Conn) bool {
	s := scanner{rest: line, ok: true}
	s.literal(`{"protocol":`)
	c.Protocol = value(&s, &d.protocols, parseProtocol)
	s.literal(`,"client":`)
	c.Client = s.addrPort()
	s.literal(`,"virtual":`)
	c.Virtual = value(&s, &d.servers, parseAddrPort)
	s.literal(`,"real":`)
	c.Real = value(&s, &d.servers, parseAddrPort)
	c.Local = netip.AddrPort{}
	if s.next(`,"local":`) {
		c.Local = s.addrPort()
	}
	s.literal(`,"state":`)
	c.State = value(&s, &d.words, parseWord)
	s.literal(`,"expires":`)
	c.Expires = s.duration()
	c.Service, c.Mark, c.Controls, c.CallID = "", 0, 0, ""
	if s.next(`,"service":`) {
		c.Service = value(&s, &d.words, parseWord)
	}
	s.literal(`}`)
	return s.ok && len(s.rest) == 0
}

// scanner is a cursor; after a mismatch ok is false and what it returns is void.
type scanner struct {
	rest []byte
	ok   bool
}

// next skips want if it comes next.
func (s *scanner) next(want string) bool {
	if len(s.rest) < len(want) || string(s.rest[:len(want)]) != want {
		return false
	}
	s.rest = s.rest[len(want):]
	return true
}

func (s *scanner) literal(want string) {
	if s.ok {
		s.ok = s.next(want)
	}
}

// text is a string without escapes.
func (s *scanner) text() []byte {
	s.literal(`"`)
	for i, b := range s.rest {
		if b == '"' {
			text := s.rest[:i]
			s.rest = s.rest[i+1:]
			return text
		}
		if !plain[b] {
			break
		}
	}
	s.ok = false
	return nil
}

func (s *scanner) addrPort() netip.AddrPort {
	text := s.text()
	if !s.ok {
		return netip.AddrPort{}
	}
	a, err := parseAddrPort(string(text))
	s.ok = err == nil
	return a
}

// value is a text whose meaning is looked up in c.
func value[V any](s *scanner, c *cache[V], parse func(string) (V, error)) V {
	text := s.text()
	if !s.ok {
		var zero V
		return zero
	}
	v, err := c.get(text, parse)
	s.ok = err == nil
	return v
}

// duration is a number of nanoseconds; it is negative when a sweep is late.
func (s *scanner) duration() time.Duration {
	if s.next("-") {
		return -time.Duration(s.number(math.MaxInt64))
	}
	return time.Duration(s.number(math.MaxInt64))
}

// number is a decimal number up to max, which is below 2^63. Leading zeros are
// for encoding/json to refuse.
func (s *scanner) number(max uint64) uint64 {
	var n uint64
	digits := 0
	for ; digits < len(s.rest) && digits < 19 && s.rest[digits]-'0' <= 9; digits++ {
		n = n*10 + uint64(s.rest[digits]-'0')
	}
	if digits == 0 || (s.rest[0] == '0' && digits > 1) || n > max {
		s.ok = false
		return 0
	}
	s.rest = s.rest[digits:]
	return n
}
