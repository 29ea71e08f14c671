// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"xdplvs/director"
	"xdplvs/healthcheck"
	"xdplvs/internal/api"
	"xdplvs/internal/health"
	"xdplvs/internal/notify"
)

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	config, err := Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return config
}

func keyOf(p director.Protocol, addrPort string) director.ServiceKey {
	ap := netip.MustParseAddrPort(addrPort)
	return director.ServiceKey{Protocol: p, Addr: ap.Addr(), Port: ap.Port()}
}

func realAt(addrPort string, weight uint32) director.RealServer {
	ap := netip.MustParseAddrPort(addrPort)
	return director.RealServer{
		Key: director.RealKey{Addr: ap.Addr(), Port: ap.Port()}, Method: director.DirectRouting, Weight: weight,
	}
}

func named(name string, r director.RealServer) director.RealServer {
	r.Name = name
	return r
}

func limited(r director.RealServer, upper, lower uint32) director.RealServer {
	r.Upper, r.Lower = upper, lower
	return r
}

func slow(r director.RealServer, seconds int) director.RealServer {
	r.SlowStart = time.Duration(seconds) * time.Second
	return r
}

func by(m director.Method, r director.RealServer) director.RealServer {
	r.Method = m
	return r
}

func saying(checks string, r director.RealServer) director.RealServer {
	r.Written = checks
	return r
}

func inhibited(r director.RealServer) director.RealServer {
	r.Checked, r.InhibitOnFailure = true, true
	return r
}

func tunneled(r director.RealServer, t director.TunnelOptions) director.RealServer {
	r.Method, r.Tunnel = director.Tunnel, t
	return r
}

// everyAPI is what everything says of it.
var everyAPI = API{AdminGroup: "wheel", ReadGroup: "staff", RemoteOptions: api.RemoteOptions{
	Listen:   []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9443"), netip.MustParseAddrPort("[::1]:9443")},
	CertFile: "/etc/director/cert.pem", KeyFile: "/etc/director/key.pem", ClientCAFile: "/etc/director/ca.pem",
	MinVersion: tls.VersionTLS13, Rate: 7,
	Tokens: []api.Token{{Name: "ops", Admin: true, File: "/etc/director/ops.token"},
		{Name: "prometheus", Env: "PROMETHEUS_TOKEN"}, {Name: "old", SHA256: "abc"}},
	Clients: []api.ClientCertificate{{Subject: "CN=boss,O=Example", Admin: true}, {Subject: "clerk"}},
}}

// everything has each key of the format, in all its forms.
const everything = `
version: 1
interfaces:
  - eth0
  - name: eth1
    mode: native
  - {name: eth2, mode: generic}
  - {name: eth3, mode: auto}
socket: /run/d/../x.sock
state_dir: /sys/fs/bpf/x/
limits: {connections4: 1024, connections6: 128k, services: 11, real_servers: 5K, plan_slots: 1M, mark_entries: 32k, prefixes: 64k, destinations: 7k}
timeouts:
  {tcp: 1h30m, tcpfin: 90, udp: "1.5s", tcp_none: 3, tcp_syn_sent: 4, tcp_syn_recv: 5, tcp_time_wait: 6, tcp_close: 7,
   tcp_close_wait: 8, tcp_last_ack: 9, tcp_listen: 10, tcp_synack: 11, sctp_none: 12, sctp_init1: 13, sctp_init: 14,
   sctp_cookie_sent: 15, sctp_cookie_replied: 16, sctp_cookie_wait: 17, sctp_cookie: 18, sctp_cookie_echoed: 19,
   sctp_established: 20, sctp_shutdown_sent: 21, sctp_shutdown_received: 22, sctp_shutdown_ack_sent: 23,
   sctp_rejected: 24, sctp_closed: 25}
fullnat: {sources: [10.0.0.254, "fd00::fe"], ports: 2000-2999}
defense: {drop_entry: auto, drop_packet: 3, secure_tcp: always, am_droprate: 11, amemthresh: 12, occupancy: 13, syn_cookies: auto, half_open: 14,
  allow: [192.0.2.1, "2001:db8:1::/48"], deny: [192.0.2.0/24], budget: {rate: 5, burst: 6, prefix4: 24, prefix6: 56}, ceiling: 1000}
announce: {burst: 3, refresh: 90s}
metrics: {listen: "[::]:9500", services: 100, real_servers: 20k}
api:
  listen: [127.0.0.1:9443, "[::1]:9443"]
  cert_file: /etc/director/cert.pem
  key_file: /etc/director/key.pem
  client_ca_file: /etc/director/ca.pem
  min_version: "1.3"
  tokens:
    - {name: ops, role: admin, file: /etc/director/ops.token}
    - {name: prometheus, role: read, env: PROMETHEUS_TOKEN}
    - {name: old, role: read, sha256: abc}
  clients: [{subject: "CN=boss,O=Example", role: admin}, {subject: clerk, role: read}]
  rate: 7
  admin_group: wheel
  read_group: staff
addresses:
  - {address: 192.0.2.10, mode: interface, interface: eth9, prefix_length: 24, force: true}
  - {address: "2001:db8::10", mode: answer, interface: eth1}
  - {address: "2001:db8::10", mode: answer, interface: eth2, force: false, closed_ports: reset}
checks: [{name: conn, tcp: {}}]
notify:
  - {webhook: {url: "https://alerts.example.com/x", token: t, headers: {A: b}}, events: [real_down, quorum_lost], timeout: 3s}
  - mail: {server: mx, from: a@example.com, to: [b@example.com, c@example.com], user: u, password: p, security: starttls, skip_verify: true}
  - {command: {path: /bin/x, args: [y]}}
  - fifo: /run/x.fifo
services:
  - name: web
    check: conn
    inhibit_on_failure: true
    quorum: 10
    hysteresis: 2
    min_up: 1
    protocol: tcp
    address: 192.0.2.10
    port: 80
    scheduler: sh
    scheduler_flags: [sh-port, sh-fallback]
    answer: pass
    semantics: director
    on_remove: reset
    on_down: reschedule
    conn_reuse_mode: 1
    expire_nodest_conn: true
    sloppy_tcp: true
    sloppy_sctp: false
    method: dr
    tunnel: {type: gue, port: 6080}
    fullnat: {sources: [10.0.0.253]}
    defense: {deny: [198.51.100.0/24], budget: {rate: 7}, ceiling: {rate: 8, burst: 9}, syn_cookies: off}
    weight: 7
    slow_start: 30s
    reals:
      - 10.0.0.1
      - 10.0.0.2:80
      - address: 10.0.0.3
        port: 80
        name: rs3
        weight: 0
        upper: 100
        lower: 60
        slow_start: 1m30s
        method: dr
        checks: []
      - {address: 10.0.0.4, method: tun}
      - {address: "fd00::4", method: tun, tunnel: {type: gre, checksum: true}}
    sorry_servers:
      - {address: 10.0.0.9, weight: 1, slow_start: 0}
      - {address: 127.0.0.1, method: local, name: here}
  - protocol: udp
    virtual: "[2001:db8::10]:53"
    one_packet: true
    answer: drop
    reals: ["[fd00::1]:53", fd00::2]
  - {virtual: 192.0.2.10:443, name: 443, persistence: 90}
  - fwmark: 7
    family: ipv6
    persistence: {timeout: 1h, netmask: 64, expire_quiescent: true, on_down: keep}
    reals: [fd00::3]
  - {address: 192.0.2.11, port: any, persistence: {netmask: 255.255.255.0}}
  - {virtual: 192.0.2.10:444, scheduler: mh, mh_table: 65537}
  - {virtual: 192.0.2.10:445, scheduler: lblc, lblc_expiration: 1h}
  - {virtual: 192.0.2.10:5060, protocol: udp, persistence: {netmask: 0, engine: sip}}
  - {virtual: 192.0.2.10:446, scheduler: lblcr, lblcr_expiration: 90}
  - {fwmark: 8, mark_source: firewall, vips: [192.0.2.20, 192.0.2.21]}
marks:
  - {mark: 7, protocol: tcp, source: "2001:db8:1::/48", destination: "2001:db8::10", source_port: 1024-65535, destination_port: "80, 443,8000-8080", interface: eth1, dscp: 46}
  - {mark: 4294967295, destination_port: [554, 6970-7170]}
`

// everyKey is the service with all keys.
func everyKey() director.Service {
	return director.Service{
		Name: "web", Key: keyOf(director.TCP, "192.0.2.10:80"), Scheduler: "sh", Answer: director.AnswerPass,
		Flags: director.SchedulerFlags("sh-port", "sh-fallback"),
		Conns: director.ConnPolicy{OnRemove: director.FateReset, OnDown: director.FateReschedule,
			Reuse: director.ReuseClosed, ExpireNodest: true, Sloppy: true},
		Sources: []netip.Addr{netip.MustParseAddr("10.0.0.253")},
		Guard: director.Guard{Deny: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
			Budget:  director.Budget{Limit: director.Limit{Rate: 7, Burst: 7}, Prefix4: 32, Prefix6: 64},
			Ceiling: director.Limit{Rate: 8, Burst: 9}, Cookies: director.CookieMode{Own: true}},
		Reals: []director.RealServer{inhibited(slow(realAt("10.0.0.1:80", 7), 30)), inhibited(slow(realAt("10.0.0.2:80", 7), 30)),
			saying("{checks: []}", slow(named("rs3", limited(realAt("10.0.0.3:80", 0), 100, 60)), 90)),
			inhibited(slow(tunneled(realAt("10.0.0.4:80", 7), director.TunnelOptions{Type: director.GUE, Port: 6080}), 30)),
			inhibited(slow(tunneled(realAt("[fd00::4]:80", 7), director.TunnelOptions{Type: director.GRE, Checksum: true}), 30))},
		Sorry:   []director.RealServer{realAt("10.0.0.9:80", 1), slow(by(director.Local, named("here", realAt("127.0.0.1:80", 7))), 30)},
		Written: "{check: conn, inhibit_on_failure: true, quorum: 10, hysteresis: 2, min_up: 1, defense: {deny: [198.51.100.0/24], budget: {rate: 7}, ceiling: {rate: 8, burst: 9}, syn_cookies: off}}",
	}
}

func TestEverything(t *testing.T) {
	want := &Config{
		Desired: director.Desired{
			Interfaces: []director.Interface{
				{Name: "eth0"}, {Name: "eth1", Mode: director.AttachNative},
				{Name: "eth2", Mode: director.AttachGeneric}, {Name: "eth3"},
			},
			Services: []director.Service{
				everyKey(),
				{
					Key: keyOf(director.UDP, "[2001:db8::10]:53"), Scheduler: "wrr", OnePacket: true, Answer: director.AnswerDrop,
					Conns: director.ConnPolicy{OnRemove: director.FateReschedule, OnDown: director.FateReschedule},
					Reals: []director.RealServer{realAt("[fd00::1]:53", 1), realAt("[fd00::2]:53", 1)},
				},
				{Name: "443", Key: keyOf(director.TCP, "192.0.2.10:443"), Scheduler: "wrr", Persistence: director.Persistence{Timeout: 90 * time.Second}},
				{
					Key: director.MarkKey(7, true), Scheduler: "wrr",
					Persistence: director.Persistence{Timeout: time.Hour, Prefix: 64, ExpireQuiescent: true, KeepDown: true},
					Reals:       []director.RealServer{realAt("[fd00::3]:0", 1)},
				},
				{
					Key: keyOf(director.TCP, "192.0.2.11:0"), Scheduler: "wrr",
					Persistence: director.Persistence{Timeout: director.DefaultPersistence, Prefix: 24},
				},
				{Key: keyOf(director.TCP, "192.0.2.10:444"), Scheduler: "mh", MHTable: 65537},
				{Key: keyOf(director.TCP, "192.0.2.10:445"), Scheduler: "lblc", Expiration: time.Hour},
				{
					Key: keyOf(director.UDP, "192.0.2.10:5060"), Scheduler: "wrr", Conns: director.DefaultConnPolicy(director.UDP),
					Persistence: director.Persistence{Timeout: director.DefaultPersistence, AnyClient: true, Engine: director.SIPEngine},
				},
				{Key: keyOf(director.TCP, "192.0.2.10:446"), Scheduler: "lblcr", Expiration: 90 * time.Second},
				{Key: director.MarkKey(8, false), Scheduler: "wrr", MarkSource: director.MarkFirewall,
					VIPs: []netip.Addr{netip.MustParseAddr("192.0.2.20"), netip.MustParseAddr("192.0.2.21")}},
			},
			Marks: []director.MarkRule{
				{
					Mark: 7, Protocol: director.TCP, Source: netip.MustParsePrefix("2001:db8:1::/48"), Dest: netip.MustParsePrefix("2001:db8::10/128"),
					SourcePorts: []director.PortRange{{First: 1024, Last: 65535}},
					DestPorts:   []director.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}, {First: 8000, Last: 8080}},
					Interface:   "eth1", DSCP: new(uint8(46)),
				},
				{Mark: 4294967295, DestPorts: []director.PortRange{{First: 554, Last: 554}, {First: 6970, Last: 7170}}},
			},
			Timeouts: everyTimeout(90*time.Minute, 90*time.Second, 1500*time.Millisecond),
			Locals: director.LocalEnds{Ports: director.PortRange{First: 2000, Last: 2999},
				Sources: []netip.Addr{netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("fd00::fe")}},
			Defense: director.Defense{Strategies: director.DefenseSettings{DropEntry: 1, DropPacket: 3, SecureTCP: 3, DropRate: 11, MemThresh: 12, Occupancy: 13, SynCookies: 1, HalfOpen: 14},
				Guard: director.Guard{
					Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8:1::/48")}, Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
					Budget:  director.Budget{Limit: director.Limit{Rate: 5, Burst: 6}, Prefix4: 24, Prefix6: 56},
					Ceiling: director.Limit{Rate: 1000, Burst: 1000},
				}},
			Closed: map[netip.Addr]director.ClosedPorts{netip.MustParseAddr("2001:db8::10"): director.ClosedReset},
		},
		Limits:   director.Limits{Connections4: 1 << 10, Connections6: 1 << 17, Services: 11, RealServers: 5 << 10, PlanSlots: 1 << 20, MarkEntries: 1 << 15, Prefixes: 1 << 16, Destinations: 7 << 10},
		Socket:   "/run/x.sock",
		StateDir: "/sys/fs/bpf/x",
		Addresses: []director.Address{
			{Addr: netip.MustParseAddr("192.0.2.10"), Mode: director.AddressInterface, Interface: "eth9", Prefix: 24, Force: true},
			{Addr: netip.MustParseAddr("2001:db8::10"), Mode: director.AddressAnswer, Interface: "eth1"},
			{Addr: netip.MustParseAddr("2001:db8::10"), Mode: director.AddressAnswer, Interface: "eth2"},
		},
		Announce: director.Announcing{Burst: 3, Refresh: 90 * time.Second},
		Metrics:  Metrics{Listen: netip.MustParseAddrPort("[::]:9500"), Services: 100, RealServers: 20 << 10},
		API:      everyAPI,
		Notify: []notify.Target{
			{Webhook: &notify.Webhook{URL: "https://alerts.example.com/x", Token: healthcheck.NewSecret("t"), Header: map[string]healthcheck.Secret{"A": healthcheck.NewSecret("b")}},
				Events: []health.Kind{health.RealDown, health.QuorumLost}, Timeout: 3 * time.Second},
			{Mail: &notify.Mail{Server: "mx:25", From: "a@example.com", To: []string{"b@example.com", "c@example.com"}, User: "u",
				Password: healthcheck.NewSecret("p"), Security: healthcheck.StartTLS, SkipVerify: true}},
			{Command: &notify.Command{Path: "/bin/x", Args: []string{"y"}}},
			{FIFO: "/run/x.fifo"},
		},
	}
	got := mustParse(t, everything)
	got.Health, got.checks = nil, nil // see TestHealth
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// everyTimeout has the given ones first, then as many seconds as the timeout's number.
func everyTimeout(first ...time.Duration) (t director.Timeouts) {
	for i, name := range director.TimeoutNames() {
		d := time.Duration(i) * time.Second
		if i < len(first) {
			d = first[i]
		}
		if err := t.Set(name, d); err != nil {
			panic(err)
		}
	}
	return t
}

// TestFullNAT: what is said of where connections come from, and what there cannot be.
func TestFullNAT(t *testing.T) {
	config := mustParse(t, "interfaces: [eth0]\nservices: [{virtual: 192.0.2.1:80, method: fullnat, reals: [10.0.0.1:8080]}]")
	if l := config.Desired.Locals; len(l.Sources) != 0 || l.Ports != director.DefaultLocalPorts {
		t.Errorf("without fullnat: %v", l)
	}
	if r := config.Desired.Services[0].Reals[0]; r.Method != director.FullNAT || r.Key.Port != 8080 {
		t.Errorf("real server %+v", r)
	}
	_, err := Parse("test.yaml", []byte("interfaces: [eth0]\nservices: [{virtual: 192.0.2.1:53, protocol: udp, method: fullnat, one_packet: true, reals: [10.0.0.1]}]"))
	if want := "test.yaml:2:80: services[0].one_packet: one-packet scheduling keeps no connections, and method fullnat needs them"; err == nil || err.Error() != want {
		t.Errorf("one packet: %v, want %s", err, want)
	}
}

// TestPolicies: the defaults that a service's connections have, by its protocol and semantics.
func TestPolicies(t *testing.T) {
	const reschedule, reset, drop = director.FateReschedule, director.FateReset, director.FateDrop
	for keys, want := range map[string]director.ConnPolicy{
		"protocol: tcp":                                               {},
		"protocol: udp":                                               {OnRemove: reschedule, OnDown: reschedule},
		"protocol: udp, on_down: keep":                                {OnRemove: reschedule},
		"protocol: udp, on_remove: reset":                             {OnRemove: reset, OnDown: reschedule},
		"semantics: director, conn_reuse_mode: 0":                     {Reuse: director.ReuseNever},
		"conn_reuse_mode: 1":                                          {Reuse: director.ReuseClosed},
		"conn_reuse_mode: 2":                                          {Reuse: director.ReuseClosing},
		"conn_reuse_mode: 3":                                          {},
		"expire_nodest_conn: true":                                    {ExpireNodest: true},
		"semantics: ipvs":                                             {OnRemove: drop, Reuse: director.ReuseClosed},
		"semantics: ipvs, protocol: udp":                              {OnRemove: drop, Reuse: director.ReuseClosed},
		"semantics: ipvs, expire_nodest_conn: true":                   {OnRemove: reschedule, Reuse: director.ReuseClosed, ExpireNodest: true},
		"semantics: ipvs, on_remove: keep, on_down: reset":            {OnDown: reset, Reuse: director.ReuseClosed},
		"semantics: ipvs, conn_reuse_mode: 3, sloppy_tcp: true":       {OnRemove: drop, Sloppy: true},
		"semantics: ipvs, expire_nodest_conn: true, on_remove: reset": {OnRemove: reset, Reuse: director.ReuseClosed, ExpireNodest: true},
	} {
		config := mustParse(t, "interfaces: [eth0]\nservices: [{virtual: 192.0.2.1:80, "+keys+"}]")
		if got := config.Desired.Services[0].Conns; got != want {
			t.Errorf("%s: %+v, want %+v", keys, got, want)
		}
	}
}

// TestSloppySCTP: the key waits for the protocol.
func TestSloppySCTP(t *testing.T) {
	pinAvailable(t)
	availableProtocols = append(availableProtocols, director.SCTP)
	config := mustParse(t, "interfaces: [eth0]\nservices: [{virtual: 192.0.2.1:80, protocol: sctp, sloppy_sctp: true}]")
	if !config.Desired.Services[0].Conns.Sloppy {
		t.Error("it is not sloppy")
	}
}

// TestPersistencePorts: real servers by nat cannot have a port that persistence would leave out.
// TestOnePacketByNAT: it is told what becomes of answers, and not refused: there may be none.
func TestOnePacketByNAT(t *testing.T) {
	for method, want := range map[string]int{"nat": 1, "dr": 0} {
		notes := mustParse(t, "interfaces: [eth0]\nservices:\n  - {virtual: 192.0.2.1:53, protocol: udp, one_packet: true, method: "+method+", reals: [10.0.0.1, 10.0.0.2]}\n").Notes
		if len(notes) != want || want > 0 && !strings.Contains(notes[0].Error(), "services[0].one_packet: answers by nat keep the real server's address") {
			t.Errorf("%s: notes %v", method, notes)
		}
	}
}

func TestPersistencePorts(t *testing.T) {
	_, err := Parse("x.yaml", []byte("interfaces: [eth0]\nservices: [{address: 192.0.2.10, port: any, persistence: 5m, method: nat, reals: [10.0.0.1:80]}]"))
	const want = "services[0].reals[0]: persistence for several ports leaves them as they are, so the port must be left out, found 80"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

// TestOwnership: what an address has where the file says little.
func TestOwnership(t *testing.T) {
	vip4, vip6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for text, want := range map[string]director.Address{
		"{address: 192.0.2.1, mode: interface}":                   {Addr: vip4, Mode: director.AddressInterface, Interface: "eth0", Prefix: 32},
		"{address: 2001:db8::1, mode: interface}":                 {Addr: vip6, Mode: director.AddressInterface, Interface: "eth0", Prefix: 128},
		"{address: 2001:db8::1, mode: interface, interface: lo}":  {Addr: vip6, Mode: director.AddressInterface, Interface: "lo", Prefix: 128},
		"{address: 2001:db8::1, mode: answer}":                    {Addr: vip6, Mode: director.AddressAnswer, Interface: "eth0"},
		"{address: 192.0.2.1, mode: none}":                        {Addr: vip4},
		"{address: 192.0.2.1, mode: interface, prefix_length: 8}": {Addr: vip4, Mode: director.AddressInterface, Interface: "eth0", Prefix: 8},
	} {
		config := mustParse(t, "interfaces: [eth0]\nservices: [{virtual: 192.0.2.1:80}, {virtual: '[2001:db8::1]:80'}]\naddresses: ["+text+"]")
		if len(config.Addresses) != 1 || config.Addresses[0] != want {
			t.Errorf("%s: %+v, want %+v", text, config.Addresses, want)
		}
	}
	never := mustParse(t, "interfaces: [eth0]\nannounce: {refresh: 0}").Announce
	if want := (director.Announcing{Burst: director.DefaultAnnouncing.Burst}); never != want {
		t.Errorf("announced %+v, want %+v", never, want)
	}
}

// TestCrossingMarks: rules that share packets, and give them different marks, are named, but are no fault.
func TestCrossingMarks(t *testing.T) {
	const rules = `
interfaces: [eth0]
marks:
  - {mark: 1, destination: 192.0.2.1, destination_port: 80-89}
  - {mark: 2, destination: 192.0.2.1}
  - {mark: 3, destination_port: 85-99}
`
	notes := mustParse(t, rules).Notes
	if want := "test.yaml:6:5: marks[2]: some of its packets get mark 1, by the rule in line 4, which comes first"; notes.Error() != want {
		t.Errorf("notes are\n%s\nwant\n%s", notes, want)
	}
	text := "  - {mark: 9, source: 192.0.2.0/24, destination: 10.0.0.0/24}\n"
	for i := range 40 {
		text += fmt.Sprintf("  - {mark: %d, source: 192.0.2.%d, destination_port: %d}\n", 10+i, i, i)
	}
	notes = mustParse(t, "interfaces: [eth0]\nmarks:\n"+text).Notes
	if last := notes[len(notes)-1]; len(notes) != 21 || last.Message != "so do 20 more rules" {
		t.Errorf("%d notes, the last is %s", len(notes), last)
	}
}

// TestEverythingHasAllKeys keeps the test above complete.
func TestEverythingHasAllKeys(t *testing.T) {
	for _, keys := range [][]string{
		rootObject.keys(), ifaceObject.keys(), limitsObject.keys(), timeoutsObject.keys(), serviceObject.keys(), realObject.keys(), persistenceObject.keys(), markObject.keys(),
		ownershipObject.keys(), announcingObject.keys(), tunnelObject.keys(), metricsObject.keys(), apiObject.keys(), apiTokenObject.keys(), apiClientObject.keys(), notificationObject.keys(), webhookObject.keys(), mailObject.keys(), commandObject.keys(), defenseObject.keys(), guardObject.keys(), budgetObject.keys(), rateObject.keys(),
	} {
		for _, k := range keys {
			if !strings.Contains(everything, k+":") {
				t.Errorf("key %s is not tested", k)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	want := Default()
	want.Desired.Interfaces = []director.Interface{{Name: "eth0"}}
	for name, text := range map[string]string{
		"absent":   "interfaces: [eth0]",
		"empty":    "interfaces: [eth0]\nlimits: {}\ntimeouts: {}\nservices: []",
		"nothing":  "interfaces: [eth0]\nlimits:\n#  services: 1\ntimeouts:\nservices:\n",
		"JSON":     `{"interfaces": ["eth0"]}`,
		"CRLF":     "interfaces:\r\n  - eth0\r\n",
		"BOM":      "\ufeffinterfaces: [eth0]",
		"markers":  "%YAML 1.1\n---\ninterfaces: [eth0]\n...\n",
		"x- keys":  "x-a: &a [1, {b: c}]\ninterfaces: [eth0]\nx-: *a",
		"!!str":    "interfaces: [!!str eth0]",
		"quoted":   "'interfaces': [\"eth0\"]",
		"an alias": "x-i: &i eth0\ninterfaces: [*i]",
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustParse(t, text); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestMerge follows yaml.org/type/merge.html.
func TestMerge(t *testing.T) {
	const head = "interfaces: [eth0]\nx-a: &a {port: 80, weight: 2, scheduler: rr}\nx-b: &b {port: 81, weight: 3, protocol: udp}\n" +
		"x-ab: &ab {<<: *a, weight: 4}\nx-self: &self {<<: *self, port: 82}\nservices:\n  - "
	for name, test := range map[string]struct{ service, want string }{
		"one":              {"{<<: *a, address: 192.0.2.1}", "tcp 192.0.2.1:80 rr 2"},
		"own keys win":     {"{port: 90, <<: *a, weight: 9, address: 192.0.2.1}", "tcp 192.0.2.1:90 rr 9"},
		"earlier wins":     {"{<<: [*a, *b], address: 192.0.2.1}", "udp 192.0.2.1:80 rr 2"},
		"the other order":  {"{<<: [*b, *a], address: 192.0.2.1}", "udp 192.0.2.1:81 rr 3"},
		"nested":           {"{<<: *ab, address: 192.0.2.1}", "tcp 192.0.2.1:80 rr 4"},
		"nested, then b":   {"{<<: [*ab, *b], address: 192.0.2.1}", "udp 192.0.2.1:80 rr 4"},
		"not an alias":     {"{<<: {port: 70}, address: 192.0.2.1}", "tcp 192.0.2.1:70 wrr 1"},
		"into itself":      {"{<<: *self, address: 192.0.2.1}", "tcp 192.0.2.1:82 wrr 1"},
		"service itself":   {"&s {<<: *s, address: 192.0.2.1, port: 1}", "tcp 192.0.2.1:1 wrr 1"},
		"twice the same":   {"{<<: [*a, *a], address: 192.0.2.1}", "tcp 192.0.2.1:80 rr 2"},
		"wrong, overruled": {"{<<: {port: x}, port: 1, address: 192.0.2.1}", "tcp 192.0.2.1:1 wrr 1"},
	} {
		t.Run(name, func(t *testing.T) {
			text := head + strings.TrimSuffix(test.service, "}") + ", reals: [10.0.0.1]}"
			s := mustParse(t, text).Desired.Services[0]
			if got := fmt.Sprint(s.Key, " ", s.Scheduler, " ", s.Reals[0].Weight); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestExamples loads the example files, of which none may be missing.
func TestExamples(t *testing.T) {
	names := map[string]string{
		"minimal.yaml":        "tcp 192.0.2.10:80 2",
		"sorry.yaml":          "tcp 192.0.2.10:80 2 (sorry 2), tcp [2001:db8::10]:80 2 (sorry 1)",
		"rtsp.yaml":           "fwmark 1 2, fwmark 1 ipv6 2",
		"defense.yaml":        "tcp 192.0.2.25:25 2, tcp 192.0.2.25:587 2",
		"dns.yaml":            "udp 192.0.2.10:53 3, tcp 192.0.2.10:53 3, udp [2001:db8::10]:53 3, tcp [2001:db8::10]:53 3",
		"mail.yaml":           "tcp 192.0.2.10:25 3, tcp [2001:db8::10]:25 3, fwmark 1 3, fwmark 1 ipv6 3",
		"mysql.yaml":          "tcp 192.0.2.10:3306 3, tcp 192.0.2.10:3307 3, tcp [2001:db8::10]:3306 3, tcp [2001:db8::10]:3307 3",
		"fullnat.yaml":        "tcp 192.0.2.10:80 3, tcp [2001:db8::10]:80 2",
		"tunnel.yaml":         "tcp 192.0.2.10:80 5",
		"addresses.yaml":      "tcp 192.0.2.10:80 2, tcp [2001:db8::10]:80 2, tcp 192.0.2.20:25 2, udp 192.0.2.53:53 2",
		"health.yaml":         "tcp 192.0.2.10:80 3, tcp 192.0.2.10:25 2, tcp 192.0.2.10:3306 2, udp 192.0.2.10:53 2",
		"dr-web.yaml":         "tcp 192.0.2.10:80 3, tcp 192.0.2.10:443 3, tcp [2001:db8::10]:80 3, tcp [2001:db8::10]:443 3",
		"firewall-marks.yaml": "fwmark 7 2",
		"api.yaml":            "tcp 192.0.2.10:80 2",
		"failover.yaml":       "tcp 192.0.2.10:80 3, tcp [2001:db8::10]:80 3",
		"http.yaml":           "fwmark 1 3, fwmark 1 ipv6 3",
		"multihomed.yaml":     "fwmark 1 3, fwmark 1 ipv6 3",
		"sctp.yaml":           "sctp 192.0.2.10:7 3, sctp [2001:db8::10]:7 3",
		"syslog.yaml":         "udp 192.0.2.10:514 3, udp [2001:db8::10]:514 3",
		"sip.yaml":            "udp 192.0.2.10:5060 2, udp [2001:db8::10]:5060 2",
	}
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) != len(names) {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, file := range files {
		config, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := summary(config); got != names[file] {
			t.Errorf("%s has %s, want %s", file, got, names[file])
		}
	}
}

func summary(c *Config) string {
	var services []string
	for _, s := range c.Desired.Services {
		text := fmt.Sprintf("%s %d", s.Key, len(s.Reals))
		if len(s.Sorry) > 0 {
			text += fmt.Sprintf(" (sorry %d)", len(s.Sorry))
		}
		services = append(services, text)
	}
	return strings.Join(services, ", ")
}

func TestLoadFails(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 10*MaxFileSize); err != nil {
		t.Fatal(err)
	}
	_, err := Load(large)
	if want := large + ": file is larger than 64 MiB"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	var errs *Errors
	if _, err := Load(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) || errors.As(err, &errs) {
		t.Errorf("absent: %v", err)
	}
	if _, err := Load(dir); err == nil || errors.As(err, &errs) {
		t.Errorf("directory: %v", err)
	}
}

// TestValidateIsAsked brings a weight past the tables, as a new rule of package
// director would find something that nothing here refuses.
func TestValidateIsAsked(t *testing.T) {
	doc := &document{file: "test.yaml"}
	at := func(n *yaml.Node) cursor { return cursor{&path{doc: doc}, n} }
	here := at(&yaml.Node{Kind: yaml.MappingNode, Line: 3, Column: 5})
	reals := at(&yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{
		{Kind: yaml.ScalarNode, Tag: "!!str", Value: "10.0.0.1"}, {Kind: yaml.ScalarNode, Tag: "!!str", Value: "10.0.0.2"},
	}})
	s := service{
		virtual: setting[netip.AddrPort]{netip.MustParseAddrPort("192.0.2.1:80"), here, true},
		weight:  setting[uint32]{director.MaxWeight + 1, here, true},
		reals:   setting[list[realServer]]{list[realServer]{reals, realKind}, reals, true},
	}
	b := newBuilder(doc)
	b.mostReals = 2
	b.service(&setting[service]{s, here, true}, 0)
	err := doc.report()
	if err == nil || !strings.HasPrefix(err.Error(), "test.yaml:3:5: service tcp 192.0.2.1:80: ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}
