// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"xdplvs/director"
)

// persistence is director.Persistence as written; the short form has a timeout only.
type persistence struct {
	timeout         setting[time.Duration]
	netmask         setting[uint8]
	engine          setting[director.Engine]
	expireQuiescent setting[bool]
	onDown          setting[director.Fate]
}

var persistenceObject = object[persistence]{
	what: "a mapping with timeout",
	fields: []field[persistence]{
		key("timeout", persistenceTimeout(), func(p *persistence) *setting[time.Duration] { return &p.timeout },
			"How long a client that has no connections left is remembered, whole seconds; 5m if absent."),
		key("netmask", netmask(), func(p *persistence) *setting[uint8] { return &p.netmask },
			"Which bits of the client's address count: 24 or 255.255.255.0 sends all of a /24 to one real server; all bits if absent, and none, 0, only with an engine."),
		key("engine", enumeration[director.Engine]("persistence engine"), func(p *persistence) *setting[director.Engine] { return &p.engine },
			"IPVS's persistence engine: sip lets each call, by its Call-ID, have a real server of its own (SIP over UDP); none if absent."),
		key("expire_quiescent", boolean(), func(p *persistence) *setting[bool] { return &p.expireQuiescent },
			"IPVS's expire_quiescent_template: the clients of a real server whose weight becomes 0 are scheduled anew; false if absent."),
		key("on_down", persistenceFate(), func(p *persistence) *setting[director.Fate] { return &p.onDown },
			"What becomes of the clients of a real server that cannot be reached any more: reschedule or keep; reschedule if absent."),
	},
}

var persistenceKind = either("a duration, or a mapping with timeout",
	mapped(persistenceTimeout(), func(c cursor, v time.Duration) (persistence, bool) {
		return persistence{timeout: setting[time.Duration]{v, c, true}}, true
	}), persistenceObject.kind())

func persistenceTimeout() kind[time.Duration] {
	return mapped(duration(time.Second, director.MaxPersistence), func(c cursor, v time.Duration) (time.Duration, bool) {
		if v%time.Second != 0 {
			c.failf("persistence counts whole seconds, found %s", v)
			return 0, false
		}
		return v, true
	})
}

// netmask is a prefix length, or an IPv4 netmask as ipvsadm has it.
func netmask() kind[uint8] {
	const what = "a prefix length from 0 to 128, or a netmask such as 255.255.255.0"
	s := schema{"anyOf": []schema{{"type": "integer", "minimum": 0, "maximum": 128}, {"type": "string"}}}
	return parsed(what, s, func(text string) (uint8, string, bool) {
		if n, note, ok := decimal(text); ok || note != "" {
			return uint8(n), note, ok && n <= 128
		}
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is4() {
			return 0, "", false
		}
		ones, bits := net.IPMask(a.AsSlice()).Size()
		if bits == 0 {
			return 0, "its ones must come before its zeros", false
		}
		return uint8(ones), "", true
	})
}

// persistenceFate is what on_down can be: a template has no packets to be reset.
func persistenceFate() kind[director.Fate] {
	fates := []director.Fate{director.FateReschedule, director.FateKeep}
	known := []string{fates[0].String(), fates[1].String()}
	return mapped(choice("policy", func() []string { return known }), func(_ cursor, text string) (director.Fate, bool) {
		return fates[slices.Index(known, text)], true
	})
}

func (b *serviceBuilder) persistence() (p director.Persistence) {
	s := b.written.persistence
	if !s.ok {
		return p
	}
	w := &s.value
	p = director.Persistence{
		Timeout:         w.timeout.or(director.DefaultPersistence),
		Prefix:          w.netmask.value,
		AnyClient:       w.netmask.ok && w.netmask.value == 0,
		Engine:          w.engine.value,
		ExpireQuiescent: w.expireQuiescent.value,
		KeepDown:        w.onDown.value == director.FateKeep && w.onDown.ok,
	}
	if p.AnyClient && p.Engine == director.NoEngine && !w.engine.wrong() {
		w.netmask.at.failf("at least one bit of the client's address must count, unless an engine tells what else does")
	}
	if p.Engine == director.SIPEngine && b.keyed && b.key.Mark == 0 && b.key.Protocol != director.UDP {
		w.engine.at.failf("engine sip is for udp, the service is %s", b.key.Protocol)
	}
	if b.keyed && int(p.Prefix) > b.key.Addr.BitLen() {
		w.netmask.at.failf("%d bits are more than the %d of the service's addresses", p.Prefix, b.key.Addr.BitLen())
	}
	return p
}

// family is ipv4 or ipv6: true for the latter.
func family() kind[bool] {
	known := []string{"ipv4", "ipv6"}
	return mapped(choice("address family", func() []string { return known }), func(_ cursor, text string) (bool, bool) {
		return text == known[1], true
	})
}

// findMark finds the key of a service of a firewall mark.
func (b *serviceBuilder) findMark() {
	s := b.written
	for _, other := range []struct {
		at   cursor
		name string
	}{
		{s.address.at, "address"}, {s.port.at, "port"}, {s.virtual.at, "virtual"}, {s.protocol.at, "protocol"},
	} {
		if other.at.at != nil {
			other.at.failf("a firewall mark stands for protocol, address and port: write %s or fwmark", other.name)
			return
		}
	}
	if s.fwmark.ok && !s.family.wrong() {
		b.key, b.keyed = director.MarkKey(s.fwmark.value, s.family.value), true
	}
}

// checkPort says which ports a real server can have.
func (b *serviceBuilder) checkPort(w *realServer, v director.RealServer) {
	port := fmt.Sprintf("the service's (%d)", b.key.Port)
	if b.key.Port == 0 {
		port = "left out"
	}
	switch {
	case v.Key.Port == b.key.Port:
	case !v.Method.Translates() && b.key.Mark != 0: // a name only, as in IPVS
	case !v.Method.Translates():
		w.port.at.failf("method %s leaves packets as they are, so the port must be %s, found %d", v.Method, port, v.Key.Port)
	case b.key.Port == 0 && b.written.persistence.given():
		w.port.at.failf("persistence for several ports leaves them as they are, so the port must be left out, found %d", v.Key.Port)
	}
}
