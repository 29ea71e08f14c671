// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// server is a Checker whose answers tests decide.
type server struct {
	name string

	mu      sync.Mutex
	answer  func(Target) Result
	took    time.Duration
	asked   []time.Time
	running int
	most    int // that ran at a time
}

func newServer(name string) *server {
	return &server{name: name, answer: func(Target) Result { return good(L7OK, "fine") }}
}

func (s *server) Identity() string { return "test:" + s.name }

func (s *server) Check(ctx context.Context, t Target) Result {
	s.mu.Lock()
	s.asked = append(s.asked, time.Now())
	s.running++
	s.most = max(s.most, s.running)
	took := s.took
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running--
		s.mu.Unlock()
	}()
	return run(ctx, t, func(p *probe) (Result, error) {
		p.enter(layer7, "answer")
		select {
		case <-ctx.Done():
			return Result{}, ctx.Err()
		case <-time.After(took):
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.answer(t), nil
	})
}

// says makes it answer this from now on.
func (s *server) says(r Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = func(Target) Result { return r }
}

func (s *server) takes(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took = d
}

// times are when it was asked, since then, in seconds.
func (s *server) times(since time.Time) (seconds []float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if !a.Before(since) {
			seconds = append(seconds, a.Sub(since).Seconds())
		}
	}
	return seconds
}

// managed runs a test with a manager, in a bubble where time passes at once.
func managed(t *testing.T, o Options, test func(t *testing.T, m *Manager)) {
	synctest.Test(t, func(t *testing.T) {
		if o.Random == nil {
			o.Random = func(int64) int64 { return 0 }
		}
		m := NewManager(o)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		test(t, m)
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("Run returned %v", err)
		}
	}) // which fails if goroutines remain
}

// target is the nth.
func target(n int) Target {
	return Target{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 80)}
}

// every is the timing of most tests: 10 s, fast 1 s, three to fall, two to rise.
var every = Timing{Interval: 10 * time.Second, Timeout: 2 * time.Second, Fall: 3, Rise: 2}

func set(t *testing.T, m *Manager, checks map[string]Check) {
	t.Helper()
	if err := m.Set(checks); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// pass lets time pass, to a moment in between probes.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func state(t *testing.T, m *Manager, name string) State {
	t.Helper()
	s, ok := m.State(name)
	if !ok {
		t.Fatalf("no check %q", name)
	}
	return s
}

// has compares a state with "verdict factor pending silent".
func has(t *testing.T, m *Manager, name, want string) {
	t.Helper()
	s := state(t, m, name)
	verdict := s.Verdict.String()
	if s.Drain {
		verdict = "drain"
	}
	if got := fmt.Sprint(verdict, " ", s.Factor, " ", s.Pending, " ", s.Silent); got != want {
		t.Errorf("%s is %s, want %s", name, got, want)
	}
}

var refused = fail(L4CON, 0, "refused").Result

// TestRiseAndFall follows a server down and up again, with the intervals on the way.
func TestRiseAndFall(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		begin := time.Now()
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: every}})
		has(t, m, "a", "up 100 0 0") // the first result decides alone
		pass(15 * time.Second)
		s.says(refused)
		pass(5*time.Second + time.Millisecond) // the probe at 20
		has(t, m, "a", "up 100 -1 0")
		pass(time.Second)
		has(t, m, "a", "up 100 -2 0")
		pass(time.Second)
		has(t, m, "a", "down 0 0 0")
		if got := state(t, m, "a"); got.Since != begin.Add(22*time.Second) || got.Evidence.Text != "refused" || got.Failures != 3 || got.Checks != 5 {
			t.Errorf("the state is %+v", got)
		}
		pass(10 * time.Second)
		s.says(good(L7OK, "back"))
		pass(10 * time.Second)
		has(t, m, "a", "down 0 1 0")
		pass(time.Second)
		has(t, m, "a", "up 100 0 0")
		pass(10 * time.Second)
		if got, want := s.times(begin), []float64{0, 10, 20, 21, 22, 32, 42, 43, 53}; !reflect.DeepEqual(got, want) {
			t.Errorf("asked at %v, want %v", got, want)
		}
		transitions, results := m.History("a")
		if len(transitions) != 3 || transitions[0].From != Unknown || transitions[1].To != Down || transitions[1].Evidence.Text != "refused" || transitions[2].Evidence.Text != "back" {
			t.Errorf("transitions: %+v", transitions)
		}
		if len(results) != 9 || results[2].Verdict != Down {
			t.Errorf("%d results: %+v", len(results), results)
		}
	})
}

// TestTimeToDown: whenever a server dies, it is down after interval * fall + timeout at most.
func TestTimeToDown(t *testing.T) {
	for _, timing := range []Timing{
		{Interval: 5 * time.Second, Timeout: 5 * time.Second, Fall: 3}, {Interval: time.Second, Timeout: 300 * time.Millisecond, Fall: 2, Fast: 100 * time.Millisecond},
		{Interval: 2 * time.Second, Timeout: time.Second, Fall: 1}, {Interval: 3 * time.Second, Timeout: time.Second, Fall: 4, Fast: 3 * time.Second},
	} {
		for dies := range 20 {
			managed(t, Options{}, func(t *testing.T, m *Manager) {
				s := newServer("a")
				set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: timing}})
				time.Sleep(10*time.Second + time.Duration(dies)*timing.Interval/20)
				s.takes(time.Hour)
				died := time.Now()
				for state(t, m, "a").Verdict != Down {
					<-m.Changed()
				}
				if took, most := time.Since(died), timing.Interval*time.Duration(timing.Fall)+timing.Timeout; took > most {
					t.Errorf("%+v: down after %s, at most %s", timing, took, most)
				}
			})
		}
	}
}

// TestUnknown: what could not be sent is no result, neither for a change nor against one.
func TestUnknown(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		timing := every
		timing.Retry = 4 * time.Second
		s.says(unsent("no socket").Result)
		begin := time.Now()
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: timing}})
		has(t, m, "a", "unknown 0 0 1")
		pass(4 * time.Second)
		has(t, m, "a", "unknown 0 0 2")
		if got := state(t, m, "a"); got.SilentSince != begin || got.Last.Text != "no socket" {
			t.Errorf("the state is %+v", got)
		}
		s.says(good(L7OK, ""))
		pass(4 * time.Second)
		has(t, m, "a", "up 100 0 0")
		s.says(refused)
		pass(11 * time.Second) // at 18 and 19
		has(t, m, "a", "up 100 -2 0")
		s.says(unsent("no socket").Result)
		pass(3 * time.Second)
		has(t, m, "a", "up 100 -2 3") // for as long as it takes, in neither direction
		s.says(refused)
		pass(time.Second)
		has(t, m, "a", "down 0 0 0")
		s.says(unsent("no socket").Result)
		pass(time.Minute)
		if got := state(t, m, "a"); got.Verdict != Down || got.Silent < 10 {
			t.Errorf("the state is %+v", got)
		}
	})
}

// TestDrain: drain lies between up and down, and takes as long to settle as they do.
func TestDrain(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: every}})
		s.says(draining(L7STS, 421, "busy").Result)
		pass(11 * time.Second)
		has(t, m, "a", "up 100 -2 0")
		s.says(refused)
		pass(time.Second)
		has(t, m, "a", "down 0 0 0") // the last of three worse ones
		s.says(draining(L7STS, 421, "busy").Result)
		pass(11 * time.Second)
		has(t, m, "a", "drain 0 0 0")
		s.says(good(L7OK, ""))
		pass(10 * time.Second)
		has(t, m, "a", "drain 0 1 0")
		s.says(refused)
		pass(time.Second)
		has(t, m, "a", "drain 0 -1 0") // the other side begins anew
		s.says(good(L7OK, ""))
		pass(2 * time.Second)
		has(t, m, "a", "up 100 0 0")
		transitions, _ := m.History("a")
		if last := transitions[len(transitions)-1]; !last.FromDrain || last.ToDrain || last.From != Up {
			t.Errorf("the last transition is %+v", last)
		}
	})
}

// TestFactor: the share follows the results of the settled level at once.
func TestFactor(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		lagging := func(lag time.Duration, factor int) Result {
			return Result{Verdict: Up, Code: L7OK, Factor: factor, Lag: lag}
		}
		s.says(lagging(time.Second, 80))
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: every}})
		<-m.Changed()
		has(t, m, "a", "up 80 0 0")
		s.says(lagging(5*time.Second, 30))
		pass(10 * time.Second)
		has(t, m, "a", "up 30 0 0")
		<-m.Changed()
		s.says(Result{Verdict: Down, Code: L7STS, Reserve: true, Lag: time.Minute})
		pass(10 * time.Second)
		has(t, m, "a", "up 30 -1 0")
		pass(2 * time.Second)
		if got := state(t, m, "a"); got.Verdict != Down || !got.Reserve || got.Lag != time.Minute || got.Factor != 0 {
			t.Errorf("the state is %+v", got)
		}
	})
}

// TestChanged: nothing is said when nothing changed, and once for many changes.
func TestChanged(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		changed := func() bool {
			synctest.Wait()
			select {
			case <-m.Changed():
				return true
			default:
				return false
			}
		}
		s := newServer("a")
		checks := map[string]Check{"a": {Target: target(1), Checker: s, Timing: every}, "b": {Target: target(2), Checker: s, Timing: every}}
		set(t, m, checks)
		if !changed() || changed() {
			t.Error("the first verdicts are not one change")
		}
		pass(time.Minute)
		if changed() {
			t.Error("results that say the same are a change")
		}
		s.says(unsent("").Result)
		pass(10 * time.Second)
		if !changed() {
			t.Error("probes that cannot be sent are no change")
		}
		set(t, m, map[string]Check{"a": checks["a"]})
		if !changed() {
			t.Error("a check that goes is no change")
		}
		if _, ok := m.State("b"); ok || len(m.States()) != 1 {
			t.Errorf("the states are %v", m.States())
		}
	})
}

// TestShared: who asks the same of the same server shares a probe, with an own rise and fall.
func TestShared(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s, other := newServer("a"), newServer("b")
		patient, slow := every, every
		patient.Fall = 5
		slow.Interval, slow.Timeout = 30*time.Second, 2*time.Second
		begin := time.Now()
		set(t, m, map[string]Check{
			"web": {Target: target(1), Checker: s, Timing: every}, "same": {Target: target(1), Checker: s, Timing: every},
			"patient": {Target: target(1), Checker: s, Timing: patient}, "slow": {Target: target(1), Checker: s, Timing: slow},
			"marked": {Target: Target{Address: target(1).Address, Dialer: Sockets{Mark: 1}}, Checker: other, Timing: every},
			"direct": {Target: target(1), Checker: other, Timing: every},
		})
		pass(5 * time.Second)
		if a, b := s.times(begin), other.times(begin); len(a) != 1 || len(b) != 2 {
			t.Errorf("asked %v and %v, want once, and twice by two ways", a, b)
		}
		s.says(refused)
		pass(7 * time.Second) // at 10, 11 and 12
		has(t, m, "web", "down 0 0 0")
		has(t, m, "same", "down 0 0 0")
		has(t, m, "slow", "down 0 0 0") // more often than it has asked for is no harm
		has(t, m, "patient", "up 100 -3 0")
		pass(2 * time.Second)
		has(t, m, "patient", "down 0 0 0")
		// A late one does not have to wait: the others know already.
		checks := map[string]Check{"web": {Target: target(1), Checker: s, Timing: every}, "late": {Target: target(1), Checker: s, Timing: slow}}
		set(t, m, checks)
		has(t, m, "late", "down 0 0 0")
		has(t, m, "web", "down 0 0 0")
	})
}

// TestReplace: what stays goes on as if nothing had happened.
func TestReplace(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s, other := newServer("a"), newServer("b")
		begin := time.Now()
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: every}, "b": {Target: target(2), Checker: s, Timing: every}})
		s.says(refused)
		pass(10 * time.Second)
		has(t, m, "a", "up 100 -1 0")
		for range 5 {
			set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: every}})
		}
		has(t, m, "a", "up 100 -1 0") // its count of failures too
		pass(time.Second)
		has(t, m, "a", "up 100 -2 0")
		if got := s.times(begin); len(got) != 5 { // 0, 10 twice, 11 once
			t.Errorf("asked at %v", got)
		}
		// Another question under the same name keeps the verdict until there are results.
		other.says(refused)
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: other, Timing: every}})
		has(t, m, "a", "up 100 -1 0")
		pass(2 * time.Second)
		has(t, m, "a", "down 0 0 0")
		// A shorter interval counts at once.
		quick := every
		quick.Interval, quick.Timeout = time.Second, time.Second
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: other, Timing: quick}})
		other.says(good(L7OK, ""))
		pass(3 * time.Second)
		has(t, m, "a", "up 100 0 0")
	})
}

// TestRemovedWhileRunning: a probe that nobody wants any more is ended, and its result forgotten.
func TestRemovedWhileRunning(t *testing.T) {
	managed(t, Options{Concurrency: 1}, func(t *testing.T, m *Manager) {
		s, other := newServer("a"), newServer("b")
		s.takes(time.Hour)
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: every}})
		pass(time.Second)
		set(t, m, map[string]Check{"b": {Target: target(1), Checker: other, Timing: every}})
		has(t, m, "b", "up 100 0 0") // the only place is free again
	})
}

// TestInitial: a verdict of before a restart holds until rise or fall say otherwise.
func TestInitial(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		s.says(refused)
		set(t, m, map[string]Check{"up": {Target: target(1), Checker: s, Timing: every, Initial: Up}, "down": {Target: target(2), Checker: s, Timing: every, Initial: Down}})
		has(t, m, "up", "up 100 -1 0")
		has(t, m, "down", "down 0 0 0")
		pass(2 * time.Second)
		has(t, m, "up", "down 0 0 0")
	})
}

// TestTrigger asks at once, but no more often than the fast interval.
func TestTrigger(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		begin := time.Now()
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: every}})
		pass(5 * time.Second)
		m.Trigger("a")
		m.Trigger("nobody")
		synctest.Wait()
		for range 100 {
			m.Trigger("a")
			pass(10 * time.Millisecond)
		}
		pass(time.Second)
		if got, want := s.times(begin), []float64{0, 5, 6}; !reflect.DeepEqual(got, want) {
			t.Errorf("asked at %v, want %v", got, want)
		}
		// During a probe: what triggers may have happened after its beginning.
		s.takes(1500 * time.Millisecond)
		pass(9 * time.Second) // it began at 16
		m.Trigger("a")
		pass(2 * time.Second)
		if got, want := s.times(begin), []float64{0, 5, 6, 16, 17.5}; !reflect.DeepEqual(got, want) {
			t.Errorf("asked at %v, want %v", got, want)
		}
	})
}

// TestConcurrency has more probes than may run at a time.
func TestConcurrency(t *testing.T) {
	managed(t, Options{Concurrency: 7}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		s.takes(time.Second)
		checks := make(map[string]Check)
		for i := range 50 {
			checks[fmt.Sprint(i)] = Check{Target: target(i), Checker: s, Timing: every}
		}
		set(t, m, checks)
		pass(time.Minute)
		for name, state := range m.States() {
			if state.Verdict != Up || state.Checks < 6 {
				t.Errorf("%s is %+v", name, state)
			}
		}
		if s.most != 7 {
			t.Errorf("%d ran at a time, want 7", s.most)
		}
	})
}

// TestSpread: first probes do not begin all at once.
func TestSpread(t *testing.T) {
	var drawn atomic.Int64
	random := func(n int64) int64 {
		if n != int64(time.Second) {
			t.Errorf("drawn out of %s", time.Duration(n))
		}
		return drawn.Add(1) * int64(10*time.Millisecond)
	}
	managed(t, Options{Random: random}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		begin := time.Now()
		checks := make(map[string]Check)
		for i := range 5 {
			checks[fmt.Sprint(i)] = Check{Target: target(i), Checker: s, Timing: every}
		}
		at := every
		at.Spread = -1
		checks["at once"] = Check{Target: target(9), Checker: s, Timing: at}
		set(t, m, checks)
		pass(2 * time.Second)
		if got, want := s.times(begin), []float64{0, 0.01, 0.02, 0.03, 0.04, 0.05}; !reflect.DeepEqual(got, want) {
			t.Errorf("asked at %v, want %v", got, want)
		}
	})
}

// TestSlots: later probes begin together, never later than wished for, and do not gather more and more.
func TestSlots(t *testing.T) {
	var drawn atomic.Int64
	managed(t, Options{Random: func(int64) int64 { return drawn.Add(1) * int64(7*time.Millisecond) }}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		begin := time.Now()
		checks := make(map[string]Check)
		for i := range 100 { // their first probes are 7 ms apart
			checks[fmt.Sprint(i)] = Check{Target: target(i), Checker: s, Timing: every}
		}
		set(t, m, checks)
		pass(100 * time.Second)
		slots := make(map[float64]int)
		for _, at := range s.times(begin.Add(90 * time.Second)) {
			slots[at]++
		}
		for at, n := range slots {
			if at != float64(int(10*at))/10 || n > 15 {
				t.Errorf("%d probes began at %v, which is no slot or too full", n, at)
			}
		}
		for name, state := range m.States() {
			if state.Checks != 10 && state.Checks != 11 {
				t.Errorf("%s was checked %d times", name, state.Checks)
			}
		}
	})
}

// stubborn is a checker that does not look at its context.
type stubborn struct{ release chan struct{} }

func (s stubborn) Identity() string { return "stubborn" }
func (s stubborn) Check(context.Context, Target) Result {
	<-s.release
	return good(L7OK, "at last")
}

// TestStuck: a checker that hangs is told of, though it has the only place, and comes back.
func TestStuck(t *testing.T) {
	managed(t, Options{Concurrency: 1}, func(t *testing.T, m *Manager) {
		hung, s := stubborn{make(chan struct{})}, newServer("a")
		set(t, m, map[string]Check{"hung": {Target: target(1), Checker: hung, Timing: every, Initial: Up}})
		set(t, m, map[string]Check{"hung": {Target: target(1), Checker: hung, Timing: every}, "other": {Target: target(1), Checker: s, Timing: every}})
		pass(2*time.Second + overdue)
		has(t, m, "hung", "up 100 0 1")
		if got := state(t, m, "hung").Last; got.Text != "the checker did not end in time" || got.Code != SOCKERR {
			t.Errorf("the result is %+v", got)
		}
		has(t, m, "other", "unknown 0 0 0")
		close(hung.release)
		synctest.Wait()
		has(t, m, "other", "up 100 0 0")
		pass(time.Minute)
		has(t, m, "hung", "up 100 0 0")
		set(t, m, map[string]Check{"panics": {Target: target(1), Checker: panicking{fixed{name: "p"}}, Timing: every}})
		has(t, m, "panics", "unknown 0 0 1")
	})
}

// TestBoundedHistory keeps the newest.
func TestBoundedHistory(t *testing.T) {
	managed(t, Options{}, func(t *testing.T, m *Manager) {
		s := newServer("a")
		flapping := Timing{Interval: time.Second, Fall: 1, Rise: 1}
		set(t, m, map[string]Check{"a": {Target: target(1), Checker: s, Timing: flapping}})
		for i := range 100 {
			if r := refused; i%2 == 0 {
				s.says(r)
			} else {
				s.says(good(L7OK, "%d", i))
			}
			pass(time.Second)
		}
		transitions, results := m.History("a")
		if len(transitions) != MaxHistory || len(results) != MaxHistory || transitions[MaxHistory-1].Evidence.Text != "99" || results[MaxHistory-3].Text != "97" {
			t.Errorf("%d transitions, %d results, the last %v", len(transitions), len(results), transitions[len(transitions)-1])
		}
		for i := range transitions[1:] {
			if transitions[i+1].When.Before(transitions[i].When) {
				t.Errorf("transition %d is older than the one before", i+1)
			}
		}
		if transitions, results := m.History("nobody"); transitions != nil || results != nil {
			t.Error("there is a history of nobody")
		}
	})
}

func TestSetMistakes(t *testing.T) {
	m := NewManager(Options{})
	s := newServer("a")
	err := m.Set(map[string]Check{
		"no checker": {Target: target(1)}, "no address": {Checker: s},
		"slices": {Target: Target{Address: target(1).Address, Dialer: uncomparable{nil}}, Checker: s},
		"timing": {Target: target(1), Checker: s, Timing: Timing{Interval: time.Millisecond, Timeout: time.Second, Fast: time.Minute, Retry: 1, Rise: -1, Fall: 5000}},
	})
	for _, want := range []string{
		`check "no checker": checker missing`, `check "no address": target: address missing`,
		`check "slices": target 10.0.0.1:80: dialer healthcheck.uncomparable is not comparable`,
		`check "timing": timing of a check: interval: 1ms is less than 10ms`, "timeout: 1s is not between 0 and the interval, 1ms", "retry interval: 1ns is less than 10ms",
		"fast interval: 1m0s is more than the interval, 1ms", "rise: -1 is not between 1 and 1000", "fall: 5000 is not between 1 and 1000",
	} {
		wantError(t, err, want)
	}
	if strings.Index(err.Error(), "no address") > strings.Index(err.Error(), "timing") {
		t.Error("the mistakes are in no order")
	}
}

type uncomparable struct{ list []int }

func (uncomparable) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return nil, nil
}

// TestMinUp: a group never loses its last n for lagging, only for being dead.
func TestMinUp(t *testing.T) {
	up := func(factor int) State { return State{Verdict: Up, Factor: factor} }
	lags := func(lag time.Duration) State { return State{Verdict: Down, Reserve: true, Lag: lag} }
	dead, drain := State{Verdict: Down}, State{Verdict: Up, Drain: true}
	for _, c := range []struct {
		name string
		n    int
		in   []State
		want []int // factors; 0 is not used
	}{
		{"enough", 2, []State{up(100), up(50), lags(9)}, []int{100, 50, 0}},
		{"the freshest is lifted", 2, []State{lags(9), up(50), lags(3), lags(5)}, []int{0, 50, 50, 0}},
		{"all lag", 2, []State{lags(9), lags(7), lags(8)}, []int{0, 100, 100}},
		{"who knows no lag comes last", 1, []State{lags(NoLag), lags(time.Hour)}, []int{0, 100}},
		{"if there is nobody else", 2, []State{lags(NoLag), lags(time.Hour)}, []int{100, 100}},
		{"the dead stay dead", 3, []State{dead, lags(1), drain}, []int{0, 100, 0}},
		{"a factor of 0 is lagging too", 1, []State{up(0), dead}, []int{100, 0}},
		{"none", 0, []State{lags(1)}, []int{0}},
		{"nobody", 3, nil, []int{}},
		{"unknown is not used", 1, []State{{}, lags(1)}, []int{0, 100}},
	} {
		got := []int{}
		for i, s := range MinUp(c.in, c.n) {
			got = append(got, s.Factor)
			if (s.Factor > 0) && s.Verdict != Up {
				t.Errorf("%s: %d has a factor and is %s", c.name, i, s.Verdict)
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: factors %v, want %v", c.name, got, c.want)
		}
	}
	in := []State{lags(1)}
	if MinUp(in, 1); in[0].Verdict != Down {
		t.Error("the states given were changed")
	}
}
