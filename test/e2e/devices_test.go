// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"xdplvs/director"
	"xdplvs/internal/netlab"
)

// mustHave fails, or skips the test when the kernel has no devices of the kind.
func (f *farm) mustHave(err error) {
	f.t.Helper()
	if errors.Is(err, netlab.ErrNoDevices) {
		f.t.Skip(err)
	}
	must(f.t, err)
}

// lan is a network that hosts are connected to by an interface, or by VLANs on it.
type lan struct {
	base string
	tags []uint16 // from outermost to innermost; the outer one of two is 802.1ad's
}

// device is the name of the interface by which a host is in the network.
func (l lan) device() string {
	name := l.base
	for _, id := range l.tags {
		name += fmt.Sprintf(".%d", id)
	}
	return name
}

// join gives the host the network's device, if it does not have it yet, and addresses there.
func (f *farm) join(h *netlab.Host, l lan, addrs ...string) {
	f.t.Helper()
	for i, id := range l.tags {
		below, here := lan{l.base, l.tags[:i]}, lan{l.base, l.tags[:i+1]}
		if !has(h, here.device()) {
			f.mustHave(h.AddVLAN(below.device(), here.device(), id, i == 0 && len(l.tags) > 1))
		}
	}
	if len(l.tags) > 1 { // Ethernet devices have room for one tag beyond their MTU
		f.ip(h, "link set "+l.device()+" mtu 1496")
	}
	for _, addr := range prefixes(addrs...) {
		must(f.t, h.AddAddr(l.device(), addr))
	}
}

func has(h *netlab.Host, device string) bool {
	return h.Do(func() error {
		_, err := net.InterfaceByName(device)
		return err
	}) == nil
}

// ip runs iproute2 on a host.
func (f *farm) ip(h *netlab.Host, args string) {
	f.t.Helper()
	get(h.Run(context.Background(), "ip", strings.Fields(args)...))(f.t) // also when the test is over
}

// serveAlone makes real servers that are not connected to anything.
func (f *farm) serveAlone(reals int) {
	f.t.Helper()
	for i := range reals {
		f.serve(realName(i), real4(i), real6(i))
	}
}

// split is a farm whose clients and real servers are in different networks, on one switch. The answers
// come back to the director, which is the real servers' router.
func (f *farm) split(clients, servers lan) {
	f.t.Helper()
	f.join(f.client, clients, "10.1.0.1/24", "fd01::1/64")
	f.join(f.director, clients, outside4.String()+"/24", outside6.String()+"/64")
	f.join(f.director, servers, director4.String()+"/24", director6.String()+"/64")
	f.forwarding(f.director)
	must(f.t, f.client.AddRoute(netip.PrefixFrom(vip4, 32), outside4, clients.device()))
	must(f.t, f.client.AddRoute(netip.PrefixFrom(vip6, 128), outside6, clients.device()))
	for _, r := range f.reals {
		f.plug(r.Host, servers.base)
		f.join(r.Host, servers, r.addr4.String()+"/24", r.addr6.String()+"/64")
		must(f.t, r.AddRoute(anywhere[0], director4, servers.device()))
		must(f.t, r.AddRoute(anywhere[1], director6, servers.device()))
	}
}

// bonds are the modes of the bonds that plug makes, by name.
var bonds = map[string]string{"bond0": "active-backup", "alb0": "balance-alb"}

// plug connects interfaces of the host to the switch, those of a bond too, without addresses.
func (f *farm) plug(h *netlab.Host, bases ...string) {
	f.t.Helper()
	for _, base := range bases {
		for _, card := range cards(base) {
			f.connect(h, f.sw, card)
		}
		if mode := bonds[base]; mode != "" {
			f.mustHave(h.AddBond(base, mode, cards(base)))
		}
	}
}

// cards are the interfaces that plug connects to the switch.
func cards(base string) []string {
	if bonds[base] != "" {
		return []string{"slave0", "slave1"}
	}
	return []string{base}
}

// unplug removes all interfaces of all hosts, with what they are connected to the switch by.
func (f *farm) unplug() {
	hosts := []*netlab.Host{f.client, f.director}
	for _, r := range f.reals {
		hosts = append(hosts, r.Host)
	}
	for _, h := range hosts {
		for _, base := range append(slices.Collect(maps.Keys(bonds)), "slave0", "slave1", "eth0", "eth1") {
			if has(h, base) {
				f.ip(h, "link del "+base)
			}
		}
	}
}

// bothMethods are services by dr, and by nat on ports of their own.
func bothMethods(weights ...int) []service {
	mapped := both("mapped", "tcp", altPort, "rr", weights...)
	for i := range mapped {
		mapped[i].keys = "method: nat"
	}
	return join(standard("rr", weights...), mapped)
}

// mustForward looks at what a service of bothMethods is expected to do with two real servers.
func (f *farm) mustForward(vip netip.Addr) {
	f.t.Helper()
	even := map[string]int{"rs1": 3, "rs2": 3}
	for _, ask := range []struct {
		by   asker
		port uint16
	}{{f.fetch, webPort}, {f.fetch, altPort}, {f.query, dnsPort}, {f.query, onePort}} {
		f.mustSpread(ask.by, vip, ask.port, even)
	}
	must(f.t, getBytes(f.client.HTTPClient(0), vip, 1_000_000))
	must(f.t, putBytes(f.client.HTTPClient(0), vip, 1_000_000))
}

// Clients and real servers in VLANs: of one interface or of two, one or two tags, or none on one side.
func TestVLANDevices(t *testing.T) {
	t.Parallel()
	lab := newLab(t)
	lab.sw = get(lab.lab.Switch("sw"))(t)
	lab.serveAlone(2)
	var d *daemon
	for _, test := range []struct {
		name             string
		clients, servers lan
		interfaces       string // as configured; absent: both devices
		attached         string // what director interfaces shows
	}{
		{"two VLANs", lan{"eth0", []uint16{100}}, lan{"eth0", []uint16{200}}, "",
			"eth0.100 eth0 native eth0.100 is VLAN 100 of eth0\neth0.200 eth0 native eth0.200 is VLAN 200 of eth0\n"},
		{"one VLAN", lan{"eth0", []uint16{100}}, lan{"eth0", []uint16{100}}, "eth0.100",
			"eth0.100 eth0 native eth0.100 is VLAN 100 of eth0\n"},
		{"tagged to untagged", lan{"eth0", []uint16{100}}, lan{"eth0", nil}, "",
			"eth0.100 eth0 native eth0.100 is VLAN 100 of eth0\neth0 eth0 native\n"},
		{"untagged to two tags", lan{"eth0", nil}, lan{"eth0", []uint16{7, 100}}, "eth0",
			"eth0 eth0 native\n"},
		{"two tags to one", lan{"eth0", []uint16{7, 100}}, lan{"eth0", []uint16{200}}, "eth0.7.100",
			"eth0.7.100 eth0 native eth0.7.100 is VLAN 100 of eth0.7, eth0.7 is VLAN 7 of eth0\n"},
		{"two interfaces", lan{"eth0", []uint16{100}}, lan{"eth1", []uint16{100}}, "",
			"eth0.100 eth0 native eth0.100 is VLAN 100 of eth0\neth1.100 eth1 native eth1.100 is VLAN 100 of eth1\n"},
		{"generic mode", lan{"eth0", []uint16{100}}, lan{"eth0", []uint16{7, 200}},
			"{name: eth0.100, mode: generic}, {name: eth0.7.200, mode: generic}",
			"eth0.100 eth0.100 generic\neth0.7.200 eth0.7.200 generic\n"},
		{"bond", lan{"bond0", []uint16{100}}, lan{"bond0", []uint16{200}}, "",
			"bond0.100 bond0 native bond0.100 is VLAN 100 of bond0\nbond0.200 bond0 native bond0.200 is VLAN 200 of bond0\n"},
		{"bond without native mode", lan{"alb0", []uint16{100}}, lan{"alb0", []uint16{200}}, "",
			"alb0.100 alb0.100 generic\nalb0.200 alb0.200 generic\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := lab.on(t)
			t.Cleanup(f.unplug)
			f.plug(f.client, test.clients.base)
			f.plug(f.director, test.clients.base)
			if test.servers.base != test.clients.base {
				f.plug(f.director, test.servers.base)
			}
			if strings.Contains(test.attached, "generic") {
				f.stopMerging(cards(test.clients.base)...)
			}
			f.split(test.clients, test.servers)
			f.configureOn(cmp.Or(test.interfaces, test.clients.device()+", "+test.servers.device()), bothMethods(1, 1)...)
			if d == nil {
				d = lab.start()
			} else {
				f.reload()
			}
			f.mustShow(test.attached)
			for _, name := range []string{"rs1", "rs2"} {
				f.awaitReachable(name)
			}
			for _, family := range families {
				t.Run(family.name, func(t *testing.T) { f.on(t).mustForward(family.vip) })
			}
			if t.Failed() {
				t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
			}
		})
	}
}

// Every method does with VLANs on both sides what it does without.
func TestVLANRoads(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	f.sw = get(f.lab.Switch("sw"))(t)
	clients, servers := lan{"eth0", []uint16{100}}, lan{"eth0", []uint16{200}}
	f.plug(f.client, clients.base)
	f.plug(f.director, clients.base)
	f.serveAlone(2)
	f.split(clients, servers)
	much := traffic{large: 2_000_000, many: 60, step: 299, fraction: 40}
	if fullSize() {
		much = allTraffic()
	}
	var d *daemon
	for _, m := range methods {
		switch m.name {
		case "tun":
			f.addTunnels(nil)
		case "local":
			f.serveItself()
		}
		f.configureOn("eth0.100, eth0.200", m.services(len(f.reals))...)
		if d == nil {
			d = f.start()
		} else {
			f.reload()
			f.awaitHops()
		}
		for _, family := range families {
			t.Run(m.name+" "+family.name, func(t *testing.T) {
				f.on(t).mustGo(family.vip, m, much)
			})
		}
	}
}

// mustShow fails unless director interfaces shows these lines, with single blanks, below its title.
func (f *farm) mustShow(want string) {
	f.t.Helper()
	eventually(f.t, patience, func() error {
		var got strings.Builder
		_, list, _ := strings.Cut(f.output("interfaces"), "\n")
		for line := range strings.Lines(list) {
			got.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
		}
		if got.String() != want {
			return fmt.Errorf("director interfaces shows\n%swant\n%s", got.String(), want)
		}
		return nil
	})
}

// bondFarm has all in one network, the director by a bond of two slaves.
func bondFarm(t *testing.T, mode string) *farm {
	f := newLab(t)
	f.sw = get(f.lab.Switch("sw"))(t)
	f.clientEnd = f.connect(f.client, f.sw, "eth0", client4.String()+"/24", client6.String()+"/64")
	f.connect(f.director, f.sw, "slave0")
	f.connect(f.director, f.sw, "slave1")
	f.mustHave(f.director.AddBond("bond0", mode, []string{"slave0", "slave1"}, prefixes(director4.String()+"/24", director6.String()+"/64")...))
	f.routeVIPs(director4, director6)
	f.addReal(0)
	f.addReal(1)
	return f
}

// A bond has the program itself, in modes that XDP knows natively, and generically in others.
func TestBondModes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mode string
		want director.AttachMode
	}{{"balance-rr", director.AttachNative}, {"balance-alb", director.AttachGeneric}} {
		t.Run(test.mode, func(t *testing.T) {
			f := bondFarm(t, test.mode)
			if test.want == director.AttachGeneric {
				f.configureOn("{name: bond0, mode: native}", standard("rr", 1, 1)...)
				if r := f.run("run", "-c", f.configFile()); r.code != 1 || !strings.Contains(r.stderr, "interface bond0: attach to interface ") ||
					!strings.Contains(r.stderr, "native mode: the driver has no XDP (of a bond: its mode, or a slave's driver)") {
					t.Errorf("native mode: %+v", r)
				}
			}
			if test.want == director.AttachGeneric {
				f.stopMerging(cards("bond0")...)
			}
			f.configureOn("bond0", standard("rr", 1, 1)...)
			f.start()
			f.mustShow(fmt.Sprintf("bond0 bond0 %s\n", test.want))
			for _, family := range families {
				f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3, "rs2": 3})
				must(t, getBytes(f.client.HTTPClient(0), family.vip, 1_000_000))
			}
			must(t, f.director.AddVLAN("bond0", "bond0.7", 7, false))
			shown := fmt.Sprintf("bond0 bond0 %s", test.want)
			if test.want == director.AttachGeneric {
				shown += " warning: in generic mode VLAN tags are out of sight on bond0, and frames with tags are forwarded wrongly: " +
					"name its VLAN devices, and not bond0"
			}
			f.mustShow(shown + "\n")
		})
	}
}

// Slaves fail, leave and come while connections go on.
func TestBondSlaves(t *testing.T) {
	t.Parallel()
	f := bondFarm(t, "active-backup")
	f.configureOn("slave0", standard("rr", 1, 1)...)
	f.start()
	f.mustShow("slave0 bond0 native slave0 belongs to the bond bond0\n")
	held := f.hold("rs1", "rs2")
	for _, change := range []string{
		"link set slave0 down", "link set slave0 up", "link set slave1 nomaster",
		"link set slave1 down", "link set slave1 master bond0", "link set slave0 down",
	} {
		f.ip(f.director, change)
		for _, family := range families {
			f.awaitService(family.vip) // the bond and the switch take a moment
			f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 2, "rs2": 2})
		}
		held.goOn()
	}
	held.finish()
}

// awaitService waits until questions are answered again.
func (f *farm) awaitService(vip netip.Addr) {
	f.t.Helper()
	eventually(f.t, 4*patience, func() error {
		_, err := f.queryFor(vip, dnsPort, patience/25)
		return err
	})
}

// A VLAN device is made anew on another interface, and the mode is changed.
func TestVLANDeviceMoves(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	f.sw = get(f.lab.Switch("sw"))(t)
	inVLAN := lan{"eth0", []uint16{100}}
	f.plug(f.client, "eth0")
	f.plug(f.director, "eth0", "eth1")
	f.serveAlone(2)
	f.split(inVLAN, inVLAN)
	f.configureOn("eth0.100", bothMethods(1, 1)...)
	f.start()
	f.mustForward(vip4)
	f.ip(f.director, "link del eth0.100")
	f.mustShow("eth0.100 eth0 native eth0.100 is VLAN 100 of eth0; error: no such interface (there are lo, eth0, eth1)\n")
	must(t, f.director.AddVLAN("eth1", "eth0.100", 100, false, prefixes(outside4.String()+"/24", outside6.String()+"/64",
		director4.String()+"/24", director6.String()+"/64")...))
	f.mustShow("eth0.100 eth1 native eth0.100 is VLAN 100 of eth1\n")
	for _, h := range []*netlab.Host{f.client, f.reals[0].Host, f.reals[1].Host} {
		f.ip(h, "neigh flush all") // it has another link-layer address
	}
	for _, family := range families {
		f.awaitService(family.vip)
	}
	f.mustForward(vip6)
	// Native mode below, generic mode above, and back.
	f.stopMerging("eth1")
	f.configureOn("{name: eth0.100, mode: generic}", bothMethods(1, 1)...)
	f.reload()
	f.mustShow("eth0.100 eth0.100 generic\n")
	f.mustForward(vip4)
	f.configureOn("{name: eth0.100, mode: native}", bothMethods(1, 1)...)
	f.reload()
	f.mustShow("eth0.100 eth1 native eth0.100 is VLAN 100 of eth1\n")
	f.mustForward(vip4)
}
