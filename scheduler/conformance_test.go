// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"xdplvs/scheduler"
)

// picker decides each connection with Pick.
type picker struct{ s scheduler.Scheduler }

func (p *picker) edited(servers []scheduler.Server) { p.s.Edit(servers) }
func (p *picker) moved()                            {}

func (p *picker) choose(pk scheduler.Packet, servers []scheduler.Server, _ scheduler.Counting, _ uint32) (uint32, error) {
	i := p.s.Pick(pk, servers)
	if i < 0 {
		return scheduler.NoServer, nil
	}
	return servers[i].ID, nil
}

// planner takes the slots of a plan as the data plane does, and makes a new plan
// now and then.
type planner struct {
	s        scheduler.Scheduler
	random   *rand.Rand
	plan     scheduler.Plan
	valid    bool
	made     []scheduler.Server // the servers the plan was made for
	counting scheduler.Counting
	cursor   uint64
}

func (p *planner) edited(servers []scheduler.Server) { p.moved(); p.s.Edit(servers) }

// moved brings the scheduler to where the data plane is; the plan is no good any more.
func (p *planner) moved() {
	if p.valid {
		scheduler.Advance(p.s, p.made, p.counting, p.cursor)
		p.valid = false
	}
}

func (p *planner) choose(_ scheduler.Packet, servers []scheduler.Server, c scheduler.Counting, _ uint32) (uint32, error) {
	if p.counting != c || p.random.IntN(7) == 0 || p.outdated(servers) {
		p.moved()
	}
	if !p.valid {
		p.made, p.counting, p.cursor, p.valid = slices.Clone(servers), c, 0, true
		p.plan = scheduler.Forward(p.s, servers, c, 1+p.random.IntN(64))
	}
	p.cursor++
	return p.plan.At(p.cursor - 1), nil
}

// outdated: the plan promises nothing for what comes now.
func (p *planner) outdated(servers []scheduler.Server) bool {
	if !p.valid || !p.plan.Exact {
		return p.cursor >= uint64(len(p.plan.Slots))
	}
	return !slices.EqualFunc(p.made, servers, func(a, b scheduler.Server) bool { return a.Overloaded == b.Overloaded })
}

// reader looks servers up in the table of a hash plan as the data plane does.
type reader struct{ s scheduler.Tabled }

func (r *reader) edited(servers []scheduler.Server) { r.s.Edit(servers) }
func (r *reader) moved()                            {}

func (r *reader) choose(p scheduler.Packet, servers []scheduler.Server, c scheduler.Counting, _ uint32) (uint32, error) {
	usable := map[uint32]bool{}
	for _, s := range servers {
		usable[s.ID] = s.Usable()
	}
	plan := scheduler.Forward(r.s, servers, c, 1)
	for attempt := 0; ; attempt++ {
		slot, ok := r.s.Probe(p, attempt)
		if !ok {
			return scheduler.NoServer, nil
		}
		if id := plan.Slots[slot]; usable[id] {
			return id, nil
		}
	}
}

// newWatchers are the ways in which a scenario is replayed.
func newWatchers(t *testing.T, s scenario, random *rand.Rand) map[string]watcher {
	t.Helper()
	watchers := map[string]watcher{"pick": &picker{create(t, s)}}
	switch other := create(t, s).(type) {
	case scheduler.Based:
		// A plan knows no destinations: only Pick decides as lblc does.
	case scheduler.Tabled:
		watchers["table"] = &reader{other}
	default:
		watchers["plan"] = &planner{s: other, random: random}
	}
	return watchers
}

func create(t *testing.T, s scenario) scheduler.Scheduler {
	t.Helper()
	made, err := scheduler.New(s.Sched, s.options(t))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// What was replayed when this was written; less is a regression of the test.
const (
	wantScenarios = 1008
	wantChoices   = 80997
)

// TestConformance replays what a Linux kernel's IPVS did: every choice, and the
// counts after every run.
func TestConformance(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	scenarios, choices, set := 0, map[string]int{}, map[string]int{}
	for _, path := range recordingNames(t) {
		for _, s := range readRecording(t, path).Scenarios {
			if reason := s.undecidable(); reason != "" {
				set[reason]++
				continue
			}
			if s.Sched == "twos" {
				set["twos is random: TestTwosRecorded compares its distribution"]++
				continue
			}
			scenarios++
			for how, w := range newWatchers(t, s, random) {
				name := fmt.Sprintf("%s/%s/%s", filepath.Base(path), s.Name, how)
				choices[how] += replay(t, name, s, w)
			}
		}
	}
	t.Logf("replayed %d scenarios, choices %v", scenarios, choices)
	for reason, n := range set {
		t.Logf("not replayed: %d: %s", n, reason)
	}
	if scenarios < wantScenarios || choices["pick"] < wantChoices {
		t.Errorf("only %d scenarios with %d choices replayed, there were %d with %d",
			scenarios, choices["pick"], wantScenarios, wantChoices)
	}
	if planned := choices["plan"] + choices["table"]; planned < wantChoices*9/10 {
		t.Errorf("only %d choices were read off plans", planned)
	}
}

func replay(t *testing.T, name string, s scenario, w watcher) int {
	t.Helper()
	f, err := newFarm(s, w)
	if err == nil {
		err = f.replay()
	}
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return 0
	}
	return f.choices
}

// chances returns the probability of each server to be chosen by twos, by index;
// nil if no server can be given. It is written from the definition, apart from
// the implementation.
func chances(servers []scheduler.Server) []float64 {
	sum := 0.0
	for _, s := range servers {
		if s.Usable() {
			sum += float64(s.Weight)
		}
	}
	if sum == 0 {
		return nil
	}
	draw, first := make([]float64, len(servers)), 1.0
	for i, s := range servers {
		if s.Usable() {
			draw[i] = (float64(s.Weight) + first) / (sum + 1)
			first = 0
		}
	}
	p := make([]float64, len(servers))
	for a := range servers {
		for b := range servers {
			p[twosOf(servers, a, b)] += draw[a] * draw[b]
		}
	}
	return p
}

func twosOf(servers []scheduler.Server, a, b int) int {
	load := func(s scheduler.Server) float64 { return float64(257*s.Active + s.Inactive) }
	if load(servers[a])*float64(servers[b].Weight) > load(servers[b])*float64(servers[a].Weight) {
		return b
	}
	return a
}

// tally compares observed choices with their chances.
type tally struct {
	seen, expected, variance map[uint32]float64
}

func newTally() *tally {
	return &tally{map[uint32]float64{}, map[uint32]float64{}, map[uint32]float64{}}
}

func (t *tally) edited([]scheduler.Server) {}
func (t *tally) moved()                    {}

func (t *tally) choose(_ scheduler.Packet, servers []scheduler.Server, _ scheduler.Counting, recorded uint32) (uint32, error) {
	p := chances(servers)
	for i, s := range servers {
		if p == nil {
			break
		}
		t.expected[s.ID] += p[i]
		t.variance[s.ID] += p[i] * (1 - p[i])
		if s.ID == recorded && p[i] == 0 {
			return 0, fmt.Errorf("server %d was chosen, which has no chance", recorded)
		}
	}
	if (p == nil) != (recorded == scheduler.NoServer) {
		return 0, fmt.Errorf("chances %v, recorded %d", p, int32(recorded))
	}
	t.seen[recorded]++
	return recorded, nil
}

// check fails if a server was chosen more than five standard deviations off:
// once in a million times by chance.
func (t *tally) check(tb *testing.T, name string) {
	tb.Helper()
	for id, expected := range t.expected {
		off := math.Abs(t.seen[id] - expected)
		if off > 5*math.Sqrt(t.variance[id])+1e-9 {
			tb.Errorf("%s: server %d chosen %.0f times, expected %.1f (variance %.1f)", name, id, t.seen[id], expected, t.variance[id])
		}
	}
}

const wantTwosScenarios, wantTwosChoices = 107, 4308

// TestTwosRecorded compares the kernel's random choices with the chances they
// should have had.
func TestTwosRecorded(t *testing.T) {
	scenarios, choices, all := 0, 0, newTally()
	for _, s := range readRecording(t, filepath.Join(recordings, "sched_twos.json.gz")).Scenarios {
		if reason := s.undecidable(); reason != "" {
			t.Errorf("%s: %s", s.Name, reason)
			continue
		}
		scenarios++
		own := newTally()
		choices += replay(t, s.Name, s, own)
		replay(t, s.Name, s, all)
		own.check(t, s.Name)
	}
	all.check(t, "all scenarios")
	t.Logf("%d scenarios, %d choices", scenarios, choices)
	if scenarios < wantTwosScenarios || choices < wantTwosChoices {
		t.Errorf("only %d scenarios with %d choices, there were %d with %d", scenarios, choices, wantTwosScenarios, wantTwosChoices)
	}
}
