// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
)

// FuzzParse holds that Parse never panics; that what it accepts is valid to
// package director, within its own limits, and the same after it was written out
// in the long form and read again; and that what it refuses has *Errors, sorted,
// each on a line of the file and with a message of one line.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"*.yaml", "testdata/invalid/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			_, text = splitErrors(text)
			f.Add(text)
		}
	}
	f.Add([]byte(everything))
	f.Add([]byte("\r\r\r\""))
	f.Fuzz(func(t *testing.T, text []byte) {
		config, err := Parse("fuzz.yaml", text)
		if err != nil {
			checkErrors(t, text, config, err)
			return
		}
		checkConfig(t, config)
	})
}

func checkErrors(t *testing.T, text []byte, config *Config, err error) {
	var errs *Errors
	if config != nil || !errors.As(err, &errs) || len(*errs) == 0 {
		t.Fatalf("got %v and %#v", config, err)
	}
	lines := 1 // at most: two breaks may be one
	for _, r := range string(text) {
		if isBreak(r) {
			lines++
		}
	}
	for _, e := range *errs {
		if e.Line < 1 || e.Column < 1 || e.Message == "" || strings.ContainsAny(e.Error(), "\n\r") || e.File != "fuzz.yaml" || e.Line > lines+1 {
			t.Errorf("error %#v in a file of at most %d lines", e, lines)
		}
	}
	if !slices.IsSortedFunc(*errs, func(a, b Error) int { return (a.Line-b.Line)*1e6 + a.Column - b.Column }) {
		t.Errorf("not sorted:\n%v", errs)
	}
}

// isBreak has YAML 1.1's line breaks.
func isBreak(r rune) bool { return strings.ContainsRune("\n\r\u0085\u2028\u2029", r) }

func checkConfig(t *testing.T, config *Config) {
	reals := 0
	for _, s := range config.Desired.Services {
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
		reals += len(s.Servers())
	}
	if l := config.Limits; len(config.Desired.Services) > int(l.Services) || reals > int(l.RealServers) || len(config.Desired.Interfaces) == 0 {
		t.Errorf("limits %+v, %d services, %d real servers, interfaces %v", l, len(config.Desired.Services), reals, config.Desired.Interfaces)
	}
	config.lists = nil // files are not read
	checkFormat(t, config)
	unchecked(config)
	text := written(config)
	again, err := Parse("again.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	unchecked(again)
	if len(config.Notes) != len(again.Notes) {
		t.Errorf("notes\n%v\nbecame\n%v", config.Notes, again.Notes)
	}
	config.Notes, again.Notes = nil, nil // they name lines
	if !reflect.DeepEqual(config, again) {
		t.Errorf("got\n%+v\nfrom\n%s\nof\n%+v", again, text, config)
	}
}

// checkFormat holds that services are the same when they are read of what Format writes.
func checkFormat(t *testing.T, config *Config) {
	t.Helper()
	services := config.Format(config.Desired.Services)
	limits := fmt.Sprintf("interfaces: [lo]\nlimits: {services: %d, real_servers: %d}\n", config.Limits.Services, config.Limits.RealServers)
	again, err := Parse("format.yaml", slices.Concat([]byte(limits), services))
	if err != nil || !reflect.DeepEqual(config.Desired.Services, again.Desired.Services) {
		t.Errorf("%v: got\n%+v\nfrom\n%s\nof\n%+v", err, again, services, config.Desired.Services)
	}
}

// unchecked takes out the checks, which cannot be written again: they are made of what was read.
func unchecked(c *Config) {
	c.Health, c.checks, c.Notify = nil, nil, nil
	for i := range c.Desired.Services {
		s := &c.Desired.Services[i]
		s.Written = ""
		for _, reals := range [][]director.RealServer{s.Reals, s.Sorry} {
			for i := range reals {
				reals[i].Written, reals[i].Checked, reals[i].InhibitOnFailure = "", false, false
			}
		}
	}
}

// written is a configuration in the long form.
func written(c *Config) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("socket: %q\nstate_dir: %q\ninterfaces:", c.Socket, c.StateDir)
	for _, i := range c.Desired.Interfaces {
		line("  - {name: %q, mode: %s}", i.Name, i.Mode)
	}
	l, d := c.Limits, c.Desired.Timeouts
	line("limits: {connections4: %d, connections6: %d, services: %d, real_servers: %d, plan_slots: %d, mark_entries: %d, prefixes: %d, destinations: %d}",
		l.Connections4, l.Connections6, l.Services, l.RealServers, l.PlanSlots, l.MarkEntries, l.Prefixes, l.Destinations)
	line("announce: {burst: %d, refresh: %s}", c.Announce.Burst, c.Announce.Refresh)
	writeMetrics(line, c.Metrics)
	writeAPI(line, &c.API)
	line("addresses:")
	for _, a := range c.Addresses {
		line("  - {address: %q, mode: %s%s%s}", a.Addr, a.Mode, writtenPlace(a), writtenClosed(c.Desired.Closed, a.Addr))
	}
	line("timeouts:")
	for _, name := range director.TimeoutNames() {
		line("  %s: %s", name, director.FormatTimeout(d.Get(name)))
	}
	line("fullnat: {sources: %s, ports: %s}", writtenAddrs(c.Desired.Locals.Sources), c.Desired.Locals.Ports)
	strategies := ""
	for _, name := range director.DefenseNames() {
		strategies += fmt.Sprintf("%s: %s, ", name, c.Desired.Defense.Strategies.Get(name))
	}
	line("defense: {%s%s}", strategies, writtenGuard(c.Desired.Defense.Guard))
	line("services:")
	for _, s := range c.Desired.Services {
		line("  - {%s %s, scheduler: %s, scheduler_flags: [%s], one_packet: %t, answer: %s, fullnat: {sources: %s}, defense: {%s}, %s %s, %s reals: [",
			writtenName(s.Name), writtenKey(s), s.Scheduler, s.Flags, s.OnePacket, s.Answer, writtenAddrs(s.Sources), writtenGuard(s.Guard), writtenPersistence(s.Persistence), writtenPolicy(s.Key.Protocol, s.Conns), writtenOptions(s))
		line("%s    ], sorry_servers: [\n%s    ]}", writtenReals(s.Reals), writtenReals(s.Sorry))
	}
	line("marks:")
	for _, m := range c.Desired.Marks {
		line("  - %s", m)
	}
	return b.String()
}

func writtenReals(reals []director.RealServer) string {
	var b strings.Builder
	for _, r := range reals {
		fmt.Fprintf(&b, "      {%s address: %q, %s method: %s, %s weight: %d, upper: %d, lower: %d, slow_start: %s},\n",
			writtenName(r.Name), r.Key.Addr, writtenPort(r.Key.Port), r.Method, writtenTunnel(r), r.Weight, r.Upper, r.Lower, r.SlowStart)
	}
	return b.String()
}

func writtenKey(s director.Service) string {
	k := s.Key
	if k.Mark == 0 {
		return fmt.Sprintf("protocol: %s, address: %q, port: %d", k.Protocol, k.Addr, k.Port)
	}
	text := fmt.Sprintf("fwmark: %d, family: ipv%d, mark_source: %s", k.Mark, map[bool]int{true: 4, false: 6}[k.Addr.Is4()], s.MarkSource)
	if s.VIPs != nil {
		text += ", vips: " + writtenAddrs(s.VIPs)
	}
	return text
}

// writtenPort is a real server's; one of a service of all ports has none.
func writtenPort(port uint16) string {
	if port == 0 {
		return ""
	}
	return fmt.Sprintf("port: %d,", port)
}

func writtenPersistence(p director.Persistence) string {
	if p.Timeout == 0 {
		return ""
	}
	text := fmt.Sprintf("persistence: {timeout: %d, expire_quiescent: %t, engine: %s, on_down: %s", p.Timeout/time.Second, p.ExpireQuiescent, p.Engine,
		map[bool]string{true: "keep", false: "reschedule"}[p.KeepDown])
	if p.Prefix > 0 || p.AnyClient {
		text += fmt.Sprintf(", netmask: %d", p.Prefix)
	}
	return text + "},"
}

func writtenPlace(a director.Address) string {
	if a.Mode == director.AddressNone {
		return ""
	}
	text := fmt.Sprintf(", interface: %q, force: %t", a.Interface, a.Force)
	if a.Mode == director.AddressInterface {
		text += fmt.Sprintf(", prefix_length: %d", a.Prefix)
	}
	return text
}

func writtenPolicy(protocol director.Protocol, p director.ConnPolicy) string {
	remove := "on_remove: " + p.OnRemove.String()
	if p.OnRemove == director.FateDrop {
		remove = "semantics: ipvs"
	}
	mode := map[director.Reuse]int{director.ReuseNever: 0, director.ReuseClosed: 1, director.ReuseClosing: 3}[p.Reuse]
	return fmt.Sprintf("%s, on_down: %s, conn_reuse_mode: %d, expire_nodest_conn: %t, sloppy_%s: %t",
		remove, p.OnDown, mode, p.ExpireNodest, strings.Replace(protocol.String(), "udp", "tcp", 1), p.Sloppy)
}

// writtenOptions are those that only one scheduler knows.
func writtenOptions(s director.Service) (text string) {
	if s.MHTable != 0 {
		text += fmt.Sprintf("mh_table: %d, ", s.MHTable)
	}
	if s.Expiration != 0 {
		text += fmt.Sprintf("%s_expiration: %s, ", s.Scheduler, s.Expiration)
	}
	return text
}

func writtenTunnel(r director.RealServer) string {
	if r.Method != director.Tunnel {
		return ""
	}
	port := ""
	if r.Tunnel.Port != 0 {
		port = fmt.Sprintf("port: %d,", r.Tunnel.Port)
	}
	return fmt.Sprintf("tunnel: {type: %s, %s checksum: %t},", r.Tunnel.Type, port, r.Tunnel.Checksum)
}

func writtenAddrs(addrs []netip.Addr) string {
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = strconv.Quote(a.String())
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func writtenPrefixes(prefixes []netip.Prefix) string {
	list := make([]string, len(prefixes))
	for i, p := range prefixes {
		list[i] = strconv.Quote(p.String())
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func writtenGuard(g director.Guard) string {
	text := fmt.Sprintf("allow: %s, deny: %s", writtenPrefixes(g.Allow), writtenPrefixes(g.Deny))
	if b := g.Budget; b.Rate > 0 {
		text += fmt.Sprintf(", budget: {rate: %d, burst: %d, prefix4: %d, prefix6: %d}", b.Rate, b.Burst, b.Prefix4, b.Prefix6)
	}
	if g.Ceiling.Rate > 0 {
		text += fmt.Sprintf(", ceiling: {rate: %d, burst: %d}", g.Ceiling.Rate, g.Ceiling.Burst)
	}
	if g.Cookies.Own {
		text += fmt.Sprintf(", syn_cookies: %d", g.Cookies.Mode)
	}
	return text
}

func writtenClosed(closed map[netip.Addr]director.ClosedPorts, a netip.Addr) string {
	if c, ok := closed[a]; ok {
		return fmt.Sprintf(", closed_ports: %s", c)
	}
	return ""
}

func writtenName(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf("name: %q,", name)
}

func writeMetrics(line func(string, ...any), m Metrics) {
	line("metrics:")
	if m.Listen.IsValid() {
		line("  listen: %q", m.Listen)
	}
	if m.Services != 0 {
		line("  services: %d", m.Services)
	}
	if m.RealServers != 0 {
		line("  real_servers: %d", m.RealServers)
	}
}

func writeAPI(line func(string, ...any), a *API) {
	line("api:")
	text := func(key, value string) {
		if value != "" {
			line("  %s: %q", key, value)
		}
	}
	var listen []string
	for _, at := range a.Listen {
		listen = append(listen, strconv.Quote(at.String()))
	}
	if listen != nil {
		line("  listen: [%s]", strings.Join(listen, ", "))
	}
	text("cert_file", a.CertFile)
	text("key_file", a.KeyFile)
	text("client_ca_file", a.ClientCAFile)
	if a.MinVersion != 0 {
		text("min_version", "1.3")
	}
	if a.Rate != 0 {
		line("  rate: %d", a.Rate)
	}
	text("admin_group", a.AdminGroup)
	text("read_group", a.ReadGroup)
	if a.Tokens != nil {
		line("  tokens:")
	}
	for _, t := range a.Tokens {
		line("    - name: %q", t.Name)
		for key, value := range map[string]string{"role": writtenRole(t.Admin), "file": t.File, "env": t.Env, "sha256": t.SHA256} {
			text("    "+key, value)
		}
	}
	if a.Clients != nil {
		line("  clients:")
	}
	for _, c := range a.Clients {
		line("    - {subject: %q, role: %s}", c.Subject, writtenRole(c.Admin))
	}
}

func writtenRole(isAdmin bool) string {
	if isAdmin {
		return "admin"
	}
	return "read"
}
