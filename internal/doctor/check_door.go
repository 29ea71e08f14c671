// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/door"
)

// checkDoor looks at what the services of the firewall's marks need.
func checkDoor(f *Facts, r *Report) {
	want := f.marks()
	if want.None() {
		return
	}
	checkPair(f, want, r)
	checkDoorFilter(f, r)
	checkDoorIPv6(f, want, r)
	checkMarkedForwarded(f, want, r)
	checkMarkedLocal(f, r)
	for _, mark := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(want.V4, want.V6)))) {
		checkMarking(f, mark, r)
	}
}

// checkPair: before the first start nothing is there, which is well.
func checkPair(f *Facts, want door.Marks, r *Report) {
	t := r.topic("door", door.Near)
	far, there := f.named(door.Far)
	switch {
	case f.Door.Error != "":
		t.fail("ip link del "+door.Near+", after asking whose it is", "packets with the firewall's marks cannot be brought to the director: %s", f.Door.Error)
	case len(f.Door.Missing) > 0 && !f.started():
		t.ok("packets with mark %s will be routed into %s when the director starts", marksText(want), door.Near)
	case len(f.Door.Missing) > 0:
		t.fail("a running director puts it back within two seconds: look at director marks list and its log, or start it",
			"missing: %s: packets with the firewall's marks do not come to the director", strings.Join(f.Door.Missing, ", "))
	case there && !far.Program.Own:
		t.fail("restart the director", "%s has no XDP program of the director's: packets with the firewall's marks are lost there", door.Far)
	default:
		t.ok("packets with mark %s are routed into %s", marksText(want), door.Near)
	}
}

// started tells whether the director has attached its program to something.
func (f *Facts) started() bool {
	_, is := f.find(func(l *Link) bool { return l.Program.Own })
	return is
}

// marksText is 7 (IPv4), 7, 9 (IPv6).
func marksText(m door.Marks) string {
	var parts []string
	for _, family := range []struct {
		name  string
		marks []uint32
	}{{"IPv4", m.V4}, {"IPv6", m.V6}} {
		if len(family.marks) > 0 {
			parts = append(parts, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(family.marks)), ", "), "[]")+" ("+family.name+")")
		}
	}
	return strings.Join(parts, ", ")
}

// checkDoorFilter: replies come out of the near end with a virtual address as source, to which no route leads there.
func checkDoorFilter(f *Facts, r *Report) {
	answers := slices.ContainsFunc(f.Config.Services, func(s director.Service) bool {
		return s.FirewallMarked() && s.Key.Addr.Is4() && slices.ContainsFunc(s.Servers(), func(real director.RealServer) bool {
			return real.Method == director.NAT || real.Method == director.FullNAT
		})
	})
	if answers && f.highest("ipv4", door.Near, "rp_filter") == 1 {
		r.topic("door", door.Near).fail("sysctl -w net.ipv4.conf."+door.Near+".rp_filter=2",
			"%s filters by reverse path, strictly: the replies of real servers by nat and fullnat are dropped there", door.Near)
	}
}

// checkDoorIPv6: what new interfaces have not, the near end has not either, and a daemon to which /proc/sys is read-only cannot
// change it.
func checkDoorIPv6(f *Facts, want door.Marks, r *Report) {
	name := door.Near
	if _, there := f.Sysctls["net/ipv6/conf/"+name+"/disable_ipv6"]; !there {
		name = "default"
	}
	if key := "net/ipv6/conf/" + name + "/disable_ipv6"; len(want.V6) > 0 && f.number(key) == 1 {
		r.topic("door", "IPv6").fail("sysctl -w "+dotted(key)+"=0",
			"%s will have no IPv6 (%s is 1): packets that the firewall marks do not come to the director", door.Near, dotted(key))
	}
}

// checkMarkedForwarded: to be routed by its mark a packet has to be routed.
func checkMarkedForwarded(f *Facts, want door.Marks, r *Report) {
	for _, on := range f.fronts() {
		path := "net/ipv4/conf/" + on.Name + "/forwarding"
		if _, known := f.Sysctls[path]; known && len(want.V4) > 0 && f.number(path) == 0 {
			r.topic("forwarding", on.Name).fail("sysctl -w net.ipv4.conf."+sysctlName(on.Name)+".forwarding=1",
				"%s does not forward IPv4: packets that the firewall marks do not come to the director", on.Name)
		}
	}
	if len(want.V6) > 0 && f.number("net/ipv6/conf/all/forwarding") == 0 {
		r.topic("forwarding", "IPv6").fail("sysctl -w net.ipv6.conf.all.forwarding=1",
			"IPv6 is not forwarded: packets that the firewall marks do not come to the director")
	}
}

// checkMarkedLocal: a local address comes before all rules.
func checkMarkedLocal(f *Facts, r *Report) {
	for i := range f.Config.Services {
		s := &f.Config.Services[i]
		for _, vip := range s.VIPs {
			if l, _ := f.holder(vip); l != nil && s.FirewallMarked() {
				r.topic("door", vip.String()).fail(fmt.Sprintf("take it off %s, and have the director answer for it (addresses: mode: answer), or write the rules under marks", l.Name),
					"%s is on %s: its packets are delivered here before the firewall's mark %d is looked at", vip, l.Name, s.Key.Mark)
			}
		}
	}
}

// settings are rules that set marks, of nftables and of iptables; the value is missing where it is computed.
var settings = regexp.MustCompile(`(?:meta mark set|--set-x?mark) (0x[0-9a-f]+|[0-9]+)?`)

// checkMarking: is there a rule at all? Others than the firewalls can set marks, and values can be computed.
func checkMarking(f *Facts, mark uint32, r *Report) {
	t := r.topic("door", "mark "+strconv.Itoa(int(mark)))
	computed := false
	for _, found := range settings.FindAllStringSubmatch(f.Door.Firewall, -1) {
		value, err := strconv.ParseUint(found[1], 0, 32)
		switch {
		case err != nil:
			computed = true
		case uint32(value) == mark:
			t.ok("a rule of the firewall sets mark %d", mark)
			return
		}
	}
	if computed {
		t.ok("no rule of the firewall sets mark %d as such; some compute what they set", mark)
		return
	}
	t.warn("add the rule in prerouting (docs/marks.md), or take mark_source: firewall off the service", "no rule of nftables or iptables is seen that sets mark %d", mark)
}
