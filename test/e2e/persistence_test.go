// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
)

// grouped is a configuration with one service of a firewall mark for each family, which stands for
// the web servers' two ports and for DNS, and sends a client to one real server.
func (f *farm) grouped(weights ...int) string {
	var b strings.Builder
	b.WriteString(f.config("eth0"))
	for _, family := range families {
		fmt.Fprintf(&b, "  - {name: group%s, fwmark: 7, family: ip%s, scheduler: rr, persistence: {timeout: 5m, on_down: reschedule}, reals: [%s]}\n",
			family.name, family.name, strings.Join(f.groupReals(family.vip, weights), ", "))
	}
	b.WriteString("marks:\n")
	for _, family := range families {
		fmt.Fprintf(&b, "  - {mark: 7, protocol: tcp, destination: %q, destination_port: [%d, %d]}\n", family.vip, webPort, altPort)
		fmt.Fprintf(&b, "  - {mark: 7, protocol: udp, destination: %q, destination_port: %d-%d}\n", family.vip, dnsPort, dnsPort+7)
	}
	return b.String()
}

func (f *farm) groupReals(vip netip.Addr, weights []int) (list []string) {
	for i, weight := range weights {
		if weight != absent {
			list = append(list, fmt.Sprintf("{name: %s, address: %q, weight: %d}", realName(i), f.addrOf(i, vip), weight))
		}
	}
	return list
}

// mustStay asks for everything that the group serves, several times, and fails unless one real server
// answers it all. It returns that one's name.
func (f *farm) mustStay(what string, vip netip.Addr) string {
	f.t.Helper()
	var servers []string
	for range 3 {
		for _, q := range []question{{f.fetch, webPort}, {f.fetch, altPort}, {f.query, dnsPort}} {
			servers = append(servers, get(q.ask(vip, q.port))(f.t))
		}
	}
	if slices.ContainsFunc(servers, func(s string) bool { return s != servers[0] }) {
		f.t.Errorf("%s: %s was served by %q, want one real server", what, vip, servers)
	}
	return servers[0]
}

// templates are what director persistence lists.
func (f *farm) templates(filter ...string) []director.Conn {
	f.t.Helper()
	return f.entries(append([]string{"persistence", "list", "-o", "json"}, filter...)...)
}

// A client's connections to two ports of TCP and to one of UDP, which a firewall mark makes one
// service, go to one real server, whatever becomes of the daemon, until that server is removed.
func TestPersistentGroup(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.writeConfig(f.grouped(1, 1, 1))
	d := f.start()
	first := map[netip.Addr]string{}
	for _, family := range families {
		first[family.vip] = f.mustStay("at first", family.vip)
	}
	for _, family := range families {
		list := f.templates("service group" + family.name)
		if len(list) != 1 || list[0].Mark != 7 || list[0].Controls == 0 || list[0].State != "ASSURED" || list[0].Protocol.String() != "ip" {
			t.Errorf("templates of %s: %+v, want one of mark 7, assured, with connections", family.name, list)
		}
	}
	d.kill()
	for _, family := range families {
		if got := f.mustStay("without daemon", family.vip); got != first[family.vip] {
			t.Errorf("without daemon %s went from %s to %s", family.vip, first[family.vip], got)
		}
	}
	f.start()
	for _, family := range families {
		if got := f.mustStay("after a restart", family.vip); got != first[family.vip] {
			t.Errorf("after a restart %s went from %s to %s", family.vip, first[family.vip], got)
		}
	}
	f.quiesceAndRemove(vip4, first[vip4])
	out := f.output("list", "groupv4")
	if !strings.Contains(out, "FWM  7 rr persistent 300\n") {
		t.Errorf("list printed\n%s\nwant a service of a firewall mark", out)
	}
}

// quiesceAndRemove takes a real server away from its client, gently and then for good.
func (f *farm) quiesceAndRemove(vip netip.Addr, server string) {
	f.t.Helper()
	with := func(weight int) []int {
		weights := []int{1, 1, 1}
		weights[slices.Index([]string{"rs1", "rs2", "rs3"}, server)] = weight
		return weights
	}
	f.writeConfig(f.grouped(with(0)...))
	f.reload()
	if got := f.mustStay("quiesced", vip); got != server {
		f.t.Errorf("its weight is 0, and the client went from %s to %s", server, got)
	}
	f.writeConfig(f.grouped(with(absent)...))
	f.reload()
	if got := get(f.fetch(vip, webPort))(f.t); got == server {
		f.t.Errorf("the client is still sent to %s, which was removed", server)
	}
	moved := f.mustStay("removed", vip)
	if n := strings.TrimSpace(f.output("persistence", "delete", "service groupv4")); n != "1" {
		f.t.Errorf("%s templates were deleted, want 1", n)
	}
	eventually(f.t, 5*time.Second, func() error { // round robin has two left
		if got := get(f.fetch(vip, webPort))(f.t); got == moved {
			f.output("persistence", "delete", "--all")
			return fmt.Errorf("a forgotten client is still sent to %s", got)
		}
		return nil
	})
}
