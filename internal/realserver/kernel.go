// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"xdplvs/internal/genl"
)

// kernel is the host that runs this process.
type kernel struct{ nl *netlink.Handle }

func openKernel() (*kernel, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &kernel{nl}, nil
}

func (k *kernel) close() { k.nl.Close() }

func (k *kernel) sysctl(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join("/proc/sys", path))
	return strings.TrimSpace(string(text)), err
}

func (k *kernel) setSysctl(path, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
}

func (k *kernel) addresses() (all []Address, err error) {
	links, err := k.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	for _, link := range links {
		addrs, err := k.nl.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				all = append(all, Address{link.Attrs().Name, ip.Unmap()})
			}
		}
	}
	return all, nil
}

func (k *kernel) onLink(a Address, do func(netlink.Link, *netlink.Addr) error) error {
	link, err := k.nl.LinkByName(a.Device)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr.AsSlice(), Mask: net.CIDRMask(a.Addr.BitLen(), a.Addr.BitLen())}}
	if a.Addr.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return do(link, addr)
}

func (k *kernel) addAddress(a Address) error { return k.onLink(a, k.nl.AddrReplace) }
func (k *kernel) delAddress(a Address) error { return k.onLink(a, k.nl.AddrDel) }

func (k *kernel) tunnel(name string) (t Tunnel, ok bool, err error) {
	link, err := k.nl.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return t, false, nil
	}
	if err != nil {
		return t, false, err
	}
	var local net.IP
	checksum := false
	switch l := link.(type) {
	case *netlink.Iptun:
		local = l.Local
	case *netlink.Sittun:
		local = l.Local
	case *netlink.Ip6tnl:
		local = l.Local
	case *netlink.Gretun:
		local, checksum = l.Local, l.IFlags&nl.GRE_CSUM != 0
	}
	addr, _ := netip.AddrFromSlice(local)
	return Tunnel{Name: name, Kind: link.Type(), Local: addr.Unmap(), Checksum: checksum}, true, nil
}

// link is the device as netlink makes it. Without a remote address it takes packets from anybody.
func (t Tunnel) link() netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = t.Name
	local := net.IP(t.Local.AsSlice())
	switch t.Kind {
	case "ipip":
		return &netlink.Iptun{LinkAttrs: attrs, Local: local, PMtuDisc: 1}
	case "sit":
		return &netlink.Sittun{LinkAttrs: attrs, Local: local, PMtuDisc: 1}
	case "ip6tnl":
		return &netlink.Ip6tnl{LinkAttrs: attrs, Local: local} // of protocol 0: IPv4 and IPv6
	default:
		gre := &netlink.Gretun{LinkAttrs: attrs, Local: local, PMtuDisc: 1}
		if t.Checksum {
			gre.IFlags = nl.GRE_CSUM
		}
		return gre
	}
}

func (k *kernel) addTunnel(t Tunnel) error {
	link := t.link()
	err := k.nl.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("this kernel has no devices of kind %s: modprobe %s", t.Kind, cmp.Or(tunnelModules[t.Kind], t.Kind))
	}
	if err != nil {
		return err
	}
	if err := k.nl.LinkSetUp(link); err != nil {
		return errors.Join(err, k.delTunnel(t))
	}
	return nil
}

// tunnelModules are the modules that are not named as their kind of device.
var tunnelModules = map[string]string{"gre": "ip_gre", "ip6tnl": "ip6_tunnel", "ip6gre": "ip6_gre"}

func (k *kernel) delTunnel(t Tunnel) error {
	link, err := k.nl.LinkByName(t.Name)
	if err != nil {
		return err
	}
	return k.nl.LinkDel(link)
}

// family is the number of an address family.
func family(v6 bool) int {
	if v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// errNoFOU is what a kernel without the family of generic netlink says.
var errNoFOU = errors.New("this kernel receives no GUE: modprobe fou (and fou6 for IPv6)")

func (k *kernel) hasPort(p Port) (bool, error) {
	if _, err := genl.Find("fou"); errors.Is(err, unix.ENOENT) {
		return false, errNoFOU
	}
	ports, err := k.nl.FouList(family(p.V6))
	return slices.ContainsFunc(ports, func(f netlink.Fou) bool {
		return f.Port == int(p.Number) && f.Family == family(p.V6) && f.EncapType == netlink.FOU_ENCAP_GUE
	}), err
}

// addPort asks by itself: netlink.FouAdd names the IP protocol 0 for GUE, which has none, and kernels
// since 2024 refuse that with ERANGE.
func (k *kernel) addPort(p Port) error {
	fou, err := genl.Find("fou")
	if err != nil {
		return err
	}
	_, err = fou.Ask(netlink.FOU_CMD_ADD, 1, unix.NLM_F_ACK, p.request()...)
	return err
}

// request are the attributes of the message that opens the port (Documentation/netlink/specs/fou.yaml).
func (p Port) request() []*nl.RtAttr {
	return []*nl.RtAttr{
		nl.NewRtAttr(netlink.FOU_ATTR_PORT, binary.BigEndian.AppendUint16(nil, p.Number)),
		nl.NewRtAttr(netlink.FOU_ATTR_AF, nl.Uint8Attr(uint8(family(p.V6)))),
		nl.NewRtAttr(netlink.FOU_ATTR_TYPE, nl.Uint8Attr(netlink.FOU_ENCAP_GUE)),
	}
}

func (k *kernel) delPort(p Port) error { return k.nl.FouDel(p.fou()) }

func (p Port) fou() netlink.Fou {
	return netlink.Fou{Family: family(p.V6), Port: int(p.Number), EncapType: netlink.FOU_ENCAP_GUE}
}

// defaults are those of the main table that have a gateway.
func (k *kernel) defaults(v6 bool) (list []route, err error) {
	rows, err := k.nl.RouteListFiltered(family(v6), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, row := range rows {
		via, ok := netip.AddrFromSlice(row.Gw)
		if !ok || row.Dst != nil && !isDefault(row.Dst) {
			continue
		}
		device := ""
		if link, err := k.nl.LinkByIndex(row.LinkIndex); err == nil {
			device = link.Attrs().Name
		}
		list = append(list, route{v6, via.Unmap(), device, row.Priority, row.AdvMSS, row})
	}
	slices.SortStableFunc(list, func(a, b route) int { return cmp.Compare(a.metric, b.metric) })
	return list, nil
}

func isDefault(dst *net.IPNet) bool {
	ones, _ := dst.Mask.Size()
	return ones == 0
}

// row is the route as netlink has it, with what the kernel told of it.
func (k *kernel) row(r route) (*netlink.Route, error) {
	row, known := r.rest.(netlink.Route)
	if !known {
		row = netlink.Route{Dst: &net.IPNet{IP: make(net.IP, r.via.BitLen()/8), Mask: net.CIDRMask(0, r.via.BitLen())}, Gw: r.via.AsSlice()}
	}
	if !known && r.device != "" {
		link, err := k.nl.LinkByName(r.device)
		if err != nil {
			return nil, err
		}
		row.LinkIndex = link.Attrs().Index
	}
	row.Priority, row.AdvMSS = r.metric, r.advMSS
	return &row, nil
}

func (k *kernel) putRoute(r route) error {
	row, err := k.row(r)
	if err != nil {
		return err
	}
	return k.nl.RouteReplace(row)
}

func (k *kernel) dropRoute(r route) error {
	row, err := k.row(r)
	if err != nil {
		return err
	}
	return k.nl.RouteDel(row)
}
