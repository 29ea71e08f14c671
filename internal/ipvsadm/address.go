// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"xdplvs/director"
)

// Names are what hosts and ports are called.
type Names interface {
	// Host is an address of a host; false: it is not known.
	Host(name string) (netip.Addr, bool)
	// HostName is the name of an address; "": it has none.
	HostName(netip.Addr) string
	// Port is the number of a service's port, for a protocol; false: it is not known.
	Port(name string, p director.Protocol) (uint16, bool)
	// PortName is the name of a port; "": it has none.
	PortName(port uint16, p director.Protocol) string
}

func (p *parser) tcpService(value string) error  { return p.service(value, director.TCP) }
func (p *parser) udpService(value string) error  { return p.service(value, director.UDP) }
func (p *parser) sctpService(value string) error { return p.service(value, director.SCTP) }

func (p *parser) service(value string, protocol director.Protocol) error {
	if err := p.give(optService); err != nil {
		return err
	}
	where, ok := endpoint(value, protocol, p.names)
	if !ok {
		return failf("illegal virtual server address[:port] specified")
	}
	p.key = director.ServiceKey{Protocol: protocol, Addr: where.Addr(), Port: where.Port()}
	return nil
}

func (p *parser) markService(value string) error {
	if err := p.give(optService); err != nil {
		return err
	}
	mark, err := strconv.ParseUint(value, 10, 32)
	if err != nil || mark == 0 {
		return failf("invalid fwmark value `%s' specified", value)
	}
	p.key = director.MarkKey(uint32(mark), false)
	return nil
}

func (p *parser) ipv6(string) error {
	if p.key.Mark == 0 {
		return failf("-6 used before -f\n") // the empty line is ipvsadm's, too
	}
	p.key = director.MarkKey(p.key.Mark, true)
	return nil
}

func (p *parser) realServer(value string) error {
	if err := p.give(optServer); err != nil {
		return err
	}
	protocol := p.key.Protocol
	if protocol == 0 {
		protocol = director.TCP
	}
	where, ok := endpoint(value, protocol, p.names)
	if !ok {
		return failf("illegal real server address[:port] specified")
	}
	p.real = director.RealKey{Addr: where.Addr(), Port: where.Port()}
	return nil
}

// endpoint reads host[:port]. An IPv6 address has brackets if, and only if, a port follows.
func endpoint(text string, protocol director.Protocol, names Names) (where netip.AddrPort, ok bool) {
	if a, err := netip.ParseAddr(text); err == nil && a.Is6() && a.Zone() == "" {
		return netip.AddrPortFrom(a, 0), true
	}
	host, port, has := text, "", false
	if inside, bracket := strings.CutPrefix(text, "["); bracket {
		if host, port, has = strings.Cut(inside, "]:"); !has || !strings.Contains(host, ":") {
			return where, false
		}
	} else {
		host, port, has = strings.Cut(text, ":")
	}
	addr, ok := hostAddr(host, names)
	if !ok || !has {
		return netip.AddrPortFrom(addr, 0), ok
	}
	number, ok := portNumber(port, protocol, names)
	return netip.AddrPortFrom(addr, number), ok
}

func hostAddr(host string, names Names) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a, a.Zone() == ""
	}
	if a, ok := ipv4(host); ok {
		return a, true
	}
	if host == "" {
		return netip.Addr{}, false
	}
	return names.Host(host)
}

func portNumber(text string, protocol director.Protocol, names Names) (uint16, bool) {
	if n, ok := integer(text, 0, maxPort); ok {
		return uint16(n), true
	}
	return names.Port(text, protocol)
}

// ipv4 reads an address as inet_aton(3) does, which takes fewer numbers than four: the last one then
// stands for all bytes that are left.
func ipv4(text string) (netip.Addr, bool) {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 0, 32)
		last := i == len(parts)-1
		if err != nil || strings.Contains(part, "_") || !last && n > 255 || last && n >= 1<<(8*(5-len(parts))) {
			return netip.Addr{}, false
		}
		if last {
			value = value<<(8*(5-len(parts))) | n
		} else {
			value = value<<8 | n
		}
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(value))
	return netip.AddrFrom4(b), true
}

// ParseEndpoint reads host[:port] as ipvsadm does.
func ParseEndpoint(text string, protocol director.Protocol, names Names) (where netip.AddrPort, ok bool) {
	return endpoint(text, protocol, names)
}
