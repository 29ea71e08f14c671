// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"xdplvs/director"
)

// asClient are services whose real servers are asked via the service, and directly beside.
func asClient(keys string, weights ...int) []service {
	checks := func(how string) string {
		return fmt.Sprintf("%s, checks: [{name: client, %s, %s}, {name: straight, %s, via: direct, %s}]", keys, how, checkTimes, how, checkTimes)
	}
	services := join(both("web", "tcp", webPort, "rr", weights...), both("dns", "udp", dnsPort, "rr", weights...))
	for i, s := range services {
		services[i].keys = checks(map[string]string{"tcp": "http: /", "udp": "udp: {send: who, reply: true}"}[s.protocol])
	}
	return services
}

// check is the named check of a real server of a service.
func (f *farm) check(service, real, name string) director.CheckHealth {
	f.t.Helper()
	var list director.HealthList
	must(f.t, json.Unmarshal([]byte(f.output("health", "-o", "json")), &list))
	for _, s := range list.Services {
		for _, r := range s.Reals {
			for _, c := range r.Checks {
				if s.Name == service && r.Name == real && c.Name == name {
					return c
				}
			}
		}
	}
	f.t.Fatalf("no check %s of %s in %s", name, real, service)
	return director.CheckHealth{}
}

// mustCountNobody fails if probes are seen in what is counted of clients.
func (f *farm) mustCountNobody() {
	f.t.Helper()
	s := f.snapshot()
	for _, service := range s.Services {
		if service.Counters != (director.Counters{}) {
			f.t.Errorf("service %s has counted %+v without a client", service.Name, service.Counters)
		}
		for _, r := range service.Reals {
			if r.Counters != (director.Counters{}) || r.Active+r.Inactive+r.Templates != 0 {
				f.t.Errorf("%s of %s has counted %+v, connections %d, %d, templates %d without a client", r.Name, service.Name,
					r.Counters, r.Active, r.Inactive, r.Templates)
			}
		}
	}
	if s.Verdicts["tx_new"]+s.Verdicts["tx_forward"]+s.Verdicts["tx_reply"] != 0 || s.Verdicts["tx_probe"] == 0 {
		f.t.Errorf("verdicts without a client are %v", s.Verdicts)
	}
	if out := f.output("connections", "-o", "json"); strings.Contains(out, "192.0.2.10") || strings.Contains(out, "2001:db8:1::10") {
		f.t.Errorf("there are connections:\n%s", out)
	}
}

// Probes via the service go to one real server as clients' packets do, by each method and family, while somebody
// else or the director itself has the virtual addresses. A real server without the virtual address is
// found, though it answers when it is asked directly.
func TestProbesAsClient(t *testing.T) {
	t.Parallel()
	for _, m := range []struct{ name, keys, by string }{
		{"dr", "method: dr, persistence: 5m", "dr"},
		{"ipip", "method: tun", "tun"},
		{"gue", "method: tun, tunnel: {type: gue, port: 6080, checksum: true}", "tun"},
		{"gre", "method: tun, tunnel: {type: gre}", "tun"},
	} {
		t.Run(m.name, func(t *testing.T) {
			f := newFarm(t, 2)
			if m.by == "tun" {
				f.decapsulate()
			}
			services := asClient(m.keys, 1, 1)
			config := f.config("eth0", services...)
			if m.name == "dr" || m.name == "gue" {
				config += fmt.Sprintf("addresses:\n  - {address: %s, mode: interface}\n  - {address: %q, mode: interface}\n", vip4, vip6)
			}
			f.writeConfig(config)
			f.start()
			for _, s := range services {
				for _, r := range f.reals {
					f.condition(s.name, r.Name(), director.Up)
				}
				want := "via " + netip.AddrPortFrom(s.vip, s.port).String() + " by " + m.by
				if c := f.check(s.name, "rs1", "client"); c.Way != want || c.Failures != 0 {
					t.Errorf("%s: check is %+v, want %s", s.name, c, want)
				}
			}
			f.mustCountNobody()
			f.ip(f.reals[0].Host, "addr del "+vip4.String()+"/32 dev lo")
			f.ip(f.reals[0].Host, "addr del "+vip6.String()+"/128 dev lo")
			for _, s := range services {
				h := f.condition(s.name, "rs1", director.Down)
				if !slices.Contains([]string{"L4TOUT", "L7TOUT", "L4CON"}, strings.Fields(h.Evidence)[0]) {
					t.Errorf("%s: evidence is %q", s.name, h.Evidence)
				}
				t.Log(s.name, h.Evidence)
				if c := f.check(s.name, "rs1", "straight"); c.Condition != director.Up {
					t.Errorf("%s: asked directly, the real server is %+v", s.name, c)
				}
				f.condition(s.name, "rs2", director.Up)
			}
			f.mustCountNobody()
		})
	}
}
