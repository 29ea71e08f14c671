// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// MarkSource is who gives packets the mark that a service stands for.
type MarkSource uint8

// The sources of marks.
const (
	MarkRules    MarkSource = iota // rules of the director's own
	MarkFirewall                   // nftables or iptables, in prerouting
)

var markSourceNames = names[MarkSource]{{MarkRules, "rules"}, {MarkFirewall, "firewall"}}

// String returns the name that configuration uses.
func (m MarkSource) String() string { return markSourceNames.format(m) }

// MarshalText implements encoding.TextMarshaler.
func (m MarkSource) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known sources.
func (m *MarkSource) UnmarshalText(text []byte) (err error) {
	*m, err = markSourceNames.parse("mark source", text)
	return err
}

// validateSource looks at what a service that the firewall marks packets of needs.
func (s *Service) validateSource() (errs []error) {
	if s.MarkSource != MarkFirewall {
		if len(s.VIPs) > 0 {
			errs = append(errs, errors.New("virtual addresses are named where the firewall marks their packets only"))
		}
		return errs
	}
	if s.Key.Mark == 0 {
		return append(errs, errors.New("only a firewall mark can be the firewall's"))
	}
	if len(s.VIPs) == 0 {
		errs = append(errs, errors.New("the virtual addresses are not named whose packets the firewall marks"))
	}
	for _, a := range s.VIPs {
		if fault := addressFault(a); fault != "" {
			errs = append(errs, fmt.Errorf("virtual address %s: %s", a, fault))
		} else if a.Is4() != s.Key.Addr.Is4() {
			errs = append(errs, fmt.Errorf("virtual address %s is of another address family than the service", a))
		}
	}
	for _, r := range s.Reals {
		if r.Method == Local {
			errs = append(errs, fmt.Errorf("real server %s: method local needs the virtual address on this host, and marks of the firewall need it elsewhere", r.Key))
		}
	}
	return errs
}

// FirewallMarked says that the firewall marks the service's packets.
func (s *Service) FirewallMarked() bool { return s.Key.Mark != 0 && s.MarkSource == MarkFirewall }

// Addresses are the virtual addresses that the service is known to have. Those of a mark that rules set are what
// these rules name as single addresses.
func (s *Service) Addresses(rules []MarkRule) []netip.Addr {
	if s.Key.Mark == 0 {
		return []netip.Addr{s.Key.Addr}
	}
	list := slices.Clone(s.VIPs)
	for _, r := range rules {
		if r.Mark == s.Key.Mark && r.Dest.IsSingleIP() && r.Dest.Addr().Is4() == s.Key.Addr.Is4() && s.MarkSource != MarkFirewall {
			list = append(list, r.Dest.Addr())
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// localVIPs are virtual addresses whose packets never come to be routed by their mark: this
// host has them, so they are delivered here first.
func (d *Director) localVIPs(services []Service) (local []netip.Addr, err error) {
	if d.ownAddresses == nil || !slices.ContainsFunc(services, func(s Service) bool { return s.MarkSource == MarkFirewall }) {
		return nil, nil
	}
	own, err := d.ownAddresses()
	if err != nil {
		return nil, err
	}
	for i := range services {
		for _, a := range services[i].VIPs {
			if slices.ContainsFunc(own, func(o netip.Addr) bool { return o.Unmap().WithZone("") == a }) {
				local = append(local, a)
			}
		}
	}
	slices.SortFunc(local, netip.Addr.Compare)
	return slices.Compact(local), nil
}

// wayOutOfLocal says why a virtual address must not be local, and what to do.
const wayOutOfLocal = "is an address of this host, so its packets are delivered here before their mark is looked at: " +
	"remove it from its interface and have the director answer for it (addresses: mode: answer), or write the rules under marks"

// checkLocal refuses services whose packets would never come.
func (d *Director) checkLocal(want []Service) error {
	local, err := d.localVIPs(want)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range local {
		errs = append(errs, fmt.Errorf("virtual address %s %s", a, wayOutOfLocal))
	}
	return errors.Join(errs...)
}

// followLocal warns when somebody gives this host a virtual address later.
func (d *Director) followLocal() {
	var services []Service
	for _, s := range d.services {
		if s.want.MarkSource == MarkFirewall {
			services = append(services, s.want)
		}
	}
	local, err := d.localVIPs(services)
	if err != nil || slices.Equal(local, d.local) {
		return
	}
	for _, a := range local {
		if !slices.Contains(d.local, a) {
			d.log.Warn("the firewall's marks are in vain: virtual address "+a.String()+" "+wayOutOfLocal,
				"event", "vip_local", "address", a.String())
		}
	}
	d.local = local
}

// tellDoor lets the program know packets with the firewall's marks, and health checks as a client's, by the
// interfaces that they come in by.
func (d *Director) tellDoor() {
	d.tables.SetDoor(d.indexOf(d.door))
	d.tables.SetProbe(d.indexOf(d.probes))
}

// indexOf is that of an interface that the program is on; 0: it is not.
func (d *Director) indexOf(name string) int {
	for i := range d.interfaces {
		if a := &d.interfaces[i]; a.want.Name == name && a.on != nil {
			return a.device.Index
		}
	}
	return 0
}

// FirewallMarks are those of the services that the firewall marks packets of.
func (w *Desired) FirewallMarks() (v4, v6 []uint32) {
	for i := range w.Services {
		switch s := &w.Services[i]; {
		case s.MarkSource != MarkFirewall:
		case s.Key.Addr.Is4():
			v4 = append(v4, s.Key.Mark)
		default:
			v6 = append(v6, s.Key.Mark)
		}
	}
	return v4, v6
}
