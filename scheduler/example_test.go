// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"fmt"
	"net/netip"
	"strings"

	"xdplvs/scheduler"
)

func show(plan scheduler.Plan, names string, n uint64) string {
	var b strings.Builder
	for p := range n {
		b.WriteByte(names[plan.At(p)])
	}
	return b.String()
}

// A plan for a wrr service, as the data plane would execute it.
func Example() {
	s, err := scheduler.New("wrr", scheduler.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var servers []scheduler.Server
	for id, weight := range []uint32{1, 2, 4} {
		added := scheduler.Server{ID: uint32(id), Weight: weight, LastWeight: weight}
		servers = append([]scheduler.Server{added}, servers...) // the last added first
		s.Edit(servers)
	}
	plan := scheduler.Forward(s, servers, scheduler.CountActive, 4096)
	fmt.Println(show(plan, "ABC", 17), plan.Exact)

	scheduler.Advance(s, servers, scheduler.CountActive, 5) // the data plane handed out five
	fmt.Println(show(scheduler.Forward(s, servers, scheduler.CountActive, 4096), "ABC", 12))
	// Output:
	// CBACCCBCBACCCBCBA true
	// CBCBACCCBCBA
}

// A scheduler of one's own that looks at servers only is one function. This one
// fills the servers one after another up to ten connections per weight: the last
// in the list can sleep meanwhile.
func ExampleNewRanked() {
	fill := func(s scheduler.Server) (scheduler.Cost, bool) {
		full := s.Active+s.Inactive >= 10*s.Weight
		return scheduler.Cost{Num: 0, Den: 1}, s.Usable() && !full
	}
	err := scheduler.Register("fill", func(scheduler.Options) (scheduler.Scheduler, error) {
		return scheduler.NewRanked("fill", fill), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, _ := scheduler.New("fill", scheduler.Options{})
	servers := []scheduler.Server{{ID: 1, Weight: 1, Active: 7}, {ID: 0, Weight: 1}}
	fmt.Println(show(scheduler.Forward(s, servers, scheduler.CountActive, 4096), "AB", 13))
	// Output: BBBAAAAAAAAAA
}

// leastBandwidth gives each connection to the server with the fewest bytes per
// second per weight, as somebody measured, and supposes that every connection it
// gives away brings as much as all do on average: without that the next server
// would get everything until the next measurement.
type leastBandwidth struct {
	measured map[netip.Addr]float64 // bytes per second
	given    map[netip.Addr]float64 // supposed on top of it
	average  float64                // bytes per second of a connection
}

func (l *leastBandwidth) Name() string              { return "lb" }
func (l *leastBandwidth) Kind() scheduler.Kind      { return scheduler.Sequence }
func (l *leastBandwidth) Edit([]scheduler.Server)   {}
func (l *leastBandwidth) load(a netip.Addr) float64 { return l.measured[a] + l.given[a] }

func (l *leastBandwidth) Pick(_ scheduler.Packet, servers []scheduler.Server) int {
	best := -1
	for i, s := range servers {
		if s.Usable() && (best < 0 ||
			l.load(s.Addr)*float64(servers[best].Weight) < l.load(servers[best].Addr)*float64(s.Weight)) {
			best = i
		}
	}
	if best >= 0 {
		l.given[servers[best].Addr] += l.average
	}
	return best
}

func (l *leastBandwidth) Clone() scheduler.Scheduler {
	twin := &leastBandwidth{measured: l.measured, given: map[netip.Addr]float64{}, average: l.average}
	for a, v := range l.given {
		twin.given[a] = v
	}
	return twin
}

// A scheduler with a state of its own implements five methods; plans come from
// the state's clone.
func ExampleRegister() {
	a, b := netip.MustParseAddr("10.2.0.11"), netip.MustParseAddr("10.2.0.12")
	measured := map[netip.Addr]float64{a: 1e6, b: 4e6}
	err := scheduler.Register("lb", func(scheduler.Options) (scheduler.Scheduler, error) {
		return &leastBandwidth{measured: measured, given: map[netip.Addr]float64{}, average: 5e5}, nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, _ := scheduler.New("lb", scheduler.Options{})
	servers := []scheduler.Server{{ID: 1, Addr: b, Weight: 2}, {ID: 0, Addr: a, Weight: 1}}
	fmt.Println(show(scheduler.Forward(s, servers, scheduler.CountActive, 10), "AB", 10))
	fmt.Println(scheduler.CountAware("lb"))
	// Output:
	// AABABBABBA
	// true
}
