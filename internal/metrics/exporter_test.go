// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"xdplvs/director"
)

var update = flag.Bool("update", false, "write what the exporter says into the golden file")

// fakeSource is a state that does not change.
type fakeSource struct {
	snapshot  *director.Snapshot
	addresses director.AddressList
	status    Status
	defense   director.DefenseState
	mute      error // why the defenses do not answer
}

func (f *fakeSource) Snapshot() *director.Snapshot    { return f.snapshot }
func (f *fakeSource) Addresses() director.AddressList { return f.addresses }
func (f *fakeSource) Status() Status                  { return f.status }

func (f *fakeSource) Defense(context.Context) (director.DefenseState, error) {
	return f.defense, f.mute
}

var someTime = time.Date(2024, 5, 6, 7, 8, 9, 500e6, time.UTC)

// everything has each kind of thing that there are metrics of.
func everything() *fakeSource {
	traffic := func(n uint64) director.Counters {
		return director.Counters{Conns: n, InPkts: 10 * n, OutPkts: 9 * n, InBytes: 1000 * n, OutBytes: 9000 * n}
	}
	rs := func(at string) director.RealState {
		ap := netip.MustParseAddrPort(at)
		return director.RealState{
			Key: director.RealKey{Addr: ap.Addr(), Port: ap.Port()}, Weight: 2, EffectiveWeight: 1, Reachable: true,
			Active: 3, Inactive: 4, Counters: traffic(5), PlannedShare: 0.5, MeasuredShare: 0.25,
		}
	}
	nat, dead := rs("10.0.0.11:8080"), rs("10.0.0.12:80")
	nat.Name, nat.Method, nat.Ports = "rs1", director.FullNAT, &director.PortUse{Used: 7, Available: 1000}
	nat.Upper, nat.Overloaded, nat.Templates = 100, true, 6
	dead.Reachable = false
	nat.Health = &director.Health{Condition: director.Up, Factor: 50}
	return &fakeSource{
		snapshot: &director.Snapshot{
			Generation: 2, Total: traffic(12), Verdicts: map[string]uint64{"tx": 120, "drop_no_room": 1},
			Interfaces: []director.InterfaceState{
				{Name: "eth0", Device: "eth0", Mode: director.AttachNative},
				{Name: "eth1", Mode: director.AttachAuto, Error: "no such device"},
			},
			Services: []director.ServiceState{
				{
					Name: "web", Key: director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80},
					Scheduler: "sh", Flags: "sh-port", Reals: []director.RealState{nat, dead, rs("10.0.0.13:80")},
					Counters: traffic(11), NoReal: 3, Untracked: 2,
				},
				{Key: director.MarkKey(7, true), Scheduler: "wrr", Reals: []director.RealState{rs("[fd00::11]:0")}},
			},
			Sources: []director.SourceState{{Addr: netip.MustParseAddr("10.0.0.2"), Conns: 7}, {Addr: netip.MustParseAddr("10.0.0.3"), Unused: "why"}},
			Tables: []director.TableState{
				{Name: "connections4", Places: 64, Used: 9, Entries: map[string]uint64{"ESTABLISHED": 8, director.EntryTemplate: 1}},
				{Name: "overflow", Places: 8},
			},
			Drift: []director.Drift{{What: director.DriftReals, Times: 3, Last: someTime}},
			Sweep: director.SweepState{Passes: 5, Freed: 6, Repaired: 1, Busy: 1500 * time.Millisecond, Last: someTime},
		},
		defense: director.DefenseState{
			DefenseSettings: director.DefenseSettings{DropEntry: 1, DropPacket: 2, SecureTCP: 0, SynCookies: 3},
			Rate:            11, Evicted: 12, Guards: 2, Pressure: director.DefensePressure{HalfOpen: 13},
			Cookies: director.CookieState{Services: 1, Able: 2, Answered: 100, Proven: 14},
		},
		addresses: director.AddressList{Addresses: []director.AddressState{
			{Addr: netip.MustParseAddr("192.0.2.10"), Mode: director.AddressAnswer, Interface: "eth0", Status: director.AddressHeld, Announcements: 4, Repaired: 1},
			{Addr: netip.MustParseAddr("192.0.2.10"), Mode: director.AddressAnswer, Interface: "eth1", Status: director.AddressWaiting},
			{Addr: netip.MustParseAddr("192.0.2.20"), Mode: director.AddressInterface, Status: director.AddressConflict, Rival: &director.Rival{}},
			{Addr: netip.MustParseAddr("192.0.2.30"), Mode: director.AddressNone},
		}},
		status: Status{Ready: true, Reloads: 2, Refused: 1, Loaded: someTime, Tables: 65536, Program: Program{"director", "0123456789abcdef", 42}},
	}
}

// scrape is what Prometheus gets, without what the library itself tells about Go and the process.
func scrape(t *testing.T, source Source, limits Limits) string {
	t.Helper()
	handler := New(source, Build{"v1.2.3", "abcdef", "go1.26"}, limits).Handler(slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	var own strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, namespace) {
			own.WriteString(line)
		}
	}
	return own.String()
}

func TestMetrics(t *testing.T) {
	const golden = "testdata/metrics.txt"
	got := scrape(t, everything(), Limits{})
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the exporter says (go test -update writes %s):\n%s", golden, got)
	}
}

// Each family is in the golden file, so that all of them are tested and checked by promtool.
func TestEveryFamilyIsExported(t *testing.T) {
	got := scrape(t, everything(), Limits{})
	for _, f := range families {
		_, name, _ := strings.Cut(f.desc.String(), `"`)
		name, _, _ = strings.Cut(name, `"`)
		if !strings.Contains(got, "\n"+name) {
			t.Errorf("%s is not exported of a state that has everything", name)
		}
	}
}

func TestNamesAreAsPrometheusWants(t *testing.T) {
	problems, err := testutil.CollectAndLint(New(everything(), Build{}, Limits{}))
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// Without a state there are the metrics that need none, and one that says so.
func TestNoSnapshot(t *testing.T) {
	got := scrape(t, &fakeSource{}, Limits{})
	for _, line := range []string{"director_snapshot_available 0\n", "director_ready 0\n", `director_build_info{goversion="go1.26",revision="abcdef",version="v1.2.3"} 1` + "\n"} {
		if !strings.Contains(got, "\n"+line) {
			t.Errorf("%q is not in\n%s", line, got)
		}
	}
}

// manyServices have so many real servers each.
func manyServices(reals ...int) *fakeSource {
	s := &director.Snapshot{}
	for i, n := range reals {
		state := director.ServiceState{Name: fmt.Sprintf("s%d", i), Key: director.MarkKey(uint32(i+1), false)}
		state.Reals = slices.Repeat([]director.RealState{{}}, n)
		for r := range state.Reals {
			state.Reals[r].Key = director.RealKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(r)})}
		}
		s.Services = append(s.Services, state)
	}
	return &fakeSource{snapshot: s}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name           string
		limits         Limits
		shown          []string
		services, real int // without series
	}{
		{"all", Limits{4, 6}, []string{"s0", "s1", "s2"}, 0, 0},
		{"services", Limits{1, 6}, []string{"s0"}, 2, 4},
		{"real servers, the large one is left out", Limits{4, 3}, []string{"s0", "s2"}, 1, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := scrape(t, manyServices(2, 3, 1), c.limits)
			for i := range 3 {
				name := fmt.Sprintf("s%d", i)
				if has := strings.Contains(got, fmt.Sprintf("service=%q", name)); has != slices.Contains(c.shown, name) {
					t.Errorf("series of %s: %v", name, has)
				}
			}
			for kind, n := range map[string]int{"service": c.services, "real_server": c.real} {
				if want := fmt.Sprintf("director_omitted{kind=%q} %d\n", kind, n); !strings.Contains(got, want) {
					t.Errorf("not said: %s", want)
				}
			}
		})
	}
}

// Two services of one name, as the ipvsadm personality could make them, are two series.
func TestSameNameTwice(t *testing.T) {
	source := manyServices(1, 1)
	source.snapshot.Services[0].Name, source.snapshot.Services[1].Name = "same\xff", "same\xff"
	if n := strings.Count(scrape(t, source, Limits{}), "director_service_real_servers{"); n != 2 {
		t.Errorf("%d series, want 2", n)
	}
}
