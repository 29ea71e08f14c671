// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/nexthop"
)

// checkPaths looks at the ways to the real servers.
func checkPaths(f *Facts, r *Report) {
	if f.HopsError != "" {
		r.topic("route", "").fail("", "routes and neighbours cannot be found out: %s", f.HopsError)
		return
	}
	reached, good := f.reached(), 0
	for _, real := range reached {
		if checkWay(f, real, f.Hops[real.addr], r) {
			good++
		}
	}
	if good > 0 {
		r.topic("route", "").ok("%s of %d can be reached, and answer", plural(good, "real server"), len(reached))
	}
	for _, l := range f.targets() {
		checkTarget(f, l, r)
	}
	checkRoom(f, r)
}

// checkWay is true when nothing is wrong.
func checkWay(f *Facts, real *realServer, hop nexthop.Hop, r *Report) bool {
	t := r.topic("route", real.addr.String())
	behind := hop.Gateway.IsValid() && hop.Gateway.WithZone("") != real.addr
	switch {
	case hop.Local:
		t.fail("remove it, or method: local", "%s is this host itself", real)
	case !hop.Resolved:
		r.topic(unresolvedCheck(hop), real.addr.String()).fail(unresolvedAdvice(hop), "%s cannot be reached: %s", real, hop.Reason)
	case behind && real.by(director.DirectRouting):
		t.fail("use tun or nat, or put both into one network", "%s is behind the router %s: by dr, packets would go to that", real, hop.Gateway)
	case real.by(director.NAT) && !f.holds(f.way(hop)...):
		name := f.routedName(hop)
		t.fail("add "+name+" to interfaces", "%s is by nat behind %s, which the director is not attached to: its answers stay as they are", real, name)
	case behind && real.by(director.NAT):
		t.warn("see that its default route is the director", "%s is by nat behind the router %s: its answers must come back through the director", real, hop.Gateway)
	case f.onlyVirtual(real, hop):
		r.topic("source", real.addr.String()).fail("add an address that is not virtual",
			"the only address of %s in the network of %s is a virtual one: it has that itself, and answers nobody who asks from it", f.routedName(hop), real)
	default:
		return true
	}
	return false
}

// unresolvedCheck tells a missing neighbour from a missing route.
func unresolvedCheck(hop nexthop.Hop) string {
	if strings.HasPrefix(hop.Reason, "no answer") || strings.HasPrefix(hop.Reason, "waiting") {
		return "neighbour"
	}
	return "route"
}

func unresolvedAdvice(hop nexthop.Hop) string {
	switch {
	case unresolvedCheck(hop) == "neighbour":
		return "is it up, and in this network or VLAN?"
	case strings.HasPrefix(hop.Reason, "no route"):
		return "add a route (ip route add), or an address of its network"
	default:
		return ""
	}
}

// routedName names the device that the route of a way names.
func (f *Facts) routedName(hop nexthop.Hop) string {
	if l := f.routed(hop); l != nil {
		return l.Name
	}
	return hop.LinkName
}

// onlyVirtual tells whether questions to a real server by dr would have to come from an address that
// it has itself.
func (f *Facts) onlyVirtual(real *realServer, hop nexthop.Hop) bool {
	l := f.routed(hop)
	if l == nil || !real.by(director.DirectRouting) || real.addr.Is6() {
		return false
	}
	virtual, other := false, false
	for _, a := range l.Addresses {
		if a.Prefix.Contains(real.addr) {
			isVIP := slices.Contains(real.vips, a.Prefix.Addr())
			virtual, other = virtual || isVIP, other || !isVIP
		}
	}
	return virtual && !other
}

// targets are the devices that frames leave by: those that lead to real servers.
func (f *Facts) targets() (list []*Link) {
	for _, real := range f.reached() {
		if l, ok := f.indexed(f.Hops[real.addr].Link); ok && !f.Hops[real.addr].Local && !slices.Contains(list, l) {
			list = append(list, l)
		}
	}
	return list
}

// ways are the devices that the routes to real servers name.
func (f *Facts) ways() (list []*Link) {
	for _, real := range f.reached() {
		if hop := f.Hops[real.addr]; !hop.Local {
			if l := f.routed(hop); l != nil {
				list = appendNew(list, l)
			}
		}
	}
	return list
}

// checkTarget: frames from a driver go to another driver without the stack, which must be ready.
func checkTarget(f *Facts, l *Link, r *Report) {
	t := r.topic("redirect", l.Name)
	if !f.sentTo(l) {
		return
	}
	attached, can := f.holds(l), l.Features&xdpNDOXmit != 0
	const peer = "attach an XDP program to its peer, or turn on GRO there (ethtool -K PEER gro on)"
	switch p, here := f.indexed(l.PeerIndex); {
	case l.Kind == "veth" && here && p.Program.ID == 0 && attached:
		t.fail("attach an XDP program to "+p.Name+", one that passes everything", "%s, the peer of %s, has no XDP program: frames that the director sends wait there", p.Name, l.Name)
	case l.FeaturesKnown && can:
		t.ok("%s takes frames from XDP", l.Name)
	case l.FeaturesKnown && l.Kind == "veth":
		t.fail(peer, "%s drops frames from XDP: its peer has neither an XDP program nor GRO", l.Name)
	case l.Kind == "veth":
		t.ok("%s takes frames from XDP if its peer has an XDP program or GRO, which this kernel does not tell", l.Name)
	case attached:
		t.ok("%s takes frames from XDP, with the director's program on it", l.Name)
	case l.FeaturesKnown:
		t.fail("add "+l.Name+" to interfaces", "%s drops frames from XDP without a program of its own", l.Name)
	default:
		t.warn("add "+l.Name+" to interfaces", "%s leads to real servers, but is not attached: many drivers then drop frames from XDP, and this kernel does not tell", l.Name)
	}
}

// sentTo tells whether frames come to a device from a driver: from another device, or, with veth, from
// itself too, as its frames go to its peer.
func (f *Facts) sentTo(l *Link) bool {
	return slices.ContainsFunc(f.places(), func(p place) bool { return p.native && (p.device != l || l.Kind == "veth") })
}

// checkRoom: packets that come in must fit the ways out.
func checkRoom(f *Facts, r *Report) {
	in, from := 0, ""
	for _, p := range f.places() {
		if p.stack.MTU > in {
			in, from = p.stack.MTU, p.stack.Name
		}
	}
	tight, checked := 0, 0
	for _, real := range f.reached() {
		hop := f.Hops[real.addr]
		if hop.MTU == 0 || hop.Local || in == 0 {
			continue
		}
		checked++
		if need := in + envelope(real); hop.MTU < need {
			tight++
			r.topic("mtu", real.addr.String()).warn(roomAdvice(real, f.routedName(hop), need),
				"the way to %s by %s has MTU %d: with up to %d from %s, larger packets are answered with \"too big\"", real, f.routedName(hop), hop.MTU, in, from)
		}
	}
	if checked > 0 && tight == 0 {
		r.topic("mtu", "").ok("what comes in, up to %d bytes, fits the ways to the real servers", in)
	}
}

// envelope is what a tunnel adds at least: an IP header.
func envelope(real *realServer) int {
	switch {
	case !real.by(director.Tunnel):
		return 0
	case real.addr.Is4():
		return 20
	default:
		return 40
	}
}

func roomAdvice(real *realServer, device string, need int) string {
	advice := fmt.Sprintf("ip link set %s mtu %d, if its network can", device, need)
	if real.by(director.Tunnel) {
		advice += fmt.Sprintf("; or smaller segments there: director realserver tun --vip %s --as %s --apply", addrs(real.vips), real.addr)
	}
	return advice
}

func addrs(list []netip.Addr) string {
	var texts []string
	for _, a := range list {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}
