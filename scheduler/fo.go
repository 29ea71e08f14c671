// SPDX-License-Identifier: Apache-2.0

package scheduler

import "math"

// newFO makes fo, weighted failover: always the heaviest usable server.
func newFO(Options) (Scheduler, error) { return &ranked{name: "fo", cost: foCost}, nil }

func foCost(s Server) (Cost, bool) { return Cost{math.MaxUint32 - uint64(s.Weight), 1}, s.Usable() }
