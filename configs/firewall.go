// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"net/netip"
	"slices"

	"xdplvs/director"
)

// checkNoMark finds what only a service of a firewall mark has.
func (b *serviceBuilder) checkNoMark() {
	if s := &b.written.markSource; s.given() {
		s.at.failf("the service is known by its address: only one of a firewall mark (key fwmark) has a mark_source")
	}
	if s := &b.written.vips; s.given() {
		s.at.failf("the service has an address: only one of a firewall mark (key fwmark) has vips")
	}
}

// vips are the virtual addresses whose packets the firewall marks.
func (b *serviceBuilder) vips() (addrs []netip.Addr) {
	s := b.written
	if !b.keyed || b.key.Mark == 0 || s.markSource.wrong() || s.vips.wrong() {
		return nil
	}
	if s.markSource.value != director.MarkFirewall {
		if s.vips.given() {
			s.vips.at.failf("the rules under marks say which addresses are marked: vips is for mark_source: firewall")
		}
		return nil
	}
	if s.vips.value.len() == 0 {
		b.at.failf("key vips is missing: with mark_source: firewall the service must name the virtual addresses whose packets are marked")
	}
	var seen registry[netip.Addr]
	for _, a := range s.vips.value.all {
		if a.ok && b.checkVIP(&a, &seen) {
			addrs = append(addrs, a.value)
		}
	}
	return addrs
}

func (b *serviceBuilder) checkVIP(a *setting[netip.Addr], seen *registry[netip.Addr]) bool {
	line, taken := seen.taken(a.value, a.at)
	switch fault := notUnicast(a.value); {
	case fault != "":
		a.at.failf("%s is %s and cannot be a virtual service's", a.value, fault)
	case a.value.Is4() != b.key.Addr.Is4():
		a.at.failf("%s is of another address family than the service (key family)", a.value)
	case taken:
		a.at.failf("address %s is already in line %d", a.value, line)
	default:
		return true
	}
	return false
}

// serviceAddresses are the virtual addresses, in order: those of services, those that the firewall marks
// packets of (marked), and those that marking rules name.
func (b *builder) serviceAddresses() (all []string, marked map[netip.Addr]bool) {
	marked = map[netip.Addr]bool{}
	for _, s := range b.config.Desired.Services {
		if s.Key.Mark == 0 {
			all = append(all, s.Key.Addr.String())
		}
		for _, a := range s.VIPs {
			marked[a] = true
			all = append(all, a.String())
		}
	}
	for _, m := range b.config.Desired.Marks {
		if m.Dest.IsSingleIP() {
			all = append(all, m.Dest.Addr().String())
		}
	}
	slices.Sort(all)
	return slices.Compact(all), marked
}

// checkMarked: what is local is delivered before marks are looked at.
func (b *ownershipBuilder) checkMarked(o *ownership) {
	if o.mode.value == director.AddressInterface && b.marked[o.address.value] {
		o.mode.at.failf("on an interface of this host, packets to %s would be delivered before the firewall's mark is looked at "+
			"(mark_source: firewall): use mode answer", o.address.value)
	}
}
