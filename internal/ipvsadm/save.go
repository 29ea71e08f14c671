// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"context"
	"fmt"
	"io"
	"time"

	"xdplvs/director"
)

// save is -S.
func (r *runner) save(ctx context.Context, c *call) error {
	s, err := r.Director.Snapshot(ctx)
	if err != nil {
		return err
	}
	sorted(s.Services)
	r.printer(c).rules(s.Services)
	return nil
}

// Save prints services as the lines of ipvsadm -Sn, in ipvsadm's order.
func Save(w io.Writer, services []director.ServiceState) {
	sorted(services)
	(&printer{w: w}).rules(services)
}

func (p *printer) rules(services []director.ServiceState) {
	for i := range services {
		s := &services[i]
		fmt.Fprintf(p.w, "-A %s -s %s%s\n", p.serviceOption(s.Key), s.Scheduler, serviceRule(s))
		for j := range s.Reals {
			r := &s.Reals[j]
			fmt.Fprintf(p.w, "-a %s -r %s %s -w %d%s\n", p.serviceOption(s.Key), p.host(r.Key.Addr, r.Key.Port, s.Key.Protocol),
				methodRule(r.Method), r.Weight, tunnelRule(r))
		}
	}
}

func (p *printer) serviceOption(k director.ServiceKey) string {
	switch {
	case k.Mark != 0 && k.Addr.Is6():
		return fmt.Sprintf("-f %d -6", int32(k.Mark))
	case k.Mark != 0:
		return fmt.Sprintf("-f %d", int32(k.Mark))
	case k.Protocol == director.UDP:
		return "-u " + p.service(k)
	case k.Protocol == director.SCTP:
		return "--sctp-service " + p.service(k)
	default:
		return "-t " + p.service(k)
	}
}

// serviceRule are the options of a service, each with a blank before it.
func serviceRule(s *director.ServiceState) (text string) {
	if s.Persistence.Timeout != 0 {
		text += fmt.Sprintf(" -p %d", s.Persistence.Timeout/time.Second)
		if mask := Netmask(s); mask != "" {
			text += " -M " + mask
		}
		if s.Persistence.Engine != director.NoEngine {
			text += " --pe " + s.Persistence.Engine.String()
		}
	}
	if s.OnePacket {
		text += " -o"
	}
	if s.Flags != "" {
		text += " -b " + s.Flags
	}
	return text
}

// methodRule is the flag of a method. ipvsadm has none for fullnat, which is nat to it, nor for local,
// which IPVS finds out by the address.
func methodRule(m director.Method) string {
	switch m {
	case director.NAT, director.FullNAT:
		return "-m"
	case director.Tunnel:
		return "-i"
	default:
		return "-g"
	}
}

func tunnelRule(r *director.RealState) string {
	if r.Method != director.Tunnel {
		return ""
	}
	if r.Tunnel == nil || r.Tunnel.Type == director.IPIP {
		return " --tun-type ipip"
	}
	text := " --tun-type " + r.Tunnel.Type.String()
	if r.Tunnel.Type == director.GUE {
		text += fmt.Sprintf(" --tun-port %d", r.Tunnel.Port)
	}
	if r.Tunnel.Checksum {
		return text + " --tun-csum"
	}
	return text + " --tun-nocsum"
}
