// SPDX-License-Identifier: Apache-2.0

package scheduler

// newSED makes sed, shortest expected delay: the least (active + 1) / weight.
// Counting the connection to come, it prefers heavy servers from the first one
// on; inactive connections cost nothing.
func newSED(Options) (Scheduler, error) {
	return &ranked{name: "sed", cost: sedCost, uses: usesActive, growth: growthLinear, eases: true}, nil
}

func sedCost(s Server) (Cost, bool) {
	return Cost{uint64(s.Active) + 1, s.share()}, s.Usable()
}
