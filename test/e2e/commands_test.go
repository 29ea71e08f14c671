// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/netlab/pki"
)

// check and version need neither root nor a daemon.
func TestCheckExamples(t *testing.T) {
	files := get(filepath.Glob("../../configs/*.yaml"))(t)
	if len(files) == 0 {
		t.Fatal("there are no examples")
	}
	summary := regexp.MustCompile(`: ok: \d+ services?, \d+ real servers?(, \d+ sorry servers?)?\n$`)
	for _, file := range files {
		file = withFiles(t, file)
		out, err := exec.Command(program, "check", file).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), file) || !summary.Match(out) {
			t.Errorf("check %s: %v\n%s", file, err, out)
		}
	}
}

// withFiles is an example whose certificates and tokens exist, elsewhere.
func withFiles(t *testing.T, file string) string {
	t.Helper()
	text := string(get(os.ReadFile(file))(t))
	if !strings.Contains(text, "/etc/director/tls/") {
		return file
	}
	ca := pki.New(t, "CA")
	server := ca.Issue("server", pkix.Name{CommonName: "director"}, time.Hour)
	text = strings.NewReplacer("/etc/director/tls/cert.pem", server.Cert, "/etc/director/tls/key.pem", server.Key,
		"/etc/director/tls/clients.pem", ca.File, "/etc/director/tokens/ops", ca.Secret("ops", opsToken+"\n")).Replace(text)
	file = filepath.Join(t.TempDir(), filepath.Base(file))
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestVersion(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.configure(standard("rr", 1)...)
	f.start()
	text := f.output("version")
	want := regexp.MustCompile(`^director \S+\nrevision \S+.*\n` + regexp.QuoteMeta(runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH) + `\n$`)
	if !want.MatchString(text) {
		t.Errorf("version printed\n%s", text)
	}
	var v map[string]any
	f.decode(&v, "version", "--daemon")
	if v["version"] == "" || v["daemon"] != v["version"] || v["go"] != runtime.Version() {
		t.Errorf("version -o json is %v", v)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("wrr", 1, 3)...)
	f.start()
	f.download(vip4, heldSize)
	f.download(vip6, heldSize)
	f.mustSpread(f.fetch, vip4, webPort, map[string]int{"rs1": 1})
	f.mustSpread(f.query, vip6, dnsPort, map[string]int{"rs1": 1, "rs2": 4})
	f.mustSpread(f.query, vip4, onePort, map[string]int{"rs1": 1, "rs2": 4})
	want := `IP Virtual Server version 1.2.1 (size=16384)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.10:80 wrr
  -> 10.0.0.11:80                 Route   1      0          1         
  -> 10.0.0.12:80                 Route   3      1          0         
UDP  192.0.2.10:53 wrr
  -> 10.0.0.11:53                 Route   1      0          0         
  -> 10.0.0.12:53                 Route   3      0          0         
UDP  192.0.2.10:5353 wrr ops
  -> 10.0.0.11:5353               Route   1      0          0         
  -> 10.0.0.12:5353               Route   3      0          0         
TCP  [2001:db8:1::10]:80 wrr
  -> [fd00::11]:80                Route   1      0          0         
  -> [fd00::12]:80                Route   3      1          0         
UDP  [2001:db8:1::10]:53 wrr
  -> [fd00::11]:53                Route   1      0          1         
  -> [fd00::12]:53                Route   3      0          4         
UDP  [2001:db8:1::10]:5353 wrr ops
  -> [fd00::11]:5353              Route   1      0          0         
  -> [fd00::12]:5353              Route   3      0          0         
`
	if got := f.output("list"); got != want {
		t.Errorf("list printed\n%s\nwant\n%s", got, want)
	}
	one := strings.Join(strings.SplitAfter(want, "\n")[0:6], "")
	for _, name := range []string{"web4", "192.0.2.10:80"} {
		if got := f.output("list", name); got != one {
			t.Errorf("list %s printed\n%s\nwant\n%s", name, got, one)
		}
	}
	f.mustRecount(f.snapshot())
}

func TestMistakesInCommands(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.configure(both("web", "tcp", webPort, "rr", 1)...)
	f.start()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"list web5", 1, "director: no service \"web5\" (known: web4, web6)\n"},
		{"list -o yaml", 2, "known: text, wide, json"},
		{"lst", 2, "unknown command \"lst\" (did you mean list?)"},
		{"connections state ETABLISHED", 2, "known: "},
		{"run", 2, "no configuration: give it with -c FILE or $DIRECTOR_CONFIG"},
	} {
		r := f.run(strings.Fields(c.args)...)
		if r.code != c.code || r.stdout != "" || !strings.Contains(r.stderr, c.want) {
			t.Errorf("director %s: %+v, want exit %d and %q", c.args, r, c.code, c.want)
		}
	}
}

// What the commands count is what the client sent, packet by packet.
func TestStats(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	f.start()
	const rounds = 12
	for _, family := range families {
		for _, s := range []struct {
			name string
			port uint16
			ask  asker
		}{{"web", webPort, f.fetch}, {"dns", dnsPort, f.query}, {"one", onePort, f.query}} {
			name := ofFamily(s.name, family.vip)
			t.Run(name, func(t *testing.T) {
				f := f.on(t)
				m := f.meter(family.vip, s.port)
				f.mustSpread(s.ask, family.vip, s.port, map[string]int{"rs1": rounds / 3, "rs2": rounds / 3, "rs3": rounds / 3})
				conns := uint64(rounds)
				if s.port == webPort {
					must(t, putBytes(f.client.HTTPClient(0), family.vip, 2_000_000))
					conns++
				}
				eventually(t, patience, func() error { return f.sameCounts(name, conns, m) })
				f.mustSum(name)
			})
		}
	}
	f.mustPrintStats()
}

// sameCounts is an error unless a service counts what the meter did.
func (f *farm) sameCounts(name string, conns uint64, m *meter) error {
	f.t.Helper()
	packets, bytes := m.counted()
	want := director.Counters{Conns: conns, InPkts: packets, InBytes: bytes}
	if got := f.service(name).Counters; got != want {
		return fmt.Errorf("counters are %+v, the client sent %+v", got, want)
	}
	return nil
}

// statsOutput is what stats -o json prints.
type statsOutput struct {
	Time     time.Time `json:"time"`
	Services []struct {
		Name      string              `json:"name"`
		Service   director.ServiceKey `json:"service"`
		Counters  director.Counters   `json:"counters"`
		NoReal    uint64              `json:"no_real"`
		Untracked uint64              `json:"untracked"`
		Reals     []struct {
			Name     string            `json:"name"`
			Real     director.RealKey  `json:"real"`
			Counters director.Counters `json:"counters"`
		} `json:"reals"`
	} `json:"services"`
	Total director.Counters `json:"total"`
}

// mustSum fails unless stats -o json has the service, equal to list's and to the sum of its real servers.
func (f *farm) mustSum(name string) {
	f.t.Helper()
	var out statsOutput
	f.decode(&out, "stats", name)
	if len(out.Services) != 1 || out.Services[0].Name != name || out.Services[0].Counters != f.service(name).Counters {
		f.t.Errorf("stats %s -o json shows %+v", name, out)
		return
	}
	var sum director.Counters
	for _, r := range out.Services[0].Reals {
		sum.Conns += r.Counters.Conns
		sum.InPkts += r.Counters.InPkts
		sum.InBytes += r.Counters.InBytes
	}
	if sum != out.Services[0].Counters {
		f.t.Errorf("stats %s: real servers sum up to %+v, service has %+v", name, sum, out.Services[0].Counters)
	}
}

// mustPrintStats fails unless the text has the numbers of the snapshot in ipvsadm's columns.
func (f *farm) mustPrintStats() {
	f.t.Helper()
	out := f.output("stats")
	head := "IP Virtual Server version 1.2.1 (size=16384)\n" +
		"Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n" +
		"  -> RemoteAddress:Port\n"
	if !strings.HasPrefix(out, head) {
		f.t.Errorf("stats printed\n%s\nwant to begin with\n%s", out, head)
	}
	for _, s := range f.snapshot().Services {
		label := strings.ToUpper(s.Key.Protocol.String()) + "  " + strings.TrimPrefix(s.Key.String(), s.Key.Protocol.String()+" ")
		if line := statsLine(label, s.Counters); !strings.Contains(out, line) {
			f.t.Errorf("stats has no line %q:\n%s", line, out)
		}
		for _, r := range s.Reals {
			if line := statsLine("  -> "+r.Key.String(), r.Counters); !strings.Contains(out, line) {
				f.t.Errorf("stats has no line %q:\n%s", line, out)
			}
		}
	}
	if verdicts := f.output("stats", "--verdicts"); !strings.Contains(verdicts, "tx_forward") {
		f.t.Errorf("stats --verdicts printed\n%s", verdicts)
	}
}

func statsLine(label string, c director.Counters) string {
	return fmt.Sprintf("%-33s %8d %8d %8d %8d %8d\n", label, c.Conns, c.InPkts, c.OutPkts, c.InBytes, c.OutBytes)
}

func TestRate(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	f.start()
	begin := time.Now()
	load := f.load(1, question{f.fetch, webPort}, question{f.query, onePort})
	var rates struct {
		Time     time.Time `json:"time"`
		Services []struct {
			Name  string              `json:"name"`
			Key   director.ServiceKey `json:"service"`
			Rates director.Rates      `json:"rates"`
			Reals []struct {
				Name  string           `json:"name"`
				Key   director.RealKey `json:"real"`
				Rates director.Rates   `json:"rates"`
			} `json:"reals"`
		} `json:"services"`
		Total director.Rates `json:"total"`
	}
	// The average of two intervals of two seconds has 7/16 of a steady rate (ip_vs_est.c).
	time.Sleep(4500 * time.Millisecond)
	f.decode(&rates, "rate")
	text := f.output("rate")
	real := float64(load.mustEnd(t)) / time.Since(begin).Seconds()
	if cps := float64(rates.Total.CPS); cps < real/8 || cps > real {
		t.Errorf("%v connections per second are shown, there were %.0f: want a quarter to a half of them", cps, real)
	}
	for _, s := range rates.Services {
		quiet := strings.HasPrefix(s.Name, "dns")
		if quiet != (s.Rates == director.Rates{}) || !quiet && (s.Rates.CPS == 0 || s.Rates.InPPS == 0 || s.Rates.InBPS == 0 || s.Rates.OutPPS != 0) {
			t.Errorf("rates of %s are %+v", s.Name, s.Rates)
		}
	}
	head := "IP Virtual Server version 1.2.1 (size=16384)\n" +
		"Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n" +
		"  -> RemoteAddress:Port\nTCP  192.0.2.10:80 "
	if !strings.HasPrefix(text, head) {
		t.Errorf("rate printed\n%s\nwant to begin with\n%s", text, head)
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	f.start()
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			f := f.on(t)
			f.download(family.vip, heldSize)
			conn := get(f.dialUDP(family.vip, dnsPort))(t)
			defer conn.Close()
			for range 3 {
				get(ask(conn, "hello", patience))(t)
			}
			here := conn.LocalAddr().(*net.UDPAddr).AddrPort()
			f.mustListConn(conn.LocalAddr().String(), fmt.Sprintf(`UDP 0[45]:\d\d  UDP         %s %s %s`,
				column(here.String(), 18), column(conn.RemoteAddr().String(), 18), `\S+:53`),
				"service", ofFamily("dns", family.vip), "sport", "=", fmt.Sprintf(":%d", here.Port()))
			f.mustListConn(fmt.Sprintf(":%d", webPort), `TCP 1[45]:\d\d  ESTABLISHED .*:80`, "service", ofFamily("web", family.vip), "state", "established")
			got := f.connections("sport", "=", fmt.Sprintf(":%d", here.Port()))
			if len(got) != 1 || got[0].Protocol != director.UDP || got[0].Client != here || got[0].Service != ofFamily("dns", family.vip) ||
				got[0].Virtual.Addr() != family.vip || got[0].Expires < 250*time.Second || got[0].Expires > 300*time.Second {
				t.Errorf("connections -o json shows %+v", got)
			}
			for filter, want := range map[string]string{
				"": "2", "src " + here.Addr().String(): "2", "protocol tcp": "1", "dport = :54": "0", "state established": "1",
			} {
				args := append([]string{"connections", "count"}, strings.Fields(filter)...)
				if filter != "" {
					args = append(args, "service", ofFamily("dns", family.vip)+","+ofFamily("web", family.vip))
				} else {
					args = append(args, "dst", family.vip.String())
				}
				if got := f.output(args...); got != want+"\n" {
					t.Errorf("%v printed %q, want %s", args, got, want)
				}
			}
		})
	}
}

// column is the regular expression of a field of the listing.
func column(text string, width int) string {
	return regexp.QuoteMeta(fmt.Sprintf("%-*s", width, text))
}

// mustListConn fails unless the filtered listing is its head and one line.
func (f *farm) mustListConn(what, line string, filter ...string) {
	f.t.Helper()
	out := f.output(append([]string{"connections"}, filter...)...)
	want := regexp.MustCompile(`^IPVS connection entries\npro expire state       source             virtual            destination\n` + line + `\n$`)
	if !want.MatchString(out) {
		f.t.Errorf("connections %v printed\n%s\nwant %s to match\n%s", filter, out, what, want)
	}
}

// A removed real server's connections go on, and their packets count for the service.
func TestStatsOfRemoved(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	f.start()
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			f := f.on(t)
			f.configure(standard("rr", 1, 1)...)
			f.reload()
			f.awaitHops()
			m := f.meter(family.vip, webPort)
			d := f.download(family.vip, heldSize)
			weights := map[string][]int{"rs1": {absent, 1}, "rs2": {1, absent}}
			f.configure(standard("rr", weights[d.server]...)...)
			f.reload()
			must(t, d.finish())
			eventually(t, patience, func() error { return f.sameCounts(ofFamily("web", family.vip), 1, m) })
		})
	}
}
