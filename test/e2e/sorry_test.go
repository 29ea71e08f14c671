// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"xdplvs/director"
)

// apologizing are services that have rs3 for a sorry server: one with persistence, which clients of a drained real
// server leave, and one without.
func (f *farm) apologizing(weights ...int) []service {
	services := join(both("web", "tcp", webPort, "rr", weights...), both("alt", "tcp", altPort, "rr", weights...),
		both("one", "udp", onePort, "rr", weights...))
	for i := range services {
		s := &services[i]
		s.keys = fmt.Sprintf("sorry_servers: [{name: rs3, address: %q}]", f.addrOf(2, s.vip))
		if strings.HasPrefix(s.name, "alt") {
			s.keys += ", persistence: {timeout: 5m, expire_quiescent: true}"
		}
		if s.protocol == "udp" {
			s.keys += ", one_packet: true"
		}
	}
	return services
}

// mustBeServed fails unless new connections to every service are answered by one of the servers.
func (f *farm) mustBeServed(what string, servers ...string) {
	f.t.Helper()
	for _, family := range families {
		for _, q := range []question{{f.fetch, webPort}, {f.fetch, altPort}, {f.query, onePort}} {
			for range 3 {
				name, err := q.ask(family.vip, q.port)
				if err != nil || !strings.Contains(strings.Join(servers, " "), name) {
					f.t.Errorf("%s: port %d of %s is answered by %q (%v), want %v", what, q.port, family.vip, name, err, servers)
				}
			}
		}
	}
}

// Sorry servers answer when no real server can, also while the daemon is dead; when one can, it answers, and what
// sorry servers have lives on.
func TestSorryServers(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(f.apologizing(1, 1)...)
	d := f.start()
	f.mustBeServed("at first", "rs1", "rs2")
	f.configure(f.apologizing(0, 0)...)
	f.reload()
	f.mustBeServed("drained", "rs3")
	if out := f.output("list"); !strings.Contains(out, "sorry, in use\n") {
		t.Errorf("list printed\n%s\nwant sorry servers in use", out)
	}
	var sessions []*session
	for _, family := range families {
		for _, port := range []uint16{webPort, altPort} {
			sessions = append(sessions, f.session(family.vip, port, "rs3"))
		}
	}
	d.kill()
	f.mustSpread(f.fetch, vip4, webPort, map[string]int{"rs3": 3})
	f.start()
	f.mustBeServed("after kill -9", "rs3")
	f.configure(f.apologizing(1, absent)...)
	f.reload()
	f.mustBeServed("one is back", "rs1")
	for _, s := range sessions {
		f.mustBe("a connection that the sorry server has", "rs3", func() (string, error) { return s.ask(patience) })
	}
	f.configure(f.apologizing(absent, absent)...)
	f.reload()
	f.mustBeServed("all are removed", "rs3")
	f.mustApologizeNoMore(sessions)
}

// A sorry server that its check finds dead is not used while another one is well, one that is back is, and without any that is
// well the service answers that nobody is there.
func TestSorryServersChecked(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	checked := func(families ...service) (services []service) {
		for _, s := range families {
			sorry := func(i int) string {
				return fmt.Sprintf("{name: %s, address: %q, check: {tcp: {}, %s}}", realName(i), f.addrOf(i, s.vip), checkTimes)
			}
			s.keys = "method: dr, check: {tcp: {}, " + checkTimes + "}, sorry_servers: [" + sorry(1) + ", " + sorry(2) + "]"
			services = append(services, s)
		}
		return services
	}
	services := checked(both("web", "tcp", webPort, "rr", 1)...)
	f.configure(services...)
	d := f.start()
	sorryIs := func(name, service string, want director.Condition) {
		t.Helper()
		eventually(t, patience, func() error {
			for _, r := range f.service(service).Sorry {
				if r.Name == name && (r.Health == nil || r.Health.Condition != want) {
					return fmt.Errorf("%s is %+v, want %s", name, r.Health, want)
				}
			}
			return nil
		})
	}
	both := func(name string, want director.Condition) {
		t.Helper()
		sorryIs(name, "web4", want)
		sorryIs(name, "web6", want)
	}
	served := func(what string, want ...string) {
		t.Helper()
		for _, family := range families {
			f.mustAllServe(what, family.vip, want...)
		}
	}
	for _, s := range services {
		f.condition(s.name, "rs1", director.Up)
	}
	both("rs2", director.Up)
	both("rs3", director.Up)
	if way := f.check("web4", "rs2", "tcp").Way; way != "via 192.0.2.10:80 by dr" {
		t.Errorf("the sorry server is asked %q", way)
	}
	served("at first", "rs1")
	must(t, f.reals[0].http.Close())
	for _, s := range services {
		f.condition(s.name, "rs1", director.Down)
	}
	served("the real server is dead", "rs2", "rs3")
	must(t, f.reals[1].http.Close())
	both("rs2", director.Down)
	served("a sorry server is dead, too", "rs3")
	d.kill()
	f.start()
	served("after kill -9", "rs3")
	if out := f.output("list"); !strings.Contains(out, "sorry, in use\n") || !strings.Contains(out, "sorry  down: L4CON") {
		t.Errorf("list printed\n%s", out)
	}
	if out := f.output("health"); !strings.Contains(out, "rs2 (sorry)") {
		t.Errorf("health printed\n%s", out)
	}
	must(t, f.reals[2].http.Close())
	both("rs3", director.Down)
	for _, family := range families {
		if name, err := f.fetch(family.vip, webPort); err == nil {
			t.Errorf("%s is answered by %s, though everybody is dead", family.vip, name)
		}
	}
	f.reals[1].http = get(f.reals[1].ServeHTTP("rs2", everywhere(webPort, altPort)...))(t)
	both("rs2", director.Up)
	served("a sorry server is back", "rs2")
}

// mustAllServe fails unless new connections are answered by these servers, each of them, and nobody else.
func (f *farm) mustAllServe(what string, vip netip.Addr, servers ...string) {
	f.t.Helper()
	seen := map[string]bool{}
	for range 8 {
		name, err := f.fetch(vip, webPort)
		if err != nil {
			f.t.Errorf("%s: %v", what, err)
		}
		seen[name] = true
	}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, servers) {
		f.t.Errorf("%s: %s is answered by %v, want %v", what, vip, got, servers)
	}
}

// mustApologizeNoMore removes the sorry servers: nobody is left, but for the connections that there are.
func (f *farm) mustApologizeNoMore(sessions []*session) {
	f.t.Helper()
	conns := f.service("web4").Counters.Conns
	f.configure(join(both("web", "tcp", webPort, "rr"), both("alt", "tcp", altPort, "rr"))...)
	f.reload()
	for _, family := range families {
		if name, err := f.fetch(family.vip, webPort); err == nil {
			f.t.Errorf("%s is answered by %s, though there is no server", family.vip, name)
		}
	}
	for _, s := range sessions {
		f.mustBe("a connection that a removed sorry server has", "rs3", func() (string, error) { return s.ask(patience) })
	}
	if s := f.service("web4"); s.Counters.Conns != conns || len(s.Sorry) != 0 {
		f.t.Errorf("the service has %d connections, sorry servers %v, want %d and none", s.Counters.Conns, s.Sorry, conns)
	}
}
