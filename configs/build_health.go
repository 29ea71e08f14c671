// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"net/netip"
	"slices"
	"strconv"

	"xdplvs/director"
	"xdplvs/healthcheck"
	"xdplvs/internal/health"
)

// checked is what services and real servers say about their health.
type checked struct {
	one     setting[usedCheck]
	several setting[list[usedCheck]]
	inhibit setting[bool]
}

// checkedFields are the keys of services and real servers.
func checkedFields[T any](in func(*T) *checked, whose string) []field[T] {
	return []field[T]{
		key("check", usedKind, func(o *T) *setting[usedCheck] { return &in(o).one },
			"How "+whose+" checked: the name of a check, or a mapping; tcp, http, smtp and so on stand for themselves without options."),
		key("checks", listOf("checks", usedKind), func(o *T) *setting[list[usedCheck]] { return &in(o).several },
			"Several checks, each with its own interval, which must all be up; an empty list: none."),
		key("inhibit_on_failure", boolean(), func(o *T) *setting[bool] { return &in(o).inhibit },
			"keepalived's: a real server that is down has weight 0, instead of being taken out; its connections go on."),
	}
}

// given reports whether anything is said about checks.
func (c *checked) given() bool { return c.one.given() || c.several.given() }

// definitions are the checks that are meant.
func (b *builder) definitions(c *checked) (all []*definition) {
	if c.one.given() && c.several.given() {
		c.one.at.failf("check stands for checks with one element, write one or the other")
		return nil
	}
	use := func(s setting[usedCheck]) {
		if !s.ok {
			return
		}
		if d := b.resolve(&s); d != nil && d.built {
			all = append(all, d)
		}
	}
	use(c.one)
	for _, s := range c.several.value.all {
		use(s)
	}
	return all
}

// healthBuilder makes the health of one service.
type healthBuilder struct {
	*serviceBuilder
	own []*definition // of real servers that have none of their own
	to  *health.Service
}

// health adds what is checked of a service, whose real servers are as built.
func (b *serviceBuilder) health(built *director.Service) health.Service {
	h := healthBuilder{serviceBuilder: b, own: b.definitions(&b.written.checked),
		to: &health.Service{Key: built.Key, Name: built.Name, MinUp: b.written.minUp.value}}
	h.to.Reals = h.servers(built.Reals, b.checked)
	h.own = nil // a sorry server has another answer than a real server: it is checked only if it says how
	h.to.Sorry = h.servers(built.Sorry, b.checked[len(built.Reals):])
	h.quorum(built)
	built.Written = b.written.text()
	if !b.changing && !slices.ContainsFunc(built.Reals, func(r director.RealServer) bool { return r.Checked }) {
		h.unchecked()
	}
	return *h.to
}

// servers adds what is checked of real servers, or of sorry servers, as they have written it.
func (b *healthBuilder) servers(built []director.RealServer, said []setting[checked]) (all []health.Real) {
	for i := range built {
		real, written := &built[i], &said[i]
		checks := b.real(&written.value, real, written.at)
		real.Checked = len(checks) > 0
		real.InhibitOnFailure = real.Checked && written.value.inhibit.or(b.written.checked.inhibit.value)
		real.Written = written.value.text()
		all = append(all, health.Real{Key: real.Key, Name: real.Name, Weight: real.Weight, Checks: checks})
	}
	return all
}

// unchecked finds what means nothing where nobody is checked.
func (b *healthBuilder) unchecked() {
	for _, at := range []cursor{b.written.minUp.at, b.written.quorum.at, b.written.hysteresis.at} {
		if at.at != nil && len(b.to.Reals) > 0 {
			at.failf("no real server of the service is checked")
		}
	}
}

// real makes the checks of a real server.
func (b *healthBuilder) real(w *checked, real *director.RealServer, at cursor) (checks []health.Check) {
	mine := b.own
	if w.given() {
		mine = b.definitions(w)
	}
	names := map[string]bool{}
	for _, d := range mine {
		c, ok := b.check(d, real, at)
		if !ok {
			continue
		}
		name := d.name
		for n := 2; names[name]; n++ {
			name = d.name + "-" + strconv.Itoa(n)
		}
		names[name] = true
		c.Name = name
		checks = append(checks, c)
	}
	return checks
}

// check is a definition for one real server.
func (b *healthBuilder) check(d *definition, real *director.RealServer, at cursor) (c health.Check, ok bool) {
	whom := asked{address: b.key.Addr.String(), port: b.key.Port, weight: real.Weight}
	if b.key.Mark != 0 {
		whom.address = strconv.FormatUint(uint64(b.key.Mark), 10)
	}
	checker, err := d.make(whom)
	if err != nil {
		failEach(at, err, "")
		return c, false
	}
	c.Via = b.via(d, real)
	if !b.goesVia(d, real, at) {
		return c, false
	}
	c.Target = b.target(d, real, c.Via)
	if d.needsPort && c.Target.Address.Port() == 0 {
		at.failf("check %s needs a port (key port of the check): neither the real server nor the service has one", d.name)
		return c, false
	}
	c.Checker, c.Timing = checker, d.timing
	return c, true
}

// target is whom a probe asks: the real server, or the service where it goes as a client's.
func (b *healthBuilder) target(d *definition, real *director.RealServer, via health.Via) healthcheck.Target {
	where := netip.AddrPortFrom(real.Key.Addr, real.Key.Port)
	asked := where
	if via != health.ViaDirect {
		asked = netip.AddrPortFrom(b.key.Addr, b.key.Port)
	}
	target := healthcheck.Target{Dialer: d.dialer,
		Address: netip.AddrPortFrom(orAddr(d.address, asked.Addr()), orPort(d.port, asked.Port()))}
	if target.Address != where || via != health.ViaDirect {
		target.Real = where
	}
	return target
}

func orAddr(a, fallback netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return fallback
}

func orPort(port, fallback uint16) uint16 {
	if port != 0 {
		return port
	}
	return fallback
}

// quorum makes the service's quorum, and finds one that can never be.
func (b *healthBuilder) quorum(built *director.Service) {
	w := b.written
	b.to.Quorum = health.Quorum{Weight: w.quorum.or(1), Hysteresis: w.hysteresis.value}
	if h := w.hysteresis; h.ok && !w.quorum.wrong() && h.value >= b.to.Quorum.Weight {
		h.at.failf("hysteresis %d is not below the quorum, %d", h.value, b.to.Quorum.Weight)
	}
	if b.changing {
		return
	}
	sum := uint64(0)
	for _, r := range built.Reals {
		sum += uint64(r.Weight)
	}
	if need := uint64(b.to.Quorum.Weight) + uint64(b.to.Quorum.Hysteresis); w.quorum.ok && need > sum && len(built.Reals) > 0 {
		w.quorum.at.failf("quorum and hysteresis are %d, the weights of all real servers sum to %d", need, sum)
	}
	if n := w.minUp; n.ok && n.value > len(built.Reals) {
		n.at.failf("min_up is %d, there are %d real servers", n.value, len(built.Reals))
	}
}
