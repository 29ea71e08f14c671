// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"slices"

	"xdplvs/director"
)

// checkSystem looks at what the stack beside XDP does.
func checkSystem(f *Facts, r *Report) {
	checkFilters(f, r)
	checkForwarding(f, r)
	checkConntrack(f, r)
	checkIPVS(f, r)
}

// checkFilters: what XDP leaves to the stack (resets, health checks' answers, local services) comes
// by the interface that the network chose; strict reverse path filtering drops it where the
// route back is by another.
func checkFilters(f *Facts, r *Report) {
	t := r.topic("rp_filter", "")
	found := false
	for _, l := range f.fronts() {
		if f.highest("ipv4", l.Name, "rp_filter") != 1 || f.waysIn() < 2 {
			continue
		}
		found = true
		r.topic("rp_filter", l.Name).warn(fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", sysctlName(l.Name)),
			"%s filters by reverse path, strictly: packets for the stack are dropped if the way back is by another interface", l.Name)
	}
	if !found && len(f.attached()) > 0 {
		t.ok("no packet is dropped for its way back")
	}
}

// sysctlName is an interface in a parameter's name, where dots separate.
func sysctlName(device string) string {
	name := []byte(device)
	for i, c := range name {
		if c == '.' {
			name[i] = '/'
		}
	}
	return string(name)
}

// waysIn counts the interfaces with addresses.
func (f *Facts) waysIn() (n int) {
	for i := range f.Links {
		l := &f.Links[i]
		if l.Up && !l.Loopback && slices.ContainsFunc(l.Addresses, func(a Address) bool { return a.Prefix.Addr().Is4() }) {
			n++
		}
	}
	return n
}

// checkForwarding: by nat the director is its real servers' router for everything else too.
func checkForwarding(f *Facts, r *Report) {
	for _, family := range []struct {
		name, path string
		v6         bool
	}{{"IPv4", "net/ipv4/ip_forward", false}, {"IPv6", "net/ipv6/conf/all/forwarding", true}} {
		nat := slices.ContainsFunc(f.reached(), func(r *realServer) bool { return r.by(director.NAT) && r.addr.Is6() == family.v6 })
		t := r.topic("forwarding", family.name)
		switch on := f.number(family.path) != 0; {
		case !nat:
		case !on:
			t.warn("sysctl -w "+dotted(family.path)+"=1", "%s is not forwarded: real servers by nat get no further than the director for anything but answers", family.name)
		default:
			t.ok("%s is forwarded, for real servers by nat", family.name)
		}
		if nat && !family.v6 && f.number(family.path) != 0 {
			checkRedirects(f, r)
		}
	}
}

func dotted(path string) string {
	name := []byte(path)
	for i, c := range name {
		if c == '/' {
			name[i] = '.'
		}
	}
	return string(name)
}

// checkRedirects: a router tells a host of a better way in its own network, and with that real servers
// answer around the director. Here the values of "all" and of the interface are or'ed.
func checkRedirects(f *Facts, r *Report) {
	for _, l := range f.ways() {
		all, own := "net/ipv4/conf/all/send_redirects", "net/ipv4/conf/"+l.Name+"/send_redirects"
		if f.number(all)+f.number(own) > 0 {
			r.topic("redirects", l.Name).warn(fmt.Sprintf("sysctl -w net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.%s.send_redirects=0", sysctlName(l.Name)),
				"%s sends ICMP redirects: real servers by nat in a network with clients would answer around the director", l.Name)
		}
	}
}

func checkConntrack(f *Facts, r *Report) {
	if count, ok := f.Sysctls["net/netfilter/nf_conntrack_count"]; ok {
		r.topic("conntrack", "").ok("nf_conntrack has %s connections, none of the services: XDP comes before it, its limits do not matter to them", count)
	}
}

// checkIPVS tells of services that the kernel's IPVS has too: what XDP passes on is balanced again.
func checkIPVS(f *Facts, r *Report) {
	if f.Config == nil {
		return
	}
	for i := range f.Config.Services {
		if key := f.Config.Services[i].Key; slices.Contains(f.IPVS, key) {
			r.topic("ipvs", key.String()).warn("ipvsadm -D, or stop keepalived or ldirectord", "the kernel's IPVS has the service %s too: it balances what XDP leaves to the stack", key)
		}
	}
}
