// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"slices"

	"xdplvs/internal/health"
)

// sameChecks tells whether two lists have the same real servers and none of either is checked: then nobody has to be told
// before a change what is known of them, which takes longer than all the rest of a small change.
func sameChecks(a, b []health.Service) bool {
	return slices.EqualFunc(a, b, func(a, b health.Service) bool {
		return a.Key == b.Key && slices.EqualFunc(a.Reals, b.Reals, func(a, b health.Real) bool {
			return a.Key == b.Key && len(a.Checks) == 0 && len(b.Checks) == 0
		})
	})
}
