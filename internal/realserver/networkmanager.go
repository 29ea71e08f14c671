// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"strings"
)

// nmMetric is that of a default route that wins over what DHCP brings, 100 and more.
const nmMetric = 50

// networkManager makes connections with nmcli(1). Those of lo need NetworkManager 1.42.
func (s *script) networkManager() error {
	if err := errors.Join(s.knowRoutes(), s.knowTunnels()); err != nil {
		return err
	}
	if len(s.plan.Ports) > 0 {
		return errors.New("it has no receive port for GUE: use ipip or gre, or another --for")
	}
	for _, t := range s.plan.Tunnels {
		if t.Kind == "ip6tnl" && t.Inner4 && t.Inner6 {
			return errors.New("its tunnel between IPv6 addresses carries one family: use gre, or virtual addresses of one family")
		}
	}
	s.inOrder(s.sysctlFile, s.nmConnections)
	return nil
}

func (s *script) nmConnections() {
	for _, t := range s.plan.Tunnels {
		s.nmConnection(t.Name, fmt.Sprintf("type ip-tunnel ip-tunnel.mode %s ip-tunnel.local %s ip-tunnel.remote %s",
			nmMode(t), t.Local, nmAnybody(t)))
	}
	if s.plan.on(loopback) {
		s.nmConnection(loopback, "type loopback")
	}
	for _, r := range s.plan.Routes {
		s.paragraph("%s", r.why(s.remove))
		s.nmRoute(r)
	}
}

// on tells whether a device has addresses of the plan.
func (p Plan) on(device string) bool {
	for _, a := range p.Addresses {
		if a.Device == device {
			return true
		}
	}
	return false
}

// nmMode is what NetworkManager calls a kind of tunnel.
func nmMode(t Tunnel) string {
	switch {
	case t.Kind != "ip6tnl":
		return t.Kind
	case t.Inner6:
		return "ip6ip6"
	default:
		return "ipip6"
	}
}

// nmAnybody is the other end of a tunnel that takes packets from everybody; it may not be left out.
func nmAnybody(t Tunnel) string {
	if t.Local.Is6() {
		return "::"
	}
	return "0.0.0.0"
}

// nmConnection makes the connection of a device anew, with the device's addresses.
func (s *script) nmConnection(device, settings string) {
	name := "director-" + device
	s.paragraph("The virtual addresses on %s.", device)
	s.line("nmcli connection delete %s >/dev/null 2>&1 || :", name)
	if s.remove {
		return
	}
	s.line("nmcli connection add con-name %s ifname %s %s%s", name, device, settings, s.nmAddresses(device))
	s.line("nmcli connection up %s", name)
}

// nmAddresses are the settings for a device's addresses. NetworkManager gives lo its own ones in any
// case.
func (s *script) nmAddresses(device string) (settings string) {
	var four, six []string
	for _, a := range s.plan.Addresses {
		switch {
		case a.Device != device:
		case a.Addr.Is4():
			four = append(four, a.Prefix().String())
		default:
			six = append(six, a.Prefix().String())
		}
	}
	for _, family := range []struct {
		name string
		list []string
	}{{"ipv4", four}, {"ipv6", six}} {
		switch {
		case len(family.list) > 0:
			settings += fmt.Sprintf(" %s.method manual %s.addresses %s", family.name, family.name, strings.Join(family.list, ","))
		case device != loopback:
			settings += fmt.Sprintf(" %s.method disabled", family.name)
		}
	}
	return settings
}

// nmRoute adds a default route to the connection that the interface has.
func (s *script) nmRoute(r Route) {
	family, dst, sign := "ipv4", "0.0.0.0/0", "+"
	if r.V6 {
		family, dst = "ipv6", "::/0"
	}
	if s.remove {
		sign = "-"
	}
	mss := ""
	if r.AdvMSS > 0 {
		mss = fmt.Sprintf(" advmss=%d", r.AdvMSS)
	}
	s.line("connection=$(nmcli -g GENERAL.CONNECTION device show %s)", r.Device)
	s.line(": \"${connection:?%s has no connection of NetworkManager}\"", r.Device)
	s.line("nmcli connection modify \"$connection\" %s%s.routes '%s %s %d%s'", sign, family, dst, r.Via, nmMetric, mss)
	s.line("nmcli device reapply %s", r.Device)
}
