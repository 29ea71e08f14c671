// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// System is what configures a host's network.
type System string

// The systems that Render knows. Shell changes the running kernel only; the others write files
// that are read at each boot, and put them in force.
const (
	Shell          System = "shell"
	Networkd       System = "systemd-networkd"
	Ifupdown       System = "ifupdown"
	NetworkManager System = "NetworkManager"
)

// Systems are all of them.
var Systems = []System{Shell, Networkd, Ifupdown, NetworkManager}

// Render is a script for sh that makes a host what the plan says, or, to remove, no longer. Scripts
// can be run again without harm. An error tells what the system cannot be told.
func Render(p Plan, for_ System, remove bool) (string, error) {
	s := &script{plan: p, remove: remove}
	s.head(for_)
	err := map[System]func(*script) error{
		Shell: (*script).shell, Networkd: (*script).networkd, Ifupdown: (*script).ifupdown, NetworkManager: (*script).networkManager,
	}[for_](s)
	if err != nil {
		return "", fmt.Errorf("%s: %w", for_, err)
	}
	return s.b.String(), nil
}

// A script is written line by line.
type script struct {
	plan   Plan
	remove bool
	b      strings.Builder
}

func (s *script) line(format string, args ...any) { fmt.Fprintf(&s.b, format+"\n", args...) }

func (s *script) head(for_ System) {
	s.line("#!/bin/sh")
	what := "Makes this host %s"
	switch {
	case s.remove:
		what = "Makes this host %s no longer"
	case for_ == Shell:
		what += ", until the next boot"
	}
	s.line("# "+what+" (director realserver --for %s).", s.plan.Title(), for_)
	s.line("set -eu")
}

// paragraph begins a part of the script.
func (s *script) paragraph(format string, args ...any) { s.line("\n# "+format, args...) }

// name is a file's or a connection's, one for each set of methods.
func (s *script) name() string {
	name := "director"
	for _, m := range s.plan.Methods {
		name += "-" + m.String()
	}
	return name
}

// file writes a file, or takes it away.
func (s *script) file(path string, lines ...string) {
	if s.remove {
		s.line("rm -f %s", path)
		return
	}
	s.line("cat > %s <<'END'", path)
	s.lines(lines)
	s.line("END")
}

// sysctlFile keeps the parameters over a boot. Those of devices are set when the device appears, by
// systemd's and by Debian's udev rules.
func (s *script) sysctlFile() {
	var lines []string
	for _, c := range s.sysctls() {
		lines = append(lines, c.Name()+" = "+c.Value)
	}
	if len(lines) == 0 {
		return
	}
	s.paragraph("%s", s.sysctlWhy())
	s.file("/etc/sysctl.d/50-"+s.name()+".conf", lines...)
	s.setSysctls(s.plan.Sysctls)
}

// sysctls are the plan's and its devices'.
func (s *script) sysctls() []Sysctl {
	list := slices.Clone(s.plan.Sysctls)
	for _, t := range s.plan.Tunnels {
		if t.Inner4 {
			list = append(list, t.filter())
		}
	}
	return list
}

// setSysctls sets them, or sets them back where nothing else needs them.
func (s *script) setSysctls(list []Sysctl) {
	indent := ""
	if s.remove && len(s.plan.Addresses) > 0 {
		s.line("if [ -z \"$(ip -4 -o address show dev lo scope global)\" ]; then")
		defer s.line("fi")
		indent = "    "
	}
	for _, c := range list {
		value := c.Value
		if s.remove {
			value = c.Fresh
		}
		s.line("%ssysctl -qw %s=%s", indent, c.Name(), value)
	}
}

// inOrder makes the parts of a script, and when it removes, in the opposite order: the parameters that
// keep an address quiet come before it and go after it.
func (s *script) inOrder(parts ...func()) {
	if s.remove {
		slices.Reverse(parts)
	}
	for _, part := range parts {
		part()
	}
}

// shell does everything with iproute2.
func (s *script) shell() error {
	s.inOrder(s.shellSysctls, s.shellRest)
	return nil
}

func (s *script) shellRest() {
	s.inOrder(s.shellPorts, s.shellTunnels, s.shellAddresses, s.shellRoutes)
}

func (s *script) shellSysctls() {
	if len(s.plan.Sysctls) == 0 {
		return
	}
	s.paragraph("%s", s.sysctlWhy())
	s.setSysctls(s.plan.Sysctls)
}

func (s *script) sysctlWhy() string {
	switch {
	case s.remove && len(s.plan.Addresses) > 0:
		return "The kernel's own values again, unless other addresses on lo need these."
	case s.remove:
		return "The kernel's own values again."
	case len(s.plan.Addresses) > 0:
		return "Never answer ARP for a virtual address, nor ask with it as sender: before it is there."
	default:
		return "A redirect would lead answers around the director."
	}
}

func (s *script) shellPorts() {
	if len(s.plan.Ports) == 0 {
		return
	}
	s.paragraph("GUE: what comes to this UDP port is unwrapped and given to the tunnel's device.")
	for _, p := range s.plan.Ports {
		s.lines(s.portCommands(p))
	}
}

func (s *script) lines(all []string) {
	for _, l := range all {
		s.line("%s", l)
	}
}

func (s *script) portCommands(p Port) []string {
	ip, module := "ip", "fou"
	if p.V6 {
		ip, module = "ip -6", "fou6"
	}
	if s.remove {
		return []string{fmt.Sprintf("%s fou del port %d 2>/dev/null || :", ip, p.Number)}
	}
	return []string{
		"modprobe -q " + module + " || :",
		fmt.Sprintf("%s fou show | grep -q '^port %d ' || %s fou add port %d gue", ip, p.Number, ip, p.Number),
	}
}

func (s *script) shellTunnels() {
	if len(s.plan.Tunnels) == 0 {
		return
	}
	s.paragraph("The tunnel's end. Routes back to clients lead elsewhere, so rp_filter is loose (2).")
	for _, t := range s.plan.Tunnels {
		s.lines(s.tunnelCommands(t))
	}
}

func (s *script) tunnelCommands(t Tunnel) []string {
	if s.remove {
		return []string{fmt.Sprintf("ip link delete %s 2>/dev/null || :", t.Name)}
	}
	mode := ""
	if t.Kind == "ip6tnl" {
		mode = " mode any"
	}
	if t.Checksum {
		mode = " icsum"
	}
	lines := []string{
		fmt.Sprintf("ip link show dev %s >/dev/null 2>&1 || ip link add %s type %s%s local %s remote any", t.Name, t.Name, t.Kind, mode, t.Local),
		fmt.Sprintf("ip link set %s up", t.Name),
	}
	if c := t.filter(); t.Inner4 {
		lines = append(lines, fmt.Sprintf("sysctl -qw %s=%s", c.Name(), c.Value))
	}
	return lines
}

func (s *script) shellAddresses() {
	if len(s.plan.Addresses) == 0 {
		return
	}
	s.paragraph("The virtual addresses.")
	for _, a := range s.plan.Addresses {
		s.line("%s", s.addressCommand(a))
	}
}

func (s *script) addressCommand(a Address) string {
	if s.remove {
		return fmt.Sprintf("ip address del %s dev %s 2>/dev/null || :", a.Prefix(), a.Device)
	}
	nodad := ""
	if a.Addr.Is6() {
		nodad = " nodad"
	}
	return fmt.Sprintf("ip address replace %s dev %s%s", a.Prefix(), a.Device, nodad)
}

func (s *script) shellRoutes() {
	for _, r := range s.plan.Routes {
		s.paragraph("%s", r.why(s.remove))
		s.line("%s", s.routeCommand(r))
	}
}

// why explains a route.
func (r Route) why(remove bool) string {
	switch {
	case r.AdvMSS > 0 && remove:
		return "Segments of full size again."
	case r.AdvMSS > 0:
		return "Segments that leave room for the tunnel's headers: said to clients in each SYN-ACK."
	case remove:
		return "No route by the director. If there is no other default route, this host needs one again."
	default:
		return "Answers go back through the director."
	}
}

func (s *script) routeCommand(r Route) string {
	ip := "ip -4"
	if r.V6 {
		ip = "ip -6"
	}
	route := "default via " + r.Via.String()
	if r.Device != "" {
		route += " dev " + r.Device
	}
	mss := ""
	if r.AdvMSS > 0 && !s.remove {
		mss = fmt.Sprintf(" advmss %d", r.AdvMSS)
	}
	switch {
	case !r.Via.IsValid(): // what ip shows of a route, it takes back, but for these
		return fmt.Sprintf("%s route show default | sed 's/ \\(advmss\\|expires\\) [0-9a-z]*//g; s/ linkdown//' |\n"+
			"    while read -r route; do %s route change $route%s; done", ip, ip, mss)
	case s.remove && r.AdvMSS == 0:
		return fmt.Sprintf("%s route del %s 2>/dev/null || :", ip, route)
	default:
		return fmt.Sprintf("%s route replace %s%s", ip, route, mss)
	}
}

// errChecksum is for systems that cannot tell a device of GRE's checksums.
var errChecksum = errors.New("it has no setting for GRE's checksums: use gue, or another --for, or no checksum: true in the director's configuration")

// knowTunnels is an error if a device has what the system knows nothing of.
func (s *script) knowTunnels() error {
	if slices.ContainsFunc(s.plan.Tunnels, func(t Tunnel) bool { return t.Checksum }) {
		return errChecksum
	}
	return nil
}

// errGateway is for systems that write routes into files, and cannot change what is there.
var errGateway = errors.New("the segment size goes with the default route: give its router with --gateway")

// knowRoutes is an error unless it is known what the routes are.
func (s *script) knowRoutes() error {
	for _, r := range s.plan.Routes {
		if !r.Via.IsValid() {
			return errGateway
		}
		if r.Device == "" {
			return errors.New("the route's interface must be known: give it with --interface")
		}
	}
	return nil
}
