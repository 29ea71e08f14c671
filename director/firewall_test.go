// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"strings"
	"testing"

	"xdplvs/bpf"
)

// byFirewall is a service of mark 7, whose packets the firewall marks.
func byFirewall(vips ...string) Desired {
	want := one("rr", real4(1, 1))
	s := &want.Services[0]
	s.Key, s.MarkSource = MarkKey(7, false), MarkFirewall
	s.Reals[0].Key.Port = 0
	for _, a := range vips {
		s.VIPs = append(s.VIPs, netip.MustParseAddr(a))
	}
	return want
}

// knows reports whether the data plane knows the address itself.
func (w *world) knows(addr string) bool {
	for _, e := range w.d.keys.All() {
		if e.Key == vipKey(netip.MustParseAddr(addr)) {
			return true
		}
	}
	return false
}

// TestFirewallVIPs: the addresses are known as long as the service names them.
func TestFirewallVIPs(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(byFirewall("192.0.2.20", "192.0.2.21"))
	expect(t, "20 and 21 known", w.knows("192.0.2.20") && w.knows("192.0.2.21"), true)
	w.mustWant(byFirewall("192.0.2.21", "192.0.2.22"))
	expect(t, "20 known", w.knows("192.0.2.20"), false)
	expect(t, "21 and 22 known", w.knows("192.0.2.21") && w.knows("192.0.2.22"), true)
	w.restart()
	w.mustWant(byFirewall("192.0.2.22"))
	expect(t, "21 known after a restart", w.knows("192.0.2.21"), false)
	w.mustWant(Desired{})
	w.d.reap()
	w.d.reap()
	expect(t, "22 known without the service", w.knows("192.0.2.22"), false)
}

// TestFirewallLocal: a virtual address that is the host's is refused, and told of when it becomes so.
func TestFirewallLocal(t *testing.T) {
	w := newWorld(t, small)
	w.own = map[netip.Addr]bool{netip.MustParseAddr("192.0.2.20"): true}
	w.restart()
	err := w.d.apply(byFirewall("192.0.2.20"))
	if err == nil || !strings.Contains(err.Error(), "virtual address 192.0.2.20 is an address of this host") || !strings.Contains(err.Error(), "mode: answer") {
		t.Errorf("error is %v, want the reason and the way out", err)
	}
	w.mustWant(byFirewall("192.0.2.21"))
	w.own[netip.MustParseAddr("192.0.2.21")] = true
	w.d.followLocal()
	w.d.followLocal()
	expect(t, "warnings", strings.Count(w.log.String(), "event=vip_local address=192.0.2.21"), 1)
	delete(w.own, netip.MustParseAddr("192.0.2.21"))
	w.d.followLocal()
	w.own[netip.MustParseAddr("192.0.2.21")] = true
	w.d.followLocal()
	expect(t, "warnings", strings.Count(w.log.String(), "event=vip_local address=192.0.2.21"), 2)
}

// TestDoorIndex: the program knows the interface as it is now.
func TestDoorIndex(t *testing.T) {
	w := newWorld(t, small)
	want := byFirewall("192.0.2.20")
	want.Interfaces, want.Door = []Interface{{Name: "eth0"}, {Name: "eth1"}}, "eth1"
	w.mustWant(want)
	expect(t, "door", w.tables.Settings.Door, 3)
	w.links["eth1"] = card(9, "eth1")
	w.d.followInterfaces()
	w.d.tellDoor()
	expect(t, "door that was made anew", w.tables.Settings.Door, 9)
	want.Door = ""
	w.mustWant(want)
	expect(t, "no door", w.tables.Settings.Door, 0)
}

// TestFirewallValidate: what cannot be is refused for callers without a configuration file, too.
func TestFirewallValidate(t *testing.T) {
	for fault, edit := range map[string]func(*Service){
		"only a firewall mark can be the firewall's":                                 func(s *Service) { s.Key = key4(1) },
		"the virtual addresses are not named":                                        func(s *Service) { s.VIPs = nil },
		"virtual address 2001:db8::1 is of another address family":                   func(s *Service) { s.VIPs[0] = netip.MustParseAddr("2001:db8::1") },
		"virtual address 0.0.0.0: unspecified address":                               func(s *Service) { s.VIPs[0] = netip.IPv4Unspecified() },
		"virtual addresses are named where the firewall marks their packets only":    func(s *Service) { s.MarkSource = MarkRules },
		"method local needs the virtual address on this host, and marks of the fire": func(s *Service) { s.Reals[0].Method = Local },
	} {
		s := byFirewall("192.0.2.20").Services[0]
		edit(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("error is %v, want %q", err, fault)
		}
	}
}

// TestMarkRuleString: the text is the configuration's.
func TestMarkRuleString(t *testing.T) {
	r := MarkRule{Mark: 7, Protocol: TCP, Source: netip.MustParsePrefix("2001:db8::/32"), Dest: netip.MustParsePrefix("2001:db8::1/128"),
		DestPorts: []PortRange{{80, 80}, {8000, 8080}}, SourcePorts: []PortRange{{1024, 65535}}, Interface: "eth0", DSCP: new(uint8(0))}
	expect(t, "text", r.String(), `{mark: 7, protocol: tcp, source: "2001:db8::/32", destination: "2001:db8::1", source_port: 1024-65535, `+
		`destination_port: [80, 8000-8080], interface: "eth0", dscp: 0}`)
}

// TestMarkList: packets of a rule for both families are counted together, and rows are known by their rule.
func TestMarkList(t *testing.T) {
	w := newWorld(t, bpf.Sizes{Conns4: 64, Conns6: 64, Overflow: 1, Services: 4, Reals: 12, Plans: 512, CPUs: 2, Marks: 64})
	want := byFirewall("192.0.2.20")
	want.Services[0].Name = "group"
	web := PortRange{80, 80}
	want.Marks = []MarkRule{{Mark: 9, DestPorts: []PortRange{web}}, {Mark: 7, Dest: netip.MustParsePrefix("192.0.2.0/24"), DestPorts: []PortRange{{1000, 1003}, {2000, 2000}}}}
	w.mustWant(want)
	for b := range w.tables.MarkRules {
		for i := range w.tables.MarkRules[b].Rule {
			if r := &w.tables.MarkRules[b].Rule[i]; r.Rule != 0 {
				r.Packets = uint64(r.Rule)
			}
		}
	}
	list := w.d.markList()
	expect(t, "rules", len(list.Rules), 2)
	expect(t, "packets of the first, of two families", list.Rules[0].Packets, 1+2)
	expect(t, "packets of the second, in two parts", list.Rules[1].Packets, 3+3)
	expect(t, "services", strings.Join(list.Rules[1].Services, ","), "group (fwmark 7)")
	expect(t, "services of nobody's", len(list.Rules[0].Services), 0)

	w.plane.rule = 2
	q := MarkQuestion{Protocol: TCP, Source: netip.MustParseAddrPort("10.0.0.1:1"), Dest: netip.MustParseAddrPort("192.0.2.1:1000"), Interface: "eth1"}
	a, err := w.d.explainMark(&q)
	if err != nil || a != (MarkAnswer{Mark: 7, Rule: 2, Text: want.Marks[1].String(), Service: "group (fwmark 7)"}) || w.plane.asked.Interface != 3 {
		t.Errorf("answer %+v, %v, asked %+v", a, err, w.plane.asked)
	}
	q.Interface = "eth9"
	if _, err := w.d.explainMark(&q); err == nil || err.Error() != "interface eth9: no such interface" {
		t.Errorf("error %v", err)
	}
}
