// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"xdplvs/director"
)

// ownAddresses are those of this host, on whatever interface.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var list []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p.Addr().Unmap())
		}
	}
	return list, nil
}

const sysctlIPv4 = "/proc/sys/net/ipv4/"

// warnPorts tells when the kernel may give a port to one of the host's own sockets that fullnat has
// for connections: replies to one of them would be the other's, if both are to one real server.
func (d *daemon) warnPorts(want *director.Desired) {
	if !byFullNAT(want) {
		return
	}
	ports := want.Locals.Ports
	if ports == (director.PortRange{}) {
		ports = director.DefaultLocalPorts
	}
	own, err := readOwnPorts(sysctlIPv4)
	if err != nil {
		d.log.Warn("ports of this host's own sockets are not known", "event", "ports_unknown", "error", err)
		return
	}
	if shared := own.shared(ports); shared > 0 {
		d.log.Warn("the kernel may give local ports of fullnat to this host's own sockets: change fullnat.ports, "+
			"net.ipv4.ip_local_port_range or net.ipv4.ip_local_reserved_ports", "event", "ports_shared",
			"ports", ports.String(), "own", own.given.String(), "shared", shared)
	}
}

func byFullNAT(want *director.Desired) bool {
	for i := range want.Services {
		for _, r := range want.Services[i].Servers() {
			if r.Method == director.FullNAT {
				return true
			}
		}
	}
	return false
}

// ownPorts are those that the kernel gives to sockets that do not ask for one.
type ownPorts struct {
	given    director.PortRange
	reserved []director.PortRange // these excepted
}

// readOwnPorts reads them from a directory of sysctls (networking/ip-sysctl.rst).
func readOwnPorts(dir string) (own ownPorts, err error) {
	given, err := os.ReadFile(dir + "ip_local_port_range")
	if err != nil {
		return own, fmt.Errorf("read port range: %w", err)
	}
	if own.given, err = parsePorts(strings.Join(strings.Fields(string(given)), "-")); err != nil {
		return own, err
	}
	reserved, err := os.ReadFile(dir + "ip_local_reserved_ports")
	if err != nil {
		return own, fmt.Errorf("read reserved ports: %w", err)
	}
	for _, text := range strings.FieldsFunc(string(reserved), func(r rune) bool { return r == ',' || r == '\n' }) {
		r, err := parsePorts(text)
		if err != nil {
			return own, err
		}
		own.reserved = append(own.reserved, r)
	}
	return own, nil
}

// parsePorts reads 1024-2047, or 1024 alone.
func parsePorts(text string) (r director.PortRange, err error) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil {
		return r, fmt.Errorf("parse port range %q", text)
	}
	return director.PortRange{First: uint16(a), Last: uint16(b)}, nil
}

// shared counts the ports that are in both.
func (o ownPorts) shared(ports director.PortRange) (n int) {
	for port := int(ports.First); port <= int(ports.Last); port++ {
		if o.has(uint16(port)) {
			n++
		}
	}
	return n
}

func (o ownPorts) has(port uint16) bool {
	within := func(r director.PortRange) bool { return r.First <= port && port <= r.Last }
	for _, r := range o.reserved {
		if within(r) {
			return false
		}
	}
	return within(o.given)
}
