// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	hc "xdplvs/healthcheck"
	"xdplvs/internal/health"
)

// withCheck is a file with one service that is checked in one way.
func withCheck(way string) string {
	return "interfaces: [eth0]\nchecks:\n  - name: c\n    " + strings.ReplaceAll(way, "\n", "\n    ") +
		"\nservices:\n  - {name: web, virtual: 192.0.2.1:80, check: c, reals: [10.0.0.1]}\n"
}

func onlyCheck(t *testing.T, text string) health.Check {
	t.Helper()
	return mustParse(t, text).Health[0].Reals[0].Checks[0]
}

// everyCheck has each way to check with each of its options, in YAML and as it is to be.
func everyCheck(t *testing.T) map[string]hc.Checker {
	client := hc.TLSClient{ServerName: "s", Verify: "chain", Warn: time.Hour, MinVersion: "1.3"}
	const tls = "{server_name: s, verify: chain, warn: 1h, min_version: '1.3'}"
	password := hc.NewSecret("p")
	all := map[string]hc.Checker{}
	add := func(text string, c hc.Checker, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		all[text] = c
	}
	both := func(text string) func(hc.Checker, error) {
		return func(c hc.Checker, err error) { t.Helper(); add(text, c, err) }
	}
	both("tcp: {half_open: true, reset: false}")(hc.NewTCP(hc.TCPOptions{HalfOpen: true}))
	both("tcp:")(hc.NewTCP(hc.TCPOptions{}))
	both("tls: {server_name: s, verify: chain, warn: 1h, min_version: '1.3', protocols: [h2]}")(hc.NewTLS(hc.TLSOptions{TLS: client, Protocols: []string{"h2"}}))
	both("tls: {warn: 0}")(hc.NewTLS(hc.TLSOptions{TLS: hc.TLSClient{Warn: -1}}))
	both("http: /x")(hc.NewHTTP(hc.HTTPOptions{URLs: []hc.HTTPURL{{Path: "/x"}}}))
	both("http: {path: /a, status: 200, body: {regex: x, text: y, not: true}, digest: 'md5:00112233445566778899aabbccddeeff', host: h, method: HEAD, version: '1.1', headers: {A: b}, send: s, user: u, password: p, max_body: 100}")(
		hc.NewHTTP(hc.HTTPOptions{Host: "h", Method: "HEAD", Version: "1.1", Header: map[string]hc.Secret{"A": hc.NewSecret("b")}, Body: "s", User: "u", Password: password, MaxBody: 100,
			URLs: []hc.HTTPURL{{Path: "/a", Status: "200", Body: hc.Pattern{Text: "y", Regex: "x", Not: true}, Digest: "md5:00112233445566778899aabbccddeeff"}}}))
	both("http: {urls: [{path: /a, host: x}, {path: /b}], tls: " + tls + "}")(
		hc.NewHTTP(hc.HTTPOptions{TLS: &client, URLs: []hc.HTTPURL{{Path: "/a", Host: "x"}, {Path: "/b"}}}))
	both("https: {host: www.example.com}")(
		hc.NewHTTP(hc.HTTPOptions{TLS: &hc.TLSClient{ServerName: "www.example.com"}, Host: "www.example.com", URLs: []hc.HTTPURL{{}}}))
	both("smtp: {security: starttls, tls: " + tls + ", hello: h, lmtp: true, banner: b, extensions: [AUTH], user: u, password: p, mail_from: a@b, rcpt_to: c@d}")(
		hc.NewSMTP(hc.SMTPOptions{Security: hc.StartTLS, TLS: client, Hello: "h", LMTP: true, Banner: hc.Pattern{Text: "b"}, Extensions: []string{"AUTH"},
			User: "u", Password: password, MailFrom: "a@b", RcptTo: "c@d"}))
	mailbox := hc.MailboxOptions{Security: hc.TLS, TLS: client, Banner: hc.Pattern{Text: "b"}, User: "u", Password: password}
	both("pop3: {security: tls, tls: " + tls + ", banner: b, user: u, password: p}")(hc.NewPOP3(mailbox))
	mailbox.Mailbox = "m"
	both("imap: {security: tls, tls: " + tls + ", banner: b, user: u, password: p, mailbox: m}")(hc.NewIMAP(mailbox))
	both("ftp: {security: tls, tls: " + tls + ", banner: b, user: u, password: p, file: f, content: c}")(
		hc.NewFTP(hc.FTPOptions{Security: hc.TLS, TLS: client, Banner: hc.Pattern{Text: "b"}, User: "u", Password: password, File: "f", Content: hc.Pattern{Text: "c"}}))
	both("rtsp: {tls: " + tls + ", path: /c, host: h, user: u, password: p, status: 200-201, description: d}")(
		hc.NewRTSP(hc.RTSPOptions{TLS: &client, Path: "/c", Host: "h", User: "u", Password: password, Status: "200-201", Description: hc.Pattern{Text: "d"}}))
	both("sip: {transport: tls, tls: " + tls + ", user: u, domain: d, status: 200}")(
		hc.NewSIP(hc.SIPOptions{Transport: "tls", TLS: client, User: "u", Domain: "d", Status: "200"}))
	lag := hc.LagOptions{Max: time.Minute, Curve: []hc.LagPoint{{Lag: 0, Factor: 100}, {Lag: time.Minute, Factor: 10}}, Unknown: "down"}
	const lagText = "{max: 1m, curve: [{lag: 0, factor: 100}, {lag: 1m, factor: 10}], unknown: down}"
	both("mysql: {user: u, password: p, database: d, security: tls, tls: " + tls + ", query: q, expect: e, role: replica, lag: " + lagText + ", stopped: up, channel: c}")(
		hc.NewMySQL(hc.MySQLOptions{User: "u", Password: password, Database: "d", Security: hc.TLS, TLS: client, Query: "q", Expect: hc.Pattern{Text: "e"}, Role: "replica",
			Lag: lag, Stopped: "up", Channel: "c"}))
	both("mysql: {user: u, lag: " + lagText + ", heartbeat: a.b, heartbeat_column: t, heartbeat_utc: true, galera: donor}")(
		hc.NewMySQL(hc.MySQLOptions{User: "u", Lag: lag, Heartbeat: "a.b", HeartbeatColumn: "t", HeartbeatUTC: true, Galera: "donor"}))
	both("mysql: {user: u, lag: " + lagText + ", lag_query: q}")(hc.NewMySQL(hc.MySQLOptions{User: "u", Lag: lag, LagQuery: "q"}))
	both("postgres: {user: u, password: p, database: d, security: tls, tls: " + tls + ", query: q, expect: e, role: replica, lag: " + lagText + ", lag_query: l}")(
		hc.NewPostgres(hc.PostgresOptions{User: "u", Password: password, Database: "d", Security: hc.TLS, TLS: client, Query: "q", Expect: hc.Pattern{Text: "e"},
			Role: "replica", Lag: lag, LagQuery: "l"}))
	both("redis: {security: tls, tls: " + tls + ", user: u, password: p, role: replica, lag: " + lagText + "}")(
		hc.NewRedis(hc.RedisOptions{Security: hc.TLS, TLS: client, User: "u", Password: password, Role: "replica", Lag: lag}))
	both("ldap: {security: starttls, tls: " + tls + ", bind_dn: cn=a, password: p, base: dc=b, filter: (a=b), scope: one, attribute: c, expect: d}")(
		hc.NewLDAP(hc.LDAPOptions{Security: hc.StartTLS, TLS: client, BindDN: "cn=a", Password: password, Base: "dc=b", Filter: "(a=b)", Scope: "one", Attribute: "c", Expect: hc.Pattern{Text: "d"}}))
	both("dns: {name: a.b, type: A, tcp: true, recursive: true, authoritative: true, codes: NOERROR, answers: [192.0.2.1], match: m, empty: false}")(
		hc.NewDNS(hc.DNSOptions{Name: "a.b", Type: "A", TCP: true, Recursive: true, Authoritative: true, Codes: []string{"NOERROR"}, Answers: []string{"192.0.2.1"}, Match: hc.Pattern{Text: "m"}}))
	both("radius: {secret: p, user: u, password: p, nas_identifier: n, reject: true}")(
		hc.NewRADIUS(hc.RADIUSOptions{Secret: password, User: "u", Password: password, NASIdentifier: "n", Reject: true}))
	both("udp: {send: a, reply: true, expect: e, min_length: 1, max_length: 9, wait: 1s}")(
		hc.NewUDP(hc.UDPOptions{Send: []byte("a"), Reply: true, Expect: hc.Pattern{Text: "e"}, MinLength: 1, MaxLength: 9, Wait: time.Second}))
	both("udp: {send_hex: '0aFF'}")(hc.NewUDP(hc.UDPOptions{Send: []byte{0x0a, 0xff}}))
	both("icmp: {size: 100}")(hc.NewICMP(hc.ICMPOptions{Size: 100}))
	both("expect: {tls: " + tls + ", steps: [{expect: {regex: ^a}}, {send: \"b\\r\\n\", secret: p}]}")(
		hc.NewExpect(hc.ExpectOptions{TLS: &client, Steps: []hc.ExpectStep{{Expect: hc.Pattern{Regex: "^a"}}, {Send: "b\r\n", Secret: password}}}))
	both("file: /a")(hc.NewFile(hc.FileOptions{Path: "/a"}))
	both("file: {path: /a, mode: required, down: true}")(hc.NewFile(hc.FileOptions{Path: "/a", Mode: "required", Down: true}))
	whom := func(o hc.ExternalOptions) hc.ExternalOptions {
		o.VirtualAddress, o.VirtualPort = "192.0.2.1", 80
		return o
	}
	both("external: /bin/true")(hc.NewExternal(whom(hc.ExternalOptions{Command: "/bin/true"})))
	both("external: {command: /bin/true, args: [a], convention: keepalived-dynamic, user: root, group: root, env: [A=b]}")(
		hc.NewExternal(whom(hc.ExternalOptions{Command: "/bin/true", Args: []string{"a"}, Convention: "keepalived-dynamic", User: "root", Group: "root", Env: []string{"A=b"}, Weight: 1})))
	combinedChecks(both)
	return all
}

func combinedChecks(both func(string) func(hc.Checker, error)) {
	tcp, _ := hc.NewTCP(hc.TCPOptions{})
	icmp, _ := hc.NewICMP(hc.ICMPOptions{})
	both("all: [tcp, {icmp: {}}]")(hc.NewAll(tcp, icmp))
	both("any: [tcp, {icmp: {}}]")(hc.NewAny(tcp, icmp))
	both("at_least: {count: 2, of: [tcp, icmp, icmp]}")(hc.NewAtLeast(2, tcp, icmp, icmp))
}

// TestCheckers: each option gets where it belongs; checkers that ask the same have the same identity.
func TestCheckers(t *testing.T) {
	texts := ""
	for text, want := range everyCheck(t) {
		texts += text + "\n"
		if got := onlyCheck(t, withCheck(text)).Checker.Identity(); got != want.Identity() {
			t.Errorf("%s: identity %s, want %s", text, got, want.Identity())
		}
	}
	objects := map[string][]string{
		"tcp": tcpObject.keys(), "tls": tlsObject.keys(), "http": httpObject.keys(), "url": urlObject.keys(), "smtp": smtpObject.keys(),
		"mailbox": mailboxObject.keys(), "ftp": ftpObject.keys(), "rtsp": rtspObject.keys(), "sip": sipObject.keys(), "mysql": mysqlObject.keys(),
		"postgres": postgresObject.keys(), "redis": redisObject.keys(), "lag": lagObject.keys(), "ldap": ldapObject.keys(), "dns": dnsObject.keys(),
		"radius": radiusObject.keys(), "udp": udpObject.keys(), "icmp": icmpObject.keys(), "expect": expectObject.keys(), "step": stepObject.keys(),
		"file": fileObject.keys(), "external": externalObject.keys(), "pattern": patternObject.keys(), "check": checkerKeys(),
	}
	files := []string{"ca_file", "cert_file", "key_file"} // in TestCheckFiles
	for what, keys := range objects {
		for _, k := range keys {
			if !regexp.MustCompile(`\b` + k + `:`).MatchString(texts + strings.Join(files, ": ") + ":") {
				t.Errorf("key %s of %s is not tested", k, what)
			}
		}
	}
}

// TestSimpleChecks: names that stand for themselves are checks without options.
func TestSimpleChecks(t *testing.T) {
	for name, construct := range simpleCheckers {
		want, err := construct()
		if err != nil {
			t.Fatal(err)
		}
		got := onlyCheck(t, "interfaces: [eth0]\nservices: [{virtual: 192.0.2.1:80, check: "+name+", reals: [10.0.0.1]}]")
		if got.Name != name || got.Checker.Identity() != want.Identity() {
			t.Errorf("%s is %s %s", name, got.Name, got.Checker.Identity())
		}
	}
}

// TestCheckFiles: secrets and certificates are read, and a change of a secret is another check.
func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	identity := func(secret string) string {
		return onlyCheck(t, withCheck("mysql: {user: u, password: "+secret+"}")).Checker.Identity()
	}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("hunter2\n")
	t.Setenv("TEST_SECRET", "hunter2")
	if a, b, c := identity("hunter2"), identity("{file: "+file+"}"), identity("{env: TEST_SECRET}"); a != b || b != c {
		t.Errorf("one secret is three: %s %s %s", a, b, c)
	}
	before := identity("{file: " + file + "}")
	write("hunter3\n")
	if identity("{file: "+file+"}") == before {
		t.Error("another secret is the same check")
	}
	for _, k := range []string{"ca_file", "cert_file", "key_file"} {
		_, err := Parse("x.yaml", []byte(withCheck("tls: {verify: chain, "+k+": "+dir+"/missing}")))
		if err == nil || !strings.Contains(err.Error(), "x.yaml:4:") || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s: %v", k, err)
		}
	}
}

// TestSecretsUnseen: whatever is wrong around a secret, no message has it, nor has the configuration printed.
func TestSecretsUnseen(t *testing.T) {
	for _, way := range []string{"mysql: {password: hunter2}", "mysql: {user: u, password: [hunter2]}", "redis: {password: hunter2, role: x}",
		"http: {headers: {Authorization: [hunter2]}}", "http: {headers: {\"a b\": hunter2}}", "http: {headers: {Authorization: \"hunter2\\n\"}}",
		"expect: {steps: [{secret: hunter2, expect: {regex: '['}}]}", "mysql: {user: u, password: !!binary hunter2}"} {
		_, err := Parse("x.yaml", []byte(withCheck(way)))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", way, err)
		}
	}
	for _, way := range []string{"mysql: {user: u, password: hunter2}", "http: {headers: {Authorization: hunter2}}"} {
		config := mustParse(t, withCheck(way))
		if text := fmt.Sprintf("%+v %#v", config.Health, config.Health[0].Reals[0].Checks[0].Checker); strings.Contains(text, "hunter2") {
			t.Error(text)
		}
	}
}

// TestHealth: what services and real servers say about their checks, and who asks whom how often.
func TestHealth(t *testing.T) {
	config := mustParse(t, `
interfaces: [eth0]
checks:
  - {name: a, tcp: {}, interval: 2s, timeout: 500ms, fast_interval: 100ms, retry_interval: 4s, jitter: 0, rise: 1, fall: 4}
  - {name: b, any: [a, icmp], port: 8080, address: 10.9.0.1, source: 10.9.0.2, interface: eth7, mark: 5}
services:
  - name: web
    virtual: 192.0.2.1:80
    method: nat
    checks: [a, b, {icmp: {}}, {icmp: {size: 99}}]
    quorum: 3
    hysteresis: 1
    min_up: 2
    weight: 2
    reals:
      - 10.0.0.1:81
      - {address: 10.0.0.2, check: {name: own, tcp: {}}, inhibit_on_failure: true}
      - {address: 10.0.0.3, checks: []}
  - {virtual: 192.0.2.1:81, reals: [10.0.0.1]}
`)
	if len(config.Health) != 2 || len(config.Health[1].Reals[0].Checks) != 0 {
		t.Fatalf("%d services are checked", len(config.Health))
	}
	h := config.Health[0]
	if h.Name != "web" || h.Key != config.Desired.Services[0].Key || h.MinUp != 2 || h.Quorum != (health.Quorum{Weight: 3, Hysteresis: 1}) {
		t.Errorf("service %+v", h)
	}
	var got []string
	for i, r := range h.Reals {
		d := config.Desired.Services[0].Reals[i]
		line := fmt.Sprintf("%s %d %t %t:", r.Key, r.Weight, d.Checked, d.InhibitOnFailure)
		for _, c := range r.Checks {
			line += fmt.Sprintf(" %s=%s,%v,%v", c.Name, c.Target.Address, c.Target.Real, c.Target.Dialer)
		}
		got = append(got, line)
	}
	want := []string{
		"10.0.0.1:81 2 true false: a=10.0.0.1:81,invalid AddrPort,<nil> b=10.9.0.1:8080,10.0.0.1:81,{5 eth7 10.9.0.2 0} icmp=10.0.0.1:81,invalid AddrPort,<nil> icmp-2=10.0.0.1:81,invalid AddrPort,<nil>",
		"10.0.0.2:80 2 true true: own=10.0.0.2:80,invalid AddrPort,<nil>",
		"10.0.0.3:80 2 false false:",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	timing := hc.Timing{Interval: 2 * time.Second, Timeout: 500 * time.Millisecond, Fast: 100 * time.Millisecond, Retry: 4 * time.Second, Rise: 1, Fall: 4, Spread: -1}
	if got := h.Reals[0].Checks[0].Timing; got != timing {
		t.Errorf("timing %+v, want %+v", got, timing)
	}
	for _, k := range checkObject.keys() {
		if !strings.Contains("name interval timeout fast_interval retry_interval jitter rise fall via port address source interface mark "+strings.Join(checkerKeys(), " "), k) {
			t.Errorf("key %s is not tested", k)
		}
	}
}

// TestSorryServersChecked: a sorry server is checked as it says itself, not as the service's real servers are, and says so
// again when it is written.
func TestSorryServersChecked(t *testing.T) {
	config := mustParse(t, `
interfaces: [eth0]
services:
  - virtual: 192.0.2.1:80
    method: dr
    check: http
    inhibit_on_failure: true
    reals: [10.0.0.1]
    sorry_servers: [10.0.0.8, {address: 10.0.0.9, check: {tcp: {}, via: direct}}]
`)
	s, h := config.Desired.Services[0], config.Health[0]
	if len(h.Sorry) != 2 || len(h.Sorry[0].Checks) != 0 || len(h.Sorry[1].Checks) != 1 || h.Sorry[1].Checks[0].Name != "tcp" {
		t.Errorf("checks of sorry servers are %+v", h.Sorry)
	}
	if s.Sorry[0].Checked || !s.Sorry[1].Checked || !s.Sorry[1].InhibitOnFailure || s.Sorry[0].InhibitOnFailure {
		t.Errorf("sorry servers are %+v", s.Sorry)
	}
	again := mustParse(t, "interfaces: [eth0]\n"+string(config.Format(config.Desired.Services)))
	if got := again.Health[0].Sorry; len(got) != 2 || len(got[1].Checks) != 1 || !again.Desired.Services[0].Sorry[1].Checked {
		t.Errorf("written again, checks are %+v", got)
	}
}

// TestVia: which way probes go, whom they ask and for whom.
func TestVia(t *testing.T) {
	config := mustParse(t, `
interfaces: [eth0]
checks: [{name: client, tcp: {}, via: service}, {name: file, file: /x}, {name: pair, all: [tcp, {file: /x}]}]
fullnat: {sources: [10.9.9.9]}
services:
  - {virtual: 192.0.2.1:80, method: dr, check: tcp, reals: [10.0.0.1, {address: 10.0.0.2, method: tun}, {address: 10.0.0.3, method: nat}]}
  - {virtual: 192.0.2.1:81, method: dr, checks: [icmp, file, pair, {http: /, via: direct}, {tcp: {}, port: 8080}, {tcp: {}, mark: 1}], reals: [10.0.0.1]}
  - {virtual: 192.0.2.1:82, method: nat, checks: [client, {udp: {}, via: service, port: 53, source: 10.9.9.9}], reals: ["10.0.0.1:8082", {address: 10.0.0.2, method: fullnat}]}
  - {fwmark: 7, method: dr, checks: [icmp, {tcp: {}, via: service, address: 192.0.2.2, port: 90}], reals: [10.0.0.1]}
`)
	var got []string
	for _, s := range config.Health {
		for _, r := range s.Reals {
			line := r.Key.String() + ":"
			for _, c := range r.Checks {
				line += fmt.Sprintf(" %s=%d,%s,%v", c.Name, c.Via, c.Target.Address, c.Target.Dialer)
				if c.Via != health.ViaDirect && c.Target.Real != netip.AddrPortFrom(r.Key.Addr, r.Key.Port) {
					t.Errorf("%s is asked for %s", c.Target.Real, r.Key)
				}
			}
			got = append(got, line)
		}
	}
	want := []string{
		"10.0.0.1:80: tcp=2,192.0.2.1:80,<nil>",
		"10.0.0.2:80: tcp=2,192.0.2.1:80,<nil>",
		"10.0.0.3:80: tcp=0,10.0.0.3:80,<nil>",
		"10.0.0.1:81: icmp=2,192.0.2.1:81,<nil> file=0,10.0.0.1:81,<nil> pair=2,192.0.2.1:81,<nil> http=0,10.0.0.1:81,<nil> tcp=0,10.0.0.1:8080,<nil> tcp-2=0,10.0.0.1:81,{1  invalid IP 0}",
		"10.0.0.1:8082: client=1,192.0.2.1:82,<nil> udp=1,192.0.2.1:53,{0  10.9.9.9 0}",
		"10.0.0.2:82: client=1,192.0.2.1:82,<nil> udp=1,192.0.2.1:53,{0  10.9.9.9 0}",
		"10.0.0.1:0: icmp=0,10.0.0.1:0,<nil> tcp=1,192.0.2.2:90,<nil>",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if v4, v6 := health.ByService(config.Health); !v4 || v6 {
		t.Errorf("families of probes via services: IPv4 %t, IPv6 %t", v4, v6)
	}
}

// healthDocument has the tables of keys, which are made of those that are decoded.
const healthDocument = "../docs/health.md"

// TestHealthDocument holds the document to the keys: go test ./configs -run TestHealthDocument -update.
func TestHealthDocument(t *testing.T) {
	text, err := os.ReadFile(healthDocument)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "-update -->\n"
	head, _, found := strings.Cut(string(text), mark)
	if !found {
		t.Fatal("the mark is missing")
	}
	want := head + mark + healthTables()
	if *update {
		if err := os.WriteFile(healthDocument, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(text) != want {
		t.Error("the keys are others than the document has")
	}
}

func healthTables() string {
	var b strings.Builder
	title := func(text string) { fmt.Fprintf(&b, "\n### %s\n\n| key | what |\n|---|---|\n", text) }
	title("Of a service")
	keyRows(&b, healthFields())
	title("Of a real server")
	keyRows(&b, checkedFields(func(r *realServer) *checked { return &r.checked }, "this real server is"))
	title("Of a check")
	keyRows(&b, slicesOf(checkObject.fields[:1], timingFields(), targetFields()))
	title("Ways to check, of which a check has one")
	keyRows(&b, slicesOf(leafCheckers(), combinations()))
	checkerTables(&b)
	title("Of a target in `notify`")
	keyRows(&b, notificationObject.fields)
	title("webhook in `notify`")
	keyRows(&b, webhookObject.fields)
	title("mail in `notify`")
	keyRows(&b, mailObject.fields)
	title("command in `notify`")
	keyRows(&b, commandObject.fields)
	return b.String()
}

func slicesOf(lists ...[]field[check]) (all []field[check]) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func keyRows[T any](b *strings.Builder, fields []field[T]) {
	for _, f := range fields {
		fmt.Fprintf(b, "| `%s` | %s |\n", f.key, strings.ReplaceAll(f.doc, "|", `\|`))
	}
}

// checkerTables are the options of each way to check.
func checkerTables(b *strings.Builder) {
	title := func(text string) { fmt.Fprintf(b, "\n### %s\n\n| key | what |\n|---|---|\n", text) }
	title("tcp")
	keyRows(b, tcpObject.fields)
	title("tls, and `tls` in other checks (there without `protocols`)")
	keyRows(b, tlsObject.fields)
	title("http, https")
	keyRows(b, httpObject.fields)
	title("smtp")
	keyRows(b, smtpObject.fields)
	title("pop3, imap")
	keyRows(b, mailboxObject.fields)
	title("ftp")
	keyRows(b, ftpObject.fields)
	title("rtsp")
	keyRows(b, rtspObject.fields)
	title("sip")
	keyRows(b, sipObject.fields)
	title("mysql")
	keyRows(b, mysqlObject.fields)
	title("postgres")
	keyRows(b, postgresObject.fields)
	title("redis")
	keyRows(b, redisObject.fields)
	title("`lag` in mysql, postgres and redis")
	keyRows(b, lagObject.fields)
	title("ldap")
	keyRows(b, ldapObject.fields)
	title("dns")
	keyRows(b, dnsObject.fields)
	title("radius")
	keyRows(b, radiusObject.fields)
	title("udp")
	keyRows(b, udpObject.fields)
	title("icmp")
	keyRows(b, icmpObject.fields)
	title("expect")
	keyRows(b, expectObject.fields)
	title("`steps` in expect")
	keyRows(b, stepObject.fields)
	title("file")
	keyRows(b, fileObject.fields)
	title("external")
	keyRows(b, externalObject.fields)
	title("`body`, `banner`, `expect` and the like, unless they are a text")
	keyRows(b, patternObject.fields)
}
