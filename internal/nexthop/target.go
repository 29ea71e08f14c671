// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// A target is an address that somebody wants to reach.
type target struct {
	addr netip.Addr // as given: the key in the snapshot
	dst  netip.Addr // to look up: unmapped, without zone

	asked bool   // route, or fault, is valid
	route route  // the kernel's last answer
	last  link   // what the last route that could be used led over; via's link if there is one
	fault string // why the kernel was not asked
	stale bool   // waits in the list of look-ups
	gone  bool   // no longer wanted

	via *neighbor // who its frames are sent to; nil: none
	hop Hop
}

func newTarget(a netip.Addr) *target {
	return &target{addr: a, dst: a.Unmap().WithZone("")}
}

// query gives what to ask the kernel, or says why asking makes no sense.
func (t *target) query(links linkTable) (q query, fault string) {
	q.dst = t.dst
	zone := t.addr.Zone()
	switch {
	case !t.dst.IsValid():
		return q, "not an address"
	case t.dst.IsUnspecified(), t.dst.IsMulticast():
		return q, fmt.Sprintf("%s is not a unicast address", t.addr)
	case zone == "" && t.dst.Is6() && t.dst.IsLinkLocalUnicast():
		return q, fmt.Sprintf("link-local address %s needs a zone", t.addr)
	case zone != "":
		l, ok := links.named(zone)
		if !ok {
			return q, fmt.Sprintf("no link named %s", zone)
		}
		q.link = l.index
	}
	return q, ""
}

// next gives the neighbour that the target needs; ok is false when it needs none.
func (t *target) next() (k neighKey, ok bool) {
	if !t.asked || t.fault != "" || t.route.own() || t.route.fault(t.dst) != "" {
		return k, false
	}
	return t.route.next(t.dst), true
}

// A targetList has targets in the order of their dst.
type targetList []*target

// makeTargets gives a list of the addresses, each once, that takes over the known targets.
func makeTargets(addrs []netip.Addr, known map[netip.Addr]*target) (targetList, map[netip.Addr]*target) {
	list := make(targetList, 0, len(addrs))
	index := make(map[netip.Addr]*target, len(addrs))
	for _, a := range addrs {
		if index[a] != nil {
			continue
		}
		t := known[a]
		if t == nil {
			t = newTarget(a)
		}
		index[a] = t
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *target) int {
		return cmp.Or(a.dst.Compare(b.dst), cmp.Compare(a.addr.Zone(), b.addr.Zone()))
	})
	return list, index
}

// within gives the targets that a prefix covers.
func (l targetList) within(p netip.Prefix) iter.Seq[*target] {
	return func(yield func(*target) bool) {
		start, _ := slices.BinarySearchFunc(l, p.Masked().Addr(), func(t *target, a netip.Addr) int {
			return t.dst.Compare(a)
		})
		for _, t := range l[start:] {
			if !p.Contains(t.dst) || !yield(t) {
				return
			}
		}
	}
}
