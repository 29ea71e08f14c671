// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/netlab"
)

// addBare adds a real server that nobody has prepared.
func (f *farm) addBare(i int) *realServer {
	f.t.Helper()
	r := f.addReal(i)
	for _, vip := range []netip.Addr{vip4, vip6} {
		must(f.t, r.DelAddr("lo", netip.PrefixFrom(vip, vip.BitLen())))
	}
	for _, name := range []string{"arp_ignore", "arp_announce"} {
		must(f.t, r.Sysctl("net.ipv4.conf.all."+name, "0"))
	}
	return r
}

// mustRunOn runs a command that must succeed, and gives what it printed.
func mustRunOn(t *testing.T, h *netlab.Host, args ...string) string {
	t.Helper()
	r := runOn(t, h, args...)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("director %s on %s: exit %d\n%s%s", strings.Join(args, " "), h.Name(), r.code, r.stderr, r.stdout)
	}
	return r.stdout
}

// networkState is what director realserver changes.
func networkState(t *testing.T, h *netlab.Host) string {
	t.Helper()
	var all []string
	for _, command := range []string{
		"ip -o address", "ip -o link", "ip -4 route", "ip -6 route show default",
		"sysctl net.ipv4.conf.all net.ipv4.conf.eth0 net.ipv6.conf.all.accept_redirects net.ipv6.conf.eth0.accept_redirects",
	} {
		words := strings.Fields(command)
		out := get(h.Run(context.Background(), words[0], words[1:]...))(t)
		// An IPv6 address is tentative until the kernel comes to it, without any detection of duplicates, too.
		lines := strings.Split(strings.ReplaceAll(string(out), " tentative ", " "), "\n")
		slices.Sort(lines)
		all = append(all, lines...)
	}
	return strings.Join(all, "\n")
}

// whoHas asks for an address as a router on the switch would, and gives the MAC address it learns.
func (f *farm) whoHas(asker *netlab.Host, a netip.Addr) string {
	f.t.Helper()
	get(asker.Run(context.Background(), "ip", "neigh", "flush", "dev", "eth0"))(f.t)
	must(f.t, asker.AddRoute(netip.PrefixFrom(a, a.BitLen()), netip.Addr{}, "eth0"))
	conn := get(asker.DialContext(context.Background(), "udp", netip.AddrPortFrom(a, 9).String()))(f.t)
	defer conn.Close()
	for range 10 {
		_, _ = conn.Write([]byte("?")) // an unresolved neighbour is an error, too
		time.Sleep(20 * time.Millisecond)
		if mac, err := asker.Neigh("eth0", a); err == nil {
			return mac.String()
		}
	}
	return ""
}

// By dr: with the address alone a host answers clients and ARP; prepared, it answers clients only.
func TestRealServerDR(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 0)
	bare, asker := f.addBare(0), f.host("asker")
	f.connect(asker, f.sw, "eth0", "10.0.0.200/24", "fd00::c8/64")
	f.configure(standard("rr", 1)...)
	f.start()
	before := networkState(t, bare.Host)

	must(t, bare.AddAddr("lo", netip.PrefixFrom(vip4, 32)))
	if got := f.whoHas(asker, vip4); got != bare.eth0.MAC.String() {
		t.Fatalf("the test cannot see the ARP problem: %q answers for %s", got, vip4)
	}
	out := mustRunOn(t, bare.Host, "realserver", "dr", "--vip", vip4.String(), "--vip", vip6.String(), "--interface", "eth0", "--apply")
	want := `done    set net.ipv4.conf.all.arp_ignore=1
done    set net.ipv4.conf.all.arp_announce=2
done    set net.ipv4.conf.eth0.arp_ignore=1
done    set net.ipv4.conf.eth0.arp_announce=2
is so   add 192.0.2.10/32 to lo
done    add 2001:db8:1::10/128 to lo
in force until the next boot; director realserver --for makes it last
`
	if out != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	for _, family := range families {
		if got := f.whoHas(asker, family.vip); got != "" {
			t.Errorf("%s answers for %s", got, family.vip)
		}
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3})
		f.mustSpread(f.query, family.vip, dnsPort, map[string]int{"rs1": 3})
	}
	args := []string{"realserver", "dr", "--vip", vip4.String() + "," + vip6.String(), "--interface", "eth0", "--apply"}
	if out := mustRunOn(t, bare.Host, args...); strings.Contains(out, "done") {
		t.Errorf("the second time it changed something:\n%s", out)
	}
	mustRunOn(t, bare.Host, append(args, "--remove")...)
	if after := networkState(t, bare.Host); after != before {
		t.Errorf("taken back it is\n%s\nwas\n%s", after, before)
	}
}

// The script does what --apply does, both ways, and again.
func TestRealServerScript(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 0)
	f.configure(both("web", "tcp", webPort, "rr", 1, 1)...)
	applied, scripted := f.addBare(0), f.addBare(1)
	state := func(r *realServer) string { // but for what differs between any two hosts
		replace := []string{r.addr4.String(), "ADDR4", r.addr6.String(), "ADDR6", r.eth0.MAC.String(), "MAC"}
		var kept []string
		for line := range strings.Lines(strings.NewReplacer(replace...).Replace(networkState(t, r.Host))) {
			if !strings.Contains(line, "fe80") && !strings.Contains(line, ": eth0@") {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	for _, args := range [][]string{
		{"dr", "--vip", vip4.String(), "--vip", vip6.String()},
		{"nat", "--director", director4.String(), "--director", director6.String(), "--interface", "eth0"},
	} {
		for _, remove := range [][]string{nil, {"--remove"}} {
			args := append(append([]string{"realserver"}, args...), remove...)
			before := state(applied)
			for range 2 {
				mustRunOn(t, applied.Host, append(args, "--apply")...)
				get(scripted.Run(context.Background(), "sh", "-c", mustRunOn(t, scripted.Host, args...)))(t)
			}
			if a, s := state(applied), state(scripted); a != s {
				t.Errorf("%s: applied\n%s\nscripted\n%s", strings.Join(args, " "), a, s)
			}
			if state(applied) == before {
				t.Errorf("%s changed nothing", strings.Join(args, " "))
			}
		}
	}
}

// What a configuration says of real servers makes them what they should be.
func TestRealServerFromConfiguration(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 0)
	for i := range 2 {
		f.addBare(i)
	}
	f.configure(standard("rr", 1, 1)...)
	f.start()
	for _, r := range f.reals {
		mustRunOn(t, r.Host, "realserver", "--config", f.configFile(), "--as", r.addr4.String()+","+r.addr6.String(), "--apply")
	}
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3, "rs2": 3})
	}
	r := runOn(t, f.reals[0].Host, "realserver", "nat", "--config", f.configFile(), "--as", "10.0.0.11", "--director", "10.0.0.2")
	if want := f.configFile() + ": 10.0.0.11 is a real server by dr only"; r.code != 1 || !strings.Contains(r.stderr, want) {
		t.Errorf("exit %d, %s; want %s", r.code, r.stderr, want)
	}
}

// By nat: answers go through the director, whatever the default route was.
func TestRealServerNAT(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	f.addOutside()
	f.addInside()
	for i, r := range f.reals[:3] {
		if i > 0 {
			f.defaultRoute(r.Host, "10.0.0.254", "fd00::fe") // where nobody is
		}
		mustRunOn(t, r.Host, "realserver", "nat", "--director", director4.String(), "--director", director6.String(), "--apply")
	}
	f.writeConfig(f.config("eth0, eth1", byMethod("nat", "rr", 1, 1, 1)...))
	f.start()
	for _, family := range families {
		f.mustReachAll(f.query, family.vip, dnsPort)
	}
	out := mustRunOn(t, f.reals[0].Host, "realserver", "nat", "--director", director4.String(), "--apply", "--remove")
	if routes := get(f.reals[0].Run(context.Background(), "ip", "route"))(t); strings.Contains(string(routes), "default") {
		t.Errorf("taken back there is still a default route:\n%s%s", routes, out)
	}
}

// By tun the kernel may lack the devices: then it says which module has them, and nothing stays.
func TestRealServerTunnel(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 0)
	bare := f.addBare(0)
	f.defaultRoute(bare.Host, "10.0.0.254", "fd00::fe")
	for _, c := range []struct {
		args   []string
		device string
		fault  string
	}{
		{[]string{"--vip", "192.0.2.10", "--as", "10.0.0.11"}, "dir-ipip", "add device dir-ipip (ipip, local 10.0.0.11): this kernel has no devices of kind ipip: modprobe ipip"},
		{[]string{"--vip", "2001:db8::1", "--as", "10.0.0.11"}, "dir-sit", "add device dir-sit (sit, local 10.0.0.11): this kernel has no devices of kind sit: modprobe sit"},
		{[]string{"--vip", "192.0.2.10", "--as", "fd00::11"}, "dir-ip6tnl", "add device dir-ip6tnl (ip6tnl, local fd00::11): this kernel has no devices of kind ip6tnl: modprobe ip6_tunnel"},
		{[]string{"--vip", "192.0.2.10", "--as", "10.0.0.11", "--tunnel", "gre"}, "dir-gre", "add device dir-gre (gre, local 10.0.0.11): this kernel has no devices of kind gre: modprobe ip_gre"},
		{[]string{"--vip", "192.0.2.10", "--as", "10.0.0.11", "--tunnel", "gue"}, "dir-ipip", "open UDP port 6080 for GUE (IPv4): this kernel receives no GUE: modprobe fou (and fou6 for IPv6)"},
	} {
		args := append([]string{"realserver", "tun", "--apply"}, c.args...)
		runOn(t, bare.Host, args...) // loads the module, whose fallback devices stay
		runOn(t, bare.Host, append(args, "--remove")...)
		before := networkState(t, bare.Host)
		r := runOn(t, bare.Host, args...)
		if r.code == 0 {
			if state := networkState(t, bare.Host); !strings.Contains(state, c.device) || !strings.Contains(state, "advmss") {
				t.Errorf("%v: there is no %s, or no advmss:\n%s", c.args, c.device, state)
			}
			mustRunOn(t, bare.Host, append(args, "--remove")...)
		} else if r.code != 1 || r.stderr != "director: "+c.fault+" (what was done before is undone)\n" && r.stderr != "director: "+c.fault+"\n" {
			t.Errorf("%v: exit %d, %s", c.args, r.code, r.stderr)
		}
		if after := networkState(t, bare.Host); after != before {
			t.Errorf("%v: it is\n%s\nwas\n%s", c.args, after, before)
		}
	}
}

// What cannot be is refused before anything is changed.
func TestRealServerRefuses(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 0)
	bare := f.addBare(0)
	lonely := f.host("lonely")
	f.connect(lonely, f.sw, "eth0", "192.0.2.10/24")
	must(t, bare.AddAddr("eth0", netip.MustParsePrefix("192.0.2.77/32")))
	f.defaultRoute(bare.Host, "10.0.0.254")
	for _, c := range []struct {
		host *netlab.Host
		args string
		want string
	}{
		{lonely, "dr --vip 192.0.2.10", "192.0.2.10 is this host's only address, on eth0: the director could not reach it by another"},
		{bare.Host, "dr --vip 192.0.2.77", "192.0.2.77 is on eth0, where this host answers for it: take it off (ip address del) first"},
		{bare.Host, "dr --vip 192.0.2.1 --interface eth9", "interface eth9: there is none (known: lo, eth0)"},
		{bare.Host, "tun --vip 192.0.2.1 --as 10.0.0.99", "own address 10.0.0.99 is none of this host (it has 10.0.0.11, "},
		{bare.Host, "nat --director 10.0.0.11", "director 10.0.0.11 is this host itself"},
		{bare.Host, "nat --director 10.7.7.7", "director 10.7.7.7 is in another network, behind 10.0.0.254: by nat, it must be a neighbour of its real servers"},
		{bare.Host, "nat --director fd77::1", "no route to the director fd77::1: "},
	} {
		before := networkState(t, c.host)
		r := runOn(t, c.host, append(strings.Fields("realserver "+c.args), "--apply")...)
		if r.code != 1 || !strings.HasPrefix(r.stderr, "director: "+c.want) || r.stdout != "" {
			t.Errorf("%s: exit %d, %s%s, want %s", c.args, r.code, r.stderr, r.stdout, c.want)
		}
		if after := networkState(t, c.host); after != before {
			t.Errorf("%s: it is\n%s\nwas\n%s", c.args, after, before)
		}
	}
}
