// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"xdplvs/director"
)

// boolean is true or false: yes, no, on and off are text in YAML 1.2.
func boolean() kind[bool] {
	const what = "true or false"
	return unquoted(what, parsed(what, schema{"type": "boolean"}, func(text string) (v bool, note string, ok bool) {
		lower := strings.ToLower(text)
		return lower == "true", "", lower == "true" || lower == "false"
	}))
}

// number is a plain decimal.
func number(low, high uint32) kind[uint32] {
	what := fmt.Sprintf("a number from %d to %d", low, high)
	s := schema{"type": "integer", "minimum": low, "maximum": high}
	return unquoted(what, parsed(what, s, func(text string) (uint32, string, bool) {
		n, note, ok := decimal(text)
		return uint32(n), note, ok && n >= uint64(low) && n <= uint64(high)
	}))
}

func port() kind[uint16] {
	return mapped(number(1, math.MaxUint16), func(_ cursor, n uint32) (uint16, bool) { return uint16(n), true })
}

// servicePort is a port, or any, which is 0.
func servicePort() kind[uint16] {
	const what = "a number from 1 to 65535, or any"
	s := schema{"anyOf": []schema{{"type": "integer", "minimum": 0, "maximum": math.MaxUint16}, {"const": "any"}}}
	return unquoted(what, parsed(what, s, func(text string) (uint16, string, bool) {
		if text == "any" {
			return 0, "", true
		}
		n, note, ok := decimal(text)
		return uint16(n), note, ok && n <= math.MaxUint16
	}))
}

// localPorts are FIRST-LAST.
func localPorts() kind[director.PortRange] {
	const what = "a range of ports such as 1024-32767"
	return parsed(what, schema{"type": "string", "pattern": "^[0-9]+-[0-9]+$"}, func(text string) (r director.PortRange, note string, ok bool) {
		r, note, ok = portRange(text)
		return r, note, ok && strings.Contains(text, "-") && r.First > 0
	})
}

// decimal is strict because YAML's numbers surprise: there, 010 is 8. What is too
// large is the largest number.
func decimal(text string) (n uint64, note string, ok bool) {
	const strict = "numbers are decimal, without leading zeros and underscores"
	n, err := strconv.ParseUint(text, 10, 64)
	switch {
	case err == nil && len(text) > 1 && text[0] == '0':
		return 0, strict, false
	case err == nil || errors.Is(err, strconv.ErrRange):
		return n, "", true
	}
	if _, err := strconv.ParseUint(text, 0, 64); err == nil {
		return 0, strict, false
	}
	return 0, "", false
}

// count is a number that may end in k, M or G, which stand for 1024, its square
// and its cube, as tables come in powers of two.
func count(low, high uint32) kind[uint32] {
	what := fmt.Sprintf("a number from %d to %d, or with k, M or G as in 256k = 262144", low, high)
	s := schema{"anyOf": []schema{
		{"type": "integer", "minimum": low, "maximum": high},
		{"type": "string", "pattern": "^[1-9][0-9]*[kKMG]$"},
	}}
	return unquoted(what, parsed(what, s, func(text string) (uint32, string, bool) {
		n, note, ok := multiple(text)
		return uint32(n), note, ok && n >= uint64(low) && n <= uint64(high)
	}))
}

func multiple(text string) (n uint64, note string, ok bool) {
	units := map[string]uint64{"k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
	last := text[max(0, len(text)-1):]
	unit, has := units[last]
	if !has {
		return decimal(text)
	}
	n, note, ok = decimal(strings.TrimSuffix(text, last))
	if high, low := bits.Mul64(n, unit); high == 0 {
		return low, note, ok
	}
	return math.MaxUint64, note, ok
}

// powerOfTwo is a count of places in a table whose index is a masked hash; low and
// high are powers of two, too.
func powerOfTwo(low, high uint32) kind[uint32] {
	return mapped(count(low, high), func(c cursor, n uint32) (uint32, bool) {
		if bits.OnesCount32(n) == 1 {
			return n, true
		}
		below := uint32(1) << (bits.Len32(n) - 1) // and twice that fits: high is a power of two
		c.failf("%d is not a power of two (the nearest are %d and %d)", n, below, 2*below)
		return 0, false
	})
}

// duration is as Go writes it, or plain seconds.
func duration(low, high time.Duration) kind[time.Duration] {
	what := fmt.Sprintf("a duration such as 15m or 1h30m, or seconds, from %s to %s", low, high)
	s := schema{"anyOf": []schema{{"type": "integer"}, {"type": "string", "pattern": "^([0-9.]+(ns|us|µs|ms|s|m|h))+$"}}}
	return parsed(what, s, func(text string) (time.Duration, string, bool) {
		d, note, ok := parseDuration(text)
		return d, note, ok && d >= low && d <= high
	})
}

func parseDuration(text string) (d time.Duration, note string, ok bool) {
	n, note, ok := decimal(text)
	if ok {
		const most = uint64(math.MaxInt64 / time.Second)
		return time.Duration(min(n, most)) * time.Second, "", true
	}
	d, err := time.ParseDuration(text)
	return d, note, err == nil && note == ""
}
