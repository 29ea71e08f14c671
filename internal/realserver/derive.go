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

// Derive makes Specs of what a configuration has of the real servers with the addresses own: one for
// each method, in the order of Methods, with what base has of everything else. only restricts to
// some methods; none: all.
func Derive(services []director.Service, own []netip.Addr, base Spec, only ...director.Method) ([]Spec, error) {
	found := map[director.Method][]netip.Addr{}
	for i := range services {
		for _, r := range services[i].Servers() {
			if slices.Contains(own, r.Key.Addr) {
				found[r.Method] = union(found[r.Method], []netip.Addr{services[i].Key.Addr})
			}
		}
	}
	var specs []Spec
	for _, m := range Methods {
		if vips := found[m]; len(vips) > 0 && (len(only) == 0 || slices.Contains(only, m)) {
			specs = append(specs, base.with(m, vips, own))
		}
	}
	if len(specs) == 0 {
		return nil, errors.New(nothingFor(services, own, found))
	}
	return specs, nil
}

// with is a Spec for one method.
func (s Spec) with(m director.Method, vips, own []netip.Addr) Spec {
	s.Method, s.Own = m, own
	if m == director.NAT { // which has no use for virtual addresses
		return s
	}
	s.VIPs = vips
	return s
}

// nothingFor says why nothing came of a configuration.
func nothingFor(services []director.Service, own []netip.Addr, found map[director.Method][]netip.Addr) string {
	var names, methods []string
	for _, a := range own {
		names = append(names, a.String())
	}
	for m := range found {
		methods = append(methods, m.String())
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
