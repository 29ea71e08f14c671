// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// combined asks several checkers at once. need of them must say up.
type combined struct {
	identity
	checkers []Checker
	need     int
}

// NewAll is a checker that is up if all of those are. Its factor is the product of theirs, and it drains if
// one of them does. If one is down so is it; else if one is unknown.
func NewAll(checkers ...Checker) (Checker, error) {
	return NewAtLeast(len(checkers), checkers...)
}

// NewAny is a checker that is up if one of those is, with the best one's factor. If none is up but one
// is unknown, so is it.
func NewAny(checkers ...Checker) (Checker, error) {
	return NewAtLeast(1, checkers...)
}

// NewAtLeast is a checker that is up if n of those are. Its factor is the product of those of the n
// best; it drains if one of the n best does. As long as the unknown ones could make it up, it is
// unknown.
func NewAtLeast(n int, checkers ...Checker) (Checker, error) {
	m := mistakes{kind: "combined"}
	if len(checkers) == 0 {
		m.add("checkers", "missing")
	} else if n < 1 || n > len(checkers) {
		m.add("n", "%d of %d checkers cannot be", n, len(checkers))
	}
	if slices.Contains(checkers, nil) {
		return nil, errors.New("combined check: checkers: one is missing")
	}
	return &combined{identify("combined", n, checkers), slices.Clone(checkers), n}, m.err()
}

// Check is Checker's.
func (c *combined) Check(ctx context.Context, t Target) Result {
	begin := time.Now()
	results := make([]Result, len(c.checkers))
	var running sync.WaitGroup
	for i, checker := range c.checkers {
		running.Go(func() { results[i] = check(ctx, checker, t) })
	}
	running.Wait()
	return c.judge(results).finish(begin)
}

// judge makes one result of several.
func (c *combined) judge(results []Result) Result {
	best := slices.Clone(results)
	slices.SortStableFunc(best, func(a, b Result) int {
		return cmp.Or(cmp.Compare(b.level(), a.level()), cmp.Compare(b.Factor, a.Factor))
	})
	up, down := count(best, Up), count(best, Down)
	switch {
	case up >= c.need:
		return c.merge(best[:c.need])
	case len(best)-down >= c.need: // the unknown ones decide
		r := best[slices.IndexFunc(best, func(r Result) bool { return r.Verdict == Unknown })]
		r.Text = c.tell(up, r)
		return r
	}
	return c.failed(best, up)
}

func count(results []Result, v Verdict) (n int) {
	for _, r := range results {
		if r.Verdict == v {
			n++
		}
	}
	return n
}

// tell puts how many are up in front of one result's text, if there are several.
func (c *combined) tell(up int, r Result) string {
	if len(c.checkers) == 1 {
		return r.Text
	}
	return fmt.Sprintf("%d of %d up, want %d: %s", up, len(c.checkers), c.need, r.Text)
}

// merge is the result of those that are up, of which all count.
func (c *combined) merge(best []Result) Result {
	merged := best[0]
	var texts, warnings []string
	for i, r := range best {
		if i > 0 {
			merged.Factor = merged.Factor * r.Factor / 100
			merged.Lag = max(merged.Lag, r.Lag)
		}
		if r.Drain && !merged.Drain {
			merged.Drain, merged.Code, merged.Status = true, r.Code, r.Status
			texts = nil // the reason is enough
		}
		if r.Text != "" && r.Drain == merged.Drain {
			texts = append(texts, r.Text)
		}
		if r.Warning != "" {
			warnings = append(warnings, r.Warning)
		}
	}
	merged.Text, merged.Warning = strings.Join(texts, "; "), strings.Join(warnings, "; ")
	return merged
}

// failed is the result of those that are down: the first of them tells why. Only if all who are missing
// are in reserve, so is the whole.
func (c *combined) failed(best []Result, up int) Result {
	var failures []Result
	for _, r := range best {
		if r.Verdict == Down {
			failures = append(failures, r)
		}
	}
	r := failures[0]
	r.Reserve, r.Lag = true, 0
	for _, f := range failures {
		r.Reserve = r.Reserve && f.Reserve
		if f.Lag == NoLag || r.Lag != NoLag && f.Lag > r.Lag {
			r.Lag = f.Lag
		}
	}
	r.Text = c.tell(up, r)
	return r
}
