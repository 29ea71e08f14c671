// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"fmt"

	"xdplvs/scheduler"
)

// tier is round robin among the heaviest servers that are usable; lighter ones
// stand by until none of those is left.
type tier struct{ last int }

func (t *tier) Name() string               { return "tier" }
func (t *tier) Kind() scheduler.Kind       { return scheduler.Sequence }
func (t *tier) Edit([]scheduler.Server)    { t.last = -1 }
func (t *tier) Clone() scheduler.Scheduler { c := *t; return &c }

// State makes it a scheduler.Cyclic: its plans hold for ever.
func (t *tier) State() [2]uint64 { return [2]uint64{uint64(t.last + 1)} }

func (t *tier) Pick(_ scheduler.Packet, servers []scheduler.Server) int {
	heaviest := uint32(0)
	for _, s := range servers {
		if s.Usable() {
			heaviest = max(heaviest, s.Weight)
		}
	}
	for k := range servers {
		i := (t.last + 1 + k) % len(servers)
		if servers[i].Usable() && servers[i].Weight == heaviest {
			t.last = i
			return i
		}
	}
	return -1
}

func Example_tier() {
	err := scheduler.Register("tier", func(scheduler.Options) (scheduler.Scheduler, error) { return &tier{last: -1}, nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	s, _ := scheduler.New("tier", scheduler.Options{})
	servers := []scheduler.Server{{ID: 2, Weight: 9}, {ID: 1, Weight: 1}, {ID: 0, Weight: 9}}
	s.Edit(servers)
	plan := scheduler.Forward(s, servers, scheduler.CountActive, 4096)
	fmt.Println(plan.Slots, plan.Exact)
	servers[0].Weight, servers[2].Overloaded = 0, true
	s.Edit(servers)
	fmt.Println(scheduler.Forward(s, servers, scheduler.CountActive, 4096).Slots)
	// Output:
	// [2 0] true
	// [1]
}
