// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"xdplvs/director"
)

// nameTimeout is how long one name may take.
const nameTimeout = 5 * time.Second

// SystemNames are those of this machine: its resolver's, and those of a file as services(5) has it.
type SystemNames struct {
	Services string // the file, /etc/services if empty

	once  sync.Once
	ports map[string]map[string]uint16 // by protocol and name
	names map[string]map[uint16]string // by protocol and port, the first
	hosts map[netip.Addr]string        // that were asked for
}

// Host implements Names.
func (*SystemNames) Host(name string) (netip.Addr, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), nameTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
	if err != nil || len(addrs) == 0 {
		return netip.Addr{}, false
	}
	return addrs[0].Unmap(), true
}

// HostName implements Names.
func (n *SystemNames) HostName(a netip.Addr) string {
	if name, known := n.hosts[a]; known {
		return name
	}
	ctx, cancel := context.WithTimeout(context.Background(), nameTimeout)
	defer cancel()
	name := ""
	if names, err := net.DefaultResolver.LookupAddr(ctx, a.String()); err == nil && len(names) > 0 {
		name = strings.TrimSuffix(names[0], ".")
	}
	if n.hosts == nil {
		n.hosts = map[netip.Addr]string{}
	}
	n.hosts[a] = name
	return name
}

// Port implements Names.
func (n *SystemNames) Port(name string, p director.Protocol) (uint16, bool) {
	n.once.Do(n.read)
	port, ok := n.ports[p.String()][name]
	return port, ok
}

// PortName implements Names.
func (n *SystemNames) PortName(port uint16, p director.Protocol) string {
	n.once.Do(n.read)
	return n.names[p.String()][port]
}

// read reads the file; without one there are no names.
func (n *SystemNames) read() {
	file := n.Services
	if file == "" {
		file = "/etc/services"
	}
	text, _ := os.ReadFile(file)
	n.ports, n.names = map[string]map[string]uint16{}, map[string]map[uint16]string{}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		number, protocol, _ := strings.Cut(words[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			continue
		}
		n.add(protocol, uint16(port), words[0])
		for _, alias := range words[2:] {
			n.add(protocol, uint16(port), alias)
		}
	}
}

func (n *SystemNames) add(protocol string, port uint16, name string) {
	if n.ports[protocol] == nil {
		n.ports[protocol], n.names[protocol] = map[string]uint16{}, map[uint16]string{}
	}
	if _, taken := n.ports[protocol][name]; !taken {
		n.ports[protocol][name] = port
	}
	if _, taken := n.names[protocol][port]; !taken {
		n.names[protocol][port] = name
	}
}
