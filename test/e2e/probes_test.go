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
	"xdplvs/internal/door"
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

// wayOf waits until a check's way is as it should be, and gives the check.
func (f *farm) wayOf(service, real, name, way string) director.CheckHealth {
	f.t.Helper()
	var c director.CheckHealth
	eventually(f.t, patience, func() error {
		if c = f.check(service, real, name); c.Way != way {
			return fmt.Errorf("%s of %s in %s goes %q, want %q", name, real, service, c.Way, way)
		}
		return nil
	})
	return c
}

// mapped are services by a method on the port, whose real servers have other ports: rs2 serves on none of them.
func (f *farm) mapped(method string, port int) (text string) {
	for _, family := range families {
		reals := func(first, second int) string {
			return fmt.Sprintf("[{name: rs1, address: %q, port: %d}, {name: rs2, address: %q, port: %d}]",
				f.addrOf(0, family.vip), first, f.addrOf(1, family.vip), second)
		}
		text += fmt.Sprintf("  - {name: %s%s, address: %q, port: %d, method: %s, checks: [{name: client, http: /, via: service, %s}, "+
			"{name: half, tcp: {half_open: true}, via: service, %s}], reals: %s}\n",
			method, family.name, family.vip, port, method, checkTimes, checkTimes, reals(webPort, webPort+1))
		text += fmt.Sprintf("  - {name: %sdns%s, protocol: udp, address: %q, port: %d, method: %s, check: {name: client, udp: {send: who, wait: 100ms}, "+
			"via: service, %s}, reals: %s}\n", method, family.name, family.vip, port, method, checkTimes, reals(dnsPort, dnsPort+1))
	}
	return text
}

// By nat and fullnat probes take the mapped port, and answers their way back; a closed port is found out, by the
// ICMP error that says so, too.
func TestProbesByNAT(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.writeConfig(f.config("eth0") + f.mapped("nat", 7000) + f.mapped("fullnat", 7001) + "fullnat: {sources: [10.0.0.2, \"fd00::2\"]}\n")
	f.start()
	for i, method := range []string{"nat", "fullnat"} {
		for _, family := range families {
			for _, kind := range []string{"", "dns"} {
				name := method + kind + family.name
				f.condition(name, "rs1", director.Up)
				f.wayOf(name, "rs1", "client", "via "+netip.AddrPortFrom(family.vip, uint16(7000+i)).String()+" by "+method)
				if h := f.condition(name, "rs2", director.Down); !strings.Contains(h.Evidence, "refused") {
					t.Errorf("%s: a closed port is %q", name, h.Evidence)
				}
			}
		}
	}
	f.mustCountNobody()
}

// Answers that are too long for a packet come in pieces, over both families, by dr and by nat.
func TestProbesInPieces(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	const longPort = 7777
	text := f.config("eth0")
	for _, family := range families {
		for _, addr := range []netip.Addr{family.vip, f.addrOf(0, family.vip)} {
			f.answerAtLength(f.reals[0], netip.AddrPortFrom(addr, longPort))
		}
		for port, method := range map[int]string{longPort: "dr", 7: "nat"} {
			text += fmt.Sprintf("  - {name: %s%s, protocol: udp, address: %q, port: %d, method: %s, reals: [{name: rs1, address: %q, port: %d}], "+
				"check: {udp: {send: who, expect: the end, min_length: 3000}, via: service, %s}}\n",
				method, family.name, family.vip, port, method, f.addrOf(0, family.vip), longPort, checkTimes)
		}
	}
	f.writeConfig(text)
	f.start()
	for _, family := range families {
		for _, method := range []string{"dr", "nat"} {
			f.condition(method+family.name, "rs1", director.Up)
		}
	}
	f.mustCountNobody()
}

// answerAtLength answers every datagram to an address with one of several packets.
func (f *farm) answerAtLength(r *realServer, addr netip.AddrPort) {
	f.t.Helper()
	network := map[bool]string{true: "udp4", false: "udp6"}[addr.Addr().Is4()]
	conn := get(r.ListenPacket(network, addr.String()))(f.t)
	f.t.Cleanup(func() { conn.Close() })
	answer := append(make([]byte, 4000), "the end"...)
	go func() {
		for question := make([]byte, 100); ; {
			_, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			conn.WriteTo(answer, from) // an answer that cannot be sent is a lost datagram
		}
	}()
}

// The way of probes survives a director that is killed, is left behind by none that ends for good, and is mended when
// somebody takes it away; where real servers are whose answers would not be seen, probes go directly, or are not sent.
func TestProbesWay(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	services := asClient("method: dr", 1, 1)
	f.configure(services...)
	d := f.start()
	via := "via " + netip.AddrPortFrom(vip4, webPort).String() + " by dr"
	f.wayOf("web4", "rs1", "client", via)
	for _, s := range services {
		f.condition(s.name, "rs2", director.Up)
	}
	d.kill()
	f.ip(f.director, "link del "+door.ProbeNear)
	d = f.start()
	f.wayOf("web4", "rs1", "client", via)
	for i, damage := range []string{"link del " + door.ProbeNear, "link set " + door.ProbeFar + " down", fmt.Sprintf("-6 route flush table %d", door.ProbeTable)} {
		f.ip(f.director, damage)
		d.waitLog("event=probe_door_repaired", i+1)
		for _, s := range services {
			before := f.check(s.name, "rs1", "client").Checks
			eventually(t, patience, func() error {
				if c := f.check(s.name, "rs1", "client"); c.Checks < before+3 || c.Code == "SOCKERR" || c.Pending != 0 || c.Condition != director.Up {
					return fmt.Errorf("after %s %s is %+v", damage, s.name, c)
				}
				return nil
			})
		}
	}
	d.kill()

	// A second interface, by which the program sees nothing.
	f.connect(f.director, f.sw, "eth1", "10.0.0.3/24", "fd00::3/64")
	f.ip(f.director, "addr flush dev eth0")
	f.ip(f.director, "-6 addr flush dev eth0 scope global")
	services = with("method: dr, checks: [{name: client, tcp: {}, "+checkTimes+"}, {name: strict, icmp: {}, via: service, "+checkTimes+"}]",
		both("web", "tcp", webPort, "rr", 1, 1))
	f.configure(services...)
	f.start()
	why := "answers come in by eth1, which is none of the interfaces"
	if c := f.wayOf("web4", "rs1", "client", "direct ("+why+")"); c.Condition != director.Up {
		t.Errorf("asked directly, it is %+v", c)
	}
	eventually(t, patience, func() error {
		if c := f.check("web4", "rs1", "strict"); c.Code != "SOCKERR" || !strings.Contains(c.Last, "not via the service: "+why) {
			return fmt.Errorf("the strict check is %+v", c)
		}
		return nil
	})
	f.configure(both("web", "tcp", webPort, "rr", 1, 1)...)
	f.reload()
	if links := f.onDirector("ip", "-o", "link"); strings.Contains(links, door.ProbeNear) {
		t.Errorf("no check needs it, and there is\n%s", links)
	}
	if rules := f.onDirector("ip", "-6", "rule"); strings.Contains(rules, fmt.Sprint(door.ProbeTable)) {
		t.Errorf("no check needs it, and there is\n%s", rules)
	}
}

// Whoever filters sources strictly does not lose the answers, even those of an address of his own.
func TestProbesFiltered(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	must(t, f.director.Sysctl("net.ipv4.conf.all.rp_filter", "1"))
	f.writeConfig(f.config("eth0", asClient("method: dr", 1)...) +
		fmt.Sprintf("addresses:\n  - {address: %s, mode: interface}\n  - {address: %q, mode: interface}\n", vip4, vip6))
	f.start()
	for _, name := range []string{"web4", "web6", "dns4", "dns6"} {
		f.condition(name, "rs1", director.Up)
	}
	f.wayOf("web4", "rs1", "client", "via "+netip.AddrPortFrom(vip4, webPort).String()+" by dr")
}
