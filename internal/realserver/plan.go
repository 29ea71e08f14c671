// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// The MTU that a way can have: IPv6 asks for 1280, and lo has 65536 at most.
const (
	minMTU = 1280
	maxMTU = 65536
)

// Sizes of headers, in bytes, without options.
const (
	ipv4Size = 20
	ipv6Size = 40
	tcpSize  = 20
	udpSize  = 8
	gueSize  = 4
	greSize  = 4
	sumSize  = 4 // GRE's checksum
)

// loopback holds the virtual addresses of dr.
const loopback = "lo"

// A Plan is what a real server needs, in the order in which it is made: who is reachable by an
// address is told last.
type Plan struct {
	Methods   []director.Method
	Sysctls   []Sysctl // before the devices
	Ports     []Port
	Tunnels   []Tunnel
	Addresses []Address
	Routes    []Route
}

// A Sysctl is a kernel parameter, by the path below /proc/sys.
type Sysctl struct {
	Path  string
	Value string
	Fresh string // of a kernel that nobody has set up
}

// Name is how sysctl(8) and sysctl.d name the parameter. Names with slashes may have dots inside.
func (s Sysctl) Name() string {
	if strings.Contains(s.Path, ".") {
		return s.Path
	}
	return strings.ReplaceAll(s.Path, "/", ".")
}

// A Port is a UDP port that takes GUE.
type Port struct {
	Number uint16
	V6     bool
}

// A Tunnel is a device that takes what is sent to Local, from anybody, out of its envelope.
type Tunnel struct {
	Name  string
	Kind  string // of the kernel: ipip, sit, gre, ip6tnl, ip6gre
	Local netip.Addr
	// Inner4 and Inner6 say what is inside, for kinds that tell it apart.
	Inner4, Inner6 bool
	Checksum       bool // of GRE
}

// String tells what the device is, in steps.
func (t Tunnel) String() string {
	text := fmt.Sprintf("%s, local %s", t.Kind, t.Local)
	if t.Checksum {
		text += ", icsum"
	}
	return text
}

// filter is the parameter that lets packets in whose route back is another.
func (t Tunnel) filter() Sysctl {
	return Sysctl{"net/ipv4/conf/" + t.Name + "/rp_filter", "2", "0"}
}

// An Address is a virtual address on a device.
type Address struct {
	Device string
	Addr   netip.Addr
}

// Prefix is the address alone.
func (a Address) Prefix() netip.Prefix { return netip.PrefixFrom(a.Addr, a.Addr.BitLen()) }

// A Route is the default route of a family.
type Route struct {
	V6  bool
	Via netip.Addr // invalid: whatever it is now
	// Device is where Via is; "": the kernel knows.
	Device string
	// AdvMSS is the largest segment that others are asked to send; 0: as the device has it.
	AdvMSS int
}

// Build makes the plan of a Spec that Check finds right.
func Build(s Spec) Plan {
	p := Plan{Methods: []director.Method{s.Method}}
	switch s.Method {
	case director.NAT:
		p.nat(s)
	case director.Tunnel:
		p.silence(s)
		p.tunnels(s)
	default:
		p.silence(s)
		for _, vip := range s.VIPs {
			p.Addresses = append(p.Addresses, Address{loopback, vip})
		}
	}
	return p
}

// Merge is both plans.
func (p Plan) Merge(o Plan) Plan {
	return Plan{
		Methods: union(p.Methods, o.Methods), Sysctls: union(p.Sysctls, o.Sysctls), Ports: union(p.Ports, o.Ports),
		Tunnels: union(p.Tunnels, o.Tunnels), Addresses: union(p.Addresses, o.Addresses), Routes: mergeRoutes(p.Routes, o.Routes),
	}
}

// mergeRoutes: of two segment sizes for one route the smaller counts.
func mergeRoutes(a, b []Route) []Route {
	a = slices.Clone(a)
	for _, r := range b {
		at := slices.IndexFunc(a, func(s Route) bool {
			return s.V6 == r.V6 && s.Via == r.Via && s.Device == r.Device && (s.AdvMSS == 0) == (r.AdvMSS == 0)
		})
		if at < 0 {
			a = append(a, r)
		} else {
			a[at].AdvMSS = min(a[at].AdvMSS, r.AdvMSS)
		}
	}
	return a
}

// Clash tells of two devices of one name that cannot be one.
func (p Plan) Clash() error {
	for i, t := range p.Tunnels {
		for _, o := range p.Tunnels[:i] {
			if o.Name == t.Name && o.Checksum != t.Checksum {
				return fmt.Errorf("GRE comes to %s both with checksums and without: a device takes one of them", t.Local)
			}
		}
	}
	return nil
}

func union[T comparable](a, b []T) []T {
	a = slices.Clone(a)
	for _, v := range b {
		if !slices.Contains(a, v) {
			a = append(a, v)
		}
	}
	return a
}

// silence keeps virtual IPv4 addresses off the wire. The kernel takes the higher of the values of
// "all" and of an interface, so "all" is enough; the interface's own survives who resets "all".
func (p *Plan) silence(s Spec) {
	if four, _ := byFamily(s.VIPs); len(four) == 0 {
		return
	}
	for _, who := range interfaces(s) {
		p.Sysctls = append(p.Sysctls,
			Sysctl{"net/ipv4/conf/" + who + "/arp_ignore", "1", "0"},
			Sysctl{"net/ipv4/conf/" + who + "/arp_announce", "2", "0"})
	}
}

// interfaces are whose settings count.
func interfaces(s Spec) []string {
	if s.Interface == "" {
		return []string{"all"}
	}
	return []string{"all", s.Interface}
}

// nat makes the director the default route, and keeps redirects from leading around it.
func (p *Plan) nat(s Spec) {
	for _, d := range s.Directors {
		family := "ipv4"
		if d.Is6() {
			family = "ipv6"
		}
		for _, who := range interfaces(s) {
			p.Sysctls = append(p.Sysctls, Sysctl{"net/" + family + "/conf/" + who + "/accept_redirects", "0", "1"})
		}
		p.Routes = append(p.Routes, Route{V6: d.Is6(), Via: d, Device: s.Interface})
	}
}

// tunnels makes devices for each own address, with the virtual addresses.
func (p *Plan) tunnels(s Spec) {
	four, six := byFamily(s.VIPs)
	for _, own := range s.Own {
		if s.Encap == GUE {
			p.Ports = append(p.Ports, Port{s.Port, own.Is6()})
		}
		for _, t := range devices(s, own, len(four) > 0, len(six) > 0) {
			p.tunnel(t, four, six)
		}
	}
	for _, v6 := range []bool{false, true} {
		if family := map[bool][]netip.Addr{false: four, true: six}[v6]; len(family) > 0 {
			p.segments(s, v6)
		}
	}
}

// tunnel adds a device and its addresses. Virtual IPv4 addresses are on each device: rp_filter, be it loose, drops
// what comes in by one that has no address (fib_validate_source). IPv6 asks nothing of the kind; they are on the first.
func (p *Plan) tunnel(t Tunnel, four, six []netip.Addr) {
	p.Tunnels = append(p.Tunnels, t)
	if t.Inner4 {
		for _, vip := range four {
			p.Addresses = append(p.Addresses, Address{t.Name, vip})
		}
	}
	for _, vip := range six {
		if t.Inner6 && !slices.Contains(p.Virtual(), vip) {
			p.Addresses = append(p.Addresses, Address{t.Name, vip})
		}
	}
}

// devices are those that take packets for an own address. GUE leaves IP packets to the devices of
// plain ones.
func devices(s Spec, own netip.Addr, four, six bool) (list []Tunnel) {
	device := func(kind string, four, six bool) {
		if four || six {
			list = append(list, Tunnel{"dir-" + kind, kind, own, four, six, s.Checksum})
		}
	}
	switch {
	case s.Encap == GRE && own.Is4():
		device("gre", four, six)
	case s.Encap == GRE:
		device("ip6gre", four, six)
	case own.Is4():
		device("ipip", four, false)
		device("sit", false, six)
	default:
		device("ip6tnl", four, six)
	}
	return list
}

// segments leaves room for the tunnel's headers in what clients send, where the way has none to spare.
func (p *Plan) segments(s Spec, v6 bool) {
	room := s.MTU - overhead(s)
	if room >= DefaultMTU {
		return
	}
	r := Route{V6: v6, AdvMSS: room - ipv4Size - tcpSize}
	if v6 {
		r.AdvMSS = room - ipv6Size - tcpSize
	}
	for _, g := range s.Gateways {
		if g.Is6() == v6 {
			r.Via, r.Device = g, s.Interface
		}
	}
	p.Routes = append(p.Routes, r)
}

// overhead is what the tunnel's headers take at most.
func overhead(s Spec) int {
	outer := ipv4Size
	if slices.ContainsFunc(s.Own, netip.Addr.Is6) {
		outer = ipv6Size
	}
	if s.Checksum {
		outer += sumSize
	}
	return outer + map[Encap]int{GUE: udpSize + gueSize, GRE: greSize}[s.Encap]
}

// Virtual are the virtual addresses, each as often as it is on a device.
func (p Plan) Virtual() (list []netip.Addr) {
	for _, a := range p.Addresses {
		list = append(list, a.Addr)
	}
	return list
}

// Title says what the plan is for.
func (p Plan) Title() string {
	var names []string
	for _, m := range p.Methods {
		names = append(names, m.String())
	}
	return fmt.Sprintf("a real server by %s", strings.Join(names, " and "))
}
