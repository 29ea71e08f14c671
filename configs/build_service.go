// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"xdplvs/director"
)

// serviceBuilder makes one service.
type serviceBuilder struct {
	*builder
	at        cursor
	written   *service
	key       director.ServiceKey
	keyed     bool // the key is usable
	realKeys  registry[director.RealKey]
	realNames registry[string]
	tunnels   bool               // there are real servers by tun
	role      string             // what is being built: real servers or sorry servers
	checked   []setting[checked] // what real servers and then sorry servers say about their health
}

// The roles.
const (
	roleReal  = "real server"
	roleSorry = "sorry server"
)

// check finds the service's key and what contradicts itself or another service.
func (b *serviceBuilder) check() {
	b.findKey()
	if b.keyed {
		if line, taken := b.services.taken(b.key, b.at); taken {
			b.at.failf("service %s is already in line %d", b.key, line)
		}
	}
	if name := b.written.name; name.ok {
		if line, taken := b.names.taken(name.value, name.at); taken {
			name.at.failf("name %s is already used in line %d", name.value, line)
		}
	}
	if !b.written.protocol.wrong() && !b.written.fwmark.given() {
		b.checkProtocol(b.written.protocol.or(director.TCP))
	}
	if !b.written.scheduler.wrong() {
		b.checkScheduler(b.written.scheduler.or(DefaultScheduler))
	}
	b.checkSlowStart(&b.written.slowStart)
	b.checkSorry()
}

// checkSorry: in the tables sorry servers are a service of their own.
func (b *serviceBuilder) checkSorry() {
	if b.written.sorry.value.len() == 0 {
		return
	}
	if b.apologies++; b.servicesAll <= b.mostServices && b.servicesAll+b.apologies == b.mostServices+1 {
		b.written.sorry.at.failf("sorry servers count as a service: with these there are %d, limits.services allows %d",
			b.servicesAll+b.apologies, b.mostServices)
	}
}

// checkScheduler finds what other schedulers only know.
func (b *serviceBuilder) checkScheduler(name string) {
	if table := &b.written.mhTable; table.ok && name != "mh" {
		table.at.failf("only the scheduler mh has a table of its own size, the service's is %s", name)
	}
	for owner, written := range map[string]*setting[time.Duration]{"lblc": &b.written.lblc, "lblcr": &b.written.lblcr} {
		if written.ok && name != owner {
			written.at.failf("%s_expiration is the scheduler %[1]s's, the service's is %s", owner, name)
		}
	}
}

// checkSlowStart: IPVS has none, so neither has what decides as it does.
func (b *serviceBuilder) checkSlowStart(s *setting[time.Duration]) {
	if s.value > 0 && b.written.conns.semantics.value == ipvsSemantics {
		s.at.failf("with semantics: ipvs there is no slow start")
	}
}

func (b *serviceBuilder) findKey() {
	if b.written.fwmark.given() {
		b.findMark()
		return
	}
	b.checkNoMark()
	if b.written.family.given() {
		b.written.family.at.failf("the family is that of the address, only a service of a firewall mark has none")
	}
	where, at, ok := b.endpoint()
	if !ok {
		return
	}
	if fault := notUnicast(where.Addr()); fault != "" {
		at.failf("%s is %s and cannot be a virtual service's", where.Addr(), fault)
		return
	}
	b.key = director.ServiceKey{Protocol: b.written.protocol.or(director.TCP), Addr: where.Addr(), Port: where.Port()}
	b.keyed = !b.written.protocol.wrong()
}

// endpoint comes from virtual, or from address and port; at is where the address is.
func (b *serviceBuilder) endpoint() (where netip.AddrPort, at cursor, ok bool) {
	s := b.written
	split := s.address.given() || s.port.given()
	switch {
	case s.virtual.given() && split:
		s.virtual.at.failf("virtual stands for address and port, write one or the other")
		return where, at, false
	case s.virtual.given():
		return s.virtual.value, s.virtual.at, s.virtual.ok
	case !split:
		b.at.failf("keys address and port are missing (or virtual, which is both, or fwmark)")
	case !s.address.given():
		b.at.failf("key address is missing")
	case !s.port.given():
		b.at.failf("key port is missing")
	}
	return netip.AddrPortFrom(s.address.value, s.port.value), s.address.at, s.address.ok && s.port.ok
}

// checkProtocol finds what has no meaning for a protocol.
func (b *serviceBuilder) checkProtocol(p director.Protocol) {
	if one := b.written.onePacket; one.value && p != director.UDP {
		one.at.failf("one-packet scheduling is for udp only, the service is %s", p)
	}
	if a := b.written.answer; a.ok && a.value == director.AnswerReset && p != director.TCP {
		a.at.failf("only tcp has resets, the service is %s", p)
	}
	if sloppy := b.written.conns.sloppyTCP; sloppy.value && p != director.TCP {
		sloppy.at.failf("sloppy_tcp is for tcp only, the service is %s", p)
	}
	if sloppy := b.written.conns.sloppySCTP; sloppy.value && p != director.SCTP {
		sloppy.at.failf("sloppy_sctp is for sctp only, the service is %s", p)
	}
}

func (b *serviceBuilder) build() director.Service {
	s := b.written
	defer b.checkTunnel()
	built := director.Service{
		Name:        s.name.value,
		Key:         b.key,
		Scheduler:   s.scheduler.or(DefaultScheduler),
		Flags:       director.SchedulerFlags(s.flagNames()...),
		OnePacket:   s.onePacket.value,
		Persistence: b.persistence(),
		Answer:      s.answer.or(director.AnswerUnreachable),
		Conns:       s.conns.build(s.protocol.or(director.TCP)),
		Guard:       s.guard.value.build(),
		Sources:     sources(s.fullnat.value.sources.value),
		MarkSource:  s.markSource.value,
		VIPs:        b.vips(),
		Reals:       b.allReals(roleReal, s.reals.value),
		Sorry:       b.allReals(roleSorry, s.sorry.value),
		MHTable:     s.mhTable.value,
		Expiration:  cmp.Or(s.lblc.value, s.lblcr.value),
	}
	b.noteUntranslated(&built)
	return built
}

// noteUntranslated: as with IPVS nobody remembers where the answer to a packet that was scheduled by itself belongs. Messages that
// have none, as those of syslog, go well by nat.
func (b *serviceBuilder) noteUntranslated(built *director.Service) {
	byNAT := func(r director.RealServer) bool { return r.Method == director.NAT }
	if built.OnePacket && slices.ContainsFunc(built.Servers(), byNAT) {
		b.note(b.written.onePacket.at, "answers by nat keep the real server's address, which clients do not know: one-packet scheduling by nat is for messages without answers")
	}
}

// build fills in the defaults of the semantics.
func (c *connPolicy) build(p director.Protocol) director.ConnPolicy {
	policy := director.DefaultConnPolicy(p)
	if c.semantics.or(directorSemantics) == ipvsSemantics {
		policy = director.IPVSConnPolicy(c.expireNodest.value)
	}
	policy.OnRemove = c.onRemove.or(policy.OnRemove)
	policy.OnDown = c.onDown.or(policy.OnDown)
	if c.reuseMode.ok {
		policy.Reuse = director.ReuseOfMode(c.reuseMode.value)
	}
	policy.ExpireNodest = c.expireNodest.value
	policy.Sloppy = c.sloppyTCP.value || c.sloppySCTP.value
	return policy
}

// flagNames are the scheduler flags that were read.
func (s *service) flagNames() (names []string) {
	for _, f := range s.flags.value.all {
		if f.ok {
			names = append(names, f.value)
		}
	}
	return names
}

func (b *serviceBuilder) allReals(role string, all list[realServer]) []director.RealServer {
	b.role = role
	if all.len() == 0 {
		return nil
	}
	b.reals += all.len()
	if b.reals > b.mostReals {
		if b.beyond.at == nil {
			b.beyond = all.at
		}
		return nil
	}
	reals := make([]director.RealServer, 0, all.len())
	for _, r := range all.all {
		if r.ok {
			reals = append(reals, b.real(&r))
			b.checked = append(b.checked, setting[checked]{r.value.checked, r.at, true})
		}
	}
	return reals
}

func (b *serviceBuilder) real(r *setting[realServer]) director.RealServer {
	w := &r.value
	v := director.RealServer{
		Name:   w.name.value,
		Key:    director.RealKey{Addr: w.address.value, Port: w.port.or(b.key.Port)},
		Method: w.method.or(b.written.method.or(director.DirectRouting)),
		Weight: w.weight.or(b.written.weight.or(DefaultWeight)),
		Upper:  w.upper.value,
		Lower:  w.lower.value,

		SlowStart: w.slow.or(b.written.slowStart.value),
	}
	b.checkSlowStart(&w.slow)
	v.Tunnel = b.tunnel(w, v.Method)
	if v.Lower > v.Upper && !w.upper.wrong() {
		w.lower.at.failf("lower threshold %d is above the upper one, %d", v.Lower, v.Upper)
	}
	if w.name.ok {
		if line, taken := b.realNames.taken(v.Name, w.name.at); taken {
			w.name.at.failf("name %s is already used in line %d", v.Name, line)
		}
	}
	if !w.address.ok || w.port.wrong() || !b.keyed && !w.port.given() {
		return v
	}
	if line, taken := b.realKeys.taken(v.Key, r.at); taken {
		r.at.failf("%s %s is already in line %d", b.role, v.Key, line)
	}
	b.checkReach(w, v)
	return v
}

// familyOwner is what says the service's address family.
func (b *serviceBuilder) familyOwner() string {
	if b.key.Mark != 0 {
		return "the service (key family)"
	}
	return "the service's " + b.key.Addr.String()
}

// tunnel is the real server's own, or the service's.
func (b *serviceBuilder) tunnel(w *realServer, m director.Method) director.TunnelOptions {
	if m == director.Tunnel {
		b.tunnels = true
		if w.tunnel.given() {
			return buildTunnel(&w.tunnel)
		}
		return b.written.tunnel.value.options()
	}
	if w.tunnel.given() && !w.method.wrong() && !b.written.method.wrong() {
		w.tunnel.at.failf("tunnel is for method tun, the method is %s", m)
	}
	return director.TunnelOptions{}
}

// checkTunnel finds what is wrong with the service's tunnel, or that nobody uses it.
func (b *serviceBuilder) checkTunnel() {
	t := &b.written.tunnel
	buildTunnel(t)
	if t.ok && !b.tunnels && !b.written.method.wrong() && b.written.reals.value.len() > 0 {
		t.at.failf("tunnel is for method tun, which no real server has")
	}
}

func (t *tunnel) options() director.TunnelOptions {
	return director.TunnelOptions{Type: t.kind.value, Port: t.port.value, Checksum: t.checksum.value}
}

// buildTunnel says what is wrong with a tunnel between its keys.
func buildTunnel(s *setting[tunnel]) director.TunnelOptions {
	t := s.value
	options := t.options()
	if fault := options.Fault(); fault != "" && s.ok && !t.kind.wrong() && !t.port.wrong() {
		s.at.failf("%s", fault)
	}
	return options
}

// checkReach finds why packets could not get to a real server.
func (b *serviceBuilder) checkReach(w *realServer, v director.RealServer) {
	fault, here := notUnicast(v.Key.Addr), v.Method == director.Local
	switch {
	case w.method.wrong() || b.written.method.wrong():
	case fault != "" && !(here && v.Key.Addr.IsLoopback()):
		w.address.at.failf("%s is %s and cannot be a real server's", v.Key.Addr, fault)
	case !b.keyed:
	case v.Key.Addr.Is4() != b.key.Addr.Is4() && v.Method != director.Tunnel:
		w.address.at.failf("%s is of another address family than %s, method %s needs the same",
			v.Key.Addr, b.familyOwner(), v.Method)
	case v.Key.Addr == b.key.Addr && !here:
		w.address.at.failf("%s is the service's own address, packets would come back to the director", v.Key.Addr)
	case v.Method == director.FullNAT && b.written.onePacket.value:
		b.written.onePacket.at.failf("one-packet scheduling keeps no connections, and method fullnat needs them")
	default:
		b.checkPort(w, v)
	}
}
