// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/nexthop"
)

// Config is what the machine is to do.
type Config struct {
	Interfaces []director.Interface
	Services   []director.Service
	Rules      []director.MarkRule
	// Owned are the virtual addresses that the director itself has or answers for, and how.
	Owned    map[netip.Addr]director.AddressMode
	StateDir string
	Sizes    bpf.Sizes
}

// Facts are what Gather found out. Everything that a check uses is here.
type Facts struct {
	Config  *Config // nil: nothing is said; all Ethernet interfaces are looked at
	Machine Machine
	Links   []Link
	// Entrances are where XDP sees the frames of the configured interfaces, by name; Unseen says why it cannot.
	Entrances map[string]nexthop.Entrance
	Unseen    map[string]string
	Sysctls   map[string]string // by path below /proc/sys; those that are not there are missing
	IPVS      []director.ServiceKey
	Door      Door // nothing, without services of the firewall's marks

	Hops      map[netip.Addr]nexthop.Hop // to the real servers
	HopsError string
	Claims    []nexthop.Claim // who answers for the addresses that were asked for
	AskError  string

	// Made when first asked for: a configuration can have thousands.
	realList   []*realServer
	realsByMAC map[[6]byte][]*realServer
	placeList  []place
}

// Machine is what has no name.
type Machine struct {
	Release string // of the kernel
	BTF     bool   // the kernel's own types are there

	Trial      bpf.Trial
	TrialError string
	TrialLate  time.Duration // after so long it was not over; 0: it was
	JITHarden  bool

	MissingCaps []string // as CAP_NET_ADMIN
	Pins        PinState

	MemoryAvailable uint64 // bytes
	MemoryNeeded    uint64
	TablesExist     bool // of a former run: they need no more memory

	OpenFiles uint64 // limit
	CPUs      int    // online

	ClockSource string
	Unsynced    bool // the kernel does not know that the time is right
}

// PinState is whether maps can be pinned.
type PinState string

// The states of the pin directory.
const (
	PinsReady   PinState = "ready"      // on a bpffs
	PinsMounted PinState = "mountable"  // where the director mounts one
	PinsNowhere PinState = "impossible" // on something else
)

// Link is a network device.
type Link struct {
	Index, Parent, Master int
	Name                  string
	Kind                  string // of virtual devices: veth, bond, vlan, bridge, team
	Driver                string // "": not told
	MAC                   [6]byte
	Ethernet              bool
	Loopback              bool
	Up, Carrier           bool
	MTU                   int
	VLAN                  int    // of a VLAN device
	BondMode              string // of a bond
	PeerIndex             int    // of a veth device, where the peer is in the same namespace; else 0

	Program  Program         // XDP
	Offloads map[string]bool // by the kernel's names, as in ethtool -k
	Merging  []string        // devices that merge segments before this one gets them
	// Features are what the kernel says of the driver's XDP (enum netdev_xdp_act); known since
	// Linux 6.3.
	Features      uint64
	FeaturesKnown bool

	Queues, MaxQueues int   // for receiving; 0: not told
	IRQCPUs           []int // that serve the interrupts; empty: not told

	Addresses []Address
}

// The bits of Link.Features that matter (linux/netdev.h).
const (
	xdpBasic   = 1
	xdpNDOXmit = 4
)

// Program is an XDP program that is attached.
type Program struct {
	ID     uint32 // 0: none
	Name   string
	Native bool
	Own    bool // the director's
}

// Address is one of a Link.
type Address struct {
	Prefix    netip.Prefix
	Failed    bool // in duplicate address detection
	Tentative bool
}

// named finds a device.
func (f *Facts) named(name string) (*Link, bool) {
	return f.find(func(l *Link) bool { return l.Name == name })
}

func (f *Facts) indexed(index int) (*Link, bool) {
	return f.find(func(l *Link) bool { return l.Index == index && index != 0 })
}

func (f *Facts) find(is func(*Link) bool) (*Link, bool) {
	for i := range f.Links {
		if is(&f.Links[i]) {
			return &f.Links[i], true
		}
	}
	return nil, false
}

// attached are the interfaces that the director is, or may be, attached to, and in which mode.
func (f *Facts) attached() []director.Interface {
	if f.Config != nil {
		return f.Config.Interfaces
	}
	var all []director.Interface
	for i := range f.Links {
		if l := &f.Links[i]; l.Ethernet && l.Up && !l.Loopback && slices.Contains([]string{"", "veth", bond}, l.Kind) {
			all = append(all, director.Interface{Name: l.Name})
		}
	}
	return all
}

// VIPs are the virtual addresses, in order.
func (f *Facts) vips() (list []netip.Addr) {
	if f.Config == nil {
		return nil
	}
	for i := range f.Config.Services {
		list = append(list, f.Config.Services[i].Addresses(f.Config.Rules)...)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// A realServer is one address, whatever services have it.
type realServer struct {
	addr    netip.Addr
	name    string
	methods []director.Method
	vips    []netip.Addr
}

// String is real server rs1 10.0.0.11.
func (r *realServer) String() string {
	if r.name == "" {
		return "real server " + r.addr.String()
	}
	return "real server " + r.name + " " + r.addr.String()
}

func (r *realServer) by(methods ...director.Method) bool {
	return slices.ContainsFunc(methods, func(m director.Method) bool { return slices.Contains(r.methods, m) })
}

// reals are the real servers, in the order of their addresses.
func (f *Facts) reals() []*realServer {
	if f.Config == nil || f.realList != nil {
		return f.realList
	}
	type place struct{ real, vip netip.Addr }
	byAddr, seen := map[netip.Addr]*realServer{}, map[place]bool{}
	for i := range f.Config.Services {
		s := &f.Config.Services[i]
		for _, want := range s.Servers() {
			r := byAddr[want.Key.Addr]
			if r == nil {
				r = &realServer{addr: want.Key.Addr}
				byAddr[r.addr] = r
				f.realList = append(f.realList, r)
			}
			r.name = cmp.Or(r.name, want.Name)
			r.methods = appendNew(r.methods, want.Method)
			for _, vip := range s.Addresses(f.Config.Rules) {
				if at := (place{r.addr, vip}); !seen[at] {
					seen[at] = true
					r.vips = append(r.vips, vip)
				}
			}
		}
	}
	slices.SortFunc(f.realList, func(a, b *realServer) int { return a.addr.Compare(b.addr) })
	return f.realList
}

func appendNew[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// reached are the real servers that packets are sent to: all but the director itself by local.
func (f *Facts) reached() (list []*realServer) {
	for _, r := range f.reals() {
		if r.by(director.DirectRouting, director.NAT, director.Tunnel, director.FullNAT) {
			list = append(list, r)
		}
	}
	return list
}

// sysctl is a parameter of an interface, as the kernel combines it with that of "all": the higher
// of both; which holds for rp_filter, arp_ignore and arp_announce.
func (f *Facts) highest(family, device, name string) int {
	return max(f.number("net/"+family+"/conf/all/"+name), f.number("net/"+family+"/conf/"+device+"/"+name))
}

// number is a parameter's; 0 if it is not there.
func (f *Facts) number(path string) int {
	n := 0
	_, _ = fmt.Sscan(f.Sysctls[path], &n) // what is no number is 0
	return n
}

// DefaultTimeout bounds Gather.
const DefaultTimeout = 5 * time.Second
