// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// byNAT are services by nat, on ports of their own: the real servers have the usual ones.
func byNAT(scheduler string, weights ...int) []service {
	list := join(both("web", "tcp", webPort, scheduler, weights...), both("mapped", "tcp", mappedPort, scheduler, weights...),
		both("dns", "udp", dnsPort, scheduler, weights...))
	for i := range list {
		list[i].keys = "method: nat"
	}
	return list
}

// mappedPort is the port of a service whose real servers have webPort.
const mappedPort = 8080

// natFarm has clients and real servers in different networks; the answers come back to the director.
func natFarm(t *testing.T, interfaces string) (f *farm, d *daemon) {
	f = newLab(t)
	f.addOutside()
	f.addInside()
	for _, r := range f.reals {
		f.defaultRoute(r.Host, director4.String(), director6.String())
	}
	config := f.config(interfaces, byNAT("rr", 1, 1, 1)...)
	var lines []string
	for line := range strings.Lines(config) {
		if strings.Contains(line, "name: mapped") {
			line = strings.ReplaceAll(line, ", weight:", fmt.Sprintf(", port: %d, weight:", webPort))
		}
		lines = append(lines, line)
	}
	f.writeConfig(strings.Join(lines, ""))
	return f, f.start()
}

// mustReachAll fails unless three real servers have about even shares. (Which one each connection gets
// test/conformance compares; on a busy machine one may begin twice.)
func (f *farm) mustReachAll(ask asker, vip netip.Addr, port uint16) {
	f.t.Helper()
	got := f.spread(ask, vip, port, 15)
	for _, name := range []string{"rs1", "rs2", "rs3"} {
		if got[name] < 3 {
			f.t.Errorf("15 questions to %s were spread %v", netip.AddrPortFrom(vip, port), got)
			return
		}
	}
}

// With nat the real servers know nothing of the virtual address: requests and replies are rewritten.
func TestNAT(t *testing.T) {
	t.Parallel()
	for _, interfaces := range []string{"eth0, eth1", "{name: eth0, mode: generic}, {name: eth1, mode: generic}"} {
		t.Run(interfaces, func(t *testing.T) {
			f, _ := natFarm(t, interfaces)
			for _, family := range families {
				t.Run(family.name, func(t *testing.T) {
					f := f.on(t)
					const size = 20_000_000
					f.mustReachAll(f.fetch, family.vip, webPort)
					f.mustReachAll(f.fetch, family.vip, mappedPort)
					f.mustReachAll(f.query, family.vip, dnsPort)
					must(t, getBytes(f.client.HTTPClient(0), family.vip, size))
					must(t, putBytes(f.client.HTTPClient(0), family.vip, size))
				})
			}
			f.mustRecount(f.snapshot())
			if t.Failed() {
				t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
			}
		})
	}
}

// What the real servers send is counted, and connections end as both sides' packets say.
func TestNATCounts(t *testing.T) {
	t.Parallel()
	f, _ := natFarm(t, "eth0, eth1")
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			f := f.on(t)
			name := ofFamily("web", family.vip)
			must(t, getBytes(f.client.HTTPClient(0), family.vip, 1_000_000))
			s := f.service(name)
			if s.Counters.OutBytes < 1_000_000 || s.Counters.OutPkts == 0 || s.Counters.InPkts == 0 {
				t.Errorf("counters %+v, want a megabyte out", s.Counters)
			}
			eventually(t, patience, func() error {
				if list := f.output("connections", "service", name, "state", "established"); strings.Contains(list, "ESTABLISHED") {
					return fmt.Errorf("both sides have closed, and there is\n%s", list)
				}
				return nil
			})
			if list := f.output("connections", "service", name); !strings.Contains(list, "TIME_WAIT") && !strings.Contains(list, "LAST_ACK") && !strings.Contains(list, "CLOSE") {
				t.Errorf("connections are\n%s", list)
			}
			if list := f.output("list"); !strings.Contains(list, "Masq") {
				t.Errorf("list has no Masq:\n%s", list)
			}
		})
	}
}

// Without the daemon, and when another one takes over, replies are known as before.
func TestNATWithoutDaemon(t *testing.T) {
	t.Parallel()
	f, d := natFarm(t, "eth0, eth1")
	held := map[string]*download{}
	for _, family := range families {
		held[family.name] = f.download(family.vip, heldSize)
		must(t, held[family.name].read(100_000))
	}
	d.kill()
	for _, family := range families {
		must(t, held[family.name].read(1_000_000))
		f.mustReachAll(f.fetch, family.vip, webPort)
	}
	f.start()
	for _, family := range families {
		must(t, held[family.name].finish())
		must(t, getBytes(f.client.HTTPClient(0), family.vip, 1_000_000))
	}
	f.mustRecount(f.snapshot())
}
