// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onLink runs fn with the host's netlink handle and the named interface. The error says of which
// interface and host.
func (h *Host) onLink(ifname string, fn func(nl *netlink.Handle, link netlink.Link) error) error {
	err := h.use(func() error {
		link, err := h.nl.LinkByName(ifname)
		if err != nil {
			return err
		}
		return fn(h.nl, link)
	})
	if err != nil {
		return fmt.Errorf("interface %s of %s: %w", ifname, h.name, err)
	}
	return nil
}

func (h *Host) setUp(ifname string, up bool) error {
	err := h.onLink(ifname, func(nl *netlink.Handle, link netlink.Link) error {
		if up {
			return nl.LinkSetUp(link)
		}
		return nl.LinkSetDown(link)
	})
	if err != nil {
		return fmt.Errorf("set up=%v: %w", up, err)
	}
	return nil
}

// AddAddr gives an interface an address, usable at once. An address it already has is no error.
func (h *Host) AddAddr(ifname string, p netip.Prefix) error {
	err := h.onLink(ifname, func(nl *netlink.Handle, link netlink.Link) error {
		if err := nl.AddrReplace(link, kernelAddr(p)); err != nil {
			return err
		}
		return waitLocal(nl, link, p.Addr())
	})
	if err != nil {
		return fmt.Errorf("add address %v: %w", p, err)
	}
	return nil
}

// kernelWait bounds how long we wait for what the kernel finishes in the background.
const kernelWait = 5 * time.Second

// eventually calls done each half millisecond until it returns true, an error, or kernelWait is over.
func eventually(what string, done func() (bool, error)) error {
	for deadline := time.Now().Add(kernelWait); ; time.Sleep(time.Millisecond / 2) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, os.ErrDeadlineExceeded)
		}
	}
}

// waitLocal returns when the host accepts packets to an address it was given. For IPv6 the kernel
// joins the solicited-node group and installs the route in a work queue (addrconf_dad_work), also
// without duplicate address detection; packets that arrive before are lost. An interface that is
// down gets the route later.
func waitLocal(nl *netlink.Handle, link netlink.Link, ip netip.Addr) error {
	if ip.Is4() || link.Attrs().Flags&net.FlagUp == 0 {
		return nil
	}
	return eventually("wait for address", func() (bool, error) {
		// "No route" (ENETUNREACH) is an answer like another one.
		routes, _ := nl.RouteGetWithOptions(ip.AsSlice(), &netlink.RouteGetOptions{OifIndex: link.Attrs().Index})
		return len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL, nil
	})
}

// DelAddr takes an address from an interface; that it has none is an error (EADDRNOTAVAIL).
func (h *Host) DelAddr(ifname string, p netip.Prefix) error {
	err := h.onLink(ifname, func(nl *netlink.Handle, link netlink.Link) error {
		return nl.AddrDel(link, kernelAddr(p))
	})
	if err != nil {
		return fmt.Errorf("delete address %v: %w", p, err)
	}
	return nil
}

func kernelAddr(p netip.Prefix) *netlink.Addr {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

// AddRoute routes dst over an interface, through the router via unless it is the zero Addr. The
// default route is 0.0.0.0/0 or ::/0. A route to dst that exists is replaced.
func (h *Host) AddRoute(dst netip.Prefix, via netip.Addr, ifname string) error {
	err := h.onLink(ifname, func(nl *netlink.Handle, link netlink.Link) error {
		return nl.RouteReplace(kernelRoute(dst, via, link))
	})
	if err != nil {
		return fmt.Errorf("add route to %v via %v: %w", dst, via, err)
	}
	return nil
}

// DelRoute deletes the route that AddRoute made with the same arguments; that there is none is an
// error (ESRCH).
func (h *Host) DelRoute(dst netip.Prefix, via netip.Addr, ifname string) error {
	err := h.onLink(ifname, func(nl *netlink.Handle, link netlink.Link) error {
		return nl.RouteDel(kernelRoute(dst, via, link))
	})
	if err != nil {
		return fmt.Errorf("delete route to %v via %v: %w", dst, via, err)
	}
	return nil
}

func kernelRoute(dst netip.Prefix, via netip.Addr, link netlink.Link) *netlink.Route {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst.Masked())}
	if via.IsValid() {
		route.Gw = via.AsSlice()
	} else if dst.Addr().Is4() {
		route.Scope = netlink.SCOPE_LINK
	}
	return route
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Neigh returns the link-layer address the host knows for a neighbour. The error wraps
// os.ErrNotExist when it knows none, or has given up on it.
func (h *Host) Neigh(ifname string, ip netip.Addr) (net.HardwareAddr, error) {
	var mac net.HardwareAddr
	err := h.onLink(ifname, func(nl *netlink.Handle, link netlink.Link) error {
		neighs, err := nl.NeighList(link.Attrs().Index, family(ip))
		if err != nil {
			return err
		}
		mac, err = knownNeigh(neighs, ip)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up neighbour %v: %w", ip, err)
	}
	return mac, nil
}

// knownNeigh returns the address of ip, or os.ErrNotExist.
func knownNeigh(neighs []netlink.Neigh, ip netip.Addr) (net.HardwareAddr, error) {
	for _, n := range neighs {
		unknown := n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) != 0
		if !unknown && n.IP.Equal(ip.AsSlice()) && len(n.HardwareAddr) > 0 {
			return n.HardwareAddr, nil
		}
	}
	return nil, os.ErrNotExist
}

// SetNeigh enters a permanent neighbour, replacing what the host knew.
func (h *Host) SetNeigh(ifname string, ip netip.Addr, mac net.HardwareAddr) error {
	err := h.onLink(ifname, func(nl *netlink.Handle, link netlink.Link) error {
		return nl.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: family(ip), State: netlink.NUD_PERMANENT,
			IP: ip.AsSlice(), HardwareAddr: mac,
		})
	})
	if err != nil {
		return fmt.Errorf("set neighbour %v: %w", ip, err)
	}
	return nil
}

func family(ip netip.Addr) int {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// RealServerDR makes h a real server for the forwarding method dr: it accepts packets to the virtual
// addresses, which it holds on lo, but never answers or announces them on the wire
// (Documentation/networking/ip-sysctl.rst: arp_ignore=1, arp_announce=2). IPv6 needs no parameter:
// neighbour solicitations are answered for addresses of the receiving interface only.
func (h *Host) RealServerDR(vips ...netip.Addr) error {
	if err := h.Sysctl("net.ipv4.conf.all.arp_ignore", "1"); err != nil {
		return err
	}
	if err := h.Sysctl("net.ipv4.conf.all.arp_announce", "2"); err != nil {
		return err
	}
	for _, vip := range vips {
		if err := h.AddAddr("lo", netip.PrefixFrom(vip, vip.BitLen())); err != nil {
			return err
		}
	}
	return nil
}
