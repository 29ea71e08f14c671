// SPDX-License-Identifier: Apache-2.0

package scheduler

// newWLC makes wlc, weighted least connections: the usable server with the least
// load per weight. While nobody has a connection all are equal, and the first
// wins whatever the weights.
func newWLC(Options) (Scheduler, error) { return wlc(), nil }

func wlc() *ranked {
	return &ranked{name: "wlc", cost: wlcCost, uses: usesActive | usesInactive, growth: growthLinear, eases: true}
}

func wlcCost(s Server) (Cost, bool) { return Cost{s.overhead(), s.share()}, s.Usable() }
