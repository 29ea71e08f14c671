// SPDX-License-Identifier: Apache-2.0

package scheduler

// newOVF makes ovf, weighted overflow: the heaviest server until its active
// connections exceed its weight, then the next. So a server of weight w takes
// w+1 active connections, and UDP, never active, never flows over.
func newOVF(Options) (Scheduler, error) {
	return &ranked{name: "ovf", cost: ovfCost, uses: usesActive}, nil
}

func ovfCost(s Server) (Cost, bool) {
	cost, ok := foCost(s)
	return cost, ok && s.Active <= s.Weight
}
