// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"net/netip"

	"xdplvs/director"
)

// checkVIPs looks at where the virtual addresses are.
func checkVIPs(f *Facts, r *Report) {
	for _, vip := range f.vips() {
		t := r.topic("vip", vip.String())
		l, a := f.holder(vip)
		near := f.network(vip)
		switch {
		case l != nil && a.Failed:
			t.fail(fmt.Sprintf("find it, then ip address del %s dev %s, and add it again", a.Prefix, l.Name), "%s is on %s, but unusable: another host has it (duplicate address detection)", vip, l.Name)
		case l != nil && a.Tentative:
			t.warn("wait, or add it with nodad", "%s is on %s, but not usable yet (duplicate address detection)", vip, l.Name)
		case l != nil && l.Loopback && near != nil && !f.answers(near, vip):
			t.warn(fmt.Sprintf("put it on %s", near.Name), "%s is on lo, and %s does not answer for it (arp_ignore)", vip, near.Name)
		case l != nil:
			t.ok("%s is on %s", vip, l.Name)
		case f.Config.Owned[vip] != director.AddressNone:
			t.ok("%s is what the director sees to (addresses: mode: %s)", vip, f.Config.Owned[vip])
		case near != nil && !f.claimed(vip):
			t.warn(fmt.Sprintf("ip address add %s dev %s, unless this is a standby", netip.PrefixFrom(vip, vip.BitLen()), near.Name),
				"%s is in the network of %s, but nobody answers for it", vip, near.Name)
		default:
			t.ok("%s is on no interface here: a router or another director brings its packets", vip)
		}
	}
}

// holder is the device that has an address.
func (f *Facts) holder(addr netip.Addr) (*Link, Address) {
	for i := range f.Links {
		for _, a := range f.Links[i].Addresses {
			if a.Prefix.Addr() == addr {
				return &f.Links[i], a
			}
		}
	}
	return nil, Address{}
}

// network is the attached device in whose network an address is, where somebody must answer for it.
func (f *Facts) network(addr netip.Addr) *Link {
	for _, l := range f.fronts() {
		for _, a := range l.Addresses {
			if a.Prefix.Bits() < addr.BitLen() && a.Prefix.Contains(addr) {
				return l
			}
		}
	}
	return nil
}

// answers tells whether this host answers on a device for an address that is on lo: by ARP it does,
// unless it is told not to; neighbour solicitations it never answers so.
func (f *Facts) answers(l *Link, addr netip.Addr) bool {
	return addr.Is4() && f.highest("ipv4", l.Name, "arp_ignore") == 0
}

// claimed tells whether some other host answers for an address.
func (f *Facts) claimed(addr netip.Addr) bool {
	for _, c := range f.Claims {
		if c.Addr == addr && f.ownMAC(c.MAC) == nil {
			return true
		}
	}
	return false
}

// ownMAC is the device of this host that has the MAC address.
func (f *Facts) ownMAC(mac [6]byte) *Link {
	l, _ := f.find(func(l *Link) bool { return l.Ethernet && l.MAC == mac })
	return l
}
