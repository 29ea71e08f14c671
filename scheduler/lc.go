// SPDX-License-Identifier: Apache-2.0

package scheduler

// newLC makes lc, least connections: the usable server with the least load,
// weights ignored. In a slow start a server's load counts as more.
func newLC(Options) (Scheduler, error) {
	return &ranked{name: "lc", cost: lcCost, uses: usesActive | usesInactive, growth: growthLinear, eases: true}, nil
}

func lcCost(s Server) (Cost, bool) { return Cost{s.overhead(), s.part()}, s.Usable() }
