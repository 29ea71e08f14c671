// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// Iface is one end of a wire.
type Iface struct {
	Host  *Host // for a switch port: the switch's namespace
	Name  string
	Index int
	MAC   net.HardwareAddr
	Peer  *Iface // the other end of the wire
}

// Link wires two hosts together and gives the ends their addresses. Both ends are up when it returns.
// For an XDP program at one end that sends with XDP_TX, call AcceptXDP on the other.
func Link(a *Host, aIf string, aAddrs []netip.Prefix, b *Host, bIf string, bAddrs []netip.Prefix) (*Iface, *Iface, error) {
	aEnd, err := newWire(a, aIf, b, bIf)
	if err == nil {
		err = addAddrs(aEnd, aAddrs)
	}
	if err == nil {
		err = addAddrs(aEnd.Peer, bAddrs)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("link %s of %s with %s of %s: %w", aIf, a.name, bIf, b.name, err)
	}
	return aEnd, aEnd.Peer, nil
}

// Connect plugs a new interface of the host into a switch and gives it addresses. It is up when
// Connect returns, and an XDP program may be attached to it and send (see AcceptXDP).
func (h *Host) Connect(sw *Switch, ifname string, addrs ...netip.Prefix) (*Iface, error) {
	iface, err := newWire(h, ifname, sw.host, sw.portName(h, ifname))
	if err == nil {
		err = sw.addPort(iface.Peer)
	}
	if err == nil {
		err = addAddrs(iface, addrs)
	}
	if err != nil {
		return nil, fmt.Errorf("connect %s of %s to switch %s: %w", ifname, h.name, sw.host.name, err)
	}
	return iface, nil
}

// newWire makes a veth pair, each end at once in its namespace, and takes both ends up.
func newWire(a *Host, aIf string, b *Host, bIf string) (*Iface, error) {
	if a.lab != b.lab {
		return nil, fmt.Errorf("%s and %s are of different labs", a.name, b.name)
	}
	err := a.use(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aIf
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = bIf, netlink.NsFd(b.ns)
		return a.nl.LinkAdd(veth)
	})
	if err != nil {
		return nil, fmt.Errorf("create veth pair: %w", err)
	}
	aEnd, bEnd := &Iface{Host: a, Name: aIf}, &Iface{Host: b, Name: bIf}
	aEnd.Peer, bEnd.Peer = bEnd, aEnd
	for _, end := range []*Iface{aEnd, bEnd} {
		if err := end.bringUp(); err != nil {
			return nil, err
		}
	}
	for _, end := range []*Iface{aEnd, bEnd} {
		if err := end.waitUp(); err != nil {
			return nil, err
		}
	}
	return aEnd, nil
}

// waitUp returns when the kernel has noticed that both ends are up. It does so in a work queue
// (linkwatch); until then the interface drops what it should send, and a switch does not use it.
func (i *Iface) waitUp() error {
	return eventually("wait for carrier", func() (up bool, err error) {
		err = i.Host.onLink(i.Name, func(nl *netlink.Handle, link netlink.Link) error {
			up = link.Attrs().OperState == netlink.OperUp
			return nil
		})
		return up, err
	})
}

// bringUp configures one end and learns what the kernel chose for it.
func (i *Iface) bringUp() error {
	err := i.Host.onLink(i.Name, func(nl *netlink.Handle, link netlink.Link) error {
		i.Index, i.MAC = link.Attrs().Index, link.Attrs().HardwareAddr
		return nil
	})
	if err != nil {
		return err
	}
	if err := i.setWireOffloads(); err != nil {
		return err
	}
	return i.Host.setUp(i.Name, true)
}

func addAddrs(i *Iface, addrs []netip.Prefix) error {
	for _, addr := range addrs {
		if err := i.Host.AddAddr(i.Name, addr); err != nil {
			return err
		}
	}
	return nil
}

// SetMTU sets the MTU, in bytes without the Ethernet header, of both ends of the wire. Below 1,280
// the kernel takes IPv6 from the interface, addresses included.
func (i *Iface) SetMTU(mtu int) error {
	for _, end := range []*Iface{i, i.Peer} {
		err := end.Host.onLink(end.Name, func(nl *netlink.Handle, link netlink.Link) error {
			return nl.LinkSetMTU(link, mtu)
		})
		if err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	return nil
}

// SetUp takes the interface up, or down: that breaks the wire, the other end loses its carrier.
// Going down keeps the addresses, but loses the routes through the interface except to its own
// networks. When both ends are up again SetUp waits until the wire carries frames.
func (i *Iface) SetUp(up bool) error {
	if err := i.Host.setUp(i.Name, up); err != nil {
		return err
	}
	peerUp := false
	err := i.Peer.Host.onLink(i.Peer.Name, func(nl *netlink.Handle, link netlink.Link) error {
		peerUp = link.Attrs().Flags&net.FlagUp != 0
		return nil
	})
	if err != nil || !up || !peerUp {
		return err
	}
	return errors.Join(i.waitUp(), i.Peer.waitUp())
}

// Switch is a Linux bridge in a namespace of its own.
type Switch struct {
	host *Host

	mu    sync.Mutex
	ports int
}

// bridgeName is the bridge's interface inside its namespace.
const bridgeName = "br0"

// Switch adds a switch: no spanning tree, ports forward at once, multicast is flooded. Its name
// follows the rules of Lab.Host.
func (l *Lab) Switch(name string) (*Switch, error) {
	h, err := l.Host(name)
	if err == nil {
		err = h.addBridge()
	}
	if err == nil {
		err = h.Do(func() error { return applySysctls(bridgeSysctls) })
	}
	if err == nil {
		err = h.setUp(bridgeName, true)
	}
	if err != nil {
		return nil, fmt.Errorf("add switch %q: %w", name, err)
	}
	return &Switch{host: h}, nil
}

// addBridge makes the bridge interface. Without STP, which is the kernel's default, a port forwards
// as soon as it is up: forward_delay is STP's.
func (h *Host) addBridge() error {
	off := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	err := h.use(func() error {
		return h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off})
	})
	if err != nil {
		return fmt.Errorf("create bridge: %w", err)
	}
	return nil
}

// bridgeSysctls make the bridge carry frames and nothing else.
var bridgeSysctls = []sysctl{
	{key: "net.ipv6.conf." + bridgeName + ".disable_ipv6", value: "1"},
	// Where br_netfilter is loaded, frames would pass through iptables, which reassembles fragments.
	{key: "net.bridge.bridge-nf-call-iptables", value: "0", optional: true},
	{key: "net.bridge.bridge-nf-call-ip6tables", value: "0", optional: true},
	{key: "net.bridge.bridge-nf-call-arptables", value: "0", optional: true},
}

// Host returns the namespace of the switch, in which its ports are visible.
func (s *Switch) Host() *Host { return s.host }

// maxIfname is the kernel's IFNAMSIZ without the terminating zero.
const maxIfname = 15

// portName names a port after who is plugged in, as far as that fits.
func (s *Switch) portName(h *Host, ifname string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports++
	if name := h.name + "-" + ifname; len(name) <= maxIfname {
		return name
	}
	return fmt.Sprintf("port%d", s.ports)
}

// addPort makes an interface in the switch's namespace one of its ports.
func (s *Switch) addPort(port *Iface) error {
	// The switch itself takes no part in the network it carries.
	if err := s.host.Sysctl("net.ipv6.conf."+port.Name+".disable_ipv6", "1"); err != nil {
		return err
	}
	err := s.host.onLink(port.Name, func(nl *netlink.Handle, link netlink.Link) error {
		bridge, err := nl.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		return nl.LinkSetMaster(link, bridge)
	})
	if err != nil {
		return fmt.Errorf("add port: %w", err)
	}
	return port.AcceptXDP()
}
