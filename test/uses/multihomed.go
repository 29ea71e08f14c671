// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// multihomed is a site with an address on each of two providers' networks.
var multihomed = Use{
	Name:    "multihomed",
	Summary: "two virtual addresses on two networks, one farm",
	Methods: []director.Method{director.DirectRouting, director.Tunnel, director.NAT, director.FullNAT},
	Reals:   3,
	Tell:    tellMultihomed,
}

// siteAddresses are the addresses of the site, by their families.
var siteAddresses = map[string][]netip.Addr{"site": {VIP4, virtual[2]}, "site6": {VIP6, virtual[3]}}

func tellMultihomed(ctx context.Context, s *Stage) error {
	webs, err := s.startWebs("0")
	if err != nil {
		return err
	}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	for _, service := range []string{"site", "site6"} {
		if err := s.tellBothWays(ctx, service, webs); err != nil {
			return fmt.Errorf("service %s: %w", service, err)
		}
	}
	return s.Show(ctx, "list")
}

// visitors are clients' addresses in the family of a service.
func (s *Stage) visitors(service string, n int) (list []netip.Addr, err error) {
	for i := range n {
		a := netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})
		if siteAddresses[service][0].Is6() {
			a = addr(fmt.Sprintf("2001:db8:c::%d", 10+i))
		}
		if err := s.Client.AddAddr("eth0", netip.PrefixFrom(a, networkBits(a))); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// tellBothWays has clients that come by both addresses, before and after their real server is gone.
func (s *Stage) tellBothWays(ctx context.Context, service string, webs []*web) error {
	addresses := siteAddresses[service]
	if err := s.AwaitUsable(ctx, service, s.Addrs(addresses[0], 0, 1, 2)...); err != nil {
		return err
	}
	s.Screen.Step("Clients come by both addresses: "+service, "Each finds one real server, by whatever address and port.")
	visitors, err := s.visitors(service, 6)
	if err != nil {
		return err
	}
	homes := map[netip.Addr]string{}
	for _, v := range visitors {
		if homes[v], err = s.homeOf(ctx, v, addresses); err != nil {
			return err
		}
	}
	if err := s.showHomes(homes, visitors); err != nil {
		return err
	}
	return s.tellLoss(ctx, service, webs, visitors, homes)
}

// homeOf asks by each address, by HTTP and HTTPS, and fails if not always the same real server answers.
func (s *Stage) homeOf(ctx context.Context, visitor netip.Addr, addresses []netip.Addr) (home string, err error) {
	for _, a := range addresses {
		for _, scheme := range []string{"http", "https"} {
			to := url(scheme, a, "/")
			name, client, err := whoAnswers(ctx, s.Client, to, visitor)
			switch {
			case err != nil:
				return "", err
			case home != "" && home != name:
				return "", fmt.Errorf("%s from %v is answered by %s, others by %s", to, visitor, name, home)
			case s.Method != director.FullNAT && client != visitor.String():
				return "", fmt.Errorf("%s saw the client %s, not %v", name, client, visitor)
			}
			home = name
		}
	}
	return home, nil
}

// showHomes shows who serves whom, and fails where not everybody serves somebody.
func (s *Stage) showHomes(homes map[netip.Addr]string, visitors []netip.Addr) error {
	var b strings.Builder
	for _, v := range visitors {
		fmt.Fprintf(&b, "%-16v %s\n", v, homes[v])
	}
	s.Screen.Block(b.String())
	for _, r := range s.Reals {
		if !slices.ContainsFunc(visitors, func(v netip.Addr) bool { return homes[v] == r.Name() }) {
			return fmt.Errorf("%s serves none of %d clients", r.Name(), len(visitors))
		}
	}
	return nil
}

// tellLoss kills the first visitor's real server: its clients move together, all others stay.
func (s *Stage) tellLoss(ctx context.Context, service string, webs []*web, visitors []netip.Addr, homes map[netip.Addr]string) error {
	lost := slices.IndexFunc(webs, func(w *web) bool { return w.real.Name() == homes[visitors[0]] })
	s.Screen.Step("kill -9 of nginx on "+webs[lost].real.Name(), "Its clients get another real server, the same one by both addresses; all others keep theirs.")
	webs[lost].Kill()
	left := slices.Delete([]int{0, 1, 2}, lost, lost+1)
	if err := s.AwaitUsable(ctx, service, s.Addrs(visitors[0], left...)...); err != nil {
		return err
	}
	for _, v := range visitors {
		before := homes[v]
		now, err := s.homeOf(ctx, v, siteAddresses[service])
		if err != nil {
			return err
		}
		if before != webs[lost].real.Name() && now != before {
			return fmt.Errorf("client %v of %s was moved to %s", v, before, now)
		}
		homes[v] = now
	}
	var err error
	webs[lost], err = s.startWeb(s.Reals[lost], "0")
	return err
}
