// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"xdplvs/internal/netlab"
)

// The narrow wire of a line of hosts, by its number: between two routers on the clients' side or on the real
// server's, or between the director and what comes next.
const (
	narrowOutside  = 2
	narrowDirector = 4
	narrowInside   = 5

	narrowMTU = 1400
)

// narrowFarm is a line of hosts with the director in the middle, and two routers on each side of it; by dr the real
// server is its neighbour. One wire is narrow, and the end that is far from it cannot know.
func narrowFarm(t *testing.T, m method, narrow int) *farm {
	f := newLab(t)
	line := []*netlab.Host{f.client, f.host("r1"), f.host("r2"), f.director}
	if m.name != "dr" {
		line = append(line, f.host("r3"), f.host("r4"))
	}
	r := f.serve("rs1", hop4(len(line), 2), hop6(len(line), 2))
	line = append(line, r.Host)
	for i, h := range line[1:] {
		wire, far := f.hop(line[i], h, i+1)
		switch i + 1 { // a wire's number is its network's
		case 3:
			must(t, wire.AcceptXDP())
		case 4:
			must(t, far.AcceptXDP())
		}
		if i+1 == narrow {
			must(t, wire.SetMTU(narrowMTU))
		}
	}
	for i, h := range line {
		if i > 0 && i < len(line)-1 && (h != f.director || m.direct) {
			f.forwarding(h)
		}
		f.routeLine(h, i, len(line)-1)
	}
	if m.name == "tun" {
		m.prepare(f)
	}
	f.configureOn("eth0, eth1", m.services(1)...)
	f.start()
	return f
}

// hop links two hosts by the wire of a number. The first one's end is eth1, but for the client.
func (f *farm) hop(a, b *netlab.Host, n int) (here, there *netlab.Iface) {
	f.t.Helper()
	name := "eth1"
	if a == f.client {
		name = "eth0"
	}
	here, there, err := netlab.Link(a, name, hopPrefixes(n, 1), b, "eth0", hopPrefixes(n, 2))
	must(f.t, err)
	return here, there
}

// routeLine tells host i the way to the line's two ends: who is behind the director routes everything
// towards it, and so do those before it.
func (f *farm) routeLine(h *netlab.Host, i, last int) {
	switch {
	case i == 0:
		f.via(h, "eth0", 1, 2, anywhere...)
	case i < 3:
		f.via(h, "eth1", i+1, 2, anywhere...)
		if i == 2 {
			f.via(h, "eth0", 2, 1, hopNets(1)...)
		}
	case i == 3:
		f.via(h, "eth0", 3, 1, hopNets(1, 2)...)
		if last > 4 {
			f.via(h, "eth1", 4, 2, hopNets(5, 6)...)
		}
	default:
		f.via(h, "eth0", i, 1, anywhere...)
		if i == 4 && last > 4 {
			f.via(h, "eth1", 5, 2, hopNets(6)...)
		}
	}
}

func hop4(net, host int) netip.Addr { return netip.AddrFrom4([4]byte{10, 10, byte(net), byte(host)}) }
func hop6(net, host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd10:%d::%d", net, host))
}

func hopPrefixes(net, host int) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(hop4(net, host), 24), netip.PrefixFrom(hop6(net, host), 64)}
}

// hopNets are networks of both families, IPv4 and IPv6 in turn.
func hopNets(nets ...int) (list []netip.Prefix) {
	for _, n := range nets {
		for _, p := range hopPrefixes(n, 0) {
			list = append(list, p.Masked())
		}
	}
	return list
}

// via routes networks, IPv4 and IPv6 in turn, by a router's address of each family.
func (f *farm) via(h *netlab.Host, ifname string, net, host int, to ...netip.Prefix) {
	f.t.Helper()
	for _, p := range to {
		gateway := hop4(net, host)
		if p.Addr().Is6() {
			gateway = hop6(net, host)
		}
		must(f.t, h.AddRoute(p, gateway, ifname))
	}
}

// Who sends too much is told so, and sends less: by routers on either side, in its own terms, or by the director. (By
// dr real servers are its neighbours, and ask for short segments themselves.)
func TestPathMTU(t *testing.T) {
	t.Parallel()
	const size = 3_000_000
	for _, c := range []struct {
		name    string
		narrow  int
		methods []method
		upload  bool
		verdict string
	}{
		{"download", narrowOutside, []method{byDR, byNAT, byFullNAT, byTunnel}, false, "tx_icmp"},
		{"upload", narrowDirector, []method{byNAT, byFullNAT, byTunnel}, true, "tx_too_big"},
		{"upload, narrow behind", narrowInside, []method{byNAT, byFullNAT}, true, "tx_icmp"},
		{"upload, narrow behind", narrowInside, []method{byTunnel}, true, "tx_too_big"},
	} {
		for _, m := range c.methods {
			t.Run(m.name+" "+c.name, func(t *testing.T) {
				f := narrowFarm(t, m, c.narrow)
				for _, family := range families {
					t.Run(family.name, func(t *testing.T) {
						f := f.on(t)
						before := f.snapshot().Verdicts[c.verdict]
						if c.upload {
							must(t, putBytes(f.client.HTTPClient(6*patience), family.vip, size))
							f.mustFit(family.vip, narrowMTU-m.added(family.vip))
						} else {
							must(t, getBytes(f.client.HTTPClient(6*patience), family.vip, size))
						}
						if f.snapshot().Verdicts[c.verdict] == before {
							t.Errorf("nothing has the verdict %s", c.verdict)
						}
					})
				}
				if t.Failed() {
					t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
				}
			})
		}
	}
}
