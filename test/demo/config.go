// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
)

// real is a real server of the demo.
type real struct {
	name   string
	v4, v6 netip.Addr
	weight int // at the beginning
}

// service is a virtual service of the demo.
type service struct {
	name, protocol, scheduler string
	virtual                   netip.AddrPort
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// The network.
var (
	client4, client6     = addr("10.0.0.1"), addr("fd00::1")
	director4, director6 = addr("10.0.0.2"), addr("fd00::2")
	vip4, vip6           = addr("192.0.2.10"), addr("2001:db8::10")

	reals = []real{
		{"rs1", addr("10.0.0.11"), addr("fd00::11"), 1},
		{"rs2", addr("10.0.0.12"), addr("fd00::12"), 2},
		{"rs3", addr("10.0.0.13"), addr("fd00::13"), 3},
	}
	services = []service{
		{"web", "tcp", "wrr", netip.AddrPortFrom(vip4, 80)},
		{"web6", "tcp", "wrr", netip.AddrPortFrom(vip6, 80)},
		{"dns", "udp", "rr", netip.AddrPortFrom(vip4, 53)},
	}
)

// realNames are the names in order.
func realNames() (names []string) {
	for _, r := range reals {
		names = append(names, r.name)
	}
	return names
}

// firstWeights are the weights at the beginning, by name.
func firstWeights() map[string]int {
	weights := map[string]int{}
	for _, r := range reals {
		weights[r.name] = r.weight
	}
	return weights
}

// configText is the director's configuration.
func configText(socket, stateDir string, weights map[string]int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "interfaces: [eth0]\nsocket: %s\nstate_dir: %s\n", socket, stateDir)
	for _, family := range []string{"4", "6"} {
		fmt.Fprintf(&b, "\nx-farm%s: &farm%s\n", family, family)
		for _, r := range reals {
			address := r.v4.String()
			if family == "6" {
				address = fmt.Sprintf("%q", r.v6)
			}
			fmt.Fprintf(&b, "  - {name: %s, address: %s, weight: %d}\n", r.name, address, weights[r.name])
		}
	}
	b.WriteString("\nservices:\n")
	for _, s := range services {
		farm := "*farm4"
		if s.virtual.Addr().Is6() {
			farm = "*farm6"
		}
		fmt.Fprintf(&b, "  - {name: %s, protocol: %s, virtual: %q, scheduler: %s, reals: %s}\n",
			s.name, s.protocol, s.virtual, s.scheduler, farm)
	}
	return b.String()
}

// changedLines are the lines that differ between two texts of the same number of lines, as diff shows
// them.
func changedLines(before, after string) string {
	var b strings.Builder
	lines := strings.Split(after, "\n")
	for i, old := range strings.Split(before, "\n") {
		if i < len(lines) && lines[i] != old {
			fmt.Fprintf(&b, "- %s\n+ %s\n", strings.TrimSpace(old), strings.TrimSpace(lines[i]))
		}
	}
	return b.String()
}
