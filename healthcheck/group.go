// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"cmp"
	"slices"
)

// MinUp lets a group of servers of which all lag go on: if fewer than n can be used, those that are
// down only for their quality (Reserve), or whose factor is 0 without their draining, are up again, the best of them first, until n are. What is
// dead stays down. A server that is brought back gets the smallest factor of those that are up, 100
// if there are none. states is left as it is; the answer has the same order.
func MinUp(states []State, n int) []State {
	lifted := slices.Clone(states)
	usable, factor := 0, 100
	var reserve []int
	for i, s := range states {
		switch {
		case s.Verdict == Up && s.Factor > 0:
			usable++
			factor = min(factor, s.Factor)
		case s.Verdict == Down && s.Reserve, s.Verdict == Up && !s.Drain:
			reserve = append(reserve, i)
		}
	}
	slices.SortStableFunc(reserve, func(a, b int) int { return compareLag(states[a], states[b]) })
	for _, i := range reserve[:max(0, min(n-usable, len(reserve)))] {
		lifted[i].Verdict, lifted[i].Factor = Up, factor
	}
	return lifted
}

// compareLag orders the freshest first, and those that know no lag last.
func compareLag(a, b State) int {
	if (a.Lag < 0) != (b.Lag < 0) {
		return cmp.Compare(b.Lag, a.Lag)
	}
	return cmp.Compare(a.Lag, b.Lag)
}
