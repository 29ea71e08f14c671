// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// check tells what keeps this host from what the plan says.
func (k *kernel) check(p Plan, remove bool) error {
	all, err := k.addresses()
	if err != nil {
		return err
	}
	var errs []error
	if !remove {
		errs = append(errs, placesFault(p, all), ownFault(p, all))
	}
	for _, r := range p.Routes {
		if r.AdvMSS == 0 && !remove {
			errs = append(errs, k.onLinkFault(r))
		}
	}
	return errors.Join(append(errs, k.devicesFault(p))...)
}

// placesFault tells of virtual addresses that this host has on the wire.
func placesFault(p Plan, all []Address) error {
	var errs []error
	virtual := p.Virtual()
	others := slices.ContainsFunc(all, func(a Address) bool {
		return !a.Addr.IsLoopback() && !a.Addr.IsLinkLocalUnicast() && !slices.Contains(virtual, a.Addr)
	})
	for _, want := range p.Addresses {
		for _, is := range all {
			switch {
			case is.Addr != want.Addr || slices.Contains(p.Addresses, is):
			case !others:
				errs = append(errs, fmt.Errorf("%s is this host's only address, on %s: the director could not reach it by another", is.Addr, is.Device))
			default:
				errs = append(errs, fmt.Errorf("%s is on %s, where this host answers for it: take it off (ip address del) first", is.Addr, is.Device))
			}
		}
	}
	return errors.Join(errs...)
}

// ownFault tells of tunnels whose end is no address of this host.
func ownFault(p Plan, all []Address) error {
	for _, t := range p.Tunnels {
		if !slices.ContainsFunc(all, func(a Address) bool { return a.Addr == t.Local }) {
			return fmt.Errorf("own address %s is none of this host (it has %s)", t.Local, addressNames(all))
		}
	}
	return nil
}

func addressNames(all []Address) string {
	var names []string
	for _, a := range all {
		if !a.Addr.IsLoopback() && !a.Addr.IsLinkLocalUnicast() {
			names = append(names, a.Addr.String())
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// onLinkFault tells of a director that answers would not reach at once: by a router they would
// come around it.
func (k *kernel) onLinkFault(r Route) error {
	routes, err := k.nl.RouteGet(r.Via.AsSlice())
	if err != nil || len(routes) == 0 {
		return fmt.Errorf("no route to the director %s: %w", r.Via, err)
	}
	found := routes[0]
	if link, err := k.nl.LinkByIndex(found.LinkIndex); err == nil && link.Attrs().Name == loopback {
		return fmt.Errorf("director %s is this host itself", r.Via)
	}
	if via, ok := netip.AddrFromSlice(found.Gw); ok {
		return fmt.Errorf("director %s is in another network, behind %s: by nat, it must be a neighbour of its real servers", r.Via, via.Unmap())
	}
	return nil
}

// devicesFault tells of named interfaces that are not there.
func (k *kernel) devicesFault(p Plan) error {
	var named []string
	for _, s := range p.Sysctls {
		if device := s.device(); device != "all" {
			named = union(named, []string{device})
		}
	}
	for _, r := range p.Routes {
		if r.Device != "" {
			named = union(named, []string{r.Device})
		}
	}
	for _, name := range named {
		if _, err := k.nl.LinkByName(name); err != nil {
			return fmt.Errorf("interface %s: there is none (known: %s)", name, k.deviceNames())
		}
	}
	return nil
}

// device is whose parameter it is: net/ipv4/conf/DEVICE/name.
func (s Sysctl) device() string {
	parts := strings.Split(s.Path, "/")
	return parts[len(parts)-2]
}

func (k *kernel) deviceNames() string {
	links, err := k.nl.LinkList()
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, ", ")
}
