// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"net/netip"
	"slices"
)

// An address is one of an interface's own.
type address struct {
	prefix netip.Prefix
	usable bool // as a source: not tentative (RFC 4862), not failed in duplicate detection
}

// An addressTable has the addresses by ifindex, in the kernel's order.
type addressTable map[int][]address

// An addressChange is what differs between two tables.
type addressChange struct {
	v4      map[int]bool // links with other IPv4 addresses
	revived bool         // some link has its first IPv4 addresses, or lost the last
	v6      bool         // there are other IPv6 addresses somewhere
}

// since compares with an earlier table.
func (t addressTable) since(old addressTable) addressChange {
	c := addressChange{v4: make(map[int]bool)}
	for _, tables := range [][2]addressTable{{t, old}, {old, t}} {
		for link, list := range tables[0] {
			is4, is6 := split(list)
			was4, was6 := split(tables[1][link])
			if !slices.Equal(is4, was4) {
				c.v4[link] = true
			}
			c.revived = c.revived || len(is4) == 0 != (len(was4) == 0)
			c.v6 = c.v6 || !slices.Equal(is6, was6)
		}
	}
	return c
}

// split separates the families.
func split(list []address) (v4, v6 []address) {
	for _, a := range list {
		if a.prefix.Addr().Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	return v4, v6
}

// has tells whether an address is one of the link's.
func (t addressTable) has(link int, a netip.Addr) bool {
	return slices.ContainsFunc(t[link], func(o address) bool { return o.prefix.Addr() == a })
}

// source chooses the address to ask for a neighbour from: one of its subnet, the preferred one
// first. It must not be a virtual address if that can be avoided: a real server of method dr has
// that too and would not answer itself.
func (t addressTable) source(k neighKey, prefer netip.Addr) (netip.Addr, error) {
	if k.addr.Is6() {
		return t.source6(k)
	}
	var best netip.Addr
	for _, a := range t[k.link] {
		if !a.prefix.Addr().Is4() || !a.usable {
			continue
		}
		if a.prefix.Contains(k.addr) && a.prefix.Bits() < 32 {
			if a.prefix.Addr() == prefer {
				return prefer, nil
			}
			if !best.IsValid() {
				best = a.prefix.Addr()
			}
		}
	}
	switch {
	case best.IsValid():
		return best, nil
	case prefer.Is4(): // an unnumbered interface, or a gateway that is declared "onlink"
		return prefer, nil
	}
	return netip.IPv4Unspecified(), nil
}

// source6 chooses a link-local address: every IPv6 interface has one, and no real server has ours.
func (t addressTable) source6(k neighKey) (netip.Addr, error) {
	var other netip.Addr
	for _, a := range t[k.link] {
		switch addr := a.prefix.Addr(); {
		case !addr.Is6() || !a.usable:
		case addr.IsLinkLocalUnicast():
			return addr, nil
		case a.prefix.Contains(k.addr):
			other = addr
		}
	}
	if !other.IsValid() {
		return other, errors.New("no usable IPv6 address to ask from")
	}
	return other, nil
}
