// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"xdplvs/bpf"
)

// Count is what one packet takes in processor instructions.
type Count struct {
	Key          string  `json:"key"`
	What         string  `json:"what"`
	Instructions float64 `json:"instructions"` // more than the baseline
	Baseline     float64 `json:"baseline"`
}

// Counted is what the instructions of packets came to, and where.
type Counted struct {
	Machine string  `json:"machine"`
	Counts  []Count `json:"counts"`
}

// Print prints a table for people.
func (c *Counted) Print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\ninstructions a packet over the baseline: the raw bounce, or a trivial pass\n\n", c.Machine)
	fmt.Fprintf(w, "%-24s %8s %9s\n", "", "over", "baseline")
	for _, n := range c.Counts {
		fmt.Fprintf(w, "%-24s %8.0f %9.0f  %s\n", n.Key, n.Instructions, n.Baseline, n.What)
	}
}

const (
	// countedTable holds the connections of a round at an eighth of its places.
	countedTable   = 1 << 15
	countedPackets = 1 << 12
	countedRounds  = 3
)

// countedOnly are scenarios that make no figure of time.
var countedOnly = []scenario{
	{key: "nat4_new_over_raw_ns", baseline: bpf.TargetRaw, dst: nat4, flags: tcpSYN, nat: true,
		flows: bpf.Flows{Count: 1 << 31, Counting: true, Undo: true}, fresh: countedPackets, what: "IPv4, nat, a new connection, stored"},
	{key: "fullnat4_new_over_raw_ns", baseline: bpf.TargetRaw, dst: fullnat4, flags: tcpSYN, nat: true,
		flows: bpf.Flows{Count: 1 << 31, Counting: true, Undo: true}, fresh: countedPackets, what: "IPv4, fullnat, a new connection, stored"},
}

// countable are the scenarios whose instructions are the same in each round: those without memory that
// has to be waited for, which no count shows.
func countable() (all []scenario) {
	for _, s := range append(slices.Clone(scenarios), countedOnly...) {
		if s.flows.Count > 1 && s.fresh == 0 || s.beside.IsValid() {
			continue
		}
		if s.fresh > 0 {
			s.fresh = countedPackets
		}
		all = append(all, s)
	}
	return all
}

// countKey is a scenario's name without baseline and unit.
func countKey(key string) string { return key[:strings.Index(key, "_over_")] }

// Counts counts the instructions of a packet. It is for a machine whose clock counts them, one a
// nanosecond; elsewhere it fails, as two rounds are never the same there.
func Counts() (*Counted, error) {
	planes := map[bool]*plane{}
	defer func() {
		for _, p := range planes {
			p.close()
		}
	}()
	counted := &Counted{Machine: machine()}
	for _, s := range countable() {
		if planes[s.nat] == nil {
			s.places = countedTable
			p, err := s.plane()
			if err != nil {
				return nil, err
			}
			planes[s.nat] = p
		}
		c, err := s.count(planes[s.nat])
		if err != nil {
			return nil, err
		}
		counted.Counts = append(counted.Counts, c)
	}
	return counted, nil
}

func (s scenario) count(p *plane) (Count, error) {
	f := Figure{Key: s.key}
	if err := s.begin(p); err != nil {
		return Count{}, err
	}
	if err := s.rounds(p, countedPackets, countedRounds, &f); err != nil {
		return Count{}, err
	}
	// The timer's interrupts fall into some rounds and not into others.
	if least, most := slices.Min(f.base), slices.Max(f.base); most-least > 0.02*most {
		return Count{}, fmt.Errorf("%s: the baseline took %g to %g ns: this machine's clock counts no instructions", s.key, least, most)
	}
	return Count{countKey(s.key), s.what, slices.Min(f.All), slices.Min(f.base)}, nil
}
