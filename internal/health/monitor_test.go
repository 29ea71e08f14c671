// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/director"
	"xdplvs/healthcheck"
)

// wards are servers whose results a test decides; one without is not answered for.
type wards struct {
	mu      sync.Mutex
	results map[netip.AddrPort]healthcheck.Result
	probes  int
}

func (w *wards) set(addr string, r healthcheck.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.results[netip.MustParseAddrPort(addr)] = r
}

func (w *wards) asked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.probes
}

func (w *wards) Identity() string { return "wards" }

func (w *wards) Check(_ context.Context, t healthcheck.Target) healthcheck.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probes++
	return w.results[t.Address]
}

var (
	fine   = healthcheck.Result{Verdict: healthcheck.Up, Factor: 100, Code: healthcheck.L7OK, Text: "fine"}
	half   = healthcheck.Result{Verdict: healthcheck.Up, Factor: 50, Code: healthcheck.L7OK, Text: "slow"}
	broken = healthcheck.Result{Verdict: healthcheck.Down, Code: healthcheck.L7STS, Status: 503, Text: "broken"}
	leaves = healthcheck.Result{Verdict: healthcheck.Up, Drain: true, Code: healthcheck.L7STS, Status: 421}
	unsent = healthcheck.Result{Code: healthcheck.SOCKERR, Text: "no route"}
)

// world is a monitor and what it has told others.
type world struct {
	*Monitor
	t      *testing.T
	wards  *wards
	file   string
	log    bytes.Buffer
	health map[director.HealthKey]director.Health
	quorum map[director.ServiceKey]bool
	events []string
	stop   func()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, wards: &wards{results: map[netip.AddrPort]healthcheck.Result{}}, file: filepath.Join(t.TempDir(), "health.json")}
	w.start()
	return w
}

// start is a new process.
func (w *world) start() {
	w.quorum = map[director.ServiceKey]bool{}
	w.Monitor = New(Options{
		Log: slog.New(slog.NewTextHandler(&w.log, nil)), File: w.file,
		Apply:  func(all map[director.HealthKey]director.Health) { w.health = all },
		Quorum: func(key director.ServiceKey, quorum bool) { w.quorum[key] = quorum },
		Notify: func(e Event) {
			text := fmt.Sprintf("%s %s", e.Kind, e.Real.Addr)
			if e.Real.Addr == (netip.Addr{}) {
				text = fmt.Sprintf("%s %g", e.Kind, e.Up)
			}
			w.events = append(w.events, text)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

// kill ends the process as kill -9 does: what is in the file by now is what there is.
func (w *world) kill() {
	text, err := os.ReadFile(w.file)
	w.stop()
	if err == nil {
		err = os.WriteFile(w.file, text, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

var web = director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}

const second = time.Second

// farm is a service whose n real servers are each asked once a second.
func (w *world) farm(n int, change ...func(*Service)) []Service {
	s := Service{Key: web, Name: "web"}
	for i := range n {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 80)
		s.Reals = append(s.Reals, Real{Key: director.RealKey{Addr: addr.Addr(), Port: 80}, Weight: 2, Checks: []Check{{Name: "c", Check: healthcheck.Check{
			Target: healthcheck.Target{Address: addr}, Checker: w.wards, Timing: healthcheck.Timing{Interval: second, Rise: 2, Fall: 2, Spread: -1},
		}}}})
	}
	for _, f := range change {
		f(&s)
	}
	return []Service{s}
}

func (w *world) mustSet(services []Service) {
	w.t.Helper()
	w.Prepare(services)
	if err := w.Set(services); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// pass lets so many seconds pass.
func (w *world) pass(seconds int) {
	time.Sleep(time.Duration(seconds) * second)
	synctest.Wait()
}

// conditions are those of the real servers, in order, as up:100 down:0.
func (w *world) conditions() string {
	w.mu.Lock() // under which it is told
	defer w.mu.Unlock()
	var all []string
	for key, h := range w.health {
		all = append(all, fmt.Sprintf("%d=%s:%d", key.Real.Addr.As4()[3], h.Condition, h.Factor))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (w *world) expect(what, want string) {
	w.t.Helper()
	if got := w.conditions(); got != want {
		w.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func (w *world) expectEvents(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.events)
	if !slices.Equal(w.events, want) {
		w.t.Errorf("events %q, want %q", w.events, want)
	}
	w.events = nil
}

// healthAt is that of the nth real server, as it was told last.
func (w *world) healthAt(n int) director.Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.health[w.services[0].reals[n].key]
}

// hasQuorum is what was told of the service's quorum.
func (w *world) hasQuorum() (quorum, told bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	quorum, told = w.quorum[web]
	return quorum, told
}

func (w *world) logText() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// TestConditions: what checks say becomes what the director is told, each transition is told once.
func TestConditions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		for i, r := range []healthcheck.Result{fine, half, broken, leaves, unsent} {
			w.wards.set(fmt.Sprintf("10.0.0.%d:80", i+1), r)
		}
		w.mustSet(w.farm(5))
		w.expect("after the first probes", "1=up:100 2=up:50 3=down:0 4=drain:0 5=unknown:0")
		w.expectEvents("real_down 10.0.0.3", "real_drain 10.0.0.4")
		w.wards.set("10.0.0.1:80", broken)
		w.wards.set("10.0.0.3:80", fine)
		w.pass(1)
		w.expect("not believed yet", "1=up:100 2=up:50 3=down:0 4=drain:0 5=unknown:0")
		w.pass(3)
		w.expect("turned", "1=down:0 2=up:50 3=up:100 4=drain:0 5=unknown:0")
		w.pass(60)
		w.expectEvents("real_down 10.0.0.1", "real_up 10.0.0.3")
		if n := strings.Count(w.logText(), "event=real_down"); n != 2 || !strings.Contains(w.logText(), `evidence="L7STS/503`) {
			t.Errorf("%d real servers were logged to be down:\n%s", n, w.logText())
		}
		history, err := w.History("10.0.0.1", "")
		if err != nil || len(history) != 1 || len(history[0].Transitions) != 2 || len(history[0].Results) != healthcheck.MaxHistory {
			t.Errorf("history %+v, %v", history, err)
		}
	})
}

// TestSeveralChecks: the worst decides, and shares of the weight are multiplied.
func TestSeveralChecks(t *testing.T) {
	for _, c := range []struct {
		first, second healthcheck.Result
		want          string
	}{
		{fine, fine, "1=up:100"}, {fine, half, "1=up:50"}, {half, half, "1=up:25"}, {half, broken, "1=down:0"}, {broken, half, "1=down:0"},
		{leaves, half, "1=drain:0"}, {unsent, fine, "1=unknown:0"}, {unsent, broken, "1=down:0"}, {unsent, leaves, "1=unknown:0"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer func() { w.stop() }()
			w.wards.set("10.0.0.1:80", c.first)
			w.wards.set("10.0.0.1:81", c.second)
			w.mustSet(w.farm(1, func(s *Service) {
				other := s.Reals[0].Checks[0]
				other.Name, other.Target.Address = "d", netip.MustParseAddrPort("10.0.0.1:81")
				s.Reals[0].Checks = append(s.Reals[0].Checks, other)
			}))
			w.expect(fmt.Sprint(c.first.Text, " and ", c.second.Text), c.want)
		})
	}
}

// TestQuorum: lost below the quorum less the hysteresis, regained at the sum of both, as in keepalived.
func TestQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		all := func(results ...healthcheck.Result) {
			for i, r := range results {
				w.wards.set(fmt.Sprintf("10.0.0.%d:80", i+1), r)
			}
		}
		all(fine, fine, unsent)
		w.mustSet(w.farm(3, func(s *Service) { s.Quorum = Quorum{Weight: 4, Hysteresis: 1} }))
		if _, told := w.hasQuorum(); told {
			t.Error("it was decided while a real server is unknown")
		}
		all(fine, fine, broken)
		w.pass(4)
		if quorum, _ := w.hasQuorum(); !quorum {
			t.Error("4 of 4 is no quorum")
		}
		w.expectEvents("real_down 10.0.0.3")
		all(broken, fine, broken)
		w.pass(4)
		if quorum, _ := w.hasQuorum(); quorum {
			t.Error("2 of 4 - 1 is a quorum")
		}
		w.expectEvents("quorum_lost 2", "real_down 10.0.0.1")
		all(fine, fine, broken)
		w.pass(4)
		if quorum, _ := w.hasQuorum(); quorum {
			t.Error("4 of 4 + 1 has it regained")
		}
		w.kill()
		w.start()
		w.mustSet(w.farm(3, func(s *Service) { s.Quorum = Quorum{Weight: 4, Hysteresis: 1} }))
		if quorum, told := w.hasQuorum(); quorum || !told {
			t.Error("a restart has it regained")
		}
		all(fine, fine, fine)
		w.pass(4)
		if quorum, _ := w.hasQuorum(); !quorum || !strings.Contains(w.logText(), "event=quorum_gained") {
			t.Error("6 of 4 + 1 has it not regained")
		}
		if q := w.List().Services[0].Quorum; !q.Decided || q.Lost || q.Up != 6 || q.Weight != 4 {
			t.Errorf("it is shown as %+v", q)
		}
	})
}

// TestMinUp: of those that are too slow the best go on.
func TestMinUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		lags := func(d time.Duration) healthcheck.Result {
			return healthcheck.Result{Verdict: healthcheck.Down, Reserve: true, Lag: d, Code: healthcheck.L7STS}
		}
		w.wards.set("10.0.0.1:80", lags(90*second))
		w.wards.set("10.0.0.2:80", lags(70*second))
		w.wards.set("10.0.0.3:80", broken)
		w.mustSet(w.farm(3, func(s *Service) { s.MinUp = 1 }))
		w.expect("all lag", "1=down:0 2=up:100 3=down:0")
	})
}

// TestSorryServers: their conditions are told under the key of their own, outlive the process, and count for nothing of
// the service's.
func TestSorryServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		apologizing := w.farm(3, func(s *Service) {
			s.Sorry, s.Reals = s.Reals[1:], s.Reals[:1]
			s.Quorum, s.MinUp = Quorum{Weight: 2}, 1
		})
		w.wards.set("10.0.0.1:80", fine)
		w.wards.set("10.0.0.2:80", broken)
		w.wards.set("10.0.0.3:80", fine)
		w.mustSet(apologizing)
		w.expect("one of two is dead", "1=up:100 2=down:0 3=up:100")
		dead := director.HealthKey{Service: web.OfSorry(), Real: apologizing[0].Sorry[0].Key}
		if h := w.health[dead]; h.Condition != director.Down {
			t.Errorf("%+v is %+v", dead, h)
		}
		w.wards.set("10.0.0.1:80", broken)
		w.pass(3)
		if quorum, told := w.hasQuorum(); quorum || !told {
			t.Errorf("quorum %t, told %t, though only a sorry server is left", quorum, told)
		}
		w.expectEvents("quorum_lost 0", "real_down 10.0.0.1", "real_down 10.0.0.2")
		if !strings.Contains(w.logText(), `msg="sorry server is down"`) {
			t.Error("the log takes the sorry server for a real server")
		}
		w.kill()
		w.wards.set("10.0.0.3:80", unsent)
		w.start()
		w.mustSet(apologizing)
		w.expect("a new process", "1=down:0 2=down:0 3=up:100")
		if list := w.List(); len(list.Services[0].Reals) != 3 || !list.Services[0].Reals[2].Sorry || list.Services[0].Quorum.Up != 0 {
			t.Errorf("list %+v", list)
		}
	})
}

// TestRestart: the next process goes on with the verdicts, whatever ended the former one, and each
// holds until results change it as they would have.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		for i, r := range []healthcheck.Result{fine, half, broken, leaves} {
			w.wards.set(fmt.Sprintf("10.0.0.%d:80", i+1), r)
		}
		w.mustSet(w.farm(4))
		w.pass(5)
		const before = "1=up:100 2=up:50 3=down:0 4=drain:0"
		w.expect("before", before)
		evidence := w.healthAt(2)
		w.expectEvents("real_down 10.0.0.3", "real_drain 10.0.0.4")

		w.kill()
		for i := range 4 {
			w.wards.set(fmt.Sprintf("10.0.0.%d:80", i+1), unsent)
		}
		w.health = nil
		w.start()
		w.Prepare(w.farm(4))
		w.expect("prepared", before)
		w.mustSet(w.farm(4))
		w.pass(5)
		w.expect("nothing heard", before)
		if got := w.healthAt(2); got.Evidence != evidence.Evidence || !got.Since.Equal(evidence.Since) {
			t.Errorf("evidence is %+v, was %+v", got, evidence)
		}
		w.wards.set("10.0.0.1:80", broken)
		w.wards.set("10.0.0.3:80", fine)
		w.pass(1)
		w.expect("one result", before)
		w.pass(3)
		w.expect("two results", "1=down:0 2=up:50 3=up:100 4=drain:0")
		w.expectEvents("real_down 10.0.0.1", "real_up 10.0.0.3")
		history, err := w.History("10.0.0.3:80", "web")
		if err != nil || len(history[0].Transitions) != 2 {
			t.Errorf("history %+v, %v", history, err)
		}
	})
}

// TestKeptFile: one that makes no sense is told, and not believed.
func TestKeptFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, text := range []string{"{", `{"version": 7}`, ""} {
			w := newWorld(t)
			w.stop()
			if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w.start()
			w.mustSet(w.farm(1))
			w.expect(text, "1=unknown:0")
			if !strings.Contains(w.logText(), "event=health_lost") {
				t.Errorf("%q is not told of: %s", text, w.logText())
			}
			w.stop()
		}
	})
}

// TestReload: a check that is not changed keeps its state and its probes, who was in use stays so
// until a new check says otherwise, and who is new waits for one.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		unchecked := func(s *Service) { s.Reals[1].Checks = nil }
		w.wards.set("10.0.0.1:80", fine)
		w.wards.set("10.0.0.2:80", unsent)
		w.wards.set("10.0.0.3:80", unsent)
		w.mustSet(w.farm(2, unchecked))
		w.expect("one is checked", "1=up:100")
		probes := w.wards.asked()
		for range 10 {
			w.mustSet(w.farm(2, unchecked))
		}
		if w.wards.asked() != probes {
			t.Errorf("%d probes for nothing", w.wards.asked()-probes)
		}
		w.mustSet(w.farm(3))
		w.pass(5)
		w.expect("checked from now on, and a new one", "1=up:100 2=up:100 3=unknown:0")
		w.wards.set("10.0.0.2:80", broken)
		w.pass(1)
		w.expect("one result", "1=up:100 2=up:100 3=unknown:0")
		w.pass(3)
		w.expect("two results", "1=up:100 2=down:0 3=unknown:0")
		w.mustSet(nil)
		w.expect("no service", "")
	})
}

// TestSuspect: who is suspected is asked at once, told of once, and nobody else is asked.
func TestSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		w.wards.set("10.0.0.1:80", fine)
		w.wards.set("10.0.0.2:80", fine)
		w.mustSet(w.farm(2, func(s *Service) {
			for i := range s.Reals {
				s.Reals[i].Checks[0].Timing = healthcheck.Timing{Interval: time.Hour, Fall: 2, Spread: -1}
			}
		}))
		w.pass(60)
		w.wards.set("10.0.0.1:80", broken)
		w.wards.set("10.0.0.2:80", broken)
		probes := w.wards.asked()
		suspects := []director.HealthKey{w.services[0].reals[0].key}
		w.Suspect(suspects)
		w.Suspect(suspects)
		synctest.Wait()
		if n := w.wards.asked() - probes; n != 1 {
			t.Errorf("%d probes at once", n)
		}
		w.pass(2) // the rest is the fast interval's
		w.expect("two results later", "1=down:0 2=up:100")
		if n := strings.Count(w.logText(), "event=real_suspect"); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

// TestOrder: what is set by hand holds, whatever checks say, until it is taken back; over a restart too.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.stop() }()
		w.wards.set("10.0.0.1:80", fine)
		w.wards.set("10.0.0.2:80", broken)
		w.mustSet(w.farm(3, func(s *Service) { s.Reals[2].Checks = nil; s.Reals[0].Name = "one" }))
		order := func(real, service, condition, want string) {
			t.Helper()
			n, err := w.Order(director.HealthOrder{Real: real, Service: service, Condition: condition})
			if got := fmt.Sprint(n, " ", err); got != want {
				t.Errorf("%s %s: %s, want %s", condition, real, got, want)
			}
		}
		order("one", "", "down", "1 <nil>")
		order("10.0.0.2:80", "192.0.2.1:80", "up", "1 <nil>")
		w.expect("ordered", "1=down:0 2=up:100")
		w.pass(10)
		w.expect("after probes", "1=down:0 2=up:100")
		w.kill()
		w.start()
		w.mustSet(w.farm(3, func(s *Service) { s.Reals[2].Checks = nil }))
		w.pass(10)
		w.expect("after a restart", "1=down:0 2=up:100")
		order("10.0.0.1", "web", "auto", "1 <nil>")
		order("10.0.0.2", "tcp 192.0.2.1:80", "auto", "1 <nil>")
		w.expect("taken back", "1=up:100 2=down:0")
		order("10.0.0.1", "web", "dwn", `0 unknown condition "dwn" (known: up, drain, down, auto)`)
		order("10.0.0.1", "mail", "down", `0 no service "mail" is checked`)
		order("10.0.0.9", "", "down", `0 no real server "10.0.0.9" (known: 10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80)`)
		order("10.0.0.3", "", "down", `0 real server 10.0.0.3 is not checked: its weight says whether it is used`)
	})
}

// BenchmarkTurn is what it costs that one of 5,000 real servers turns.
func BenchmarkTurn(b *testing.B) {
	m := New(Options{Apply: func(map[director.HealthKey]director.Health) {}})
	s := Service{Key: web, Name: "web"}
	for i := range 5000 {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80)
		s.Reals = append(s.Reals, Real{Key: director.RealKey{Addr: addr.Addr(), Port: 80}, Weight: 1, Checks: []Check{{Name: "c", Check: healthcheck.Check{
			Target: healthcheck.Target{Address: addr}, Checker: &wards{}}}}})
	}
	if err := m.Set([]Service{s}); err != nil {
		b.Fatal(err)
	}
	forced := []director.Condition{director.Up, director.Down}
	for i := 0; b.Loop(); i++ {
		m.mu.Lock()
		m.services[0].reals[7].forced = forced[i%2]
		m.refresh()
		m.mu.Unlock()
	}
}
