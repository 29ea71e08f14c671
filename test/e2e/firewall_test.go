// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/door"
)

// firewalled is a configuration with one service of a firewall mark for each family, which the
// firewall's rules make of the web servers' two ports and of DNS.
func (f *farm) firewalled(interfaces, method string) string {
	var b strings.Builder
	b.WriteString(f.config(interfaces))
	for _, family := range families {
		fmt.Fprintf(&b, "  - {name: group%s, fwmark: 7, family: ip%s, mark_source: firewall, vips: [%q], method: %s, "+
			"scheduler: rr, persistence: 5m, reals: [%s]}\n",
			family.name, family.name, family.vip, method, strings.Join(f.groupReals(family.vip, []int{1, 1, 1}), ", "))
	}
	return b.String()
}

// firewall is a program that marks packets.
type firewall struct {
	name string
	mark func(f *farm)
}

var firewalls = []firewall{
	{"nft", markByNFT},
	{"iptables-nft", func(f *farm) { f.markByIPTables("iptables-nft", "ip6tables-nft") }},
	{"iptables-legacy", func(f *farm) { f.markByIPTables("iptables-legacy", "ip6tables-legacy") }},
}

// markByNFT has the director's host mark what the group is for, and count packets beside.
func markByNFT(f *farm) {
	f.t.Helper()
	f.onDirector("nft", "add table inet site; add chain inet site marks { type filter hook prerouting priority mangle; }; "+
		"add rule inet site marks ip daddr 192.0.2.10 tcp dport { 80, 8080 } counter meta mark set 7; "+
		"add rule inet site marks ip daddr 192.0.2.10 udp dport 53-60 meta mark set 7; "+
		"add rule inet site marks ip6 daddr 2001:db8:1::10 tcp dport { 80, 8080 } meta mark set 7; "+
		"add rule inet site marks ip6 daddr 2001:db8:1::10 udp dport 53-60 meta mark set 7")
}

func (f *farm) markByIPTables(v4, v6 string) {
	f.t.Helper()
	for program, vip := range map[string]netip.Addr{v4: vip4, v6: vip6} {
		if _, err := exec.LookPath(program); err != nil {
			f.t.Skipf("%s is not installed", program)
		}
		for _, match := range []string{"-p tcp -m multiport --dports 80,8080", "-p udp --dport 53:60"} {
			args := strings.Fields(fmt.Sprintf("-t mangle -A PREROUTING -d %s %s -j MARK --set-mark 7", vip, match))
			if out, err := f.director.Run(context.Background(), program, args...); err != nil {
				f.t.Skipf("this kernel has no %s: %v\n%s", program, err, out)
			}
		}
	}
}

func (f *farm) onDirector(program string, args ...string) string {
	f.t.Helper()
	out, err := f.director.Run(context.Background(), program, args...)
	if err != nil {
		f.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// firewallFarm has services of the firewall's marks, at work.
func firewallFarm(t *testing.T, mark func(*farm), method string) (f *farm, d *daemon) {
	f = newLab(t)
	f.forwarding(f.director)
	interfaces := "eth0, eth1"
	if method == "dr" {
		f.sw = get(f.lab.Switch("sw"))(f.t)
		f.clientEnd = f.connect(f.client, f.sw, "eth0", client4.String()+"/24", client6.String()+"/64")
		f.directorEnd = f.connect(f.director, f.sw, "eth0", director4.String()+"/24", director6.String()+"/64")
		f.routeVIPs(director4, director6)
		for i := range 3 {
			f.addReal(i)
		}
		interfaces = "eth0"
	} else {
		twoNetworks(f)
		for _, r := range f.reals {
			f.defaultRoute(r.Host, director4.String(), director6.String())
		}
	}
	if method == "tun" {
		f.decapsulate()
	}
	mark(f)
	f.writeConfig(f.firewalled(interfaces, method))
	return f, f.start()
}

// Marks of every firewall bring packets to their service, by every method, whatever becomes of the
// daemon; the group's connections stay with one real server.
func TestFirewallMarks(t *testing.T) {
	t.Parallel()
	for _, fw := range firewalls {
		for _, method := range []string{"dr", "nat", "fullnat", "tun"} {
			t.Run(fw.name+", "+method, func(t *testing.T) {
				f, d := firewallFarm(t, fw.mark, method)
				defer func() {
					if t.Failed() {
						t.Logf("verdicts:\n%s\nlog:\n%s", f.output("stats", "--verdicts"), d.log.tail())
					}
				}()
				first := map[netip.Addr]string{}
				for _, family := range families {
					first[family.vip] = f.mustStay("at first", family.vip)
				}
				d.kill()
				for _, family := range families {
					if got := f.mustStay("without daemon", family.vip); got != first[family.vip] {
						t.Errorf("without daemon %s went from %s to %s", family.vip, first[family.vip], got)
					}
				}
				d = f.start()
				for _, family := range families {
					if got := f.mustStay("after a restart", family.vip); got != first[family.vip] {
						t.Errorf("after a restart %s went from %s to %s", family.vip, first[family.vip], got)
					}
				}
			})
		}
	}
}

// What others remove is put back, and said once; what they have of their own is not touched; nothing
// is left when no service wants it any more.
func TestFirewallDoorRepaired(t *testing.T) {
	t.Parallel()
	f, d := firewallFarm(t, markByNFT, "dr")
	f.onDirector("ip", "rule", "add", "fwmark", "9", "lookup", "99", "priority", "999")
	before := f.onDirector("nft", "-s", "list", "ruleset")
	for i, damage := range []string{
		"rule del fwmark 7 priority 1000", "-6 rule del fwmark 7 priority 1000", "link del " + door.Near,
		"link set " + door.Near + " down", "link set " + door.Far + " down", fmt.Sprintf("route flush table %d", door.Table),
	} {
		f.onDirector("ip", strings.Fields(damage)...)
		d.waitLog("door_repaired", i+1)
		for _, family := range families {
			eventually(t, 10*time.Second, func() error { _, err := f.fetch(family.vip, webPort); return err })
		}
	}
	f.onDirector("tc", "filter", "del", "dev", door.Near, "egress")
	d.waitLog("door_repaired", 7)
	if n := strings.Count(d.log.String(), "door_repaired"); n != 7 {
		t.Errorf("7 repairs were logged %d times", n)
	}
	if out := f.output("marks", "list"); !strings.Contains(out, "routed into dir-marks: marks 7 (IPv4), 7 (IPv6).") || !strings.Contains(out, "put back, 7 times") {
		t.Errorf("marks list printed\n%s", out)
	}
	if out := f.output("marks", "explain", "tcp", "10.0.0.1:1000", "192.0.2.10:80", "--mark", "7"); !strings.Contains(out, "Service groupv4 (fwmark 7) takes it.") {
		t.Errorf("marks explain printed\n%s", out)
	}
	f.onDirector("ip", "addr", "add", "192.0.2.10/32", "dev", "lo")
	d.waitLog("event=vip_local", 1)
	if r := f.run("reload"); r.code != 1 || !strings.Contains(r.stderr, "192.0.2.10 is an address of this host") {
		t.Errorf("with a local virtual address, reload ended with %d and %q", r.code, r.stderr)
	}
	f.onDirector("ip", "addr", "del", "192.0.2.10/32", "dev", "lo")
	f.mustFindDoor()
	f.configure(both("web", "tcp", webPort, "rr", 1, 1, 1)...)
	f.reload()
	if links := f.onDirector("ip", "-o", "link"); strings.Contains(links, "dir-") {
		t.Errorf("interfaces are left:\n%s", links)
	}
	if rules := f.onDirector("ip", "rule") + f.onDirector("ip", "-6", "rule"); strings.Contains(rules, "0x7") || !strings.Contains(rules, "fwmark 0x9 lookup 99") {
		t.Errorf("rules are\n%s", rules)
	}
	if after := f.onDirector("nft", "-s", "list", "ruleset"); after != before {
		t.Errorf("the firewall's rules were changed to\n%s", after)
	}
}

// mustFindDoor fails unless the doctor finds the door as it should be, and what is missing of it.
func (f *farm) mustFindDoor() {
	f.t.Helper()
	diagnose := func() string { return f.run("doctor", "-c", f.configFile()).stdout }
	well := diagnose()
	for _, want := range []string{
		"packets with mark 7 (IPv4), 7 (IPv6) are routed into dir-marks", "a rule of the firewall sets mark 7", "192.0.2.10 is on no interface here",
	} {
		if !strings.Contains(well, want) {
			f.t.Errorf("director doctor says nothing of %q:\n%s", want, well)
		}
	}
	if strings.Contains(well, "failure  door") || strings.Contains(well, "0.0.0.0") {
		f.t.Errorf("director doctor says\n%s", well)
	}
	f.onDirector("ip", "address", "add", "192.0.2.10/32", "dev", "lo")
	f.onDirector("sysctl", "-qw", "net.ipv4.conf.eth0.forwarding=0")
	broken := diagnose()
	f.onDirector("ip", "address", "del", "192.0.2.10/32", "dev", "lo")
	f.onDirector("sysctl", "-qw", "net.ipv4.conf.eth0.forwarding=1")
	for _, want := range []string{
		"192.0.2.10 is on lo: its packets are delivered here before the firewall's mark 7 is looked at; take it off lo",
		"eth0 does not forward IPv4: packets that the firewall marks do not come to the director; sysctl -w net.ipv4.conf.eth0.forwarding=1",
	} {
		if !strings.Contains(broken, want) {
			f.t.Errorf("director doctor says nothing of %q:\n%s", want, broken)
		}
	}
}
