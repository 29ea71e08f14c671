// SPDX-License-Identifier: Apache-2.0

package conformance

import "slices"

// Why the director decides otherwise than the kernel.
const (
	refusalsGoOn = "a sequence plan's empty slot, which means that the scheduler refuses, is taken for a stale one: " +
		"the packet goes to a real server by the flow plan (bpf/plan.h: pick, sequence_step)"
	refusalsGoToRow0 = "a hash plan without fallback that names an unusable real server chooses the real server of row 0, " +
		"if it is the service's: choice.id is not set (bpf/plan.h: pick, pick_further)"
	noLastWeight = "a quiesced real server loses its share of mh's table: its last weight is not remembered (director/real.go: forScheduler)"
)

// knownDifferences are the scenarios, and the parts of other tests, in which the
// director decides otherwise than the kernel did. What agrees after all has to
// leave the table.
var knownDifferences = map[string][]string{}

var _ = []string{refusalsGoOn, refusalsGoToRow0, noLastWeight}

// knownDifference is the reason for a known difference, "" if none is known.
func knownDifference(name string) string {
	for reason, names := range knownDifferences {
		if slices.Contains(names, name) {
			return reason
		}
	}
	return ""
}
