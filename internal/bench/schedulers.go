// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/scheduler"
)

// Schedulers, and numbers of real servers, by which a new connection is measured:
// its cost should be the same.
var (
	measuredSchedulers = []string{"rr", "wlc", "mh"}
	measuredReals      = []int{2, 10, 100, 1000}
)

// mhTable is as large as the table of mh is for a thousand real servers.
const mhTable = 65537

// newFlows are the new connections of one measurement.
const newFlows = 1 << 15

// schedulerCase is a service by one scheduler with so many real servers.
type schedulerCase struct {
	scenario
	service director.Service
	reals   int
}

func schedulerCases() (cases []schedulerCase) {
	for _, name := range measuredSchedulers {
		for _, n := range measuredReals {
			vip := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + len(cases))})
			c := schedulerCase{reals: n, service: director.Service{
				Key: director.ServiceKey{Protocol: director.TCP, Addr: vip, Port: port}, Scheduler: name,
			}}
			if name == "mh" {
				c.service.MHTable = mhTable
			}
			for i := range n {
				c.service.Reals = append(c.service.Reals, director.RealServer{
					Key: director.RealKey{Addr: realAddr(i), Port: port}, Method: director.DirectRouting, Weight: 1,
				})
			}
			c.scenario = scenario{key: fmt.Sprintf("new4_%s_%d_over_raw_ns", name, n), baseline: bpf.TargetRaw, dst: vip, flags: tcpSYN,
				flows: bpf.Flows{Count: 1 << 31, Counting: true}, fresh: newFlows,
				what: fmt.Sprintf("IPv4, dr, a new connection by %s to one of %d real servers", name, n)}
			cases = append(cases, c)
		}
	}
	return cases
}

func realAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}) }

// Schedulers measures what a new connection costs by scheduler and number of real
// servers, all of them in turn in every round.
func Schedulers(opts Options) ([]Figure, []Gauge, error) {
	cases := schedulerCases()
	p, err := newPlane(1<<17, smallestTable, 1)
	if err != nil {
		return nil, nil, err
	}
	defer p.close()
	if err := p.configure(cases); err != nil {
		return nil, nil, err
	}
	figures := make([]Figure, len(cases))
	for range opts.Rounds {
		for i, c := range cases {
			if err := c.run(p, opts, 1, &figures[i]); err != nil {
				return nil, nil, err
			}
		}
	}
	for i, c := range cases {
		f := &figures[i]
		f.Key, f.What = c.key, c.what
		f.Value, f.Baseline = median(f.All), median(f.base)
		opts.Log("%-36s %7.1f ns", f.Key, f.Value)
	}
	return figures, growths(opts, cases, figures), nil
}

// growths are the costs with the most real servers by those with the fewest.
func growths(opts Options, cases []schedulerCase, figures []Figure) (gauges []Gauge) {
	for i := 0; i < len(cases); i += len(measuredReals) {
		few, many := figures[i], figures[i+len(measuredReals)-1]
		rounds := make([]float64, len(few.All))
		for r := range rounds {
			rounds[r] = many.All[r] / few.All[r]
		}
		g := Gauge{Key: fmt.Sprintf("new4_%s_1000_by_2", cases[i].service.Scheduler), Unit: "", Limit: 1.10,
			What: "a new connection with 1000 real servers, by one with 2"}
		gauges = append(gauges, gauged(opts, g, rounds))
	}
	return gauges
}

// configure lets a director write the services and their plans; it ends then.
func (p *plane) configure(cases []schedulerCase) error {
	clock, err := p.data.Clock()
	if err != nil {
		return err
	}
	clear(p.data.Tables.Services)
	clear(p.data.Tables.Keys)
	clear(p.data.Tables.Reals)
	d := director.New(director.Options{Tables: p.data.Tables, Plane: sweptPlane{p.data}, Clock: clock})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	want, hops := director.Desired{Timeouts: director.DefaultTimeouts}, map[netip.Addr]director.NextHop{}
	for _, c := range cases {
		want.Services = append(want.Services, c.service)
		for i := range c.reals {
			hops[realAddr(i)] = director.NextHop{Resolved: true, Link: 1, SrcMAC: [6]byte{2, 1}, DstMAC: [6]byte{2, 2}, MTU: 1500}
		}
	}
	d.SetNextHops(hops)
	err = d.Set(ctx, want)
	stop()
	if e := <-ended; err == nil {
		err = e
	}
	return err
}

// rebuilding measures what it takes to make a plan anew.
func rebuilding(opts Options) ([]Gauge, error) {
	var gauges []Gauge
	const reals = 1000
	for _, name := range []string{"wlc", "mh"} {
		rounds, err := rebuilds(name, reals, opts.Rounds)
		if err != nil {
			return nil, err
		}
		g := Gauge{Key: fmt.Sprintf("plan_rebuild_ms_%s_%d", name, reals), Unit: "ms",
			What: fmt.Sprintf("a plan by %s for %d real servers, made anew", name, reals)}
		gauges = append(gauges, gauged(opts, g, rounds))
	}
	return gauges, nil
}

// rebuilds are the milliseconds of processor time after a change of one weight, or
// of the connections: mh's whole table, or two slots for each real server.
func rebuilds(name string, reals, n int) (ms []float64, err error) {
	s, err := scheduler.New(name, scheduler.Options{MHTableSize: map[string]int{"mh": mhTable}[name]})
	if err != nil {
		return nil, err
	}
	var servers []scheduler.Server
	for i := range reals {
		servers = slices.Insert(servers, 0, scheduler.Server{ID: uint32(i), Addr: realAddr(i), Port: port,
			Weight: uint32(1 + i%10), LastWeight: uint32(1 + i%10), Active: uint32(i * 7 % 100)})
	}
	for round := range n {
		servers[round%reals].Weight = uint32(1 + round%7)
		servers[round%reals].LastWeight = servers[round%reals].Weight
		took, err := processorTime(func() error {
			s.Edit(servers)
			if plan := scheduler.Forward(s, servers, scheduler.CountActive, 2*reals); len(plan.Slots) < reals {
				return fmt.Errorf("%s made a plan of %d slots for %d real servers", name, len(plan.Slots), reals)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		ms = append(ms, float64(took.Nanoseconds())/1e6)
	}
	return ms, nil
}
