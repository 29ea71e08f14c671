// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// builder makes a Config from a decoded file and checks what the tables of keys
// cannot: what holds between values. After an error the Config is incomplete.
type builder struct {
	doc      *document
	config   *Config
	changing bool // a service at run time, whose real servers may come one by one
	services registry[director.ServiceKey]
	names    registry[string]

	// The limits are none where the file has wrong ones.
	mostServices, mostReals int
	defined                 map[string]*definition
	reals                   int    // counted so far, over all services
	beyond                  cursor // the first list of real servers that is beyond the limit
	servicesAll             int    // in the file
	apologies               int    // services with sorry servers, counted so far
}

// registry knows the line where something was first. Its zero value is empty.
type registry[K comparable] map[K]int

// taken tells the line of an earlier one; if there is none, k is here.
func (r *registry[K]) taken(k K, here cursor) (line int, taken bool) {
	if *r == nil {
		*r = make(map[K]int)
	}
	if line, taken = (*r)[k]; !taken {
		(*r)[k] = here.at.Line
	}
	return line, taken
}

func newBuilder(doc *document) *builder {
	return &builder{doc: doc, config: Default()}
}

func (b *builder) root(r root) {
	b.config.Socket = r.socket.or(DefaultSocket)
	b.config.StateDir = r.stateDir.or(DefaultStateDir)
	b.limits(r.limits)
	b.timeouts(r.timeouts.value)
	b.interfaces(r.interfaces)
	b.marks(r.marks.value)
	b.config.Desired.Locals = director.LocalEnds{
		Sources: sources(r.fullnat.value.sources.value),
		Ports:   r.fullnat.value.ports.or(director.DefaultLocalPorts),
	}
	b.checks(r.checks.value)
	if r.checks.ok {
		b.config.checks = unstyled(r.checks.at.at)
	}
	b.notifications(r.notify.value)
	b.defense(r.defense.value)
	b.allServices(r.services.value)
	b.ownerships(r.addresses.value)
	b.announcing(r.announce.value)
	b.metrics(r.metrics.value)
	b.api(r.api)
}

func (b *builder) limits(s setting[limits]) {
	l, d := s.value, director.DefaultLimits
	b.config.Limits = director.Limits{
		Connections4: l.connections4.or(d.Connections4),
		Connections6: l.connections6.or(d.Connections6),
		Services:     l.services.or(d.Services),
		RealServers:  l.realServers.or(d.RealServers),
		PlanSlots:    l.planSlots.or(d.PlanSlots),
		MarkEntries:  l.markEntries.or(d.MarkEntries),
		Prefixes:     l.prefixes.or(d.Prefixes),
		Destinations: l.destinations.or(d.Destinations),
	}
	b.mostServices, b.mostReals = int(b.config.Limits.Services), int(b.config.Limits.RealServers)
	if s.wrong() || l.services.wrong() {
		b.mostServices = math.MaxInt
	}
	if s.wrong() || l.realServers.wrong() {
		b.mostReals = math.MaxInt
	}
}

func (b *builder) timeouts(t timeouts) {
	for _, name := range director.TimeoutNames() {
		if written := (*director.Timeouts)(&t).Get(name); written != 0 {
			_ = b.config.Desired.Timeouts.Set(name, written) // the error is for unknown names
		}
	}
}

func (b *builder) interfaces(s setting[list[iface]]) {
	if s.ok && s.value.len() == 0 {
		s.at.failf("expected at least one interface, found none")
	}
	var seen registry[string]
	for _, i := range s.value.all {
		name := i.value.name
		if !name.ok {
			continue
		}
		if line, taken := seen.taken(name.value, name.at); taken {
			name.at.failf("interface %s is already in line %d", name.value, line)
		}
		b.config.Desired.Interfaces = append(b.config.Desired.Interfaces,
			director.Interface{Name: name.value, Mode: i.value.mode.or(director.AttachAuto)})
	}
}

// sources are addresses that packets can come from, each once.
func sources(all list[netip.Addr]) (addrs []netip.Addr) {
	var seen registry[netip.Addr]
	for _, a := range all.all {
		if !a.ok {
			continue
		}
		if fault := notUnicast(a.value); fault != "" {
			a.at.failf("%s is %s and cannot be a source", a.value, fault)
			continue
		}
		if line, taken := seen.taken(a.value, a.at); taken {
			a.at.failf("source %s is already in line %d", a.value, line)
			continue
		}
		addrs = append(addrs, a.value)
	}
	return addrs
}

// allServices stops at the limits: with aliases a small file can say a lot.
func (b *builder) allServices(all list[service]) {
	b.config.Desired.Services = slices.Grow(b.config.Desired.Services, min(all.len(), b.mostServices))
	b.servicesAll = all.len()
	errors := len(b.doc.errs)
	for i, s := range all.all {
		if i == b.mostServices {
			s.at.failf("%d services, limits.services allows %d (from here on they were not checked)", all.len(), i)
			break
		}
		if s.ok {
			b.service(&s, errors)
		}
		errors = len(b.doc.errs)
	}
	if b.beyond.at != nil {
		b.beyond.failf("%d real servers in all, limits.real_servers allows %d (from here on they were not checked)",
			b.reals, b.mostReals)
	}
}

// service adds a service to the Config, if nothing is wrong with it: errors is how
// many there were before it.
func (b *builder) service(s *setting[service], errors int) {
	sb := serviceBuilder{builder: b, at: s.at, written: &s.value}
	sb.check()
	built := sb.build()
	s.value.guard.value.checkCookies(&built)
	checked := sb.health(&built)
	if len(b.doc.errs) > errors {
		return
	}
	if err := built.Validate(); err != nil { // a rule of package director that is none here yet
		s.at.failf("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	b.config.Desired.Services = append(b.config.Desired.Services, built)
	b.config.Health = append(b.config.Health, checked)
	b.listFiles(len(b.config.Desired.Services)-1, &s.value.guard.value)
}
