// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"xdplvs/director"
)

// printer prints addresses as names or numbers.
type printer struct {
	w     io.Writer
	names Names // nil: numbers
	exact bool
}

func (r *runner) printer(c *call) *printer {
	p := &printer{w: r.out, names: r.Names, exact: c.given[optExact]}
	if c.given[optNumeric] {
		p.names = nil
	}
	return p
}

// host is HOST:PORT.
func (p *printer) host(a netip.Addr, port uint16, protocol director.Protocol) string {
	if p.names == nil {
		return netip.AddrPortFrom(a, port).String()
	}
	host, number := p.names.HostName(a), p.names.PortName(port, protocol)
	if host == "" {
		host, _, _ = strings.Cut(netip.AddrPortFrom(a, 0).String()+"\n", ":0\n")
	}
	return host + ":" + cmp.Or(number, fmt.Sprint(port))
}

// service is what a service is called: HOST:PORT, or its mark, which ipvsadm takes for a signed number.
func (p *printer) service(k director.ServiceKey) string {
	switch {
	case k.Mark == 0:
		return p.host(k.Addr, k.Port, k.Protocol)
	case k.Addr.Is6():
		return fmt.Sprintf("%d IPv6", int32(k.Mark))
	default:
		return fmt.Sprint(int32(k.Mark))
	}
}

func protocolName(k director.ServiceKey) string {
	if k.Mark != 0 {
		return "FWM"
	}
	return strings.ToUpper(k.Protocol.String())
}

// sorted orders a snapshot as ipvsadm does: services by mark, protocol, address and port, real servers
// by address and port. Addresses are compared by a difference of 32 bits, which may overflow.
func sorted(services []director.ServiceState) {
	slices.SortStableFunc(services, func(a, b director.ServiceState) int {
		return cmp.Or(cmp.Compare(a.Key.Mark, b.Key.Mark), compareFamily(a.Key, b.Key), cmp.Compare(a.Key.Protocol, b.Key.Protocol),
			compareAddr(a.Key.Addr, b.Key.Addr), cmp.Compare(a.Key.Port, b.Key.Port))
	})
	for i := range services {
		slices.SortStableFunc(services[i].Reals, func(a, b director.RealState) int {
			return cmp.Or(compareAddr(a.Key.Addr, b.Key.Addr), cmp.Compare(a.Key.Port, b.Key.Port))
		})
	}
}

func compareFamily(a, b director.ServiceKey) int {
	return cmp.Compare(a.Addr.BitLen(), b.Addr.BitLen())
}

func difference(a, b uint32) int { return int(int32(a - b)) }

func compareAddr(a, b netip.Addr) int {
	x, y := words(a), words(b)
	for i := range x {
		if d := difference(x[i], y[i]); d != 0 {
			return d
		}
	}
	return 0
}

// words are an address as IPVS stores both families.
func words(a netip.Addr) (w [4]uint32) {
	b := a.AsSlice()
	for i := 0; i+4 <= len(b); i += 4 {
		w[i/4] = binary.BigEndian.Uint32(b[i:])
	}
	return w
}

// list is -L.
func (r *runner) list(ctx context.Context, c *call) error {
	switch {
	case c.given[optConnection]:
		return r.connections(ctx, c)
	case c.given[optTimeout]:
		return r.timeouts(ctx)
	case c.given[optDaemon]:
		return nil // there is none
	}
	s, err := r.Director.Snapshot(ctx)
	if err != nil {
		return err
	}
	if !c.given[optNoSort] {
		sorted(s.Services)
	}
	if c.given[optService] {
		i := slices.IndexFunc(s.Services, func(s director.ServiceState) bool { return s.Key == c.key })
		if i < 0 {
			return &failure{1, "No such service"}
		}
		s.Services = s.Services[i : i+1]
	} else {
		fmt.Fprintf(r.out, "IP Virtual Server version %s (size=%d)\n", ipvsVersion, s.TableSize)
	}
	r.printer(c).services(s.Services, layoutOf(c))
	return nil
}

func (r *runner) timeouts(ctx context.Context) error {
	t, err := r.Director.Timeouts(ctx)
	if err != nil {
		return err
	}
	seconds := func(name string) int64 { return int64(t.Get(name).Seconds()) }
	fmt.Fprintf(r.out, "Timeout (tcp tcpfin udp): %d %d %d\n", seconds("tcp"), seconds("tcpfin"), seconds("udp"))
	return nil
}

// layout is one of the forms of a list.
type layout struct {
	heading string
	service func(*printer, *director.ServiceState) string // without its end of line
	real    func(*printer, *director.RealState) string    // what follows the address
}

// layoutOf takes the first, as ipvsadm does when there are several.
func layoutOf(c *call) layout {
	switch {
	case c.given[optStats]:
		return statsLayout
	case c.given[optRate]:
		return rateLayout
	case c.given[optThresholds]:
		return thresholdsLayout
	case c.given[optPersistentConn]:
		return persistentLayout
	case c.given[optTunInfo]:
		return tunnelLayout
	default:
		return plainLayout
	}
}

const (
	addressColumn = "Prot LocalAddress:Port"
	realColumn    = "  -> RemoteAddress:Port"
)

var (
	plainLayout = layout{addressColumn + " Scheduler Flags\n" + realColumn + "           Forward Weight ActiveConn InActConn",
		(*printer).flagged, func(_ *printer, r *director.RealState) string {
			return fmt.Sprintf("%-7s %-6d %-10d %-10d", forwardName(r.Method), r.Weight, r.Active, r.Inactive)
		}}
	tunnelLayout = layout{addressColumn + " Scheduler Flags\n" + realColumn + "           Forward TunnelInfo    Weight ActiveConn InActConn",
		(*printer).flagged, func(_ *printer, r *director.RealState) string {
			return fmt.Sprintf("%-7s %-13s %-6d %-10d %-10d", forwardName(r.Method), tunnelInfo(r), r.Weight, r.Active, r.Inactive)
		}}
	thresholdsLayout = layout{fmt.Sprintf("%-33s %-10s %-10s %-10s %-10s\n%s", addressColumn, "Uthreshold", "Lthreshold", "ActiveConn", "InActConn", realColumn),
		(*printer).flagged, func(_ *printer, r *director.RealState) string {
			return fmt.Sprintf("%-10d %-10d %-10d %-10d", r.Upper, r.Lower, r.Active, r.Inactive)
		}}
	persistentLayout = layout{fmt.Sprintf("%-33s %-9s %-11s %-10s %-10s\n%s", addressColumn, "Weight", "PersistConn", "ActiveConn", "InActConn", realColumn),
		(*printer).flagged, func(_ *printer, r *director.RealState) string {
			return fmt.Sprintf("%-9d %-11d %-10d %-10d", r.Weight, r.Templates, r.Active, r.Inactive)
		}}
	statsLayout = layout{fmt.Sprintf("%-33s %8s %8s %8s %8s %8s\n%s", addressColumn, "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes", realColumn),
		func(p *printer, s *director.ServiceState) string { return p.counted(s.Key, p.counters(&s.Counters)) },
		func(p *printer, r *director.RealState) string { return p.counters(&r.Counters)[1:] }}
	rateLayout = layout{fmt.Sprintf("%-33s %8s %8s %8s %8s %8s\n%s", addressColumn, "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS", realColumn),
		func(p *printer, s *director.ServiceState) string {
			r := &s.Rates
			return p.counted(s.Key, p.numbers(r.CPS, r.InPPS, r.OutPPS, r.InBPS, r.OutBPS))
		},
		func(p *printer, s *director.RealState) string {
			r := &s.Rates // of real servers, ipvsadm shortens bytes only
			return fmt.Sprintf("%8d %8d %8d", r.CPS, r.InPPS, r.OutPPS) + p.numbers(r.InBPS, r.OutBPS)
		}}
)

func (p *printer) services(services []director.ServiceState, l layout) {
	fmt.Fprintln(p.w, l.heading)
	for i := range services {
		s := &services[i]
		fmt.Fprintln(p.w, l.service(p, s))
		for j := range s.Reals {
			r := &s.Reals[j]
			fmt.Fprintf(p.w, "  -> %-28s %s\n", p.host(r.Key.Addr, r.Key.Port, s.Key.Protocol), l.real(p, r))
		}
	}
}

// flagged is a service with its scheduler and flags.
func (p *printer) flagged(s *director.ServiceState) string {
	line := fmt.Sprintf("%-4s %s %s", protocolName(s.Key), p.service(s.Key), s.Scheduler)
	if s.Flags != "" {
		line += " (" + s.Flags + ")"
	}
	if timeout := s.Persistence.Timeout; timeout != 0 {
		line += fmt.Sprintf(" persistent %d", timeout/time.Second)
		if mask := Netmask(s); mask != "" {
			line += " mask " + mask
		}
		if s.Persistence.Engine != director.NoEngine {
			line += " pe " + s.Persistence.Engine.String()
		}
	}
	if s.OnePacket {
		line += " ops"
	}
	return line
}

// Netmask is the mask of a service's persistence as ipvsadm shows it, which it does only where it is not
// every bit: "".
func Netmask(s *director.ServiceState) string {
	switch bits := s.Persistence.NetmaskBits(s.Key.Addr); {
	case bits == s.Key.Addr.BitLen():
		return ""
	case s.Key.Addr.Is6():
		return fmt.Sprint(bits)
	default:
		return net.IP(net.CIDRMask(bits, 32)).String()
	}
}

func (p *printer) counted(k director.ServiceKey, numbers string) string {
	return fmt.Sprintf("%-33s%s", fmt.Sprintf("%-4s %s", protocolName(k), p.service(k)), numbers)
}

func (p *printer) counters(c *director.Counters) string {
	return p.numbers(c.Conns, c.InPkts, c.OutPkts, c.InBytes, c.OutBytes)
}

func (p *printer) numbers(values ...uint64) (text string) {
	for _, v := range values {
		text += Column(v, p.exact)
	}
	return text
}

// Column is a number in ipvsadm's nine columns. Up to eight digits are shown, then thousands (K), from
// 10^9 on millions (M), from 10^11 on 10^9 (G), from 10^14 on 10^12 (T), cut off: these are ipvsadm's
// own bounds. Exact ones grow beyond the columns, with a blank before them.
func Column(v uint64, exact bool) string {
	switch {
	case exact, v < 1e8:
		return fmt.Sprintf(" %8d", v)
	case v < 1e9:
		return fmt.Sprintf("%8dK", v/1e3)
	case v < 1e11:
		return fmt.Sprintf("%8dM", v/1e6)
	case v < 1e14:
		return fmt.Sprintf("%8dG", v/1e9)
	default:
		return fmt.Sprintf("%8dT", v/1e12)
	}
}

// forwardName is Route for what is delivered locally: IPVS finds that out by the address, and tools know
// no other word.
func forwardName(m director.Method) string {
	if m == director.Local {
		m = director.DirectRouting
	}
	return m.IPVSName()
}

// tunnelInfo is type, port of GUE, and whether there are checksums.
func tunnelInfo(r *director.RealState) string {
	if r.Method != director.Tunnel {
		return "n/a"
	}
	if r.Tunnel == nil || r.Tunnel.Type == director.IPIP {
		return director.IPIP.String()
	}
	sum := "-c"
	if r.Tunnel.Checksum {
		sum = "+c"
	}
	if r.Tunnel.Type == director.GUE {
		return fmt.Sprintf("%s:%d:%s", r.Tunnel.Type, r.Tunnel.Port, sum)
	}
	return fmt.Sprintf("%s:%s", r.Tunnel.Type, sum)
}

// connections is -L -c.
func (r *runner) connections(ctx context.Context, c *call) error {
	fmt.Fprintln(r.out, "IPVS connection entries")
	fmt.Fprint(r.out, "pro expire state       source             virtual            destination")
	if c.given[optPersistentConn] {
		fmt.Fprint(r.out, "        pe name          pe_data")
	}
	fmt.Fprintln(r.out)
	p := r.printer(c)
	return r.Director.Entries(ctx, func(conn *director.Conn) error {
		protocol, virtual := entryKey(conn)
		left := max(0, conn.Expires/time.Second)
		_, err := fmt.Fprintf(r.out, "%-3s %02d:%02d  %-11s %-18s %-18s %s\n", strings.ToUpper(protocol.String()), left/60, left%60, conn.State,
			p.host(conn.Client.Addr(), conn.Client.Port(), protocol), p.host(virtual.Addr(), virtual.Port(), protocol),
			p.host(conn.Real.Addr(), conn.Real.Port(), protocol))
		return err
	})
}

// entryKey is how IPVS shows what an entry is for. A template for a firewall mark has the mark in the
// place of the virtual address, and is of no protocol.
func entryKey(c *director.Conn) (director.Protocol, netip.AddrPort) {
	if c.Mark == 0 {
		return c.Protocol, c.Virtual
	}
	var b [16]byte
	binary.BigEndian.PutUint32(b[12:], c.Mark)
	addr := netip.AddrFrom16(b)
	if c.Client.Addr().Is4() {
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	return 0, netip.AddrPortFrom(addr, 0)
}
