// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"xdplvs/director"
	"xdplvs/healthcheck"
)

// Options are what a Monitor works with.
type Options struct {
	Log *slog.Logger // nil: discards
	// File keeps the state for the next process. "": nothing is kept.
	File string
	// Apply gets the health of all real servers that are checked, whenever any of it changes.
	Apply func(map[director.HealthKey]director.Health)
	// Quorum is told whether a service has its quorum: when that is known first, when it changes, and
	// when services are set. nil: nobody wants to know.
	Quorum func(service director.ServiceKey, quorum bool)
	// Notify gets every transition; it must not wait. nil: nobody is notified.
	Notify  func(Event)
	Manager healthcheck.Options
	// Client makes the way of probes that come as a client's. nil: all go directly.
	Client func(Client) ClientWay
}

// ClientWay is a way that can say which it is.
type ClientWay interface {
	healthcheck.Way
	// String is as "via 192.0.2.10:80 by dr", or as "direct: " and why.
	String() string
}

// Monitor runs the checks of services and knows their health. Its methods may be called from any
// goroutine.
type Monitor struct {
	opts    Options
	manager *healthcheck.Manager
	news    chan struct{} // something is to be written to the file

	mu       sync.Mutex // held while others are told, so that what they get is in order
	services []*service
	set      bool                 // services were set by this process
	kept     map[string]keptCheck // what a former process knew, by the manager's names
	former   keptFile
}

// service is one in force.
type service struct {
	Service
	reals  []*real
	sorry  []*real
	quorum quorum
}

// servers are the real servers, then the sorry servers.
func (s *service) servers() []*real { return slices.Concat(s.reals, s.sorry) }

// real is a real server in force, or a sorry server.
type real struct {
	Real
	key         director.HealthKey
	names       []string // of its checks, the manager's
	health      director.Health
	forced      director.Condition // Unknown: by its checks
	transitions []director.HealthTransition
	suspected   time.Time // when that was told last
}

// New reads what a former process has kept. It starts nothing.
func New(o Options) *Monitor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Monitor{opts: o, manager: healthcheck.NewManager(o.Manager), news: make(chan struct{}, 1)}
	m.former = m.read()
	m.kept = m.former.checks()
	return m
}

// Run makes the checks until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.manager.Run(ctx) })
	group.Go(func() error { return m.follow(ctx) })
	group.Go(func() error { return m.keep(ctx) })
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// longestPause bounds how long a change waits where there are many, one after the other.
const longestPause = 50 * time.Millisecond

// follow takes no more than a twentieth of the time, unless that were too slow.
func (m *Monitor) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.manager.Changed():
		}
		begin := time.Now()
		m.mu.Lock()
		m.refresh()
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(19*time.Since(begin), longestPause)):
		}
	}
}

// Prepare tells who acts upon health what is known of the real servers of services that are about to
// be set, so that their being checked changes nothing by itself.
func (m *Monitor) Prepare(services []Service) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := healthOfAll(m.services)
	next, _ := m.adopt(services)
	maps.Copy(all, healthOfAll(next))
	m.opts.Apply(all)
}

// Set makes these the services: all that there are, checked or not. A real server whose condition was
// known keeps it until a probe says otherwise, one that was in use without being checked counts as up
// until then, and of any other nothing is known. Who acts upon health has been told when it returns.
func (m *Monitor) Set(services []Service) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next, checks := m.adopt(services)
	if err := m.manager.Set(checks); err != nil {
		return err
	}
	m.services, m.set, m.former = next, true, keptFile{}
	maps.DeleteFunc(m.kept, func(name string, _ keptCheck) bool { _, used := checks[name]; return !used })
	m.judgeAll()
	m.publish()
	m.tellQuorums()
	return nil
}

// adopt makes services that go on with what is known of those in force. One without checks that is the very same stays.
func (m *Monitor) adopt(services []Service) (next []*service, checks map[string]healthcheck.Check) {
	var of map[director.ServiceKey]*service
	former, formerQuorums := m.former.inForce()
	if m.set {
		of = make(map[director.ServiceKey]*service, len(m.services))
		for _, s := range m.services {
			of[s.Key] = s
		}
	}
	checks = map[string]healthcheck.Check{}
	for _, want := range services {
		old, quorum := former, formerQuorums[want.Key]
		if s := of[want.Key]; s != nil {
			if s.goesOn(&want) {
				next = append(next, s)
				continue
			}
			old, quorum = s.byKey(), s.quorum
		}
		s := &service{Service: want, quorum: quorum}
		adopt := func(of director.ServiceKey, all []Real) (reals []*real) {
			for _, r := range all {
				key := director.HealthKey{Service: of, Real: r.Key}
				reals = append(reals, m.adoptReal(r, key, old[key], checks))
			}
			return reals
		}
		s.reals, s.sorry = adopt(want.Key, want.Reals), adopt(want.Key.OfSorry(), want.Sorry)
		next = append(next, s)
	}
	return next, checks
}

// goesOn tells whether the service is what is wanted, as far as that is soon known, and nothing of it is checked.
func (s *service) goesOn(want *Service) bool {
	same := func(a, b []Real) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }
	return s.Name == want.Name && s.Quorum == want.Quorum && s.MinUp == want.MinUp && same(s.Reals, want.Reals) && same(s.Sorry, want.Sorry) &&
		!slices.ContainsFunc(s.servers(), func(r *real) bool { return len(r.Checks) > 0 })
}

// byKey are its servers.
func (s *service) byKey() map[director.HealthKey]*real {
	reals := map[director.HealthKey]*real{}
	for _, r := range s.servers() {
		reals[r.key] = r
	}
	return reals
}

func (m *Monitor) adoptReal(want Real, key director.HealthKey, old *real, checks map[string]healthcheck.Check) *real {
	r := &real{Real: want, key: key}
	if old != nil {
		r.health, r.forced, r.transitions, r.suspected = old.health, old.forced, old.transitions, old.suspected
	}
	for _, c := range want.Checks {
		name := checkName(key, c.Name)
		c.Target = m.target(key, &c)
		if m.state(name).Verdict == healthcheck.Unknown && old != nil && old.health.Condition == director.Up {
			// It was in use, and is asked something else now.
			m.kept[name] = keptCheck{Name: c.Name, Condition: director.Up, Factor: 100, Since: old.health.Since}
		}
		c.Former = m.state(name)
		r.names = append(r.names, name)
		checks[name] = c.Check
	}
	return r
}

// target is whom a check asks, and how.
func (m *Monitor) target(key director.HealthKey, c *Check) healthcheck.Target {
	t := c.Target
	if c.Via == ViaDirect {
		return t
	}
	sockets, _ := t.Dialer.(healthcheck.Sockets)
	t.Dialer, t.Way = nil, m.opts.Client(Client{Of: key, Address: t.Address, Source: sockets.Source, Strict: c.Via == ViaService})
	return t
}

// checkName is the manager's name of a check.
func checkName(key director.HealthKey, check string) string {
	return key.Service.String() + " " + key.Real.String() + " " + check
}

// state is what is known of a check, until the manager has it what was known before.
func (m *Monitor) state(name string) healthcheck.State {
	if s, ok := m.manager.State(name); ok {
		return s
	}
	return m.kept[name].state()
}

// refresh finds what follows from the checks' states, and tells those who act upon it.
func (m *Monitor) refresh() {
	if !m.judgeAll() {
		return
	}
	m.publish()
	for _, s := range m.services {
		m.judgeQuorum(s)
	}
}

func (m *Monitor) judgeAll() (changed bool) {
	for _, s := range m.services {
		changed = m.judge(s) || changed
	}
	return changed
}

func (m *Monitor) publish() {
	m.opts.Apply(healthOfAll(m.services))
	signal(m.news)
}

// healthOfAll is the health of those that are checked.
func healthOfAll(services []*service) map[director.HealthKey]director.Health {
	all := map[director.HealthKey]director.Health{}
	for _, s := range services {
		for _, r := range s.servers() {
			if r.checked() {
				all[r.key] = r.health
			}
		}
	}
	return all
}

func (r *real) checked() bool { return len(r.names) > 0 }

// isSorry tells whether it is a sorry server.
func (r *real) isSorry() bool { return r.key.Service.Sorry }

// checked tells whether any real server of the service is.
func (s *service) checked() bool { return slices.ContainsFunc(s.reals, (*real).checked) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// judge brings the real servers of a service to what is known now; true: something is other than it was.
func (m *Monitor) judge(s *service) (changed bool) {
	states := m.mergedAll(s.reals)
	if s.MinUp > 0 {
		states = healthcheck.MinUp(states, s.MinUp)
	}
	states = append(states, m.mergedAll(s.sorry)...)
	for i, r := range s.servers() {
		health := healthOf(&states[i], &r.health)
		if r.forced != director.Unknown {
			health = forcedHealth(r)
		}
		changed = m.turn(s, r, health) || changed
	}
	return changed
}

func (m *Monitor) mergedAll(reals []*real) []healthcheck.State {
	states := make([]healthcheck.State, len(reals))
	for i, r := range reals {
		states[i] = m.merged(r)
	}
	return states
}

// merged is the state of all the checks of a real server together: the worst of them.
func (m *Monitor) merged(r *real) healthcheck.State {
	merged := healthcheck.State{Verdict: healthcheck.Up, Factor: 100, Since: r.health.Since}
	for i, name := range r.names {
		s := m.state(name)
		if i == 0 || worse(s, merged) {
			s.Factor = s.Factor * factorOf(merged) / 100
			merged = s
			continue
		}
		merged.Factor = merged.Factor * factorOf(s) / 100
		merged.Reserve = merged.Reserve && (s.Reserve || s.Verdict == healthcheck.Up)
	}
	return merged
}

// factorOf is 100 for those that are not up: they decide by themselves.
func factorOf(s healthcheck.State) int {
	if s.Verdict != healthcheck.Up {
		return 100
	}
	return s.Factor
}

// rank orders what states are used for: the worst decides.
func rank(s healthcheck.State) int {
	switch {
	case s.Verdict == healthcheck.Down && !s.Reserve:
		return 0
	case s.Verdict == healthcheck.Down:
		return 1
	case s.Verdict == healthcheck.Unknown:
		return 2
	case s.Drain:
		return 3
	default:
		return 4
	}
}

func worse(a, b healthcheck.State) bool {
	if rank(a) == rank(b) {
		return a.Since.After(b.Since)
	}
	return rank(a) < rank(b)
}

// healthOf is what follows from a state. The evidence is another one only since the condition is.
func healthOf(s *healthcheck.State, was *director.Health) director.Health {
	h := director.Health{Condition: conditionOf(*s), Since: s.Since}
	if h.Condition == director.Up {
		h.Factor = s.Factor
	}
	switch {
	case h.Condition == was.Condition && h.Since.Equal(was.Since) && !was.Forced:
		h.Since, h.Evidence = was.Since, was.Evidence
	case s.Evidence.Code != "":
		h.Evidence = s.Evidence.String()
	}
	return h
}

func conditionOf(s healthcheck.State) director.Condition {
	switch {
	case s.Verdict == healthcheck.Unknown:
		return director.Unknown
	case s.Verdict == healthcheck.Down:
		return director.Down
	case s.Drain:
		return director.Draining
	default:
		return director.Up
	}
}

// forcedHealth is what somebody has ordered.
func forcedHealth(r *real) director.Health {
	h := director.Health{Condition: r.forced, Forced: true, Since: r.health.Since, Evidence: "set by hand"}
	if r.forced == director.Up {
		h.Factor = 100
	}
	if !r.health.Forced || r.health.Condition != r.forced {
		h.Since = time.Now()
	}
	return h
}

// nameOr is what people call a real server or a service.
func nameOr(name, key string) string {
	if name != "" {
		return name
	}
	return key
}

// Retry has the checks made at once whose probes could not be sent: what they lacked may be there now.
func (m *Monitor) Retry() {
	for name, s := range m.manager.States() {
		if s.Silent > 0 {
			m.manager.Trigger(name)
		}
	}
}

// suspectedAgain is after how long it is told again that a real server is suspected.
const suspectedAgain = 10 * time.Second

// Suspect has the checks of real servers made at once: there are signs that they may have died.
func (m *Monitor) Suspect(keys []director.HealthKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.services {
		for _, r := range s.servers() {
			if slices.Contains(keys, r.key) {
				m.suspect(s, r)
			}
		}
	}
}

func (m *Monitor) suspect(s *service, r *real) {
	for _, name := range r.names {
		m.manager.Trigger(name)
	}
	if now := time.Now(); now.Sub(r.suspected) >= suspectedAgain {
		r.suspected = now
		m.opts.Log.Info("connections to a real server come to nothing, it is checked at once", "event", "real_suspect",
			"service", nameOr(s.Name, s.Key.String()), "real", nameOr(r.Real.Name, r.Real.Key.String()), "address", r.Real.Key.String())
	}
}
