// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
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
