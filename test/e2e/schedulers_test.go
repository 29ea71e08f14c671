// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// The shares that list tells are those that clients see, and a real server that
// comes later is brought in slowly.
func TestListShares(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	slow := strings.NewReplacer("scheduler: wrr", "scheduler: wrr, slow_start: 10m")
	f.writeConfig(slow.Replace(f.config("eth0", both("web", "tcp", webPort, "wrr", 1, 2, absent)...)))
	f.start()
	for _, family := range families {
		// The first pass of wrr serves everybody once: 2 choices, and then 4 rounds of 3.
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 1 + 4, "rs2": 1 + 8})
		out := f.output("list", "--shares", ofFamily("web", family.vip))
		for i, want := range []string{"1      1         35.7%   35.7%    5", "2      2         64.3%   64.3%    9"} {
			line := fmt.Sprintf("  -> %-28s %s ", netip.AddrPortFrom(f.addrOf(i, family.vip), webPort), want)
			if !strings.Contains(out, line) {
				t.Errorf("list --shares has no line %q:\n%s", line, out)
			}
		}
	}
	f.writeConfig(slow.Replace(f.config("eth0", both("web", "tcp", webPort, "wrr", 1, 2, 4)...)))
	f.reload()
	f.awaitReachable("rs3")
	for _, family := range families {
		if r := f.realState(ofFamily("web", family.vip), "rs3"); r.Weight != 4 || r.EffectiveWeight != 1 {
			t.Errorf("%s: rs3 has weight %d, effectively %d; want 4, and 1 at first", family.name, r.Weight, r.EffectiveWeight)
		}
		got := map[string]int{}
		for range 28 {
			name, err := f.fetch(family.vip, webPort)
			must(t, err)
			got[name]++
		}
		if got["rs3"] > 3 { // of 4 in 7
			t.Errorf("%s: of 28 connections %d went to a real server that has just come", family.name, got["rs3"])
		}
	}
}

// With lblc an address stays with its real server, over a restart too, until that
// has more connections than weight.
func TestLocality(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(both("web", "tcp", webPort, "lblc", 3, 3)...)
	d := f.start()
	for _, family := range families {
		home := f.anySession(family.vip, webPort)
		f.mustSpread(f.stay, family.vip, webPort, map[string]int{home.server: 2})
	}
	d.stop()
	f.start()
	for _, family := range families {
		first, err := f.stay(family.vip, webPort)
		must(t, err)
		second, err := f.stay(family.vip, webPort)
		must(t, err)
		if first == second {
			t.Errorf("%s: the fourth connection and the fifth are both at %s, whose weight is 3", family.name, first)
		}
	}
}

// stay is a connection that stays, for mustSpread.
func (f *farm) stay(vip netip.Addr, port uint16) (string, error) {
	return f.anySession(vip, port).server, nil
}
