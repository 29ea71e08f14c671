// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"xdplvs/director"
)

// jiffiesPerSecond is Debian's and most others': /proc/net/ip_vs tells timeouts in jiffies.
const jiffiesPerSecond = 250

// procFiles are the texts, by the names of the files in /proc/net.
var procFiles = map[string]func(context.Context, io.Writer, Director) error{
	"ip_vs":              procServices,
	"ip_vs_conn":         procConnections,
	"ip_vs_stats":        procStats,
	"ip_vs_stats_percpu": procStatsPerCPU,
}

// ProcNames are the files of /proc/net that Proc knows.
func ProcNames() []string {
	var names []string
	for name := range procFiles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Proc prints what a kernel with IPVS shows in a file of /proc/net.
func Proc(ctx context.Context, w io.Writer, d Director, name string) error {
	file := procFiles[name]
	if file == nil {
		return fmt.Errorf("unknown file %q (known: %s)", name, strings.Join(ProcNames(), ", "))
	}
	return file(ctx, w, d)
}

func procServices(ctx context.Context, w io.Writer, d Director) error {
	s, err := d.Snapshot(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "IP Virtual Server version %s (size=%d)\nProt LocalAddress:Port Scheduler Flags\n"+
		"  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n", ipvsVersion, s.TableSize)
	for i := range s.Services {
		service := &s.Services[i]
		fmt.Fprintln(w, procService(service))
		for j := range service.Reals {
			r := &service.Reals[j]
			fmt.Fprintf(w, "  -> %s      %-7s %-6d %-10d %-10d\n", procEndpoint(r.Key.Addr, r.Key.Port),
				forwardName(r.Method), r.Weight, r.Active, r.Inactive)
		}
	}
	return nil
}

// procService is a service's line. Blanks are the kernel's, which has others for each kind.
func procService(s *director.ServiceState) string {
	ops := ""
	if s.OnePacket {
		ops = "ops "
	}
	var line string
	switch {
	case s.Key.Mark != 0:
		line = fmt.Sprintf("FWM  %08X %s %s", s.Key.Mark, s.Scheduler, ops)
	case s.Key.Addr.Is6():
		line = fmt.Sprintf("%s  %s %s ", protocolName(s.Key), procEndpoint(s.Key.Addr, s.Key.Port), s.Scheduler)
	default:
		line = fmt.Sprintf("%s  %s %s %s ", protocolName(s.Key), procEndpoint(s.Key.Addr, s.Key.Port), s.Scheduler, ops)
	}
	if s.Persistence.Timeout == 0 {
		return line
	}
	return line + fmt.Sprintf("persistent %d %08X", s.Persistence.Timeout/time.Second*jiffiesPerSecond, procMask(s))
}

// procMask is the netmask; of IPv6 the prefix length, with its bytes as the kernel has them.
func procMask(s *director.ServiceState) uint32 {
	n := s.Persistence.NetmaskBits(s.Key.Addr)
	if s.Key.Addr.Is6() {
		return bits.ReverseBytes32(uint32(n))
	}
	return binary.BigEndian.Uint32(net.CIDRMask(n, 32))
}

func procEndpoint(a netip.Addr, port uint16) string {
	if a.Is4() {
		return fmt.Sprintf("%s:%04X", procAddr(a), port)
	}
	return fmt.Sprintf("[%s]:%04X", procAddr(a), port)
}

// procAddr is 0A000001, or fd00:0000:…:0001.
func procAddr(a netip.Addr) string {
	if a.Is4() {
		return strings.ToUpper(hex.EncodeToString(a.AsSlice()))
	}
	return a.StringExpanded()
}

func procConnections(ctx context.Context, w io.Writer, d Director) error {
	fmt.Fprintln(w, "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData")
	return d.Entries(ctx, func(c *director.Conn) error {
		protocol, virtual := entryKey(c)
		_, err := fmt.Fprintf(w, "%-3s %s %04X %s %04X %s %04X %-11s %7d\n", strings.ToUpper(protocol.String()),
			procAddr(c.Client.Addr()), c.Client.Port(), procAddr(virtual.Addr()), virtual.Port(),
			procAddr(c.Real.Addr()), c.Real.Port(), c.State, max(0, c.Expires/time.Second))
		return err
	})
}

const (
	procTotals = "Total Incoming Outgoing         Incoming         Outgoing\n"
	procUnits  = "Conns  Packets  Packets            Bytes            Bytes\n"
	procRates  = "Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n"
	procCounts = "%8X %8X %8X %16X %16X\n"
)

func procStats(ctx context.Context, w io.Writer, d Director) error {
	s, err := d.Snapshot(ctx)
	if err != nil {
		return err
	}
	c, r := s.Total, s.Rates
	fmt.Fprint(w, "   ", procTotals, "   ", procUnits)
	fmt.Fprintf(w, procCounts, c.Conns, c.InPkts, c.OutPkts, c.InBytes, c.OutBytes)
	fmt.Fprint(w, "\n ", procRates)
	fmt.Fprintf(w, procCounts, r.CPS, r.InPPS, r.OutPPS, r.InBPS, r.OutBPS)
	return nil
}

// procStatsPerCPU shows all as of one CPU: the director adds up as it counts.
func procStatsPerCPU(ctx context.Context, w io.Writer, d Director) error {
	s, err := d.Snapshot(ctx)
	if err != nil {
		return err
	}
	c, r := s.Total, s.Rates
	fmt.Fprint(w, "       ", procTotals, "CPU    ", procUnits)
	for _, cpu := range []string{"0", "~"} {
		fmt.Fprintf(w, "%3s "+procCounts, cpu, c.Conns, c.InPkts, c.OutPkts, c.InBytes, c.OutBytes)
	}
	fmt.Fprint(w, "\n     ", procRates)
	fmt.Fprintf(w, "    "+procCounts, r.CPS, r.InPPS, r.OutPPS, r.InBPS, r.OutBPS)
	return nil
}
