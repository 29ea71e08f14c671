// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Weights as people write them, and those without a common divisor, of which the
// kernel's algorithm, and so ours, lets a server take many slots at a time.
var (
	smallWeights = []func(int) uint32{
		func(int) uint32 { return 1 },
		func(i int) uint32 { return uint32(1 + i%4) },
		func(i int) uint32 { return uint32(10 + 10*(i%10)) },
	}
	oddWeights = []func(int) uint32{
		func(i int) uint32 { return uint32(89 + 8*(i%2)) },
		func(i int) uint32 { return uint32(30001 + i%2*35534) },
	}
)

// documentedSizes are the tables of docs/schedulers.md.
var documentedSizes = []int{4093, 16381, 65537, 131071}

// worstDisruption is what a server that leaves, one of several, moves needlessly, in percent.
func worstDisruption(t *testing.T, size, n int, weights []func(int) uint32) (worst float64) {
	for _, weight := range weights {
		for _, gone := range []int{0, n / 2} {
			worst = max(worst, 100*disruption(t, size, n, gone, weight))
		}
	}
	return worst
}

// TestDisruptionDocumented: what docs/schedulers.md says of mh is what is measured here.
func TestDisruptionDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/schedulers.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{2, 3, 5, 10, 20, 50, 100} {
		row := fmt.Sprintf("| %d |", n)
		for _, size := range documentedSizes {
			small, odd := worstDisruption(t, size, n, smallWeights), worstDisruption(t, size, n, oddWeights)
			row += fmt.Sprintf(" %.1f / %.1f |", small, odd)
			if size >= 1000*n && small > 2 {
				t.Errorf("table of %d, %d servers: %.2f %% of the flows move needlessly", size, n, small)
			}
		}
		if !strings.Contains(string(text), row+"\n") {
			t.Errorf("docs/schedulers.md does not have the row\n%s", row)
		}
	}
}
