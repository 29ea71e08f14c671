// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"xdplvs/scheduler"
)

// amount is how much of the recordings was replayed.
type amount struct{ scenarios, choices int }

// replayed is what was replayed, by scheduler, when this was
// written; less is a regression.
var replayed = map[string]amount{
	"dh":  {13, 3900},
	"fo":  {105, 4218},
	"lc":  {97, 3918},
	"mh":  {69, 20440},
	"nq":  {94, 3772},
	"ovf": {107, 4296},
	"rr":  {93, 3892},
	"sed": {98, 3948},
	"sh":  {74, 21800},
	"wlc": {112, 4512},
	"wrr": {105, 4326},
}

// seeded returns a generator whose seed is in the test's log.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestReplay replays what a Linux kernel's IPVS did, every choice and the counts
// after every run. At random the director is or is not up to date before a
// connection: what it foresaw has to be as good, unless connections ended.
func TestReplay(t *testing.T) {
	plane, random := loadPlane(t), seeded(t)
	settled := exact{func() bool { return random.IntN(2) == 0 }}
	left, done := map[string][]string{}, map[string]amount{}
	for _, s := range allScenarios(t) {
		if reason := s.notReplayed(); reason != "" {
			left[reason] = append(left[reason], s.String())
			continue
		}
		var choices int
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { choices = replayOne(t, startNode(t, plane), s, settled) })
		})
		if reason := knownDifference(s.String()); reason != "" {
			left[reason] = append(left[reason], s.String())
			continue
		}
		done[s.Sched] = amount{done[s.Sched].scenarios + 1, done[s.Sched].choices + choices}
	}
	for _, reason := range slices.Sorted(maps.Keys(left)) {
		t.Logf("not counted as replayed: %d scenarios: %s: %q", len(left[reason]), reason, left[reason])
	}
	compareAmounts(t, done)
}

// notReplayed is the reason why TestReplay leaves a scenario out, "" if it does not.
func (s scenario) notReplayed() string {
	if reason := s.undrivable(); reason != "" {
		return reason
	}
	if s.Sched == "twos" {
		return "twos is random: TestTwos compares its distribution"
	}
	return ""
}

func compareAmounts(t *testing.T, done map[string]amount) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(done)) {
		t.Logf("%-5s %4d scenarios, %6d choices", name, done[name].scenarios, done[name].choices)
	}
	for name, want := range replayed {
		if got := done[name]; got.scenarios < want.scenarios || got.choices < want.choices {
			t.Errorf("%s: only %d scenarios with %d choices replayed, there were %d with %d",
				name, got.scenarios, got.choices, want.scenarios, want.choices)
		}
	}
}

// isSequence reports whether the data plane takes the scheduler's plan in order.
func isSequence(t *testing.T, name string) bool {
	t.Helper()
	s, err := scheduler.New(name, scheduler.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Kind() == scheduler.Sequence
}

// replayOne returns how many choices agreed: none where a difference is known.
func replayOne(t *testing.T, n *node, s scenario, j judge) int {
	t.Helper()
	r, err := newReplay(n, s, j)
	if err != nil {
		t.Fatal(err)
	}
	err = r.play()
	if reason := knownDifference(s.String()); reason != "" {
		if err == nil {
			t.Errorf("agrees now, but is listed as different: %s", reason)
		}
		t.Logf("differs, as is known: %v: %s", err, reason)
		return 0
	}
	if err != nil {
		t.Error(err)
	}
	return r.choices
}
