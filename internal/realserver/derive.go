// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// A way is how packets come to a real server.
type way struct {
	method director.Method
	tunnel director.TunnelOptions
}

// Derive makes Specs of what a configuration has of the real servers with the addresses own: one for
// each method and tunnel, in the order of Methods, with what base has of everything else. only restricts to
// some methods; none: all.
func Derive(services []director.Service, own []netip.Addr, base Spec, only ...director.Method) ([]Spec, error) {
	found, ways := map[way][]netip.Addr{}, []way{}
	for i := range services {
		for _, r := range services[i].Servers() {
			if slices.Contains(own, r.Key.Addr) {
				by := way{r.Method, r.Tunnel}
				found[by] = union(found[by], services[i].Addresses(nil))
				ways = union(ways, []way{by})
			}
		}
	}
	var specs []Spec
	for _, m := range Methods {
		for _, by := range ways {
			if by.method == m && (len(only) == 0 || slices.Contains(only, m)) {
				specs = append(specs, base.with(by, found[by], own))
			}
		}
	}
	if len(specs) == 0 {
		return nil, errors.New(nothingFor(services, own, ways))
	}
	return specs, nil
}

// encaps are the encapsulations as the director names them.
var encaps = map[director.TunnelType]Encap{director.IPIP: IPIP, director.GUE: GUE, director.GRE: GRE}

// with is a Spec for one way.
func (s Spec) with(by way, vips, own []netip.Addr) Spec {
	s.Method, s.Own = by.method, own
	if by.method == director.NAT { // which has no use for virtual addresses
		return s
	}
	s.VIPs = vips
	if by.method == director.Tunnel {
		s.Encap, s.Port = encaps[by.tunnel.Type], by.tunnel.Port
		s.Checksum = by.tunnel.Checksum && s.Encap == GRE
	}
	return s
}

// nothingFor says why nothing came of a configuration.
func nothingFor(services []director.Service, own []netip.Addr, ways []way) string {
	var names, methods []string
	for _, a := range own {
		names = append(names, a.String())
	}
	for _, by := range ways {
		methods = union(methods, []string{by.method.String()})
	}
	slices.Sort(methods)
	if who := strings.Join(names, ", "); len(methods) > 0 {
		return fmt.Sprintf("%s is a real server by %s only", who, strings.Join(methods, ", "))
	}
	return fmt.Sprintf("no service has the real server %s (known: %s)", strings.Join(names, ", "), realNames(services))
}

// maxNames bounds how many real servers a message names.
const maxNames = 10

func realNames(services []director.Service) string {
	var names []string
	for i := range services {
		for _, r := range services[i].Servers() {
			names = union(names, []string{r.Key.Addr.String()})
		}
	}
	if len(names) > maxNames {
		names = append(names[:maxNames], fmt.Sprintf("… %d more", len(names)-maxNames))
	}
	return strings.Join(names, ", ")
}
