// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	hc "xdplvs/healthcheck"
	"xdplvs/internal/health"
)

// check is a check as written: a definition at the top, or where it is used.
type check struct {
	name     setting[string]
	checkers []checker
	combined []combination
	timing   hc.Timing
	port     uint16
	address  netip.Addr
	sockets  hc.Sockets
	via      setting[health.Via]
}

// combination is a check that others make up.
type combination struct {
	key   string
	at    cursor
	count setting[uint32] // of at_least
	parts list[usedCheck]
}

// usedCheck is a check where it is used: by its name, or as a whole.
type usedCheck struct {
	name   string
	inline *check // nil: by its name
}

var checkObject = object[check]{
	what:   "a mapping with name and how to check",
	fields: slices.Concat([]field[check]{nameField()}, leafCheckers(), combinations(), timingFields(), targetFields()),
}

// partObject is a check that is a part of another one, which says when.
var partObject = object[check]{
	what:   "a mapping with how to check",
	fields: slices.Concat([]field[check]{nameField()}, leafCheckers()),
}

func nameField() field[check] {
	return key("name", name(), func(c *check) *setting[string] { return &c.name },
		"What the check is called, where it is used and in listings.")
}

// used is a name, or a check in its place.
func used(o *object[check]) kind[usedCheck] {
	return either("the name of a check, or a mapping with how to check",
		mapped(name(), func(_ cursor, v string) (usedCheck, bool) { return usedCheck{name: v}, true }),
		mapped(o.kind(), func(_ cursor, v check) (usedCheck, bool) { return usedCheck{inline: &v}, true }))
}

var usedKind = used(&checkObject)

func combinations() []field[check] {
	parts := listOf("checks", used(&partObject))
	of := func(name, doc string) field[check] {
		return field[check]{key: name, doc: doc, schema: parts.schema, decode: func(c cursor, into *check) {
			if l, ok := parts.decode(c); ok {
				into.combined = append(into.combined, combination{key: name, at: c, parts: l})
			}
		}}
	}
	some := atLeastObject(parts)
	return []field[check]{
		of("all", "Checks that must all be up, asked at once; the percentages of the weight are multiplied."),
		of("any", "Checks of which one must be up."),
		{key: "at_least", doc: "A number of checks of which so many must be up.", schema: some.schema, decode: func(c cursor, into *check) {
			if v, ok := some.decode(c); ok {
				v.key, v.at = "at_least", c
				into.combined = append(into.combined, v)
			}
		}},
	}
}

func atLeastObject(parts kind[list[usedCheck]]) *object[combination] {
	return &object[combination]{
		what: "a mapping with count and of",
		fields: []field[combination]{
			key("count", number(1, math.MaxUint16), func(c *combination) *setting[uint32] { return &c.count },
				"How many must be up.").must(),
			option("of", parts, func(c *combination) *list[usedCheck] { return &c.parts },
				"The checks.").must(),
		},
	}
}

func timingFields() []field[check] {
	length := func() kind[time.Duration] { return duration(hc.MinInterval, mostCheckTime) }
	count := func() kind[int] { return plainNumber(1, 1000) }
	return []field[check]{
		option("interval", length(), func(c *check) *time.Duration { return &c.timing.Interval },
			"Time from the beginning of a probe to the beginning of the next; 5s if absent."),
		option("timeout", duration(time.Millisecond, mostCheckTime), func(c *check) *time.Duration { return &c.timing.Timeout },
			"How long a probe may take; the interval, at most 3s, if absent."),
		option("fast_interval", length(), func(c *check) *time.Duration { return &c.timing.Fast },
			"Interval while results contradict the verdict; the interval, at most 1s, if absent."),
		option("retry_interval", length(), func(c *check) *time.Duration { return &c.timing.Retry },
			"Interval while the server is down, or cannot be asked; the interval if absent."),
		option("jitter", orNever(mostCheckTime), func(c *check) *time.Duration { return &c.timing.Spread },
			"Time over which first probes are spread at random; the interval, at most 1s, if absent, 0: none."),
		option("rise", count(), func(c *check) *int { return &c.timing.Rise },
			"Good results in a row that make a server up; 2 if absent."),
		option("fall", count(), func(c *check) *int { return &c.timing.Fall },
			"Bad results in a row that make a server down; 3 if absent."),
	}
}

func targetFields() []field[check] {
	return []field[check]{
		key("via", viaKind(), func(c *check) *setting[health.Via] { return &c.via },
			"The way of probes: service, to the virtual address and forwarded as a client's packets are, or direct; by dr and tun, "+
				"and where nothing else is said of whom is asked and whence, service if absent, else direct."),
		option("port", port(), func(c *check) *uint16 { return &c.port },
			"Port that is asked; the real server's if absent."),
		option("address", address(), func(c *check) *netip.Addr { return &c.address },
			"Address that is asked in the place of the real server's."),
		option("source", address(), func(c *check) *netip.Addr { return &c.sockets.Source },
			"Address that probes come from; the route's if absent."),
		option("interface", interfaceName(), func(c *check) *string { return &c.sockets.Interface },
			"Interface that probes leave by; the route's if absent."),
		option("mark", number(0, math.MaxUint32), func(c *check) *uint32 { return &c.sockets.Mark },
			"Mark of probes (SO_MARK), for routing rules; 0, none, if absent."),
	}
}

// definition is a check that is ready for use.
type definition struct {
	name   string
	line   int
	built  bool // nothing is wrong with it
	timing hc.Timing
	port   uint16
	// needsPort: it can ask nobody without one.
	needsPort bool
	address   netip.Addr
	dialer    hc.Dialer
	via       setting[health.Via]
	// sends: it sends packets itself, which can go one way or another; echo: those of ping.
	sends, echo bool
	make        func(asked) (hc.Checker, error)
}

// checks makes the definitions at the top.
func (b *builder) checks(all list[check]) {
	b.defined = map[string]*definition{}
	for _, s := range all.all {
		if !s.ok {
			continue
		}
		d := b.define(&s.value, s.at)
		switch earlier, taken := b.defined[d.name]; {
		case !s.value.name.given():
			s.at.failf("key name is missing")
		case taken:
			s.value.name.at.failf("check %s is already in line %d", d.name, earlier.line)
		case s.value.name.ok:
			b.defined[d.name] = d
		}
	}
}

// define finds what is wrong with a check, whoever uses it.
func (b *builder) define(c *check, at cursor) *definition {
	errors := len(b.doc.errs)
	d := &definition{name: c.name.value, line: at.at.Line, timing: c.timing, port: c.port, address: c.address, via: c.via}
	if c.sockets != (hc.Sockets{}) {
		d.dialer = c.sockets
	}
	if err := c.timing.Validate(); err != nil {
		failEach(at, err, "timing of a check: ")
	}
	b.findChecker(d, c, at)
	d.checkVia(c)
	d.built = len(b.doc.errs) == errors && d.make != nil
	return d
}

// findChecker takes the only way to check that is written.
func (b *builder) findChecker(d *definition, c *check, at cursor) {
	var ways []string
	for _, w := range c.checkers {
		ways = append(ways, w.key)
	}
	for _, w := range c.combined {
		ways = append(ways, w.key)
	}
	switch {
	case len(ways) == 0:
		at.failf("nothing says how to check (known: %s)", strings.Join(checkerKeys(), ", "))
	case len(ways) > 1:
		at.failf("a check has one way to check, this one has %s (all: [...] combines several)", strings.Join(ways, ", "))
	case len(c.combined) == 1:
		b.combine(d, &c.combined[0])
	default:
		b.useChecker(d, &c.checkers[0])
	}
	if d.name == "" && len(ways) > 0 {
		d.name = ways[0]
	}
}

// checkerKeys are the ways to check.
func checkerKeys() (keys []string) {
	for _, f := range slices.Concat(leafCheckers(), combinations()) {
		keys = append(keys, f.key)
	}
	return keys
}

// useChecker makes the checker once, to see what is wrong with it.
func (b *builder) useChecker(d *definition, w *checker) {
	if !w.ok {
		return
	}
	first, err := w.make(asked{address: "192.0.2.1", port: 1, weight: 1})
	if err != nil {
		failEach(w.at, err, w.key+" check: ")
		return
	}
	d.needsPort, d.sends, d.echo = !portless[w.key], !silent[w.key], w.key == "icmp"
	d.make = func(asked) (hc.Checker, error) { return first, nil }
	if w.key == "external" { // the others do not look at whom they are for
		d.make = w.make
	}
}

// combine makes a checker of others, which are defined above or here.
func (b *builder) combine(d *definition, c *combination) {
	var parts []*definition
	for _, s := range c.parts.all {
		if !s.ok {
			continue
		}
		if part := b.resolve(&s); part != nil && part.make != nil {
			parts = append(parts, part)
			d.needsPort, d.sends, d.echo = d.needsPort || part.needsPort, d.sends || part.sends, d.echo || part.echo
		}
	}
	need := len(parts)
	switch c.key {
	case "any":
		need = 1
	case "at_least":
		need = int(c.count.value)
	}
	switch {
	case len(parts) < c.parts.len() || c.count.wrong(): // was told
	case len(parts) == 0:
		c.at.failf("expected checks, found none")
	case need > len(parts) || need == 0:
		c.at.failf("%d of %d checks cannot be up", need, len(parts))
	default:
		d.make = func(whom asked) (hc.Checker, error) { return combined(need, parts, whom) }
	}
}

func combined(need int, parts []*definition, whom asked) (hc.Checker, error) {
	checkers := make([]hc.Checker, len(parts))
	for i, part := range parts {
		var err error
		if checkers[i], err = part.make(whom); err != nil {
			return nil, err
		}
	}
	return hc.NewAtLeast(need, checkers...)
}

// resolve finds a check where it is used; nil after an error.
func (b *builder) resolve(s *setting[usedCheck]) *definition {
	if s.value.inline != nil {
		return b.define(s.value.inline, s.at)
	}
	name := s.value.name
	if d, ok := b.defined[name]; ok {
		return d
	}
	simple, ok := simpleCheckers[name]
	if !ok {
		known := slices.Sorted(maps.Keys(b.defined))
		s.at.failf("unknown check %s%s", quote(name), knownNote(name, someOf(append(known, sortedKeys(simpleCheckers)...))))
		return nil
	}
	checker, err := simple()
	if err != nil { // cannot be: a test makes all of them
		s.at.failf("%v", err)
		return nil
	}
	d := &definition{name: name, line: s.at.at.Line, built: true, needsPort: !portless[name], sends: true, echo: name == "icmp",
		make: func(asked) (hc.Checker, error) { return checker, nil }}
	b.defined[name] = d
	return d
}

// failEach fails once for each of joined errors, with what they all begin with cut off.
func failEach(at cursor, err error, prefix string) {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			failEach(at, e, prefix)
		}
		return
	}
	at.failf("%s", strings.TrimPrefix(err.Error(), prefix))
}
