// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"strconv"
)

const networkdDir = "/etc/systemd/network/"

// networkd writes systemd.netdev(5) and systemd.network(5) files.
func (s *script) networkd() error {
	if err := errors.Join(s.knowRoutes(), s.knowTunnels()); err != nil {
		return err
	}
	s.inOrder(s.sysctlFile, s.networkdFiles)
	return nil
}

func (s *script) networkdFiles() {
	if len(s.plan.Ports) > 0 {
		s.paragraph("The modules of GUE.")
		s.file("/etc/modules-load.d/"+s.name()+".conf", "fou", "fou6")
		if !s.remove {
			s.line("modprobe -q fou || :\nmodprobe -q fou6 || :")
		}
	}
	if len(s.plan.Addresses) > 0 {
		s.paragraph("The virtual addresses, and what they are on.")
	}
	for _, p := range s.plan.Ports {
		s.networkdPort(p)
	}
	for _, t := range s.plan.Tunnels {
		s.networkdTunnel(t)
	}
	s.networkdAddresses()
	for _, r := range s.plan.Routes {
		s.paragraph("%s", r.why(s.remove))
		s.networkdRoute(r)
	}
	s.line("networkctl reload")
	if s.remove { // what networkd leaves when its files are gone
		s.inOrder(s.shellPorts, s.shellTunnels, s.shellAddresses)
	}
}

// networkdPort is a netdev, though no device comes of it.
func (s *script) networkdPort(p Port) {
	name, local := fmt.Sprintf("dir-gue%d", p.Number), s.plan.end(p.V6)
	if p.V6 {
		name += "-v6"
	}
	s.file(networkdDir+"50-"+name+".netdev",
		"[NetDev]", "Name="+name, "Kind=fou", "", "[FooOverUDP]", "Encapsulation=GenericUDPEncapsulation",
		"Port="+strconv.Itoa(int(p.Number)), "Local="+local)
}

// end is the tunnels' end of a family.
func (p Plan) end(v6 bool) string {
	for _, t := range p.Tunnels {
		if t.Local.Is6() == v6 {
			return t.Local.String()
		}
	}
	return ""
}

func (s *script) networkdTunnel(t Tunnel) {
	lines := []string{"[NetDev]", "Name=" + t.Name, "Kind=" + t.Kind, "", "[Tunnel]", "Independent=yes", "Local=" + t.Local.String(), "Remote=any"}
	if t.Kind == "ip6tnl" {
		lines = append(lines, "Mode=any")
	}
	s.file(networkdDir+"50-"+t.Name+".netdev", lines...)
}

// networkdAddresses writes one file for each device.
func (s *script) networkdAddresses() {
	var devices []string
	for _, a := range s.plan.Addresses {
		devices = union(devices, []string{a.Device})
	}
	for _, device := range devices {
		lines := []string{"[Match]", "Name=" + device}
		for _, a := range s.plan.Addresses {
			if a.Device != device {
				continue
			}
			lines = append(lines, "", "[Address]", "Address="+a.Prefix().String())
			if a.Addr.Is6() {
				lines = append(lines, "DuplicateAddressDetection=none")
			}
		}
		s.file(networkdDir+"50-director-"+device+".network", lines...)
	}
}

// networkdRoute adds to the file that the interface has, whose name only networkd knows.
func (s *script) networkdRoute(r Route) {
	s.line("file=$(networkctl status %s | sed -n 's|^ *Network File: .*/||p')", r.Device)
	s.line(": \"${file:?%s has no .network file of systemd-networkd}\"", r.Device)
	dir := fmt.Sprintf("\"%s$file.d\"", networkdDir)
	if !s.remove {
		s.line("mkdir -p %s", dir)
	}
	family := "4"
	if r.V6 {
		family = "6"
	}
	lines := []string{"[Route]", "Gateway=" + r.Via.String()}
	if r.AdvMSS > 0 {
		lines = append(lines, fmt.Sprintf("TCPAdvertisedMaximumSegmentSize=%d", r.AdvMSS))
	}
	s.file(dir+"/50-"+s.name()+family+".conf", lines...)
}
