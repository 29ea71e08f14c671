// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"xdplvs/internal/netlab"
	"xdplvs/internal/offload"
)

// Addresses on the clients' side when that is another network than the real servers'.
var (
	outside4 = netip.MustParseAddr("10.1.0.2") // the director's
	outside6 = netip.MustParseAddr("fd01::2")
)

var anywhere = prefixes("0.0.0.0/0", "::/0")

// addOutside connects client and director on the clients' side.
func (f *farm) addOutside() {
	f.t.Helper()
	f.outside = get(f.lab.Switch("outside"))(f.t)
	f.clientEnd = f.connect(f.client, f.outside, "eth0", "10.1.0.1/24", "fd01::1/64")
	f.directorEnd = f.connect(f.director, f.outside, "eth0", outside4.String()+"/24", outside6.String()+"/64")
	f.routeVIPs(outside4, outside6)
}

// addInside connects the director's eth1 and three real servers on the servers' side.
func (f *farm) addInside() {
	f.t.Helper()
	f.sw = get(f.lab.Switch("inside"))(f.t)
	f.connect(f.director, f.sw, "eth1", director4.String()+"/24", director6.String()+"/64")
	for i := range 3 {
		f.addReal(i)
	}
}

// forwarding makes a router of a host.
func (f *farm) forwarding(h *netlab.Host) {
	f.t.Helper()
	must(f.t, h.Sysctl("net.ipv4.ip_forward", "1"))
	must(f.t, h.Sysctl("net.ipv6.conf.all.forwarding", "1"))
}

// defaultRoute sends everything of the host's to the routers, one of each family.
func (f *farm) defaultRoute(h *netlab.Host, routers ...string) {
	f.t.Helper()
	for i, router := range routers {
		must(f.t, h.AddRoute(anywhere[i], netip.MustParseAddr(router), "eth0"))
	}
}

// viaRouter: the answers go to the clients by a router that is not the director.
func viaRouter(f *farm) {
	twoNetworks(f)
	router(f)
}

// router is one between the clients' network and the real servers', which answer by it.
func router(f *farm) {
	h := f.host("router")
	f.connect(h, f.outside, "eth0", "10.1.0.254/24", "fd01::fe/64")
	f.connect(h, f.sw, "eth1", "10.0.0.254/24", "fd00::fe/64")
	f.forwarding(h)
	for _, r := range f.reals {
		f.defaultRoute(r.Host, "10.0.0.254", "fd00::fe")
	}
}

// viaSecondInterface: the real servers have an interface on the clients' side too.
func viaSecondInterface(f *farm) {
	twoNetworks(f)
	for i, r := range f.reals {
		f.connect(r.Host, f.outside, "eth1", fmt.Sprintf("10.1.0.%d/24", 11+i), fmt.Sprintf("fd01::%x/64", 0x11+i))
	}
}

// viaDirector: wires without a switch, one for each host, and the answers come back to the director,
// whose kernel forwards them to the client.
func viaDirector(f *farm) {
	f.wire(f.client, "10.1.0.1/24", "fd01::1/64", "eth0", outside4.String()+"/24", outside6.String()+"/64")
	f.routeVIPs(outside4, outside6)
	f.forwarding(f.director)
	for i := range 3 {
		net4, net6 := fmt.Sprintf("10.2.%d.", i), fmt.Sprintf("fd02:%x::", i)
		r := f.serve(realName(i), netip.MustParseAddr(net4+"11"), netip.MustParseAddr(net6+"11"))
		r.eth0 = f.wire(r.Host, net4+"11/24", net6+"11/64", fmt.Sprintf("eth%d", i+1), net4+"2/24", net6+"2/64")
		f.defaultRoute(r.Host, net4+"2", net6+"2")
	}
}

// wire links eth0 of a host with an interface of the director.
func (f *farm) wire(h *netlab.Host, addr4, addr6, ifname, director4, director6 string) *netlab.Iface {
	f.t.Helper()
	end, _, err := netlab.Link(h, "eth0", prefixes(addr4, addr6), f.director, ifname, prefixes(director4, director6))
	must(f.t, err)
	must(f.t, end.AcceptXDP())
	return end
}

// Packets come in by one interface and leave by another.
func TestTwoInterfaces(t *testing.T) {
	t.Parallel()
	for _, topology := range []struct {
		name       string
		build      func(*farm)
		interfaces string
	}{
		{"answers by a router", viaRouter, "eth0"},
		{"answers by a router, both attached", viaRouter, "eth0, eth1"},
		{"answers by second interfaces", viaSecondInterface, "eth0, eth1"},
		{"answers by the director", viaDirector, "eth0"},
		{"answers by the director, all attached", viaDirector, "eth0, eth1, eth2, eth3"},
		{"generic mode", viaRouter, "{name: eth0, mode: generic}, {name: eth1, mode: generic}"},
	} {
		t.Run(topology.name, func(t *testing.T) {
			f := newLab(t)
			topology.build(f)
			f.configureOn(topology.interfaces, standard("rr", 1, 1, 1)...)
			f.start()
			for _, family := range families {
				t.Run(family.name, func(t *testing.T) { f.on(t).mustServe(family.vip) })
			}
			if t.Failed() {
				t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
			}
		})
	}
}

// mustServe looks at all that a service is expected to do with three real servers and rr.
func (f *farm) mustServe(vip netip.Addr) {
	f.t.Helper()
	const size = 10_000_000
	even := map[string]int{"rs1": 5, "rs2": 5, "rs3": 5}
	f.mustSpread(f.fetch, vip, webPort, even)
	f.mustSpread(f.query, vip, dnsPort, even)
	f.mustSpread(f.query, vip, onePort, even)
	must(f.t, getBytes(f.client.HTTPClient(0), vip, size))
	must(f.t, putBytes(f.client.HTTPClient(0), vip, size))
}

// On a bridge the program is in generic mode, and the ports' GRO comes before it: what clients send is slow, the
// director says why and what helps, and it does.
func TestMergedSegments(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	f.sw = get(f.lab.Switch("sw"))(t)
	f.clientEnd = f.connect(f.client, f.sw, "eth0", client4.String()+"/24", client6.String()+"/64")
	f.directorEnd = f.connect(f.director, f.sw, "eth0")
	for _, args := range []string{"link add br0 type bridge", "link set eth0 master br0", "link set br0 up",
		"address add " + director4.String() + "/24 dev br0", "address add " + director6.String() + "/64 dev br0 nodad"} {
		f.ip(f.director, args)
	}
	f.routeVIPs(director4, director6)
	f.addReal(0)
	f.configureOn("br0", both("web", "tcp", webPort, "rr", 1)...)
	d := f.start()
	const warning = "GRO of eth0 merges segments before br0 gets them in generic mode, and what clients send is slow: ethtool -K eth0 gro off"
	f.mustShow("br0 br0 generic warning: " + warning + "\n")
	d.waitLog("event=frames_differ interface=br0 reason=\""+warning, 1)
	if told, err := f.upload(); told == 0 {
		t.Errorf("no segments were merged: the warning is wrong (%v)", err)
	}
	f.stopMerging("eth0")
	f.mustShow("br0 br0 generic\n")
	if told, err := f.upload(); told > 0 || err != nil {
		t.Errorf("without GRO %d packets were too long: %v", told, err)
	}
}

// stopMerging turns GRO off on interfaces of the director, which are below one in generic mode.
func (f *farm) stopMerging(names ...string) {
	f.t.Helper()
	for _, name := range names {
		must(f.t, f.director.Do(func() error {
			link, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			return offload.Change(link.Index, map[string]bool{"rx-gro": false})
		}))
	}
}

// upload sends some over each family, as far as that gets in a while. It returns how many packets were answered as too long.
func (f *farm) upload() (told uint64, err error) {
	f.t.Helper()
	before := f.snapshot().Verdicts["tx_too_big"]
	for _, family := range families {
		begun := time.Now()
		failed := putBytes(f.client.HTTPClient(patience), family.vip, 3_000_000)
		f.t.Logf("%s: 3 MB took %v, %v", family.name, time.Since(begun), failed)
		err = errors.Join(err, failed)
	}
	return f.snapshot().Verdicts["tx_too_big"] - before, err
}
