// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// The site's second virtual addresses.
var (
	second4 = netip.MustParseAddr("192.0.2.20")
	second6 = netip.MustParseAddr("2001:db8:2::20")
)

// secondOf is the site's other address, of the same family.
func secondOf(vip netip.Addr) netip.Addr {
	if vip.Is4() {
		return second4
	}
	return second6
}

// A group are ports that one service of a firewall mark stands for. The director reads nothing of what is said
// there, so in place of FTP and RTSP the real servers speak HTTP.
type group struct {
	name     string
	tcp, udp string   // destination_port of the rules
	ask      []uint16 // by TCP
	askUDP   []uint16
	both     bool // of both virtual addresses
}

var groups = []group{
	{name: "web", tcp: "[80, 443]", ask: []uint16{80, 443}},
	{name: "ftp", tcp: "[21, 50000-50009]", ask: []uint16{21, 50000, 50009}},
	{name: "rtsp", tcp: "[554, 7070]", udp: "6970-7170", ask: []uint16{554, 7070}, askUDP: []uint16{6970, 6971, 7170}},
	{name: "homed", tcp: "[25, 587]", ask: []uint16{25, 587}, both: true},
}

// groupFarm has one persistent service of each group and family, by a method.
func groupFarm(t *testing.T, method string) *farm {
	f := newLab(t)
	f.forwarding(f.director)
	twoNetworks(f)
	for vip, via := range map[netip.Addr]netip.Addr{second4: outside4, second6: outside6} {
		must(t, f.client.AddRoute(netip.PrefixFrom(vip, vip.BitLen()), via, "eth0"))
	}
	var tcp, udp []uint16
	for _, g := range groups {
		tcp, udp = append(tcp, g.ask...), append(udp, g.askUDP...)
	}
	tcp = slices.DeleteFunc(tcp, func(p uint16) bool { return p == webPort }) // that one is served already
	for _, r := range f.reals {
		f.defaultRoute(r.Host, director4.String(), director6.String())
		must(t, r.RealServerDR(second4, second6))
		get(r.ServeHTTP(r.Name(), everywhere(tcp...)...))(t)
		get(r.ServeUDP(r.Name(), everywhere(udp...)...))(t)
		if method == "tun" {
			get(r.Decapsulate(6080))(t)
		}
	}
	f.writeConfig(f.groupConfig(method))
	f.start()
	return f
}

func (f *farm) groupConfig(method string) string {
	var services, marks strings.Builder
	for i, g := range groups {
		for _, family := range families {
			fmt.Fprintf(&services, "  - {name: %s%s, fwmark: %d, family: ip%s, method: %s, scheduler: rr, persistence: 5m, reals: [%s]}\n",
				g.name, family.name, i+1, family.name, method, strings.Join(f.groupReals(family.vip, []int{1, 1, 1}), ", "))
			for _, vip := range g.vips(family.vip) {
				fmt.Fprintf(&marks, "  - {mark: %d, protocol: tcp, destination: %q, destination_port: %s}\n", i+1, vip, g.tcp)
				if g.udp != "" {
					fmt.Fprintf(&marks, "  - {mark: %d, protocol: udp, destination: %q, destination_port: %s}\n", i+1, vip, g.udp)
				}
			}
		}
	}
	return f.config("eth0, eth1") + services.String() + "marks:\n" + marks.String()
}

func (g *group) vips(vip netip.Addr) []netip.Addr {
	if g.both {
		return []netip.Addr{vip, secondOf(vip)}
	}
	return []netip.Addr{vip}
}

// serving is the real server that answers all of a group's ports and addresses, several times.
func (f *farm) serving(g *group, vip netip.Addr) string {
	f.t.Helper()
	var servers []string
	for range 2 {
		for _, addr := range g.vips(vip) {
			for _, port := range g.ask {
				servers = append(servers, get(f.fetch(addr, port))(f.t))
			}
			for _, port := range g.askUDP {
				servers = append(servers, get(f.query(addr, port))(f.t))
			}
		}
	}
	if slices.ContainsFunc(servers, func(s string) bool { return s != servers[0] }) {
		f.t.Errorf("%s of %s was served by %q, want one real server", g.name, vip, servers)
	}
	return servers[0]
}

// Whatever a firewall mark makes one service of, with persistence all of a client's connections go to one real server:
// ports of one protocol and of two, ranges, addresses; by every method.
func TestGroups(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"dr", "tun", "nat", "fullnat"} {
		t.Run(method, func(t *testing.T) {
			f := groupFarm(t, method)
			for _, family := range families {
				t.Run(family.name, func(t *testing.T) {
					f := f.on(t)
					var first []string
					for i := range groups {
						first = append(first, f.serving(&groups[i], family.vip))
					}
					f.output("persistence", "delete", "--all")
					moved := 0
					for i := range groups { // or one real server serves everything anyway
						if f.serving(&groups[i], family.vip) != first[i] {
							moved++
						}
					}
					if moved != len(groups) {
						t.Errorf("%d of %d groups have another real server when persistence forgot them, by round robin", moved, len(groups))
					}
				})
			}
			if t.Failed() {
				t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
			}
		})
	}
}
