// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/nexthop"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// The devices and hosts of a healthy machine.
var (
	macOwn   = [6]byte{2, 0, 0, 0, 0, 1}
	macOther = [6]byte{2, 0, 0, 0, 0, 2}
	macReal1 = [6]byte{2, 0, 0, 0, 0, 0x11}
	macReal2 = [6]byte{2, 0, 0, 0, 0, 0x12}
	macAlien = [6]byte{2, 0, 0, 0, 0, 0x99}
)

// healthy is a machine without faults: lo, eth0 for clients and real servers, eth1 beside, and a
// service by dr on two real servers, each of a family.
func healthy() *Facts {
	nic := func(index int, name string, mac [6]byte, prefixes ...string) Link {
		l := Link{
			Index: index, Name: name, Driver: "ice", MAC: mac, Ethernet: true, Up: true, Carrier: true, MTU: 1500,
			Offloads: map[string]bool{"rx-gro": true, "rx-vlan-hw-parse": true}, Features: xdpBasic | xdpNDOXmit, FeaturesKnown: true,
			Queues: 4, MaxQueues: 8, IRQCPUs: []int{0, 1, 2, 3},
		}
		for _, p := range prefixes {
			l.Addresses = append(l.Addresses, Address{Prefix: netip.MustParsePrefix(p)})
		}
		return l
	}
	service := func(vip, real, name string) director.Service {
		return director.Service{
			Key:   director.ServiceKey{Protocol: director.TCP, Addr: addr(vip), Port: 80},
			Reals: []director.RealServer{{Name: name, Key: director.RealKey{Addr: addr(real), Port: 80}, Method: director.DirectRouting}},
		}
	}
	hop := func(real string, mac [6]byte) nexthop.Hop {
		return nexthop.Hop{Resolved: true, Link: 2, LinkName: "eth0", DstMAC: mac, Gateway: addr(real), MTU: 1500}
	}
	return &Facts{
		Config: &Config{
			Interfaces: []director.Interface{{Name: "eth0"}}, StateDir: "/sys/fs/bpf/director",
			Services: []director.Service{service("192.0.2.10", "10.0.0.11", "rs1"), service("2001:db8::10", "fd00::12", "rs2")},
		},
		Machine: Machine{
			Release: "6.1.0-18-amd64", BTF: true, Trial: bpf.Trial{Took: time.Second, JIT: true}, Pins: PinsReady,
			MemoryAvailable: 8 << 30, MemoryNeeded: 64 << 20, OpenFiles: 65536, CPUs: 4, ClockSource: "tsc",
		},
		Links: []Link{
			{Index: 1, Name: "lo", Loopback: true, Up: true, Carrier: true},
			nic(2, "eth0", macOwn, "10.0.0.2/24", "192.0.2.10/32", "fd00::2/64", "2001:db8::10/128"), nic(3, "eth1", macOther, "10.1.0.2/24"),
		},
		Sysctls: map[string]string{},
		Hops:    map[netip.Addr]nexthop.Hop{addr("10.0.0.11"): hop("10.0.0.11", macReal1), addr("fd00::12"): hop("fd00::12", macReal2)},
		Claims:  []nexthop.Claim{claim("10.0.0.11", macReal1), claim("fd00::12", macReal2)},
	}
}

func claim(a string, mac [6]byte) nexthop.Claim {
	return nexthop.Claim{Inquiry: nexthop.Inquiry{Link: 2, Addr: addr(a)}, MAC: mac}
}

func (f *Facts) eth0() *Link { return &f.Links[1] }

// method changes the method of the IPv4 real server.
func (f *Facts) method(m director.Method) { f.Config.Services[0].Reals[0].Method = m }

func (f *Facts) setHop(a string, change func(*nexthop.Hop)) {
	hop := f.Hops[addr(a)]
	change(&hop)
	f.Hops[addr(a)] = hop
}

// complaints are the findings that are not ok, as "level check text".
func complaints(r *Report) (list []string) {
	for _, f := range r.Findings {
		if f.Level != OK {
			list = append(list, string(f.Level)+" "+f.Check+" "+f.Text)
		}
	}
	return list
}

// A fault is something that is wrong with a healthy machine, and what is told of it.
type fault struct {
	breakIt func(*Facts)
	want    []string
}

// machineFaults are of the machine itself.
var machineFaults = map[string]fault{
	"old kernel":       {func(f *Facts) { f.Machine.Release = "5.10.0-8" }, []string{"failure kernel Linux 5.10.0-8 is too old"}},
	"oldest kernel":    {func(f *Facts) { f.Machine.Release = "6.1.0" }, nil},
	"next major":       {func(f *Facts) { f.Machine.Release = "7.0.0" }, nil},
	"odd kernel":       {func(f *Facts) { f.Machine.Release = "mine" }, []string{"warning kernel Linux mine: cannot read this as a version; 6.1 or newer is needed"}},
	"refused program":  {func(f *Facts) { f.Machine.TrialError = "EPERM" }, []string{"failure program the kernel does not load the program: EPERM"}},
	"slow verifier":    {func(f *Facts) { f.Machine.Trial, f.Machine.TrialLate = bpf.Trial{}, time.Second }, []string{"warning program the kernel has not loaded the program within 1s"}},
	"no JIT":           {func(f *Facts) { f.Machine.Trial.JIT = false }, []string{"warning program the program is interpreted: packets cost several times as much"}},
	"hardened JIT":     {func(f *Facts) { f.Machine.JITHarden = true }, []string{"warning program the compiled program hides its constants from everybody (bpf_jit_harden=2): packets cost more"}},
	"no capability":    {func(f *Facts) { f.Machine.MissingCaps = []string{"CAP_BPF", "CAP_NET_RAW"} }, []string{"failure capabilities missing: CAP_BPF, CAP_NET_RAW"}},
	"unmounted bpffs":  {func(f *Facts) { f.Machine.Pins = PinsMounted }, nil},
	"no bpffs":         {func(f *Facts) { f.Machine.Pins = PinsNowhere }, []string{"failure bpffs state_dir /sys/fs/bpf/director is not on a bpffs: nothing can be pinned"}},
	"no memory":        {func(f *Facts) { f.Machine.MemoryAvailable = 32 << 20 }, []string{"failure memory the tables take 64 MiB, there are 32 MiB"}},
	"little memory":    {func(f *Facts) { f.Machine.MemoryAvailable = 100 << 20 }, []string{"warning memory the tables take 64 MiB, more than half of the 100 MiB that there are"}},
	"tables exist":     {func(f *Facts) { f.Machine.MemoryAvailable, f.Machine.TablesExist = 0, true }, nil},
	"few files":        {func(f *Facts) { f.Machine.OpenFiles = 256 }, []string{"warning limits 256 open files are few"}},
	"slow clock":       {func(f *Facts) { f.Machine.ClockSource = "hpet" }, []string{"warning clock clock source hpet is slow to read"}},
	"unsynced clock":   {func(f *Facts) { f.Machine.Unsynced = true }, []string{"warning clock the time is not synchronised: logs of several hosts cannot be compared"}},
	"unreadable hops":  {func(f *Facts) { f.HopsError = "EPERM" }, []string{"failure route routes and neighbours cannot be found out: EPERM"}},
	"nobody was asked": {func(f *Facts) { f.AskError = "a\nb" }, []string{"warning arp not everybody could be asked who has which address: a; b"}},
}

// linkFaults are of an interface.
var linkFaults = map[string]fault{
	"not Ethernet":               {func(f *Facts) { f.eth0().Ethernet = false }, []string{"failure interface eth0 is no Ethernet interface"}},
	"no native driver":           {func(f *Facts) { f.eth0().Features = 0 }, []string{"warning xdp eth0 (ice): generic mode, several times as slow, because the driver offers no native XDP"}},
	"old kernel, driver known":   {func(f *Facts) { f.eth0().FeaturesKnown = false }, nil},
	"old kernel, driver unknown": {func(f *Facts) { f.eth0().FeaturesKnown, f.eth0().Driver = false, "tg3" }, []string{"warning xdp eth0 (tg3): generic mode, several times as slow, because the driver offers no native XDP"}},
	"native wanted":              {func(f *Facts) { f.eth0().Features, f.Config.Interfaces[0].Mode = 0, director.AttachNative }, []string{"failure xdp eth0 (ice): the configuration wants native mode, but the driver offers no native XDP"}},
	"narrow veth": {func(f *Facts) { f.eth0().Kind, f.eth0().Driver, f.eth0().Features = "veth", "veth", 0 }, []string{
		"warning xdp eth0 (veth): generic mode, several times as slow, because its peer has more transmit queues than it has receive queues"}},
	"generic at work": {func(f *Facts) { f.eth0().Program = Program{ID: 7, Own: true} }, []string{"warning xdp eth0 (ice): the program runs in generic mode, several times as slow"}},
	"native at work, jumbo": {func(f *Facts) { f.eth0().Program, f.eth0().MTU = Program{ID: 7, Own: true, Native: true}, 3800 }, []string{
		"warning mtu the way to real server rs1 10.0.0.11 by eth0 has MTU 1500: with up to 3800 from eth0, larger packets are answered with \"too big\"",
		"warning mtu the way to real server rs2 fd00::12 by eth0 has MTU 1500: with up to 3800 from eth0, larger packets are answered with \"too big\""}},
	"foreign":    {func(f *Facts) { f.eth0().Program = Program{ID: 7, Name: "katran"} }, []string{`failure foreign-xdp eth0 has another XDP program, "katran" of id 7: there is room for one`}},
	"dispatcher": {func(f *Facts) { f.eth0().Program = Program{ID: 7, Name: "xdp_dispatcher"} }, []string{`failure foreign-xdp eth0 has another XDP program, "xdp_dispatcher" of id 7: there is room for one`}},
	"LRO":        {func(f *Facts) { f.eth0().Offloads["rx-lro"] = true }, []string{"warning offload eth0 merges frames in hardware (lro): XDP sees frames that no wire can take"}},
	"GRO below, generic": {func(f *Facts) { f.eth0().Merging, f.eth0().Features = []string{"eth7"}, 0 }, []string{
		"warning xdp eth0 (ice): generic mode, several times as slow, because the driver offers no native XDP",
		"warning offload GRO of eth7 merges segments before eth0 gets them in generic mode: what clients send is slow"}},
	"GRO below, native": {func(f *Facts) { f.eth0().Merging = []string{"eth7"} }, nil},
	"tags will be left": {func(f *Facts) { f.Links = append(f.Links, Link{Index: 9, Kind: "vlan", Parent: 2}) }, nil},
	"tags taken off": {func(f *Facts) {
		f.Links = append(f.Links, Link{Index: 9, Kind: "vlan", Parent: 2})
		f.eth0().Program = Program{ID: 7, Own: true, Native: true}
	}, []string{"warning offload eth0 takes VLAN tags off frames before XDP sees them"}},
	"few queues":   {func(f *Facts) { f.eth0().Queues = 1 }, []string{"warning queues eth0 has 1 receive queue for 4 CPUs"}},
	"all it has":   {func(f *Facts) { f.eth0().Queues, f.eth0().MaxQueues = 1, 1 }, nil},
	"one CPU":      {func(f *Facts) { f.eth0().IRQCPUs = []int{2, 2, 2, 2} }, []string{"warning queues all interrupts of eth0 are CPU 2's"}},
	"veth, queues": {func(f *Facts) { f.eth0().Kind, f.eth0().Queues = "veth", 1 }, nil},
}

// targetFaults are of what frames leave by.
var targetFaults = map[string]fault{
	"redirect to a driver without a program": {func(f *Facts) {
		f.Links[2].Features = xdpBasic
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.Link, h.LinkName = 3, "eth1" })
	}, []string{"failure redirect eth1 drops frames from XDP without a program of its own"}},
	"redirect, nobody knows": {func(f *Facts) {
		f.Links[2].FeaturesKnown = false
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.Link, h.LinkName = 3, "eth1" })
	}, []string{"warning redirect eth1 leads to real servers, but is not attached: many drivers then drop frames from XDP, and this kernel does not tell"}},
	"redirect to an attached one": {func(f *Facts) {
		f.Links[2].Features = xdpBasic
		f.Config.Interfaces = append(f.Config.Interfaces, director.Interface{Name: "eth1"})
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.Link, h.LinkName = 3, "eth1" })
	}, nil},
	"redirect in generic mode": {func(f *Facts) {
		f.Links[2].Features, f.Config.Interfaces[0].Mode = 0, director.AttachGeneric
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.Link, h.LinkName = 3, "eth1" })
	}, nil},
	"veth on an old kernel": {func(f *Facts) { f.eth0().Kind, f.eth0().Driver, f.eth0().FeaturesKnown = "veth", "veth", false }, nil},
	"peer without a program": {func(f *Facts) { f.eth0().Kind, f.eth0().PeerIndex = "veth", 3 }, []string{
		"failure redirect eth1, the peer of eth0, has no XDP program: frames that the director sends wait there"}},
}

// pathFaults are of the ways to real servers.
var pathFaults = map[string]fault{
	"no route": {func(f *Facts) {
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { *h = nexthop.Hop{Reason: "no route to 10.0.0.11"} })
	}, []string{"failure route real server rs1 10.0.0.11 cannot be reached: no route to 10.0.0.11"}},
	"dr behind a router": {func(f *Facts) {
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.Gateway = addr("10.0.0.254") })
	}, []string{"failure route real server rs1 10.0.0.11 is behind the router 10.0.0.254: by dr, packets would go to that"}},
	"only the virtual address": {func(f *Facts) {
		f.eth0().Addresses[0].Prefix = netip.MustParsePrefix("192.0.2.10/8")
		f.eth0().Addresses[1].Prefix = netip.MustParsePrefix("10.0.0.10/24")
		f.Config.Services[0].Key.Addr = addr("10.0.0.10")
	}, []string{"failure source the only address of eth0 in the network of real server rs1 10.0.0.11 is a virtual one: it has that itself, and answers nobody who asks from it"}},
	"nat behind a router": {func(f *Facts) {
		f.method(director.NAT)
		f.Sysctls["net/ipv4/ip_forward"] = "1"
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.Gateway = addr("10.0.0.254") })
	}, []string{"warning route real server rs1 10.0.0.11 is by nat behind the router 10.0.0.254: its answers must come back through the director"}},
	"tun behind a router": {func(f *Facts) {
		f.method(director.Tunnel)
		f.setHop("10.0.0.11", func(h *nexthop.Hop) { h.Gateway, h.MTU = addr("10.0.0.254"), 1520 })
	}, nil},
	"tun without room": {func(f *Facts) { f.method(director.Tunnel) }, []string{
		"warning mtu the way to real server rs1 10.0.0.11 by eth0 has MTU 1500: with up to 1500 from eth0, larger packets are answered with \"too big\""}},
	"local": {func(f *Facts) {
		f.method(director.Local)
		delete(f.Hops, addr("10.0.0.11"))
	}, nil},
}

// systemFaults are of the rest of the system.
var systemFaults = map[string]fault{
	"rp_filter":                {func(f *Facts) { f.Sysctls["net/ipv4/conf/all/rp_filter"] = "1" }, []string{"warning rp_filter eth0 filters by reverse path, strictly: packets for the stack are dropped if the way back is by another interface"}},
	"rp_filter, one interface": {func(f *Facts) { f.Sysctls["net/ipv4/conf/all/rp_filter"], f.Links = "1", f.Links[:2] }, nil},
	"no forwarding":            {func(f *Facts) { f.method(director.NAT) }, []string{"warning forwarding IPv4 is not forwarded: real servers by nat get no further than the director for anything but answers"}},
	"IPVS": {func(f *Facts) { f.IPVS = []director.ServiceKey{f.Config.Services[1].Key} }, []string{
		"warning ipvs the kernel's IPVS has the service tcp [2001:db8::10]:80 too: it balances what XDP leaves to the stack"}},
}

// vipFaults are of where virtual addresses are.
var vipFaults = map[string]fault{
	"dadfailed":       {func(f *Facts) { f.eth0().Addresses[3].Failed = true }, []string{"failure vip 2001:db8::10 is on eth0, but unusable: another host has it (duplicate address detection)"}},
	"tentative":       {func(f *Facts) { f.eth0().Addresses[3].Tentative = true }, []string{"warning vip 2001:db8::10 is on eth0, but not usable yet (duplicate address detection)"}},
	"on no interface": {func(f *Facts) { f.eth0().Addresses = f.eth0().Addresses[:1] }, nil},
	"on no interface of its network": {func(f *Facts) { f.eth0().Addresses[1].Prefix = netip.MustParsePrefix("192.0.2.1/24") }, []string{
		"warning vip 192.0.2.10 is in the network of eth0, but nobody answers for it"}},
	"answered for by the director": {func(f *Facts) {
		f.eth0().Addresses[1].Prefix = netip.MustParsePrefix("192.0.2.1/24")
		f.Config.Owned = map[netip.Addr]director.AddressMode{addr("192.0.2.10"): director.AddressAnswer}
	}, nil},
	"of a mark that rules set": {func(f *Facts) {
		f.Config.Services[0].Key = director.MarkKey(7, false)
		f.Config.Rules = []director.MarkRule{{Mark: 7, Dest: netip.MustParsePrefix("192.0.2.10/32")}, {Mark: 7, Dest: netip.MustParsePrefix("198.51.100.0/24")}}
		f.eth0().Addresses[1].Prefix = netip.MustParsePrefix("192.0.2.1/24")
	}, []string{"warning vip 192.0.2.10 is in the network of eth0, but nobody answers for it"}},
	"silent on lo": {func(f *Facts) {
		f.eth0().Addresses[1].Prefix = netip.MustParsePrefix("192.0.2.1/24")
		f.Links[0].Addresses = []Address{{Prefix: netip.MustParsePrefix("192.0.2.10/32")}}
		f.Sysctls["net/ipv4/conf/eth0/arp_ignore"] = "1"
	}, []string{"warning vip 192.0.2.10 is on lo, and eth0 does not answer for it (arp_ignore)"}},
	"on lo and eth0": {func(f *Facts) {
		f.Links[0].Addresses = []Address{{Prefix: netip.MustParsePrefix("192.0.2.10/32")}}
		f.Sysctls["net/ipv4/conf/eth0/arp_ignore"] = "1"
	}, nil},
	"answered from lo": {func(f *Facts) {
		f.eth0().Addresses[1].Prefix = netip.MustParsePrefix("192.0.2.1/24")
		f.Links[0].Addresses = []Address{{Prefix: netip.MustParsePrefix("192.0.2.10/32")}}
	}, nil},
}

// marked makes the IPv4 service one of the firewall's mark 7, and the director has been started.
func (f *Facts) marked() {
	s := &f.Config.Services[0]
	s.Key, s.MarkSource, s.VIPs = director.MarkKey(7, false), director.MarkFirewall, []netip.Addr{addr("192.0.2.10")}
	f.eth0().Addresses = slices.DeleteFunc(f.eth0().Addresses, func(a Address) bool { return a.Prefix.Addr() == addr("192.0.2.10") })
	f.eth0().Program = Program{ID: 1, Native: true, Own: true}
	f.Links = append(f.Links, Link{Index: 8, Name: "dir-door", Kind: "veth", Up: true, Program: Program{ID: 1, Own: true}})
	f.Sysctls["net/ipv4/conf/eth0/forwarding"] = "1"
	f.Door.Firewall = "  ip daddr 192.0.2.10 tcp dport 80 meta mark set 0x00000007\n"
}

// doorFaults are of the firewall's marks.
var doorFaults = map[string]fault{
	"door": {(*Facts).marked, nil},
	"door, before the start": {func(f *Facts) {
		f.marked()
		f.eth0().Program, f.Links, f.Door.Missing = Program{}, f.Links[:3], []string{"interfaces dir-marks and dir-door"}
	}, nil},
	"door, missing": {func(f *Facts) {
		f.marked()
		f.Door.Missing = []string{"IPv4 route into dir-marks", "IPv4 rule of mark 7"}
	}, []string{"failure door missing: IPv4 route into dir-marks, IPv4 rule of mark 7: packets with the firewall's marks do not come to the director"}},
	"door, somebody's": {func(f *Facts) {
		f.marked()
		f.Door.Error = "interface dir-marks is there already, and is not the director's"
	}, []string{"failure door packets with the firewall's marks cannot be brought to the director: interface dir-marks is there already, and is not the director's"}},
	"door, no program": {func(f *Facts) {
		f.marked()
		f.Links[3].Program = Program{}
	}, []string{"failure door dir-door has no XDP program of the director's: packets with the firewall's marks are lost there"}},
	"door, strict filter by dr": {func(f *Facts) {
		f.marked()
		f.Sysctls["net/ipv4/conf/dir-marks/rp_filter"] = "1"
	}, nil},
	"door, strict filter": {func(f *Facts) {
		f.marked()
		f.method(director.FullNAT)
		f.Sysctls["net/ipv4/conf/dir-marks/rp_filter"] = "1"
	}, []string{"failure door dir-marks filters by reverse path, strictly: the replies of real servers by nat and fullnat are dropped there"}},
	"door, new interfaces without IPv6": {func(f *Facts) {
		f.marked()
		f.Config.Services[0].Key = director.MarkKey(7, true)
		f.Sysctls["net/ipv6/conf/all/forwarding"], f.Sysctls["net/ipv6/conf/default/disable_ipv6"] = "1", "1"
	}, []string{"failure door dir-marks will have no IPv6 (net.ipv6.conf.default.disable_ipv6 is 1): packets that the firewall marks do not come to the director"}},
	"door, IPv6 given to it": {func(f *Facts) {
		f.marked()
		f.Config.Services[0].Key = director.MarkKey(7, true)
		f.Sysctls["net/ipv6/conf/all/forwarding"], f.Sysctls["net/ipv6/conf/default/disable_ipv6"] = "1", "1"
		f.Sysctls["net/ipv6/conf/dir-marks/disable_ipv6"] = "0"
	}, nil},
	"door, no forwarding": {func(f *Facts) {
		f.marked()
		f.Sysctls["net/ipv4/conf/eth0/forwarding"] = "0"
	}, []string{"failure forwarding eth0 does not forward IPv4: packets that the firewall marks do not come to the director"}},
	"door, local": {func(f *Facts) {
		f.marked()
		f.Links[0].Addresses = []Address{{Prefix: netip.MustParsePrefix("192.0.2.10/32")}}
	}, []string{"failure door 192.0.2.10 is on lo: its packets are delivered here before the firewall's mark 7 is looked at"}},
	"door, no rule": {func(f *Facts) {
		f.marked()
		f.Door.Firewall = "-A PREROUTING -p tcp -j MARK --set-xmark 0x8/0xffffffff\n"
	}, []string{"warning door no rule of nftables or iptables is seen that sets mark 7"}},
	"door, iptables": {func(f *Facts) {
		f.marked()
		f.Door.Firewall = "-A PREROUTING -p tcp -j MARK --set-xmark 0x7/0xffffffff\n"
	}, nil},
	"door, computed": {func(f *Facts) {
		f.marked()
		f.Door.Firewall = "\tmeta mark set ct mark\n"
	}, nil},
	"door, IPv6": {func(f *Facts) {
		s := &f.Config.Services[1]
		s.Key, s.MarkSource, s.VIPs = director.MarkKey(9, true), director.MarkFirewall, []netip.Addr{addr("2001:db8::99")}
		f.Door.Firewall = "meta mark set 0x00000009\n"
	}, []string{"failure forwarding IPv6 is not forwarded: packets that the firewall marks do not come to the director"}},
}

// claimFaults are of who answers for addresses.
var claimFaults = map[string]fault{
	"ARP problem": {func(f *Facts) { f.Claims = append(f.Claims, claim("192.0.2.10", macReal1)) }, []string{
		"failure arp 192.0.2.10 is also answered by 02:00:00:00:00:11 on eth0, which is real server rs1 10.0.0.11"}},
	"ARP problem of a server that gave no answer": {func(f *Facts) { f.Claims = []nexthop.Claim{claim("192.0.2.10", macReal2)} }, []string{
		"failure arp 192.0.2.10 is also answered by 02:00:00:00:00:12 on eth0, which is real server rs2 fd00::12"}},
	"own other interface": {func(f *Facts) { f.Claims = append(f.Claims, claim("192.0.2.10", macOther)) }, []string{
		"warning arp 192.0.2.10 is answered for on eth0 by this host's eth1 too (02:00:00:00:00:02): clients may choose that"}},
	"alien": {func(f *Facts) { f.Claims = append(f.Claims, claim("192.0.2.10", macAlien)) }, []string{
		"failure arp 192.0.2.10 is also answered by 02:00:00:00:00:99 on eth0, which is no real server: the address is there twice, or a router answers for others (proxy ARP)"}},
	"own address twice": {func(f *Facts) { f.Claims = append(f.Claims, claim("10.0.0.2", macAlien)) }, []string{
		"failure duplicate 10.0.0.2 of eth0 is also answered by 02:00:00:00:00:99 on eth0"}},
	"own address, own interface": {func(f *Facts) { f.Claims = append(f.Claims, claim("10.0.0.2", macOther)) }, nil},
}

var faultGroups = []map[string]fault{machineFaults, linkFaults, deviceFaults, targetFaults, pathFaults, systemFaults, vipFaults, doorFaults, claimFaults}

// TestChecks breaks one thing after the other: exactly that is told.
func TestChecks(t *testing.T) {
	mustTell(t, "nothing", fault{func(*Facts) {}, nil})
	for _, group := range faultGroups {
		for name, c := range group {
			t.Run(name, func(t *testing.T) { mustTell(t, name, c) })
		}
	}
}

func mustTell(t *testing.T, name string, c fault) {
	t.Helper()
	f := healthy()
	c.breakIt(f)
	r := Judge(f)
	if got := complaints(r); !slices.Equal(got, c.want) {
		t.Errorf("%s: told\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
	}
	if r.Failures+r.Warnings != len(c.want) {
		t.Errorf("%s: %d failures and %d warnings of %d", name, r.Failures, r.Warnings, len(c.want))
	}
	mustBeLines(t, r)
}

// mustBeLines: each finding is one line, and says something.
func mustBeLines(t *testing.T, r *Report) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Check == "" || f.Text == "" || strings.ContainsAny(f.Text+f.Advice, "\n") {
			t.Errorf("finding %+v", f)
		}
	}
}

// TestEveryCheckSpeaks: what was looked at is told, also when it is well.
func TestEveryCheckSpeaks(t *testing.T) {
	f := healthy()
	f.Sysctls["net/netfilter/nf_conntrack_count"] = "17"
	seen := map[string]bool{}
	for _, found := range Judge(f).Findings {
		seen[found.Check] = true
	}
	for _, check := range []string{
		"kernel", "program", "capabilities", "bpffs", "memory", "limits", "cpus", "clock", "interface", "xdp", "offload", "queues",
		"route", "mtu", "rp_filter", "conntrack", "vip", "arp",
	} {
		if !seen[check] {
			t.Errorf("nothing is told of %s", check)
		}
	}
}

// TestChecksAreDocumented: each check that can tell something is in the document.
func TestChecksAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([a-z_, -]+) \|`).FindAllStringSubmatch(string(text), -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			documented[name] = true
		}
	}
	for _, group := range faultGroups {
		for _, c := range group {
			f := healthy()
			f.Sysctls["net/netfilter/nf_conntrack_count"] = "17"
			c.breakIt(f)
			for _, found := range Judge(f).Findings {
				if !documented[found.Check] {
					t.Fatalf("check %s is not in docs/doctor.md", found.Check)
				}
			}
		}
	}
}

// TestWithoutConfiguration: the machine alone is looked at, with all its Ethernet interfaces.
func TestWithoutConfiguration(t *testing.T) {
	f := healthy()
	f.Config, f.Hops, f.Claims = nil, nil, nil
	r := Judge(f)
	if got := complaints(r); len(got) > 0 {
		t.Errorf("told %q", got)
	}
	var interfaces []string
	for _, found := range r.Findings {
		switch found.Check {
		case "interface":
			interfaces = append(interfaces, found.Subject)
		case "vip", "arp", "route", "memory", "bpffs":
			t.Errorf("told %+v", found)
		}
	}
	if !slices.Equal(interfaces, []string{"eth0", "eth1"}) {
		t.Errorf("interfaces %v", interfaces)
	}
}

func TestSummary(t *testing.T) {
	f := healthy()
	f.eth0().Up, f.Machine.Unsynced = false, true
	if got := Judge(f).Summary(); !strings.HasSuffix(got, " checks: 1 failure, 1 warning") {
		t.Error(got)
	}
}

// TestManyServices: a large configuration is judged in no time.
func TestManyServices(t *testing.T) {
	f := healthy()
	var reals []director.RealServer
	for i := range 20 {
		reals = append(reals, director.RealServer{Key: director.RealKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + i)})}, Method: director.NAT})
	}
	for i := range 10_000 {
		vip := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		f.Config.Services = append(f.Config.Services, director.Service{Key: director.ServiceKey{Addr: vip, Port: 80}, Reals: reals})
		f.Claims = append(f.Claims, nexthop.Claim{Inquiry: nexthop.Inquiry{Link: 2, Addr: vip}, MAC: macAlien})
	}
	start := time.Now()
	Judge(f)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("10,000 services took %v", took)
	}
}
