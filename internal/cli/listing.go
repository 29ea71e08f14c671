// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"iter"
	"net/netip"
	"strings"
	"time"

	"xdplvs/director"
	"xdplvs/internal/ipvsadm"
)

// ipvsVersion is the version of IPVS whose listing this is: scripts know the line.
const ipvsVersion = "1.2.1"

// realWidth is the width of a real server's address in ipvsadm's listings. A
// longer one shifts what follows; -o wide makes the column wide enough instead.
const realWidth = 28

// listing prints services in the layouts of ipvsadm -Ln.
type listing struct {
	w     io.Writer
	style style
	width int  // of a real server's address
	wide  bool // add what ipvsadm has no column for, as key=value at the line's end
	exact bool // numbers without K, M, G, T
}

// newListing prepares a listing of these services.
func (a *app) newListing(w io.Writer, services []director.ServiceState, wide, exact bool) *listing {
	l := &listing{w: w, style: a.style, width: realWidth, wide: wide, exact: exact}
	if wide {
		l.width = max(realWidth, widest(services))
	}
	return l
}

// widest is the longest address, that of a service counting for what of it
// reaches into the same column.
func widest(services []director.ServiceState) (width int) {
	for i := range services {
		s := &services[i]
		width = max(width, len(serviceAddr(s.Key)))
		for r := range servers(s) {
			width = max(width, len(addrPort(r.Key.Addr, r.Key.Port)))
		}
	}
	return width
}

// apology is how a sorry server of a service is marked.
type apology uint8

const (
	notSorry   apology = iota
	sorryWaits         // it gets no new connections
	sorryInUse
)

// servers are the real servers of a service, then its sorry servers.
func servers(s *director.ServiceState) iter.Seq2[*director.RealState, apology] {
	return func(yield func(*director.RealState, apology) bool) {
		for i := range s.Reals {
			if !yield(&s.Reals[i], notSorry) {
				return
			}
		}
		for i := range s.Sorry {
			r, is := &s.Sorry[i], sorryWaits
			if s.SorryInUse && r.Excluded() == "" {
				is = sorryInUse
			}
			if !yield(r, is) {
				return
			}
		}
	}
}

// apology is the marker of a sorry server.
func (l *listing) apology(a apology) string {
	return map[apology]string{sorryWaits: "  sorry", sorryInUse: "  " + l.style.red("sorry, in use")}[a]
}

// printState is the layout of ipvsadm -Ln. Real servers' lines end in blanks there too.
func (l *listing) printState(s *director.Snapshot) {
	l.printTitle(s)
	l.printBold("Prot LocalAddress:Port Scheduler Flags")
	l.printBold(fmt.Sprintf("  -> %-*s Forward Weight ActiveConn InActConn", l.width, "RemoteAddress:Port"))
	for i := range s.Services {
		service := &s.Services[i]
		l.printService(service)
		for real, sorry := range servers(service) {
			fmt.Fprintf(l.w, "  -> %-*s %-7s %-6d %-10d %-10d%s%s%s\n", l.width, addrPort(real.Key.Addr, real.Key.Port),
				real.Method.IPVSName(), real.Weight, real.Active, real.Inactive, l.realExtra(real), l.apology(sorry), l.unreachable(real))
		}
	}
}

func (l *listing) printService(s *director.ServiceState) {
	fmt.Fprintf(l.w, "%s %s%s%s%s\n", serviceLabel(s), s.Scheduler, serviceFlags(s), l.serviceExtra(s), l.quorum(s))
}

// printThresholds is the layout of ipvsadm -Ln --thresholds. As there, one that
// is not set is 0.
func (l *listing) printThresholds(s *director.Snapshot) {
	l.printTitle(s)
	l.printBold(fmt.Sprintf("%-*s %-10s %-10s %-10s %-10s", l.width+5, "Prot LocalAddress:Port", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"))
	l.printBold("  -> RemoteAddress:Port")
	for i := range s.Services {
		service := &s.Services[i]
		l.printService(service)
		for real, sorry := range servers(service) {
			fmt.Fprintf(l.w, "  -> %-*s %-10d %-10d %-10d %-10d%s%s%s%s\n", l.width, addrPort(real.Key.Addr, real.Key.Port),
				real.Upper, real.Lower, real.Active, real.Inactive, l.overloaded(real), l.realExtra(real), l.apology(sorry), l.unreachable(real))
		}
	}
}

// printPersistent is the layout of ipvsadm -Ln --persistent-conn.
func (l *listing) printPersistent(s *director.Snapshot) {
	l.printTitle(s)
	l.printBold(fmt.Sprintf("%-*s %-9s %-11s %-10s %-10s", l.width+5, "Prot LocalAddress:Port", "Weight", "PersistConn", "ActiveConn", "InActConn"))
	l.printBold("  -> RemoteAddress:Port")
	for i := range s.Services {
		service := &s.Services[i]
		l.printService(service)
		for real, sorry := range servers(service) {
			fmt.Fprintf(l.w, "  -> %-*s %-9d %-11d %-10d %-10d%s%s%s\n", l.width, addrPort(real.Key.Addr, real.Key.Port),
				real.Weight, real.Templates, real.Active, real.Inactive, l.realExtra(real), l.apology(sorry), l.unreachable(real))
		}
	}
}

// printShares tells how new connections are spread.
func (l *listing) printShares(s *director.Snapshot) {
	l.printTitle(s)
	l.printBold(fmt.Sprintf("%-*s %-6s %-9s %-7s %-8s %-10s", l.width+5, "Prot LocalAddress:Port", "Weight", "Effective", "Planned", "Measured", "NewConns"))
	l.printBold("  -> RemoteAddress:Port")
	for i := range s.Services {
		service := &s.Services[i]
		l.printService(service)
		for real, sorry := range servers(service) {
			fmt.Fprintf(l.w, "  -> %-*s %-6d %-9d %-7s %-8s %-10d%s%s%s%s\n", l.width, addrPort(real.Key.Addr, real.Key.Port),
				real.Weight, real.EffectiveWeight, percent(real.PlannedShare), percent(real.MeasuredShare), real.WindowConns,
				l.apart(real), l.realExtra(real), l.apology(sorry), l.unreachable(real))
		}
	}
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }

// apart is the marker of a real server that does not get what is planned.
func (l *listing) apart(r *director.RealState) string {
	if !r.SharesApart {
		return ""
	}
	return "  " + l.style.red("shares apart")
}

// overloaded is the marker of a real server that gets no new connections.
func (l *listing) overloaded(r *director.RealState) string {
	if !r.Overloaded {
		return ""
	}
	return "  " + l.style.red("overloaded")
}

func (l *listing) printTitle(s *director.Snapshot) {
	fmt.Fprintf(l.w, "IP Virtual Server version %s (size=%d)\n", ipvsVersion, s.TableSize)
}

func (l *listing) printBold(line string) { fmt.Fprintln(l.w, l.style.bold(line)) }

// serviceLabel is TCP  192.0.2.1:80, or FWM  7.
func serviceLabel(s *director.ServiceState) string {
	if s.Key.Mark != 0 {
		return "FWM  " + serviceAddr(s.Key)
	}
	return fmt.Sprintf("%-4s %s", protocolLabel(s.Key.Protocol), serviceAddr(s.Key))
}

// serviceAddr is 192.0.2.1:80, or a firewall mark: 7, or 7 IPv6.
func serviceAddr(k director.ServiceKey) string {
	switch {
	case k.Mark == 0:
		return addrPort(k.Addr, k.Port)
	case k.Addr.Is6():
		return fmt.Sprintf("%d IPv6", k.Mark)
	default:
		return fmt.Sprint(k.Mark)
	}
}

// serviceFlags are the words after the scheduler, each with a blank before it.
func serviceFlags(s *director.ServiceState) (words string) {
	if s.Flags != "" {
		words += " (" + s.Flags + ")"
	}
	words += persistenceWords(s)
	if s.OnePacket {
		words += " ops"
	}
	return words
}

// persistenceWords are those of ipvsadm.
func persistenceWords(s *director.ServiceState) string {
	if s.Persistence.Timeout == 0 {
		return ""
	}
	words := fmt.Sprintf(" persistent %d", s.Persistence.Timeout/time.Second)
	if mask := ipvsadm.Netmask(s); mask != "" {
		words += " mask " + mask
	}
	if s.Persistence.Engine != director.NoEngine {
		words += " pe " + s.Persistence.Engine.String()
	}
	return words
}

func (l *listing) serviceExtra(s *director.ServiceState) string {
	if !l.wide {
		return ""
	}
	return fmt.Sprintf("  %sno_real=%d untracked=%d", nameExtra(s.Name), s.NoReal, s.Untracked)
}

func (l *listing) realExtra(r *director.RealState) (extra string) {
	if !l.wide {
		return ""
	}
	if r.Name != "" {
		extra += " name=" + r.Name
	}
	if r.Tunnel != nil {
		extra += " tun=" + r.Tunnel.String()
	}
	if r.Ports != nil {
		extra += fmt.Sprintf(" local_ports=%d/%d", r.Ports.Used, r.Ports.Available)
	}
	if r.MTU != 0 {
		extra += fmt.Sprintf(" mtu=%d", r.MTU)
	}
	if r.Local {
		extra += " local"
	}
	if r.Health != nil {
		extra += " health=" + strings.ReplaceAll(conditionText(r.Health), " ", "_")
	}
	if extra == "" {
		return ""
	}
	return " " + extra
}

// quorum is the marker of a service with too few real servers that are well.
func (l *listing) quorum(s *director.ServiceState) string {
	if !s.QuorumLost {
		return ""
	}
	return "  " + l.style.red("quorum lost")
}

func nameExtra(name string) string {
	if name == "" {
		return ""
	}
	return "name=" + name + " "
}

// unreachable is the marker of a real server that gets nothing.
func (l *listing) unreachable(r *director.RealState) string {
	if r.Reachable {
		return l.healthMarker(r)
	}
	text := "unreachable"
	if r.Unreachable != "" {
		text += ": " + r.Unreachable
	}
	return "  " + l.style.red(text)
}

// printStats is the layout of ipvsadm -Ln --stats.
func (l *listing) printStats(s *director.Snapshot) {
	l.printTitle(s)
	l.printColumns("Conns", "InPkts", "OutPkts", "InBytes", "OutBytes")
	l.printNumbers(s.Services,
		func(s *director.ServiceState) string { return l.counters(&s.Counters) },
		func(r *director.RealState) string { return l.counters(&r.Counters) })
}

// printRate is the layout of ipvsadm -Ln --rate, where connections and packets
// of real servers are never shortened.
func (l *listing) printRate(s *director.Snapshot) {
	l.printTitle(s)
	l.printColumns("CPS", "InPPS", "OutPPS", "InBPS", "OutBPS")
	l.printNumbers(s.Services,
		func(s *director.ServiceState) string {
			return l.numbers(s.Rates.CPS, s.Rates.InPPS, s.Rates.OutPPS, s.Rates.InBPS, s.Rates.OutBPS)
		},
		func(r *director.RealState) string {
			return fmt.Sprintf(" %8d %8d %8d", r.Rates.CPS, r.Rates.InPPS, r.Rates.OutPPS) + l.numbers(r.Rates.InBPS, r.Rates.OutBPS)
		})
}

func (l *listing) printColumns(columns ...string) {
	line := fmt.Sprintf("%-*s", l.width+5, "Prot LocalAddress:Port")
	for _, c := range columns {
		line += fmt.Sprintf(" %8s", c)
	}
	l.printBold(line)
	l.printBold("  -> RemoteAddress:Port")
}

func (l *listing) printNumbers(services []director.ServiceState, ofService func(*director.ServiceState) string, ofReal func(*director.RealState) string) {
	for i := range services {
		s := &services[i]
		fmt.Fprintf(l.w, "%-*s%s%s\n", l.width+5, serviceLabel(s), ofService(s), l.serviceExtra(s))
		for r, sorry := range servers(s) {
			fmt.Fprintf(l.w, "  -> %-*s%s%s%s\n", l.width, addrPort(r.Key.Addr, r.Key.Port), ofReal(r), l.realExtra(r), l.apology(sorry))
		}
	}
}

func (l *listing) counters(c *director.Counters) string {
	return l.numbers(c.Conns, c.InPkts, c.OutPkts, c.InBytes, c.OutBytes)
}

func (l *listing) numbers(values ...uint64) string {
	var text strings.Builder
	for _, v := range values {
		text.WriteString(ipvsadm.Column(v, l.exact))
	}
	return text.String()
}

// addrPort is 10.0.0.1:80 or [2001:db8::1]:80.
func addrPort(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// protocolLabel is TCP, UDP or SCTP.
func protocolLabel(p director.Protocol) string {
	switch p {
	case director.TCP:
		return "TCP"
	case director.UDP:
		return "UDP"
	default:
		return strings.ToUpper(p.String())
	}
}
