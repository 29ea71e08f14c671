// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/programs"
)

// dns is a farm of name servers.
var dns = Use{
	Name:    "dns",
	Summary: "name servers over UDP, each query scheduled by itself, and TCP",
	Methods: []director.Method{director.DirectRouting, director.Tunnel},
	Reals:   3,
	Tell:    tellDNS,
}

// zoneText is the zone; who tells which server has answered.
const zoneText = `@ 60 IN SOA ns hostmaster 1 3600 600 86400 60
@ 60 IN NS ns
ns 60 IN A 192.0.2.10
who 0 IN TXT "$name"
`

// startNSD starts a name server, which listens at addresses by their name: answers from a socket of all addresses would not
// come from the one that was asked.
func (s *Stage) startNSD(r *Real) (*programs.Process, error) {
	var further strings.Builder
	for _, a := range []netip.Addr{r.V4, r.V6, VIP4, VIP6} {
		fmt.Fprintf(&further, "  ip-address: %v\n", a)
	}
	dir, err := s.directory(r)
	if err != nil {
		return nil, err
	}
	server, err := programs.NewNSD(dir, "example.org", strings.ReplaceAll(zoneText, "$name", r.Name()), further.String())
	if err != nil {
		return nil, err
	}
	return s.serve(r, server)
}

func tellDNS(ctx context.Context, s *Stage) error {
	var servers []*programs.Process
	for _, r := range s.Reals {
		p, err := s.startNSD(r)
		if err != nil {
			return err
		}
		servers = append(servers, p)
	}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	for _, service := range []string{"dns-udp", "dns-tcp", "dns-udp6", "dns-tcp6"} {
		if err := s.AwaitUsable(ctx, service, s.Addrs(s.vipOf(service), 0, 1, 2)...); err != nil {
			return err
		}
	}
	s.Screen.Step("One client asks, from one port", "A resolver behind a firewall may use few ports. Each query is scheduled by itself.")
	if err := s.eachVIP(func(vip netip.Addr) error { return s.wantShares(ctx, vip, 30, []int{10, 10, 10}) }); err != nil {
		return err
	}
	s.Screen.Step("The same over TCP", "Each connection is scheduled.")
	if err := s.eachVIP(func(vip netip.Addr) error { return s.wantShares(ctx, vip, 9, []int{3, 3, 3}, "+tcp") }); err != nil {
		return err
	}
	if err := s.tellLossOfNSD(ctx, servers[1]); err != nil {
		return err
	}
	return s.Show(ctx, "stats", "--verdicts")
}

// tellLossOfNSD kills a server: whoever asks again is answered by another one at once, and soon nobody has to.
func (s *Stage) tellLossOfNSD(ctx context.Context, lost *programs.Process) error {
	s.Screen.Step("kill -9 of the name server on rs2", "Until the checks have found out a query may be lost. Who asks again is answered by another server.")
	lost.Kill()
	err := s.eachVIP(func(vip netip.Addr) error {
		answers, err := s.ask(ctx, vip, 10, "+tries=4", "+time=1")
		if err == nil && len(answers) != 10 {
			err = fmt.Errorf("%d of 10 questions to %v are answered", len(answers), vip)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.Screen.Step("rs2 is out", "No query is lost.")
	for _, service := range []string{"dns-udp", "dns-udp6"} {
		if err := s.AwaitUsable(ctx, service, s.Addrs(s.vipOf(service), 0, 2)...); err != nil {
			return err
		}
	}
	if err := s.eachVIP(func(vip netip.Addr) error { return s.wantShares(ctx, vip, 20, []int{10, 0, 10}) }); err != nil {
		return err
	}
	s.Screen.Step("rs2 is started again", "It gets its share.")
	if _, err := s.startNSD(s.Reals[1]); err != nil {
		return err
	}
	for _, service := range []string{"dns-udp", "dns-udp6"} {
		if err := s.AwaitUsable(ctx, service, s.Addrs(s.vipOf(service), 0, 1, 2)...); err != nil {
			return err
		}
	}
	return s.eachVIP(func(vip netip.Addr) error { return s.wantShares(ctx, vip, 30, []int{10, 10, 10}) })
}

// ask asks for who.example.org so many times and gives the answers in order. By UDP all come from one port.
func (s *Stage) ask(ctx context.Context, vip netip.Addr, n int, options ...string) ([]string, error) {
	questions := filepath.Join(s.Dir, "questions")
	if err := programs.Write(questions, strings.Repeat("who.example.org TXT\n", n)); err != nil {
		return nil, err
	}
	args := []string{"@" + vip.String(), "+short", "-f", questions}
	if !slices.Contains(options, "+tcp") {
		args = append(args, "-b", s.clientOf(vip).String()+"#40053")
	}
	out, err := s.Client.Run(ctx, "dig", append(args, options...)...)
	if err != nil {
		return nil, err
	}
	var answers []string
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), `"`); ok { // comments tell what was not answered
			answers = append(answers, strings.TrimSuffix(name, `"`))
		}
	}
	return answers, nil
}

// wantShares asks, once each, and fails unless the real servers answer so many questions each.
func (s *Stage) wantShares(ctx context.Context, vip netip.Addr, n int, want []int, options ...string) error {
	answers, err := s.ask(ctx, vip, n, append(options, "+tries=1", "+time=5")...)
	if err != nil {
		return err
	}
	shares := make([]int, len(s.Reals))
	for i, r := range s.Reals {
		for _, name := range answers {
			if name == r.Name() {
				shares[i]++
			}
		}
	}
	s.Screen.Block(fmt.Sprintf("%d questions to %v, answered by rs1, rs2, rs3: %v", n, vip, shares))
	if !slices.Equal(shares, want) {
		return fmt.Errorf("of %d questions to %v the real servers answered %v, want %v", n, vip, shares, want)
	}
	return nil
}
