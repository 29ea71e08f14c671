// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"net/netip"
	"slices"
	"testing"

	"xdplvs/director"
	"xdplvs/internal/nexthop"
)

// put moves the addresses of eth0 to a device above it, which the configuration names, and the ways lead over.
func (f *Facts) put(above Link) *Link {
	eth0 := f.eth0()
	above.MAC, above.Ethernet, above.Up, above.Carrier, above.MTU = macOwn, true, true, true, 1500
	above.Addresses, eth0.Addresses = eth0.Addresses, nil
	f.Config.Interfaces[0].Name = above.Name
	f.Links = append(f.Links, above)
	return &f.Links[len(f.Links)-1]
}

// inVLAN has VLAN 100 of eth0 configured, which is not told to leave tags in frames yet.
func (f *Facts) inVLAN() {
	f.put(Link{Index: 10, Parent: 2, Name: "eth0.100", Kind: vlan, VLAN: 100})
	f.Entrances = map[string]nexthop.Entrance{"eth0.100": {
		Native: nexthop.Device{Index: 2, Name: "eth0"}, Generic: nexthop.Device{Index: 10, Name: "eth0.100"}, Why: "eth0.100 is VLAN 100 of eth0",
	}}
	for _, real := range []string{"10.0.0.11", "fd00::12"} {
		f.setHop(real, func(h *nexthop.Hop) { h.VLAN = []uint16{100} })
	}
}

// bonded has a bond of eth0 and eth1 configured, by the name that is given: its own, or that of a slave.
func (f *Facts) bonded(name string) *Link {
	l := f.put(Link{Index: 10, Name: "bond0", Kind: bond, BondMode: "802.3ad", Driver: bond, Features: xdpBasic | xdpNDOXmit, FeaturesKnown: true})
	f.Links[1].Master, f.Links[2].Master, f.Links[2].Addresses = 10, 10, nil
	f.Config.Interfaces[0].Name = name
	at := nexthop.Device{Index: 10, Name: "bond0"}
	f.Entrances = map[string]nexthop.Entrance{"bond0": {Native: at, Generic: at}, "eth0": {Native: at, Generic: at, Why: "eth0 belongs to the bond bond0"}}
	for _, real := range []string{"10.0.0.11", "fd00::12"} {
		f.setHop(real, func(h *nexthop.Hop) { h.Link, h.LinkName = 10, "bond0" })
	}
	return l
}

// deviceFaults are of VLAN devices, bonds and bridges.
var deviceFaults = map[string]fault{
	"VLAN": {(*Facts).inVLAN, nil},
	"VLAN, tags taken off": {func(f *Facts) {
		f.inVLAN()
		f.eth0().Program = Program{ID: 7, Own: true, Native: true}
	}, []string{"warning offload eth0 takes VLAN tags off frames before XDP sees them"}},
	"VLAN, no native driver": {func(f *Facts) {
		f.inVLAN()
		f.eth0().Features = 0
	}, []string{"warning xdp eth0.100 (vlan): generic mode, several times as slow, because eth0 (ice) offers no native XDP"}},
	"VLAN, native wanted": {func(f *Facts) {
		f.inVLAN()
		f.eth0().Features, f.Config.Interfaces[0].Mode = 0, director.AttachNative
	}, []string{"failure xdp eth0 (ice): the configuration wants native mode, but the driver offers no native XDP"}},
	"VLAN, foreign below": {func(f *Facts) {
		f.inVLAN()
		f.eth0().Program = Program{ID: 7, Name: "katran"}
	}, []string{`failure foreign-xdp eth0 has another XDP program, "katran" of id 7: there is room for one`}},
	"VLAN, generic": {func(f *Facts) { // a program below is nobody's concern then
		f.inVLAN()
		f.Config.Interfaces[0].Mode, f.eth0().Program = director.AttachGeneric, Program{ID: 7, Name: "katran"}
	}, nil},
	"VLAN, generic at work": {func(f *Facts) {
		f.inVLAN()
		f.Links[3].Program = Program{ID: 7, Own: true}
	}, []string{"warning xdp eth0.100 (vlan): the program runs in generic mode, several times as slow"}},
	"VLAN, jumbo below": {func(f *Facts) {
		f.inVLAN()
		f.eth0().MTU = 9000
	}, []string{"warning mtu eth0 has MTU 9000: the driver will refuse native mode, generic is several times as slow"}},
	"VLAN, strict filter": {func(f *Facts) {
		f.inVLAN()
		f.Sysctls["net/ipv4/conf/eth0.100/rp_filter"] = "1"
	}, []string{"warning rp_filter eth0.100 filters by reverse path, strictly: packets for the stack are dropped if the way back is by another interface"}},
	"VLAN, nat": {func(f *Facts) {
		f.inVLAN()
		f.method(director.NAT)
		f.Sysctls["net/ipv4/ip_forward"] = "1"
	}, nil},
	"VLAN, nat behind another, native": {func(f *Facts) { // the program on eth0 sees the answers
		f.inVLAN()
		f.behind200()
	}, nil},
	"VLAN, nat behind another, generic": {func(f *Facts) {
		f.inVLAN()
		f.behind200()
		f.Config.Interfaces[0].Mode = director.AttachGeneric
	}, []string{"failure route real server rs1 10.0.0.11 is by nat behind eth0.200, which the director is not attached to: its answers stay as they are"}},
	"VLAN in another namespace": {func(f *Facts) {
		f.inVLAN()
		f.Unseen = map[string]string{"eth0.100": "parent of device eth0.100 is in another network namespace"}
	}, []string{"failure interface the program cannot be attached for eth0.100: parent of device eth0.100 is in another network namespace"}},
	"bond":  {func(f *Facts) { f.bonded("bond0") }, nil},
	"slave": {func(f *Facts) { f.bonded("eth0") }, nil},
	"bond on an old kernel": {func(f *Facts) {
		f.bonded("bond0").FeaturesKnown = false
		f.Links[1].FeaturesKnown, f.Links[2].FeaturesKnown = false, false
	}, nil},
	"bond on an old kernel, one driver unknown": {func(f *Facts) {
		f.bonded("bond0").FeaturesKnown = false
		f.Links[1].FeaturesKnown, f.Links[2].FeaturesKnown, f.Links[2].Driver = false, false, "tg3"
	}, []string{"warning xdp bond0 (bond, 802.3ad): generic mode, several times as slow, because eth1 (tg3), a slave of bond0, offers no native XDP"}},
	"bond of a mode without XDP": {func(f *Facts) {
		l := f.bonded("bond0")
		l.BondMode, l.Features = "balance-alb", 0
	}, []string{"warning xdp bond0 (bond, balance-alb): generic mode, several times as slow, because bond0, a bond of mode balance-alb, has no native XDP"}},
	"bond of a mode without XDP, native wanted": {func(f *Facts) {
		l := f.bonded("bond0")
		l.BondMode, l.Features, f.Config.Interfaces[0].Mode = "balance-alb", 0, director.AttachNative
	}, []string{"failure xdp bond0 (bond, balance-alb): the configuration wants native mode, but bond0, a bond of mode balance-alb, has no native XDP"}},
	"bond, foreign program on a slave": {func(f *Facts) {
		f.bonded("bond0")
		f.Links[2].Program = Program{ID: 7, Name: "katran"}
	}, []string{`failure foreign-xdp eth1 has another XDP program, "katran" of id 7: there is room for one`}},
	"bond, LRO of a slave": {func(f *Facts) {
		f.bonded("bond0")
		f.Links[2].Offloads = map[string]bool{"rx-lro": true}
	}, []string{"warning offload eth1 merges frames in hardware (lro): XDP sees frames that no wire can take"}},
	"bond, queues of a slave": {func(f *Facts) {
		f.bonded("bond0")
		f.Links[2].Queues = 1
	}, []string{"warning queues eth1 has 1 receive queue for 4 CPUs"}},
	"bond, active slave sends": {func(f *Facts) { // of balance-tlb and balance-alb
		f.bonded("bond0")
		f.method(director.NAT)
		f.Sysctls["net/ipv4/ip_forward"] = "1"
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.Link, h.LinkName = 2, "eth0" })
	}, nil},
	"bridge, checksums of a port's peer": {func(f *Facts) {
		l := f.bonded("bond0")
		l.Kind, l.Features, f.Links[2].PeerIndex = "bridge", 0, 11
		f.Links = append(f.Links, Link{Index: 11, Name: "veth1", Offloads: map[string]bool{"tx-checksum-ip-generic": true}})
	}, []string{
		"warning xdp bond0 (bond): generic mode, several times as slow, because the driver offers no native XDP",
		"warning offload veth1, the peer of eth1, leaves checksums unfinished: what the director forwards of it is damaged"}},
	"bridge with VLANs": {func(f *Facts) {
		l := f.bonded("bond0")
		l.Kind, l.Features = "bridge", 0
		at := nexthop.Device{Index: 10, Name: "bond0"}
		f.Entrances["bond0"] = nexthop.Entrance{Native: at, Generic: at, Blind: true}
	}, []string{
		"warning interface in generic mode VLAN tags are out of sight on bond0: frames with tags are forwarded wrongly",
		"warning xdp bond0 (bond): generic mode, several times as slow, because the driver offers no native XDP"}},
}

// behind200 has a real server by nat in VLAN 200 of eth0, which is not configured.
func (f *Facts) behind200() {
	f.method(director.NAT)
	f.Sysctls["net/ipv4/ip_forward"] = "1"
	f.Links = append(f.Links, Link{Index: 11, Parent: 2, Name: "eth0.200", Kind: vlan, VLAN: 200, Ethernet: true, Up: true, Carrier: true, MTU: 1500})
	f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.VLAN = []uint16{200} })
}

// With VLANs the questions go out where the addresses are, tagged: by the VLAN devices.
func TestInquiriesInVLANs(t *testing.T) {
	f := healthy()
	f.inVLAN()
	f.behind200()
	asked := map[netip.Addr][]int{}
	for _, q := range f.inquiries() {
		asked[q.Addr] = append(asked[q.Addr], q.Link)
	}
	for a, want := range map[string][]int{
		"192.0.2.10": {10, 11}, // where clients are, and where each real server is
		"10.0.0.2":   {10},
		"10.0.0.11":  {11},
		"fd00::12":   {10},
	} {
		if got := asked[addr(a)]; !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			t.Errorf("%s is asked for by the links %v, want %v", a, got, want)
		}
	}
}

// Two VLANs of one device are told apart, and the device is told of once.
func TestPlacesOfOneDevice(t *testing.T) {
	f := healthy()
	f.inVLAN()
	f.behind200()
	f.Config.Interfaces = append(f.Config.Interfaces, director.Interface{Name: "eth0.200"})
	f.Entrances["eth0.200"] = nexthop.Entrance{
		Native: nexthop.Device{Index: 2, Name: "eth0"}, Generic: nexthop.Device{Index: 11, Name: "eth0.200"}, Why: "eth0.200 is VLAN 200 of eth0",
	}
	var got []string
	for _, found := range Judge(f).Findings {
		if found.Check == "interface" || found.Check == "xdp" {
			got = append(got, string(found.Level)+" "+found.Text)
		}
	}
	want := []string{
		"ok eth0.100 is up", "ok eth0.200 is up",
		"ok eth0.100 is VLAN 100 of eth0: eth0 has the program", "ok eth0 (ice): native mode",
		"ok eth0.200 is VLAN 200 of eth0: eth0 has the program",
	}
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}
