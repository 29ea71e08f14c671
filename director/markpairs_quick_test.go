// SPDX-License-Identifier: Apache-2.0

//go:build !race

package director

import (
	"fmt"
	"testing"
	"time"
)

// TestMarkPairsQuick: 10,000 rules of one address, of which no two have a port in common, and as many of which
// none has an address in common, are compared in a moment.
func TestMarkPairsQuick(t *testing.T) {
	const n = 10_000
	kinds := map[string]func(i int) MarkRule{
		"ports": func(i int) MarkRule { return markAt(uint32(i+1), "192.0.2.1/32", PortRange{uint16(i), uint16(i)}) },
		"addresses": func(i int) MarkRule {
			return markAt(uint32(i+1), fmt.Sprintf("10.0.%d.%d/32", i/256, i%256), PortRange{80, 80}, PortRange{443, 443})
		},
	}
	for name, make := range kinds {
		var rules []MarkRule
		for i := range n {
			rules = append(rules, make(i))
		}
		start := time.Now()
		shadowed, crossing := MarkPairs(rules)
		if took := time.Since(start); took > time.Second || len(shadowed)+len(crossing) > 0 {
			t.Errorf("%s: took %s, shadowed %v, crossing %v", name, took, shadowed, crossing)
		} else {
			t.Logf("%s: took %s", name, took)
		}
	}
}
