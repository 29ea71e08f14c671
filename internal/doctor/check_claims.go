// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/nexthop"
)

// checkClaims looks at who answered for the virtual addresses, this host's own, and the real servers'.
func checkClaims(f *Facts, r *Report) {
	if f.AskError != "" {
		r.topic("arp", "").warn("run as root, or with a longer --timeout", "not everybody could be asked who has which address: %s", strings.ReplaceAll(f.AskError, "\n", "; "))
	}
	before := len(r.Findings)
	virtual := f.vips()
	for _, c := range f.Claims {
		if _, is := slices.BinarySearchFunc(virtual, c.Addr, netip.Addr.Compare); is {
			checkRival(f, c, r)
		} else if l, _ := f.holder(c.Addr); l != nil {
			checkOwn(f, l, c, r)
		}
	}
	checkDuplicates(f, r)
	if len(virtual) > 0 && len(r.Findings) == before && f.AskError == "" {
		r.topic("arp", "").ok("%s: nobody else answers", plural(len(virtual), "virtual address", "virtual addresses"))
	}
}

// checkRival judges an answer for a virtual address.
func checkRival(f *Facts, c nexthop.Claim, r *Report) {
	t := r.topic("arp", c.Addr.String())
	mac, where := net.HardwareAddr(c.MAC[:]), f.linkName(c.Link)
	if own := f.ownMAC(c.MAC); own != nil {
		t.warn(fmt.Sprintf("sysctl -w net.ipv4.conf.all.arp_ignore=1, or take %s out of the network of %s", own.Name, where),
			"%s is answered for on %s by this host's %s too (%s): clients may choose that", c.Addr, where, own.Name, mac)
		return
	}
	holder, _ := f.holder(c.Addr)
	also := ""
	if holder != nil {
		also = "also "
	}
	switch reals := f.realsOf(c.MAC); {
	case len(reals) > 0:
		t.fail(rivalAdvice(f, c.Addr, reals), "%s is %sanswered by %s on %s, which is %s", c.Addr, also, mac, where, joinReals(reals))
	case holder != nil:
		t.fail("find that host, and take the address off it", "%s is also answered by %s on %s, which is no real server: the address is there twice, or a router answers for others (proxy ARP)", c.Addr, mac, where)
	default:
		t.warn("", "%s is answered by %s on %s, which is no real server: another director, or a router that answers for others (proxy ARP)", c.Addr, mac, where)
	}
}

// rivalAdvice says what to do at a real server that answers for a virtual address.
func rivalAdvice(f *Facts, vip netip.Addr, reals []*realServer) string {
	run := fmt.Sprintf("director realserver dr --vip %s --apply", vip)
	switch {
	case !slices.ContainsFunc(reals, func(r *realServer) bool { return r.by(director.DirectRouting, director.Tunnel) }):
		return "take the address off it: by nat a real server must not have it"
	case vip.Is6():
		return "take the address off that interface there and put it on lo, or run there: " + run
	default:
		return "set arp_ignore=1 and arp_announce=2 there, or run there: " + run
	}
}

func joinReals(reals []*realServer) string {
	var names []string
	for _, r := range reals {
		names = append(names, r.String())
	}
	return strings.Join(names, " or ")
}

func (f *Facts) linkName(index int) string {
	if l, ok := f.indexed(index); ok {
		return l.Name
	}
	return fmt.Sprintf("interface %d", index)
}

// realsOf are the real servers with a MAC address: as they answered, or as the next hop has it.
func (f *Facts) realsOf(mac [6]byte) []*realServer {
	if f.realsByMAC == nil {
		f.realsByMAC = f.indexMACs()
	}
	return sameName(f.realsByMAC[mac])
}

func (f *Facts) indexMACs() map[[6]byte][]*realServer {
	answered := map[netip.Addr][][6]byte{}
	for _, c := range f.Claims {
		answered[c.Addr] = append(answered[c.Addr], c.MAC)
	}
	byMAC := map[[6]byte][]*realServer{}
	for _, real := range f.reals() {
		macs := answered[real.addr]
		if hop := f.Hops[real.addr]; hop.Resolved && !hop.Local && hop.Gateway.WithZone("") == real.addr {
			macs = append(macs, hop.DstMAC)
		}
		for _, mac := range macs {
			byMAC[mac] = appendNew(byMAC[mac], real)
		}
	}
	return byMAC
}

// sameName leaves one of several addresses of a real server that has a name.
func sameName(list []*realServer) (kept []*realServer) {
	for _, r := range list {
		if r.name == "" || !slices.ContainsFunc(kept, func(k *realServer) bool { return k.name == r.name }) {
			kept = append(kept, r)
		}
	}
	return kept
}

// checkOwn judges an answer for an address of this host.
func checkOwn(f *Facts, l *Link, c nexthop.Claim, r *Report) {
	if f.ownMAC(c.MAC) != nil { // another interface in the same network
		return
	}
	who := ""
	if reals := f.realsOf(c.MAC); len(reals) > 0 {
		who = ", which is " + joinReals(reals)
	}
	r.topic("duplicate", c.Addr.String()).fail("give one of both another address", "%s of %s is also answered by %s on %s%s",
		c.Addr, l.Name, net.HardwareAddr(c.MAC[:]), f.linkName(c.Link), who)
}

// checkDuplicates tells of real servers that several MAC addresses answer for.
func checkDuplicates(f *Facts, r *Report) {
	macs := map[netip.Addr][]string{}
	for _, c := range f.Claims {
		macs[c.Addr] = appendNew(macs[c.Addr], net.HardwareAddr(c.MAC[:]).String())
	}
	for _, real := range f.reached() {
		if who := macs[real.addr]; len(who) > 1 {
			r.topic("duplicate", real.addr.String()).fail("give one of both another address; if it is one host, set arp_ignore=1 there",
				"%s is answered by %s: two hosts have the address, or one has two interfaces in this network", real, strings.Join(who, " and "))
		}
	}
}
