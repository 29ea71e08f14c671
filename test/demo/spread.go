// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"xdplvs/test/stage"
)

// barWidth is the longest bar, in characters.
const barWidth = 12

// columnWidth fits "[2001:db8::10]:80 wrr", and a number with its bar.
const columnWidth = 22

// showSpread prints how requests were spread: a line for each real server, a column for each service.
func showSpread(s *stage.Screen, reals []string, weights map[string]int, tallies []tally) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-5s %6s", "", "weight")
	for _, t := range tallies {
		fmt.Fprintf(&b, "  %-*s", columnWidth, fmt.Sprintf("%s %s", t.service.virtual, t.service.scheduler))
	}
	lines := s.Mark(stage.Bold, strings.TrimRight(b.String(), " ")) + "\n"
	for _, r := range reals {
		b.Reset()
		fmt.Fprintf(&b, "%-5s %6d", r, weights[r])
		for _, t := range tallies {
			bar := strings.Repeat("#", (t.answers[r]*barWidth+t.largest()/2)/max(1, t.largest()))
			fmt.Fprintf(&b, "  %6d %s%*s", t.answers[r], s.Mark(stage.Green, bar), columnWidth-7-len(bar), "")
		}
		lines += b.String() + "\n"
	}
	s.Block(lines)
}
