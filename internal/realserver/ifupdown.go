// SPDX-License-Identifier: Apache-2.0

package realserver

// ifupdown writes a file of interfaces(5). An interface may be described in several places, which
// all count; the file is read where /etc/network/interfaces has "source /etc/network/interfaces.d/*",
// as Debian's has.
func (s *script) ifupdown() error {
	if err := s.knowRoutes(); err != nil {
		return err
	}
	s.inOrder(s.sysctlFile, s.ifupdownFile, s.shellRest)
	return nil
}

// ifupdownFile is read at boot; what follows it in the script does the same at once.
func (s *script) ifupdownFile() {
	var lines []string
	for _, t := range s.plan.Tunnels {
		lines = append(lines, s.tunnelStanza(t)...)
	}
	for _, a := range s.plan.Addresses {
		if a.Device == loopback {
			lines = append(lines, stanza(a)...)
		}
	}
	for _, r := range s.plan.Routes {
		lines = append(lines, s.routeStanza(r)...)
	}
	s.paragraph("Read at each boot.")
	s.file("/etc/network/interfaces.d/"+s.name(), lines...)
}

// stanza is an address of a device that is there.
func stanza(a Address) []string {
	if a.Addr.Is4() {
		return []string{"iface " + a.Device + " inet static", "    address " + a.Prefix().String()}
	}
	return []string{"iface " + a.Device + " inet6 static", "    address " + a.Prefix().String(), "    dad-attempts 0"}
}

// tunnelStanza makes a tunnel's device and gives it its addresses.
func (s *script) tunnelStanza(t Tunnel) []string {
	lines := []string{"auto " + t.Name, "iface " + t.Name + " inet manual"}
	for _, p := range s.plan.Ports {
		if p.V6 == t.Local.Is6() {
			lines = append(lines, each("    pre-up ", s.portCommands(p))...)
		}
	}
	commands := s.tunnelCommands(t)
	lines = append(append(lines, "    pre-up "+commands[0]), each("    up ", commands[1:])...)
	for _, a := range s.plan.Addresses {
		if a.Device == t.Name {
			lines = append(lines, "    up "+s.addressCommand(a))
		}
	}
	return append(lines, "    post-down ip link delete "+t.Name)
}

// each puts something before each line.
func each(before string, lines []string) (all []string) {
	for _, l := range lines {
		all = append(all, before+l)
	}
	return all
}

// routeStanza changes the default route when the interface is up.
func (s *script) routeStanza(r Route) []string {
	family := "inet"
	if r.V6 {
		family = "inet6"
	}
	return []string{"iface " + r.Device + " " + family + " manual", "    up " + s.routeCommand(r)}
}
