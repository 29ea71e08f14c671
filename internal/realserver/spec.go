// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"xdplvs/director"
)

// Encap is how the director wraps packets for real servers by tun.
type Encap string

// The encapsulations.
const (
	IPIP Encap = "ipip" // one IP packet in another; also 4in6, 6in4 and 6in6
	GUE  Encap = "gue"  // IP in UDP with a header of 4 bytes
	GRE  Encap = "gre"
)

// Encaps are all of them.
var Encaps = []Encap{IPIP, GUE, GRE}

// Defaults of a Spec.
const (
	DefaultGUEPort = 6080 // as in ip-fou(8)'s examples; IANA has 6080 for GUE
	DefaultMTU     = 1500
)

// Methods are those that a real server can be prepared for. With local and fullnat it needs nothing.
var Methods = []director.Method{director.DirectRouting, director.Tunnel, director.NAT}

// A Spec is what a host is to become.
type Spec struct {
	Method director.Method
	// VIPs are the virtual addresses, for dr and tun.
	VIPs []netip.Addr
	// Own are the host's own addresses that the director sends to: for tun, the tunnels' ends.
	Own []netip.Addr
	// Directors are addresses of the director in the host's network: for nat, the default route.
	Directors []netip.Addr
	// Gateways are the routers that answers to clients go by, for tun; without them the default
	// routes that exist are changed.
	Gateways []netip.Addr
	// Interface is where packets come in; "": not said.
	Interface string
	Encap     Encap
	Port      uint16 // of GUE
	// Checksum says that GRE comes with checksums: a device takes either such packets or others. The port of
	// GUE takes both.
	Checksum bool
	MTU      int // bytes, of the way from the director to the host, for tun
}

// interfaceName is what the kernel and a script can both take (dev_valid_name, IFNAMSIZ).
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}$`)

// Check tells everything that is wrong with the Spec.
func (s *Spec) Check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !slices.Contains(Methods, s.Method) {
		fail("%s: a real server of this method needs nothing (known: %s)", s.Method, MethodNames())
		return errors.Join(errs...)
	}
	if s.Interface != "" && !interfaceName.MatchString(s.Interface) || s.Interface == loopback {
		fail("interface %q: no interface that packets come in by", s.Interface)
	}
	seen := map[netip.Addr]string{}
	for _, list := range s.addresses() {
		for _, a := range list.addrs {
			if fault := addressFault(a); fault != "" {
				fail("%s %s: %s", list.what, a, fault)
			} else if other := seen[a]; other != "" && (list.what != "gateway" || other != "director") {
				fail("%s %s: it is given as %s too", list.what, a, other)
			}
			seen[a] = list.what
		}
	}
	fault := map[director.Method]func() error{
		director.DirectRouting: s.checkDR, director.Tunnel: s.checkTunnel, director.NAT: s.checkNAT,
	}[s.Method]()
	return errors.Join(append(errs, fault)...)
}

type addressList struct {
	what  string
	addrs []netip.Addr
}

func (s *Spec) addresses() []addressList {
	return []addressList{
		{"virtual address", s.VIPs}, {"own address", s.Own}, {"director", s.Directors}, {"gateway", s.Gateways},
	}
}

// MethodNames lists the methods for messages.
func MethodNames() string {
	var names []string
	for _, m := range Methods {
		names = append(names, m.String())
	}
	return strings.Join(names, ", ")
}

// addressFault says why no host can have an address.
func addressFault(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no address"
	case a.Is4In6():
		return "IPv4-mapped address: write it as IPv4"
	case a.Zone() != "":
		return "address with a zone"
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not an address of a host"
	case a.IsLoopback():
		return "loopback address: packets for it never leave a host"
	case a.IsLinkLocalUnicast():
		return "link-local address: clients behind a router cannot reach it"
	default:
		return ""
	}
}

func (s *Spec) checkDR() error {
	if len(s.VIPs) == 0 {
		return errors.New("dr: no virtual address")
	}
	return nil
}

func (s *Spec) checkTunnel() error {
	var errs []error
	if len(s.VIPs) == 0 {
		errs = append(errs, errors.New("tun: no virtual address"))
	}
	if len(s.Own) == 0 {
		errs = append(errs, errors.New("tun: no own address: that of this real server, which the director sends to, is the tunnel's end"))
	}
	if !slices.Contains(Encaps, s.Encap) {
		errs = append(errs, fmt.Errorf("tun: unknown encapsulation %q (known: ipip, gue, gre)", s.Encap))
	}
	if s.Checksum && s.Encap != GRE {
		errs = append(errs, fmt.Errorf("tun: a checksum is for gre: %s has none that the real server is to be told of", s.Encap))
	}
	if four, six := byFamily(s.Own); len(four) > 1 || len(six) > 1 {
		errs = append(errs, errors.New("tun: one own address of a family is the tunnel's end: prepare for the others by hand"))
	}
	if s.MTU < minMTU || s.MTU > maxMTU {
		errs = append(errs, fmt.Errorf("tun: MTU %d is not between %d and %d", s.MTU, minMTU, maxMTU))
	}
	return errors.Join(append(errs, s.checkGateways())...)
}

// checkGateways: what a route is changed for has one gateway in each family.
func (s *Spec) checkGateways() error {
	for _, list := range s.addresses()[2:] {
		if four, six := byFamily(list.addrs); len(four) > 1 || len(six) > 1 {
			return fmt.Errorf("%s: the default route of a family has one %s", s.Method, list.what)
		}
	}
	return nil
}

func (s *Spec) checkNAT() error {
	if len(s.Directors) == 0 {
		return errors.New("nat: no director: its address in this network becomes the default route")
	}
	return s.checkGateways()
}

// byFamily separates IPv4 and IPv6.
func byFamily(addrs []netip.Addr) (four, six []netip.Addr) {
	for _, a := range addrs {
		if a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	return four, six
}
