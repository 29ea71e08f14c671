// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"xdplvs/director"
)

func TestCheck(t *testing.T) {
	const dr, tun, nat = director.DirectRouting, director.Tunnel, director.NAT
	for want, s := range map[string]Spec{
		"dr: no virtual address":  {Method: dr},
		"tun: no virtual address": {Method: tun, Own: addrs("10.0.0.1"), Encap: IPIP, MTU: 1500},
		"tun: no own address: that of this real server, which the director sends to, is the tunnel's end": {Method: tun, VIPs: addrs("192.0.2.1"), Encap: IPIP, MTU: 1500},
		`tun: unknown encapsulation "vxlan" (known: ipip, gue, gre)`:                                      {Method: tun, VIPs: addrs("192.0.2.1"), Own: addrs("10.0.0.1"), Encap: "vxlan", MTU: 1500},
		"tun: MTU 500 is not between 1280 and 65536":                                                      {Method: tun, VIPs: addrs("192.0.2.1"), Own: addrs("10.0.0.1"), Encap: IPIP, MTU: 500},
		"tun: a checksum is for gre: gue has none that the real server is to be told of":                  {Method: tun, VIPs: addrs("192.0.2.1"), Own: addrs("10.0.0.1"), Encap: GUE, Checksum: true, MTU: 1500},
		"tun: one own address of a family is the tunnel's end: prepare for the others by hand":            {Method: tun, VIPs: addrs("192.0.2.1"), Own: addrs("10.0.0.1", "10.0.0.2"), Encap: IPIP, MTU: 1500},
		"nat: no director: its address in this network becomes the default route":                         {Method: nat},
		"nat: the default route of a family has one director":                                             {Method: nat, Directors: addrs("10.0.0.1", "10.0.0.2")},
		"fullnat: a real server of this method needs nothing (known: dr, tun, nat)":                       {Method: director.FullNAT},
		"virtual address 0.0.0.0: not an address of a host":                                               {Method: dr, VIPs: addrs("0.0.0.0")},
		"virtual address 224.0.0.18: not an address of a host":                                            {Method: dr, VIPs: addrs("224.0.0.18")},
		"virtual address 255.255.255.255: not an address of a host":                                       {Method: dr, VIPs: addrs("255.255.255.255")},
		"virtual address 127.0.0.2: loopback address: packets for it never leave a host":                  {Method: dr, VIPs: addrs("127.0.0.2")},
		"virtual address fe80::1: link-local address: clients behind a router cannot reach it":            {Method: dr, VIPs: addrs("fe80::1")},
		"virtual address ::ffff:1.2.3.4: IPv4-mapped address: write it as IPv4":                           {Method: dr, VIPs: addrs("::ffff:1.2.3.4")},
		"virtual address 192.0.2.1: it is given as virtual address too":                                   {Method: dr, VIPs: addrs("192.0.2.1", "192.0.2.1")},
		"own address 192.0.2.1: it is given as virtual address too":                                       {Method: tun, VIPs: addrs("192.0.2.1"), Own: addrs("192.0.2.1"), Encap: IPIP, MTU: 1500},
		"director 10.0.0.1: it is given as own address too":                                               {Method: nat, Own: addrs("10.0.0.1"), Directors: addrs("10.0.0.1")},
		`interface "eth0; reboot": no interface that packets come in by`:                                  {Method: dr, VIPs: addrs("192.0.2.1"), Interface: "eth0; reboot"},
		`interface "lo": no interface that packets come in by`:                                            {Method: dr, VIPs: addrs("192.0.2.1"), Interface: "lo"},
	} {
		mustFail(t, s.Check(), want)
	}
}

// TestSegments: what clients send must fit, headers and all.
func TestSegments(t *testing.T) {
	for _, c := range []struct {
		own   string
		encap Encap
		mtu   int
		want4 int // 0: no route is changed
		want6 int
	}{
		{"10.0.0.11", IPIP, 1500, 1440, 1420}, {"fd00::11", IPIP, 1500, 1420, 1400}, {"10.0.0.11", GRE, 1500, 1436, 1416},
		{"10.0.0.11", GUE, 1500, 1428, 1408}, {"fd00::11", GUE, 1500, 1408, 1388}, {"10.0.0.11", IPIP, 1519, 1459, 1439},
		{"10.0.0.11", IPIP, 1520, 0, 0}, {"fd00::11", GUE, 9000, 0, 0},
	} {
		s := Spec{Method: director.Tunnel, VIPs: addrs("192.0.2.1", "2001:db8::1"), Own: addrs(c.own), Encap: c.encap, MTU: c.mtu, Port: 6080}
		got := map[bool]int{}
		for _, r := range Build(s).Routes {
			got[r.V6] = r.AdvMSS
		}
		if got[false] != c.want4 || got[true] != c.want6 {
			t.Errorf("%s to %s, MTU %d: segments of %d and %d, want %d and %d", c.encap, c.own, c.mtu, got[false], got[true], c.want4, c.want6)
		}
	}
}

func TestDerive(t *testing.T) {
	service := func(vip string, reals ...director.RealServer) director.Service {
		return director.Service{Key: director.ServiceKey{Addr: netip.MustParseAddr(vip)}, Reals: reals}
	}
	real := func(addr string, m director.Method) director.RealServer {
		return director.RealServer{Key: director.RealKey{Addr: netip.MustParseAddr(addr)}, Method: m}
	}
	services := []director.Service{
		service("192.0.2.1", real("10.0.0.1", director.DirectRouting), real("10.0.0.2", director.NAT)),
		service("192.0.2.2", real("10.0.0.1", director.NAT), real("10.0.0.3", director.Local)),
		service("192.0.2.3", real("10.0.0.1", director.DirectRouting)),
		service("192.0.2.1", real("10.0.0.1", director.DirectRouting)), // another port
	}
	base := Spec{Interface: "eth0", Directors: addrs("10.0.0.254")}
	specs, err := Derive(services, addrs("10.0.0.1"), base)
	if err != nil || len(specs) != 2 {
		t.Fatalf("%v, %v", specs, err)
	}
	if s := specs[0]; s.Method != director.DirectRouting || !slices.Equal(s.VIPs, addrs("192.0.2.1", "192.0.2.3")) || s.Interface != "eth0" {
		t.Errorf("first %+v", s)
	}
	if s := specs[1]; s.Method != director.NAT || len(s.VIPs) > 0 || s.Check() != nil {
		t.Errorf("second %+v, %v", s, s.Check())
	}
	merged := Build(specs[0]).Merge(Build(specs[1]))
	if len(merged.Addresses) != 2 || len(merged.Routes) != 1 || merged.Title() != "a real server by dr and nat" {
		t.Errorf("merged %+v", merged)
	}
	_, err = Derive(services, addrs("10.0.0.3"), base)
	mustFail(t, err, "10.0.0.3 is a real server by local only")
	_, err = Derive(services, addrs("10.0.0.2"), base, director.DirectRouting)
	mustFail(t, err, "10.0.0.2 is a real server by nat only")
	_, err = Derive(services, addrs("10.9.9.9"), base)
	mustFail(t, err, "no service has the real server 10.9.9.9 (known: 10.0.0.1, 10.0.0.2, 10.0.0.3)")
	var many []director.RealServer
	for i := range 12 {
		many = append(many, real(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}).String(), director.NAT))
	}
	if _, err = Derive([]director.Service{service("192.0.2.1", many...)}, addrs("10.9.9.9"), base); !strings.HasSuffix(err.Error(), "10.1.0.9, … 2 more)") {
		t.Error(err)
	}
}

// TestDeriveTunnels: the configuration says what the tunnels are, and which addresses services of marks have.
func TestDeriveTunnels(t *testing.T) {
	service := func(vip string, o director.TunnelOptions) director.Service {
		return director.Service{
			Key: director.MarkKey(7, false), VIPs: addrs(vip),
			Reals: []director.RealServer{{Key: director.RealKey{Addr: addrs("10.0.0.1")[0]}, Method: director.Tunnel, Tunnel: o}},
		}
	}
	base := Spec{Encap: IPIP, MTU: 1500}
	plan := func(services ...director.Service) (p Plan) {
		t.Helper()
		specs, err := Derive(services, addrs("10.0.0.1"), base)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range specs {
			if err := s.Check(); err != nil {
				t.Errorf("%+v: %v", s, err)
			}
			p = p.Merge(Build(s))
		}
		return p
	}
	sums := director.TunnelOptions{Type: director.GRE, Checksum: true}
	p := plan(service("192.0.2.1", director.TunnelOptions{Type: director.GUE, Port: 7000, Checksum: true}), service("192.0.2.2", sums))
	if err := p.Clash(); err != nil || len(p.Ports) != 1 || p.Ports[0].Number != 7000 || len(p.Tunnels) != 2 || !p.Tunnels[1].Checksum {
		t.Errorf("plan %+v, %v", p, err)
	}
	if want := []Address{{"dir-ipip", addrs("192.0.2.1")[0]}, {"dir-gre", addrs("192.0.2.2")[0]}}; !slices.Equal(p.Addresses, want) {
		t.Errorf("addresses %v, want %v", p.Addresses, want)
	}
	if len(p.Routes) != 1 || p.Routes[0].AdvMSS != 1500-20-8-4-20-20 { // what GUE leaves is less than what GRE does
		t.Errorf("routes %+v", p.Routes)
	}
	p = plan(service("192.0.2.1", sums), service("192.0.2.2", director.TunnelOptions{Type: director.GRE}))
	mustFail(t, p.Clash(), "GRE comes to 10.0.0.1 both with checksums and without: a device takes one of them")
}
