// SPDX-License-Identifier: Apache-2.0

package scheduler

// newNQ makes nq, never queue: the first server without an active connection
// whatever its weight, and sed when all are busy. UDP is never active, so with it
// nq always takes the first usable server. In a slow start a server does not
// count as idle.
func newNQ(Options) (Scheduler, error) {
	return &ranked{name: "nq", cost: nqCost, uses: usesActive, growth: growthAfterIdle, eases: true}, nil
}

// nqCost makes an idle server cheaper than any busy one, and all idle ones equal.
func nqCost(s Server) (Cost, bool) {
	if s.Active == 0 && s.Held == 0 {
		return Cost{0, 1}, s.Usable()
	}
	return sedCost(s)
}
