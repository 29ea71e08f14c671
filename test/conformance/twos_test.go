// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"

	"xdplvs/director"
)

// chances returns the probability of each real server to be chosen by twos, by
// place in the list; nil if none can be given. Written from IPVS.md section 5.
func chances(reals []director.RealState) []float64 {
	sum := 0.0
	for _, r := range reals {
		if usable(r) {
			sum += float64(r.Weight)
		}
	}
	if sum == 0 {
		return nil
	}
	// Of 0 to sum, both draws are equally likely; 0 and 1 are the first usable server's.
	draw, first := make([]float64, len(reals)), 1.0
	for i, r := range reals {
		if usable(r) {
			draw[i] = (float64(r.Weight) + first) / (sum + 1)
			first = 0
		}
	}
	p := make([]float64, len(reals))
	for a := range reals {
		for b := range reals {
			p[lessLoaded(reals, a, b)] += draw[a] * draw[b]
		}
	}
	return p
}

func usable(r director.RealState) bool { return r.Weight > 0 && !r.Overloaded }

// lessLoaded is twos's choice among two: the first, unless it has more for its weight.
func lessLoaded(reals []director.RealState, a, b int) int {
	load := func(r director.RealState) float64 { return float64(257*r.Active + r.Inactive) }
	if load(reals[a])*float64(reals[b].Weight) > load(reals[b])*float64(reals[a].Weight) {
		return b
	}
	return a
}

// tally compares choices with the chances that they had: by the numbers of real
// servers, as choices are, and by tenths of the chance, since what is wrong with
// one weight can be made up for by another one elsewhere.
type tally struct {
	chance   map[int]float64 // of the connection that comes
	byNumber map[int]*outcome
	byChance map[int]*outcome
}

// outcome is how often something came, and should have come.
type outcome struct{ seen, expected, variance float64 }

func newTally() *tally {
	return &tally{byNumber: map[int]*outcome{}, byChance: map[int]*outcome{}}
}

func (o *outcome) add(p outcome) {
	o.seen += p.seen
	o.expected += p.expected
	o.variance += p.variance
}

// at is the entry of a key, which is made if there is none.
func at(m map[int]*outcome, key int) *outcome {
	if m[key] == nil {
		m[key] = &outcome{}
	}
	return m[key]
}

func (c *tally) before(r *replay, _ string) {
	r.settle()
	reals := r.snapshot().Services[0].Reals
	c.chance = map[int]float64{}
	for i, p := range chances(reals) {
		c.chance[r.number(reals[i].Key)] = p
	}
}

func (c *tally) after(got, recorded int) error {
	if (got == refused) != (len(c.chance) == 0) || (got == refused) != (recorded == refused) {
		return fmt.Errorf("real server %d, recorded %d, with chances %v", got, recorded, c.chance)
	}
	if got != refused && c.chance[got] == 0 {
		return fmt.Errorf("real server %d, which has no chance: %v", got, c.chance)
	}
	for number, p := range c.chance {
		o := outcome{expected: p, variance: p * (1 - p)}
		if number == got {
			o.seen = 1
		}
		at(c.byNumber, number).add(o)
		at(c.byChance, int(p*10)).add(o)
	}
	return nil
}

// table: where the connections are is random.
func (c *tally) table(got, recorded []row) error {
	same := func(a, b row) bool { return a.Addr == b.Addr && a.Weight == b.Weight }
	if !slices.EqualFunc(got, recorded, same) {
		return fmt.Errorf("table %v, want %v but for the connections", got, recorded)
	}
	return nil
}

// check fails for what would come once in a hundred million times by chance. The
// bound is Bernstein's (for martingales: Freedman 1975), which holds for few
// choices too: counted in standard deviations, three of something that is expected
// a tenth of a time are as far off as they are likely.
func (c *tally) check(t *testing.T) {
	t.Helper()
	for what, outcomes := range map[string]map[int]*outcome{"number": c.byNumber, "tenths of a chance": c.byChance} {
		for key, o := range outcomes {
			const unlikely = 19 // the logarithm of 2 to 10^-8
			if off := math.Abs(o.seen - o.expected); off > unlikely/3.0+math.Sqrt(unlikely*unlikely/9.0+2*unlikely*o.variance) {
				t.Errorf("real servers by %s: %d chosen %.0f times, expected %.1f (variance %.1f)",
					what, key, o.seen, o.expected, o.variance)
			}
		}
	}
}

func (c *tally) add(o *tally) {
	for number, v := range o.byNumber {
		at(c.byNumber, number).add(*v)
	}
	for tenths, v := range o.byChance {
		at(c.byChance, tenths).add(*v)
	}
}

// TestTwos makes the recorded connections. twos is random, so its choices are
// compared with the chances that the kernel's would have had.
func TestTwos(t *testing.T) {
	plane := loadPlane(t)
	all, done := newTally(), amount{}
	for _, s := range allScenarios(t) {
		if s.Sched != "twos" || s.undrivable() != "" {
			continue
		}
		t.Run(s.String(), func(t *testing.T) {
			own := newTally()
			synctest.Test(t, func(t *testing.T) { done.choices += replayOne(t, startNode(t, plane), s, own) })
			own.check(t)
			all.add(own)
		})
		done.scenarios++
	}
	all.check(t)
	t.Logf("%d scenarios, %d choices", done.scenarios, done.choices)
	if done.scenarios < replayedTwos.scenarios || done.choices < replayedTwos.choices {
		t.Errorf("only %+v replayed, there were %+v", done, replayedTwos)
	}
}

// replayedTwos is what was replayed when this was written.
var replayedTwos = amount{107, 4288}
