// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"xdplvs/director"
)

// farm has what a real director shows: both families, a quiesced real server,
// unreachable ones, names, huge numbers.
func farm() *director.Snapshot {
	const tcp, udp, dr = director.TCP, director.UDP, director.DirectRouting
	web := service(tcp, "192.0.2.1:80", "wrr",
		real("10.0.0.3:80", dr, 0, 12, 3), real("10.0.0.9:80", dr, 1, 0, 0), real("10.0.0.1:80", dr, 10, 1234, 567))
	web.Name, web.NoReal, web.Untracked = "web", 17, 2
	web.Reals[0].Name, web.Reals[2].Name = "rs3", "rs1"
	web.Reals[0].Upper, web.Reals[0].Lower, web.Reals[0].Overloaded = 15, 10, true
	web.Reals[2].Upper = 4294967295
	web.Reals[1].PlannedShare, web.Reals[2].PlannedShare, web.Reals[2].EffectiveWeight = 0.0909, 0.9091, 5
	web.Reals[1].MeasuredShare, web.Reals[2].MeasuredShare, web.Reals[2].WindowConns = 0.25, 0.75, 1200
	web.Reals[1].WindowConns, web.Reals[1].SharesApart, web.SharesApart = 400, true, true
	web.Reals[2].Health = &director.Health{Condition: director.Up, Factor: 50}
	web.Reals[1].Reachable, web.Reals[1].Unreachable = false, "no answer to ARP for 10.0.0.9 on eth1"
	web.Counters = director.Counters{Conns: 123456789, InPkts: 12345678901, OutPkts: 0, InBytes: 12345678901234, OutBytes: math.MaxUint64}
	web.Rates = director.Rates{CPS: 1200, InPPS: 240000, InBPS: 123456789}
	web.Reals[2].Counters, web.Reals[2].Rates = web.Counters, web.Rates
	web6 := service(tcp, "[2001:db8::1]:80", "rr", real("[fd00:1111:2222:3333:4444:5555:6666:7777]:80", dr, 1, 1, 0), real("[fd00::1]:80", dr, 1, 2, 3))
	web6.Name = "web6"
	web6.Reals[0].Reachable = false
	web6.Reals[1].Health = &director.Health{Condition: director.Down, Evidence: "L4TOUT in 1000ms: connect to fd00::1"}
	dns := service(udp, "192.0.2.1:53", "rr", real("10.0.0.1:53", dr, 1, 0, 40))
	dns.Name, dns.OnePacket = "dns", true
	other := service(tcp, "10.1.2.3:8080", "rr")
	return &director.Snapshot{
		Time: time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC), Generation: 7, TableSize: 262144,
		Interfaces: []director.InterfaceState{{Name: "eth0", Device: "eth0", Index: 2, Mode: director.AttachNative}},
		Services:   []director.ServiceState{web6, web, dns, other},
		Total:      web.Counters, Rates: web.Rates,
		Verdicts: map[string]uint64{"forwarded": 12345678901, "no_service": 42, "truncated_ip": 42, "not_ip": 0, "no_real": 17},
	}
}

// ward has real servers in every condition.
func ward() director.HealthList {
	now := time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	real := func(name, addr string, h director.Health, checks ...director.CheckHealth) director.RealHealth {
		at := netip.MustParseAddrPort(addr)
		return director.RealHealth{Name: name, Key: director.RealKey{Addr: at.Addr(), Port: at.Port()}, Checked: len(checks) > 0, Health: h, Checks: checks}
	}
	check := func(name, last string, pending, silent int) director.CheckHealth {
		return director.CheckHealth{Name: name, Target: "10.0.0.1:80", Condition: director.Up, Factor: 100, Last: last, LastAt: now, Took: 3 * time.Millisecond, Pending: pending, Silent: silent, Checks: 70, Failures: 2}
	}
	at := netip.MustParseAddrPort("192.0.2.1:80")
	web := director.ServiceHealth{Name: "web", Key: director.ServiceKey{Protocol: director.TCP, Addr: at.Addr(), Port: at.Port()},
		Quorum: director.QuorumState{Weight: 2, Hysteresis: 1, Up: 1.5, Decided: true, Lost: true, Since: now.Add(-9 * time.Second)},
		Reals: []director.RealHealth{
			real("web1", "10.0.0.1:80", director.Health{Condition: director.Up, Factor: 50, Since: now.Add(-125 * time.Second)},
				check("http", "L7OK/200 in 3ms: 200 OK", 0, 0), check("lag", "L7OK in 1ms: 5 s behind", -1, 0)),
			real("", "10.0.0.2:80", director.Health{Condition: director.Down, Since: now.Add(-26 * time.Hour), Evidence: "L4CON in 0ms: connection refused"},
				check("http", "L4CON in 0ms: connection refused", 1, 0)),
			real("", "[fd00::1]:80", director.Health{Condition: director.Unknown, Since: now}, check("http", "SOCKERR in 0ms: no route", 0, 4)),
			real("", "10.0.0.4:80", director.Health{Condition: director.Draining, Forced: true, Since: now}, check("http", "", 0, 0)),
			real("", "10.0.0.5:80", director.Health{Condition: director.Up, Factor: 100}),
			real("apology", "10.0.0.90:80", director.Health{Condition: director.Up, Factor: 100, Since: now}, check("tcp", "L4OK in 0ms", 0, 0)),
		}}
	web.Reals[5].Sorry = true
	mark := director.ServiceHealth{Key: director.MarkKey(7, false), Quorum: director.QuorumState{Weight: 1},
		Reals: []director.RealHealth{real("", "10.0.0.1:80", director.Health{}, check("tcp", "", 0, 0))}}
	return director.HealthList{Time: now, Services: []director.ServiceHealth{web, mark}}
}

func past() []director.HealthHistory {
	at := time.Date(2026, 11, 22, 15, 0, 0, 123e6, time.UTC)
	key := director.RealKey{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}
	return []director.HealthHistory{
		{Service: "web", Real: key, Name: "web1", Transitions: []director.HealthTransition{
			{Time: at, From: director.Unknown, To: director.Up, Evidence: "L7OK/200 in 3ms: 200 OK"},
			{Time: at.Add(time.Minute), From: director.Up, To: director.Down, Evidence: "L7STS/503 in 12ms: 503 Service Unavailable"},
		}, Results: []director.CheckResult{{Time: at.Add(time.Hour), Check: "http", Result: "L7STS/503 in 12ms: 503 Service Unavailable"}}},
		{Service: "tcp 192.0.2.2:80", Real: key},
	}
}

// owned has an address in every state.
func owned() director.AddressList {
	now := time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	address := func(text string, mode director.AddressMode, iface string, status director.AddressStatus, change func(*director.AddressState)) director.AddressState {
		s := director.AddressState{Addr: netip.MustParseAddr(text), Mode: mode, Interface: iface, Status: status}
		change(&s)
		return s
	}
	const onInterface, answered = director.AddressInterface, director.AddressAnswer
	return director.AddressList{Time: now, Addresses: []director.AddressState{
		address("192.0.2.1", answered, "eth0", director.AddressHeld, func(s *director.AddressState) {
			s.Announced, s.Announcements, s.Since = now.Add(-12*time.Second), 123, now.Add(-26*time.Hour)
		}),
		address("2001:db8::1", onInterface, "bond0.100", director.AddressHeld, func(s *director.AddressState) {
			s.Announced, s.Announcements, s.Since = now.Add(-61*time.Second), 5, now.Add(-time.Hour)
			s.Repaired, s.RepairedAt = 2, now.Add(-26*time.Hour)
			s.Rival = &director.Rival{MAC: "02:00:00:00:09:09", Who: "real server rs1 (10.0.0.1)", Seen: now.Add(-9 * time.Second)}
		}),
		address("10.1.2.3", onInterface, "eth0", director.AddressConflict, func(s *director.AddressState) {
			s.Reason, s.Since = "another host has it: 02:00:00:00:09:08", now.Add(-time.Minute)
			s.Rival = &director.Rival{MAC: "02:00:00:00:09:08", Seen: now}
		}),
		address("10.1.2.4", answered, "eth1", director.AddressWaiting, func(s *director.AddressState) { s.Reason = "interface is down" }),
		address("10.1.2.5", onInterface, "eth1", director.AddressHeld, func(s *director.AddressState) {
			s.Foreign, s.Announced, s.Repaired, s.RepairedAt = true, now, 1, now
		}),
		address("10.1.2.6", director.AddressNone, "", director.AddressUnmanaged, func(*director.AddressState) {}),
	}}
}

func farmConns() []director.Conn {
	conns := recordedConns()
	for i := range conns {
		conns[i].Service = "web"
	}
	conns[0].Service, conns[3].Expires = "", -time.Second
	return conns
}

func TestGolden(t *testing.T) {
	w := newWorld(t, &fakeBackend{snapshot: farm(), conns: farmConns(), timeouts: director.DefaultTimeouts, addresses: owned(), health: ward(), history: past(), defense: defending(), report: senders()})
	for name, args := range map[string][]string{
		"list":                {"list"},
		"list-nosort":         {"list", "--nosort"},
		"list-wide":           {"list", "-o", "wide"},
		"list-json":           {"list", "-o", "json"},
		"list-one":            {"list", "web"},
		"list-by-address":     {"list", "192.0.2.1:53", "[2001:db8::1]:80"},
		"list-unknown":        {"list", "web", "wbe"},
		"list-thresholds":     {"list", "--thresholds"},
		"list-shares":         {"list", "--shares"},
		"thresholds-wide":     {"list", "--thresholds", "-o", "wide", "web"},
		"stats":               {"stats"},
		"stats-exact":         {"stats", "--exact"},
		"stats-wide":          {"stats", "-o", "wide"},
		"stats-json":          {"stats", "-o", "json", "web"},
		"stats-verdicts":      {"stats", "--verdicts"},
		"stats-verdicts-json": {"stats", "--verdicts", "-o", "json"},
		"rate":                {"rate"},
		"rate-json":           {"rate", "-o", "json", "web"},
		"connections":         {"connections"},
		"connections-wide":    {"conns", "-o", "wide"},
		"connections-json":    {"connections", "-o", "json"},
		"connections-filter":  {"connections", "dst", "10.99.0.0/16", "and", "state", "syn-recv,udp"},
		"connections-none":    {"connections", "service", "none"},
		"connections-mistake": {"connections", "dst", "10.99.0.0/16", "stat", "udp"},
		"count":               {"connections", "count"},
		"count-json":          {"connections", "count", "protocol", "tcp", "-o", "json"},
		"count-mistake":       {"connections", "count", "sport", "=", "https"},
		"delete":              {"connections", "delete", "protocol", "udp"},
		"delete-all":          {"connections", "delete", "--all"},
		"delete-json":         {"conns", "delete", "-o", "json", "state", "established"},
		"delete-none":         {"connections", "delete", "service", "none"},
		"delete-mistake":      {"connections", "delete", "sport", "=", "https"},
		"interfaces":          {"interfaces"},
		"interfaces-json":     {"interfaces", "-o", "json"},
		"timeouts":            {"timeouts"},
		"timeouts-json":       {"timeouts", "-o", "json"},
		"addresses":           {"addresses"},
		"health":              {"health"},
		"health-one":          {"health", "fwmark 7"},
		"health-unknown":      {"health", "wbe"},
		"health-json":         {"health", "-o", "json", "web"},
		"health-history":      {"health", "history", "web1"},
		"health-history-json": {"health", "history", "web1", "web", "-o", "json"},
		"health-history-none": {"health", "history", "wbe", "web"},
		"health-down":         {"health", "down", "web1"},
		"health-auto":         {"health", "auto", "wbe", "web"},
		"addresses-json":      {"addresses", "-o", "json"},
		"defense":             {"defense"},
		"defense-json":        {"defense", "-o", "json"},
		"report":              {"defense", "report"},
		"report-one":          {"defense", "report", "-l", "1"},
		"report-json":         {"defense", "report", "-o", "json"},
		"reload":              {"reload"},
		"version":             {"version"},
		"version-flag":        {"--version"},
		"version-json":        {"version", "-o", "json"},
		"version-daemon":      {"version", "--daemon"},
		"check":               {"check", "good.yaml"},
		"check-mistakes":      {"check", "bad.yaml"},
		"run-fails":           {"run", "-c", "lvs.yaml"},
		"doctor":              {"doctor"},
		"doctor-fails":        {"doctor", "-c", "good.yaml"},
		"doctor-json":         {"doctor", "-c", "good.yaml", "--json"},
		"doctor-mistakes":     {"doctor", "-c", "bad.yaml", "-o", "json"},
		"realserver-dr":       {"realserver", "dr", "--vip", "192.0.2.10,2001:db8::10"},
		"realserver-remove":   {"realserver", "dr", "--vip", "192.0.2.10", "--remove", "--for", "systemd-networkd"},
		"realserver-tun":      {"realserver", "tun", "--vip", "192.0.2.10", "--as", "10.0.0.1", "--tunnel", "gue", "--port", "7000", "--mtu", "9000"},
		"realserver-config":   {"realserver", "-c", "good.yaml", "--as", "10.0.0.1", "--director", "10.0.0.254"},
		"realserver-apply":    {"realserver", "dr", "--vip", "192.0.2.10", "--apply"},
		"realserver-unapply":  {"realserver", "dr", "--vip", "192.0.2.10", "--apply", "--remove"},
		"realserver-fails":    {"realserver", "dr", "--vip", "192.0.2.66", "--apply"},
		"realserver-stranger": {"realserver", "-c", "good.yaml", "--as", "10.0.0.9"},
		"realserver-mistakes": {"realserver", "-c", "bad.yaml", "--as", "10.0.0.9"},
	} {
		t.Run(name, func(t *testing.T) { w.golden(t, name, args...) })
	}
}

func TestGoldenUsage(t *testing.T) {
	w := newWorld(t, nil)
	for name, args := range map[string][]string{
		"help":                     {"--help"},
		"help-list":                {"list", "--help"},
		"help-stats":               {"help", "stats"},
		"help-connections":         {"connections", "-h"},
		"help-run":                 {"help", "run"},
		"usage-nothing":            {},
		"usage-command":            {"lst"},
		"usage-subcommand":         {"version", "x"},
		"usage-flag":               {"list", "--bogus"},
		"usage-short-flag":         {"stats", "-x"},
		"usage-format":             {"rate", "-o", "xml"},
		"usage-flag-value":         {"list", "--interval", "soon"},
		"usage-interval":           {"list", "-w", "--interval", "0s"},
		"usage-check":              {"check"},
		"usage-run":                {"run"},
		"usage-run-argument":       {"run", "lvs.yaml"},
		"usage-log-level":          {"run", "-c", "f", "--log-level", "loud"},
		"usage-verdicts":           {"stats", "--verdicts", "web"},
		"help-delete":              {"connections", "delete", "-h"},
		"help-timeouts":            {"timeouts", "-h"},
		"help-defense":             {"defense", "-h"},
		"help-defense-set":         {"defense", "set", "-h"},
		"help-defense-report":      {"defense", "report", "-h"},
		"usage-defense-report":     {"defense", "report", "-l", "0"},
		"usage-defense-set":        {"defense", "set"},
		"usage-defense-word":       {"defense", "set", "drop_packet"},
		"usage-defense-twice":      {"defense", "set", "drop_packet=1", "drop_packet=2"},
		"usage-defense-mode":       {"defense", "set", "drop_packet=4"},
		"usage-defense-unknown":    {"defense", "set", "droprate=4"},
		"help-timeouts-set":        {"timeouts", "set", "-h"},
		"usage-delete":             {"connections", "delete"},
		"usage-delete-both":        {"connections", "delete", "--all", "protocol", "udp"},
		"usage-timeouts":           {"timeouts", "tcp"},
		"usage-set":                {"timeouts", "set"},
		"usage-set-two":            {"timeouts", "set", "900", "120"},
		"usage-set-unknown":        {"timeouts", "set", "tcp_sync=1"},
		"usage-set-mixed":          {"timeouts", "set", "tcp=15m", "300"},
		"usage-set-twice":          {"timeouts", "set", "tcp=15m", "tcp=16m"},
		"usage-set-zero":           {"timeouts", "set", "udp=0"},
		"usage-set-long":           {"timeouts", "set", "1s", "600h", "0"},
		"help-doctor":              {"doctor", "-h"},
		"usage-doctor":             {"doctor", "good.yaml"},
		"usage-doctor-timeout":     {"doctor", "--timeout", "0s"},
		"help-realserver":          {"realserver", "-h"},
		"usage-realserver":         {"realserver"},
		"usage-real-method":        {"realserver", "fullnat"},
		"usage-real-argument":      {"realserver", "dr", "tun"},
		"usage-real-address":       {"realserver", "dr", "--vip", "192.0.2.300"},
		"usage-real-addresses":     {"realserver", "dr", "--vip", "127.0.0.1,ff02::1"},
		"usage-real-none":          {"realserver", "dr"},
		"usage-real-useless":       {"realserver", "nat", "--director", "10.0.0.2", "--vip", "192.0.2.10"},
		"usage-real-port":          {"realserver", "tun", "--vip", "192.0.2.10", "--as", "10.0.0.1", "--port", "7000"},
		"usage-real-apply":         {"realserver", "dr", "--vip", "192.0.2.10", "--apply", "--for", "ifupdown"},
		"usage-real-both":          {"realserver", "dr", "--vip", "192.0.2.10", "-c", "good.yaml"},
		"usage-real-as":            {"realserver", "-c", "good.yaml"},
		"usage-real-gateway":       {"realserver", "tun", "--vip", "192.0.2.10", "--as", "10.0.0.1", "--for", "NetworkManager"},
		"no-daemon-timeouts":       {"timeouts"},
		"no-daemon-delete":         {"connections", "delete", "--all"},
		"help-addresses":           {"addresses", "-h"},
		"help-health":              {"health", "-h"},
		"help-health-drain":        {"health", "drain", "-h"},
		"usage-health-history":     {"health", "history"},
		"usage-addresses":          {"addresses", "192.0.2.1"},
		"no-daemon-addresses":      {"addresses"},
		"usage-help":               {"help", "nonsense"},
		"usage-completion":         {"completion", "fsh"},
		"no-daemon":                {"list"},
		"no-daemon-connections":    {"connections"},
		"no-daemon-reload":         {"reload"},
		"no-daemon-json":           {"stats", "-o", "json"},
		"no-daemon-version":        {"version", "--daemon"},
		"no-daemon-watch":          {"rate", "--watch"},
		"no-daemon-default-socket": {"list", "-s", "/nonexistent/director.sock"},
	} {
		t.Run(name, func(t *testing.T) { w.golden(t, name, args...) })
	}
}

// TestGoldenTrouble: daemons that do not give what is asked for.
func TestGoldenTrouble(t *testing.T) {
	broken := farm()
	broken.Interfaces = append(broken.Interfaces, director.InterfaceState{Name: "eth1", Error: "another XDP program is attached"},
		director.InterfaceState{Name: "bond0.100", Device: "bond0", Index: 4, Mode: director.AttachNative, Why: "bond0.100 is VLAN 100 of bond0",
			Warning: "eth2 takes VLAN tags off and cannot be told not to (ethtool -k: rx-vlan-hw-parse)"})
	for name, test := range map[string]struct {
		backend *fakeBackend
		args    []string
	}{
		"trouble-starting":     {&fakeBackend{}, []string{"list"}},
		"trouble-no-services":  {&fakeBackend{snapshot: &director.Snapshot{}}, []string{"list", "web"}},
		"trouble-interface":    {&fakeBackend{snapshot: broken}, []string{"list", "dns"}},
		"status-trouble":       {&fakeBackend{snapshot: drifted(broken)}, []string{"status"}},
		"interfaces-trouble":   {&fakeBackend{snapshot: broken}, []string{"interfaces"}},
		"interfaces-none":      {&fakeBackend{snapshot: &director.Snapshot{}}, []string{"interfaces", "-o", "json"}},
		"trouble-reload":       {&fakeBackend{reload: errors.New("lvs.yaml:3:5: services[0].port: 70000 is above 65535")}, []string{"reload"}},
		"trouble-reload-many":  {&fakeBackend{reload: errors.Join(errors.New("lvs.yaml:3:5: a"), errors.New("lvs.yaml:4:5: b"))}, []string{"reload"}},
		"trouble-table":        {&fakeBackend{connErr: errors.New("read table: broken")}, []string{"connections"}},
		"trouble-table-midway": {&fakeBackend{conns: farmConns()[:1], million: 3, connErr: errors.New("read table: broken")}, []string{"connections"}},
		"trouble-timeouts":     {&fakeBackend{timeoutsErr: errors.New("director has stopped")}, []string{"timeouts"}},
		"trouble-defense":      {&fakeBackend{defenseErr: errors.New("director has stopped")}, []string{"defense"}},
		"trouble-set":          {&fakeBackend{timeoutsErr: errors.New("director has stopped")}, []string{"timeouts", "set", "udp=3"}},
		"trouble-delete":       {&fakeBackend{conns: farmConns(), connErr: errors.New("read table: broken")}, []string{"connections", "delete", "protocol", "udp"}},
		"trouble-protocol":     {&fakeBackend{conns: append(farmConns()[:1], director.Conn{Protocol: 47})}, []string{"connections"}},
		"empty-addresses":      {&fakeBackend{}, []string{"addresses"}},
		"empty-health":         {&fakeBackend{}, []string{"health"}},
		"empty-addresses-json": {&fakeBackend{}, []string{"addresses", "-o", "json"}},
		"list-wide-methods":    {&fakeBackend{snapshot: methods()}, []string{"list", "-o", "wide"}},
		"list-json-methods":    {&fakeBackend{snapshot: methods()}, []string{"list", "-o", "json"}},
		"empty-list-json":      {&fakeBackend{snapshot: &director.Snapshot{}}, []string{"list", "-o", "json"}},
		"empty-stats-json":     {&fakeBackend{snapshot: &director.Snapshot{}}, []string{"stats", "-o", "json"}},
		"empty-verdicts":       {&fakeBackend{snapshot: &director.Snapshot{}}, []string{"stats", "--verdicts"}},
		"empty-json":           {&fakeBackend{}, []string{"connections", "-o", "json"}},
	} {
		t.Run(name, func(t *testing.T) { newWorld(t, test.backend).golden(t, name, test.args...) })
	}
}

// TestGoldenOperations: what becomes of the daemon, and of what it cares for.
func TestGoldenOperations(t *testing.T) {
	w := newWorld(t, &fakeBackend{snapshot: farm(), addresses: owned()})
	for name, args := range map[string][]string{
		"status":      {"status"},
		"status-json": {"status", "-o", "json"},
		"help-stop":   {"stop", "-h"},
		"usage-stop":  {"stop", "now"},
	} {
		t.Run(name, func(t *testing.T) { w.golden(t, name, args...) })
	}
}

// drifted is a farm of which somebody has changed something.
func drifted(s *director.Snapshot) *director.Snapshot {
	changed := *s
	changed.Drift = []director.Drift{
		{What: director.DriftReals, Times: 12, Last: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		{What: director.DriftProgram, Times: 1, Last: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)},
	}
	return &changed
}

// fullFarm is a service by fullnat, and a connection of it.
func fullFarm() *fakeBackend {
	s := service(director.TCP, "192.0.2.1:80", "rr", real("10.0.0.11:8080", director.FullNAT, 1, 400, 12), real("10.0.0.12:8080", director.FullNAT, 1, 0, 0))
	s.Name, s.Reals[0].Name = "web", "rs1"
	s.Reals[0].Ports, s.Reals[1].Ports = &director.PortUse{Used: 412, Available: 63488}, &director.PortUse{Available: 63488}
	c := conn(director.TCP, time.Minute, "ESTABLISHED", "198.51.100.7:40000", "192.0.2.1:80", "10.0.0.11:8080")
	c.Local, c.Service = netip.MustParseAddrPort("10.0.0.2:1033"), "web"
	return &fakeBackend{conns: []director.Conn{c}, snapshot: &director.Snapshot{TableSize: 4096, Services: []director.ServiceState{s},
		Sources: []director.SourceState{{Addr: netip.MustParseAddr("10.0.0.2"), Conns: 412}, {Addr: netip.MustParseAddr("10.0.0.3"), Unused: "it is no address of this host"}}}}
}

// TestGoldenFullNAT: local ports and ends have a place where ipvsadm's layout has none.
func TestGoldenFullNAT(t *testing.T) {
	w := newWorld(t, fullFarm())
	for name, args := range map[string][]string{
		"fullnat-list":             {"list"},
		"fullnat-list-wide":        {"list", "-o", "wide"},
		"fullnat-list-json":        {"list", "-o", "json"},
		"fullnat-connections":      {"connections"},
		"fullnat-connections-wide": {"connections", "-o", "wide"},
		"fullnat-connections-json": {"connections", "-o", "json"},
	} {
		t.Run(name, func(t *testing.T) { w.golden(t, name, args...) })
	}
}

// callFarm is a service whose clients' calls persistence tells apart.
func callFarm() *fakeBackend {
	s := service(director.UDP, "192.0.2.1:5060", "rr", real("10.0.0.11:5060", director.DirectRouting, 1, 0, 0))
	s.Name, s.OnePacket = "sip", true
	s.Persistence = director.Persistence{Timeout: 3 * time.Minute, AnyClient: true, Engine: director.SIPEngine}
	c := conn(director.UDP, time.Minute, "NONE", "0.0.0.0:0", "192.0.2.1:5060", "10.0.0.11:5060")
	c.Service, c.CallID = "sip", "a84b4c76e66710@pc33.atlanta.exa…"
	return &fakeBackend{templates: []director.Conn{c}, snapshot: &director.Snapshot{TableSize: 4096, Services: []director.ServiceState{s}}}
}

// TestGoldenCalls: a call is shown as far as it is known.
func TestGoldenCalls(t *testing.T) {
	w := newWorld(t, callFarm())
	for name, args := range map[string][]string{
		"call-list":             {"list"},
		"call-list-json":        {"list", "-o", "json"},
		"call-persistence":      {"persistence"},
		"call-persistence-wide": {"persistence", "-o", "wide"},
		"call-persistence-json": {"persistence", "-o", "json"},
	} {
		t.Run(name, func(t *testing.T) { w.golden(t, name, args...) })
	}
}

// sorryFarm is a service whose sorry servers are in use, one without quorum, and one whose sorry server waits.
func sorryFarm() *director.Snapshot {
	web := service(director.TCP, "192.0.2.1:80", "wlc", real("10.0.0.1:80", director.DirectRouting, 0, 5, 0))
	web.Name, web.NoReal, web.SorryInUse = "web", 12, true
	web.Sorry = []director.RealState{real("10.0.0.90:80", director.Tunnel, 1, 7, 2), real("10.0.0.9:80", director.DirectRouting, 1, 0, 0)}
	web.Sorry[0].Name, web.Sorry[0].Counters = "sorry1", director.Counters{Conns: 9, InPkts: 80, InBytes: 4000}
	web.Sorry[0].Rates = director.Rates{CPS: 2}
	web.Sorry[1].Reachable, web.Sorry[1].Unreachable = false, "no answer to ARP"
	web.Sorry = append(web.Sorry, real("10.0.0.91:80", director.DirectRouting, 1, 0, 0))
	web.Sorry[2].Health = &director.Health{Condition: director.Down, Evidence: "L4CON in 0ms: connection refused"}
	mail := service(director.TCP, "192.0.2.1:25", "rr", real("10.0.0.1:25", director.DirectRouting, 1, 0, 0))
	mail.QuorumLost = true
	dns := service(director.UDP, "192.0.2.1:53", "rr", real("10.0.0.1:53", director.DirectRouting, 1, 0, 40))
	dns.Sorry = []director.RealState{real("10.0.0.9:53", director.DirectRouting, 1, 0, 0)}
	return &director.Snapshot{TableSize: 4096, Services: []director.ServiceState{web, mail, dns}}
}

// TestGoldenSorry: sorry servers come after the real servers, marked.
func TestGoldenSorry(t *testing.T) {
	w := newWorld(t, &fakeBackend{snapshot: sorryFarm()})
	for name, args := range map[string][]string{
		"sorry-list":       {"list"},
		"sorry-wide":       {"list", "-o", "wide"},
		"sorry-json":       {"list", "-o", "json"},
		"sorry-thresholds": {"list", "--thresholds"},
		"sorry-shares":     {"list", "--shares"},
		"sorry-stats":      {"stats"},
		"sorry-stats-json": {"stats", "-o", "json"},
		"sorry-rate":       {"rate"},
		"sorry-rate-json":  {"rate", "-o", "json"},
	} {
		t.Run(name, func(t *testing.T) { w.golden(t, name, args...) })
	}
}

// TestGoldenSet: what is changed is in force, and what is not stays.
func TestGoldenSet(t *testing.T) {
	w := newWorld(t, &fakeBackend{timeouts: director.DefaultTimeouts})
	w.golden(t, "set", "timeouts", "set", "tcp=10m", "tcpfin=60", "sctp_init=1h30m")
	w.golden(t, "set-keeps", "timeouts", "set", "0", "0", "30")
	w.golden(t, "timeouts-set", "timeouts")
}

// defending is a director under pressure.
func defending() director.DefenseState {
	s := director.DefenseState{DefenseSettings: director.DefaultDefense.Strategies, Cause: "memory", Rate: 3, Evicted: 1234}
	for name, text := range map[string]string{"drop_entry": "always", "drop_packet": "2"} {
		if err := s.Set(name, text); err != nil {
			panic(err)
		}
	}
	s.Pressure.Pages, s.Pressure.Places, s.Pressure.Used = 700, 262144, 98765
	s.Dropped = map[string]uint64{"drop_packet": 4321}
	return s
}

// senders are two, of which one is a nuisance.
func senders() (r director.DefenseReport) {
	r.Since = time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	r.Total.Admitted, r.Total.Dropped = 5, map[string]uint64{"drop_budget": 900, "drop_denied": 7}
	r.Hitters = slices.Grow(r.Hitters, 2)[:2]
	r.Hitters[0].Prefix, r.Hitters[0].Sent = netip.MustParsePrefix("198.51.100.7/32"), r.Total
	r.Hitters[1].Prefix, r.Hitters[1].Admitted = netip.MustParsePrefix("2001:db8::/64"), 1
	r.Prefix4, r.Prefix6, r.Dropped, r.Evicted = 32, 64, map[string]uint64{"drop_budget": 12345, "drop_denied": 7}, 3
	return r
}

// TestGoldenDefense: what is set is shown.
func TestGoldenDefense(t *testing.T) {
	w := newWorld(t, &fakeBackend{defense: director.DefenseState{DefenseSettings: director.DefaultDefense.Strategies}})
	w.golden(t, "defense-set", "defense", "set", "drop_packet=3", "net.ipv4.vs.am_droprate=1", "occupancy=0")
}

// TestGoldenColour: bold and red on a terminal, and only there.
func TestGoldenColour(t *testing.T) {
	w := newWorld(t, &fakeBackend{snapshot: farm(), conns: farmConns()})
	w.env.StdoutIsTerminal = true
	w.golden(t, "colour-list", "list")
	w.golden(t, "colour-stats", "stats", "dns")
	w.golden(t, "colour-connections", "connections")
	w.golden(t, "colour-doctor", "doctor", "-c", "good.yaml")
	w.vars["NO_COLOR"] = "1"
	w.golden(t, "colour-off", "list", "web")
	w.vars["NO_COLOR"], w.vars["TERM"] = "", "dumb"
	w.golden(t, "colour-dumb", "list", "web")
}

// methods has real servers of which there is more to tell than ipvsadm has columns for.
func methods() *director.Snapshot {
	tunnel := real("10.0.0.1:80", director.Tunnel, 1, 2, 3)
	tunnel.Name, tunnel.MTU = "rs1", 1468
	tunnel.Tunnel = &director.TunnelOptions{Type: director.GUE, Port: 6080, Checksum: true}
	itself := real("10.0.0.254:80", director.DirectRouting, 1, 0, 0)
	itself.Local = true
	return &director.Snapshot{Services: []director.ServiceState{service(director.TCP, "192.0.2.1:80", "rr", tunnel, itself)}}
}
