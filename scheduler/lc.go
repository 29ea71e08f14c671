// SPDX-License-Identifier: Apache-2.0

package scheduler

// newLC makes lc, least connections: the usable server with the least load,
// weights ignored.
func newLC(Options) (Scheduler, error) {
	return &ranked{name: "lc", cost: lcCost, uses: usesActive | usesInactive, growth: growthLinear}, nil
}

func lcCost(s Server) (Cost, bool) { return Cost{s.overhead(), 1}, s.Usable() }
