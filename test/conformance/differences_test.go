// SPDX-License-Identifier: Apache-2.0

package conformance

import "slices"

// knownDifferences are the scenarios, and the parts of other tests, in which the
// director decides otherwise than the kernel did, by the reason. What agrees after
// all has to leave the table.
var knownDifferences = map[string][]string{}

// knownDifference is the reason for a known difference, "" if none is known.
func knownDifference(name string) string {
	for reason, names := range knownDifferences {
		if slices.Contains(names, name) {
			return reason
		}
	}
	return ""
}
