// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"xdplvs/bpf"
	"xdplvs/director"
)

// Scale is how the cost of a packet grows with what there is.
type Scale struct {
	Machine string       `json:"machine"`
	Curves  []ScaleCurve `json:"curves"`
}

// ScaleCurve is the cost over the raw bounce, by a number of something.
type ScaleCurve struct {
	Key    string       `json:"key"`
	What   string       `json:"what"`
	Across string       `json:"across"`
	Points [][2]float64 `json:"points"` // number, nanoseconds
}

// What is measured with how many.
var (
	scaleConns    = []int{1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 21, 1 << 22}
	scaleReals    = []int{2, 16, 128, 1024, 4096}
	scaleServices = []int{1, 10, 100, 1000, 10_000, 100_000}
)

const (
	// scaleNewTable holds those that one measurement begins.
	scaleNewTable = 1 << 18
	// scaleRooms are the services and plan slots that the most of both need.
	scaleRoomServices = 1 << 17
	scaleRoomPlans    = 1 << 20
)

// MeasureScale measures all curves. Each number is measured in turn in every round.
func MeasureScale(opts Options) (*Scale, error) {
	s := &Scale{Machine: machine()}
	for _, measure := range []func(Options) ([]ScaleCurve, error){byConns, byReals, byServices} {
		curves, err := measure(opts)
		if err != nil {
			return nil, err
		}
		s.Curves = append(s.Curves, curves...)
	}
	return s, nil
}

// point measures a scenario and returns what it costs over its baseline.
func (s scenario) point(p *plane, opts Options) (float64, error) {
	f := Figure{}
	if err := s.run(p, opts, opts.Rounds, &f); err != nil {
		return 0, err
	}
	return median(f.All), nil
}

// byConns are established connections, of which each packet is another one's: with one core and with all.
func byConns(opts Options) ([]ScaleCurve, error) {
	places := 2 * uint32(slices.Max(scaleConns)) // half full at most
	p, err := newPlaneOf(bpf.Sizes{Conns4: places, Conns6: smallestTable, Overflow: places / overflowShare,
		Services: 1 << 14, Reals: 1 << 16, Plans: director.DefaultLimits.PlanSlots}, 4)
	if err != nil {
		return nil, err
	}
	defer p.close()
	one := ScaleCurve{Key: "conns", What: "one core", Across: "connections in the table"}
	two := ScaleCurve{Key: "conns_2_cores", What: "two cores, each", Across: one.Across}
	for _, n := range scaleConns {
		s := scenarioOf("dr4_established_2e18_over_raw_ns")
		s.flows.Count = uint32(n)
		ns, err := s.point(p, opts)
		if err != nil {
			return nil, err
		}
		one.Points = append(one.Points, [2]float64{float64(n), ns})
		if ns, err = s.both(p, opts); err != nil {
			return nil, err
		}
		two.Points = append(two.Points, [2]float64{float64(n), ns})
		opts.Log("%8d connections %7.1f ns, on two cores %7.1f ns", n, one.Points[len(one.Points)-1][1], ns)
	}
	return []ScaleCurve{one, two}, nil
}

// both is what a packet costs over the baseline when two cores do the same at once. The flows are known.
func (s scenario) both(p *plane, opts Options) (float64, error) {
	packets, err := s.packets(p, opts)
	if err != nil {
		return 0, err
	}
	var over []float64
	for range opts.Rounds {
		b, err := s.atOnce(p, s.baseline, packets)
		if err != nil {
			return 0, err
		}
		v, err := s.atOnce(p, bpf.TargetDirector, packets)
		if err != nil {
			return 0, err
		}
		over = append(over, v-b)
	}
	return median(over), nil
}

// atOnce runs a target on two cores, each with a generator of its own, and returns the mean cost of a packet.
func (s scenario) atOnce(p *plane, t bpf.Target, packets int) (float64, error) {
	var each [2]float64
	var errs [2]error
	var cores sync.WaitGroup
	for i := range each {
		b, err := bpf.NewBench(p.data, t)
		if err != nil {
			return 0, err
		}
		defer b.Close()
		cores.Go(func() {
			_, ns, err := b.Run(s.frame(p), s.flows, packets)
			each[i], errs[i] = float64(ns), err
		})
	}
	cores.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return (each[0] + each[1]) / 2, nil
}

// newScalePlane has room for the most services and real servers.
func newScalePlane(reals int) (*plane, error) {
	return newPlaneOf(bpf.Sizes{Conns4: scaleNewTable, Conns6: smallestTable, Overflow: scaleNewTable / overflowShare,
		Services: scaleRoomServices, Reals: scaleRoomServices, Plans: scaleRoomPlans}, reals)
}

// byReals are new connections to a service of many real servers, in turn.
func byReals(opts Options) ([]ScaleCurve, error) {
	p, err := newScalePlane(1)
	if err != nil {
		return nil, err
	}
	defer p.close()
	c := ScaleCurve{Key: "reals", What: "new connection", Across: "real servers"}
	for i, n := range scaleReals {
		vip := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
		if err := p.serve(vip, director.DirectRouting, n); err != nil {
			return nil, err
		}
		ns, err := newTo(vip).point(p, opts)
		if err != nil {
			return nil, err
		}
		c.Points = append(c.Points, [2]float64{float64(n), ns})
		opts.Log("%8d real servers %7.1f ns", n, ns)
	}
	return []ScaleCurve{c}, nil
}

// newTo is a new connection to a service.
func newTo(vip netip.Addr) scenario {
	s := scenarioOf("dr4_new_over_raw_ns")
	s.dst, s.fresh = vip, newFlows
	return s
}

// byServices are new connections to one of many services, and packets of none.
func byServices(opts Options) ([]ScaleCurve, error) {
	p, err := newScalePlane(1)
	if err != nil {
		return nil, err
	}
	defer p.close()
	begins := ScaleCurve{Key: "services", What: "new connection", Across: "services"}
	nobodys := ScaleCurve{Key: "services_pass", What: "no service's packet", Across: begins.Across}
	for _, n := range scaleServices {
		for p.services < uint32(n) {
			if err := p.serve(manyVIP(p.services), director.DirectRouting, 1); err != nil {
				return nil, err
			}
		}
		ns, err := newTo(vip4).point(p, opts)
		if err != nil {
			return nil, err
		}
		begins.Points = append(begins.Points, [2]float64{float64(n), ns})
		if ns, err = scenarioOf("no_service_over_pass_ns").point(p, opts); err != nil {
			return nil, err
		}
		nobodys.Points = append(nobodys.Points, [2]float64{float64(n), ns})
		opts.Log("%8d services %7.1f ns", n, begins.Points[len(begins.Points)-1][1])
	}
	return []ScaleCurve{begins, nobodys}, nil
}

// manyVIP is one of many virtual addresses.
func manyVIP(n uint32) netip.Addr {
	n = bits.ReverseBytes32(n + 1)
	return netip.AddrFrom4([4]byte{172, byte(16 + n>>8&15), byte(n >> 16), byte(n >> 24)})
}

// plots are the curves that belong into one plot, by its name.
func (s *Scale) plots() map[string][]ScaleCurve {
	plots := map[string][]ScaleCurve{}
	for _, c := range s.Curves {
		name, _, _ := strings.Cut(c.Key, "_")
		plots[name] = append(plots[name], c)
	}
	return plots
}

// Markdown is a table for each plot.
func (s *Scale) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nNanoseconds a packet over the baseline.\n", s.Machine)
	for _, name := range []string{"conns", "reals", "services"} {
		curves := s.plots()[name]
		fmt.Fprintf(&b, "\n| %s |", curves[0].Across)
		for _, c := range curves {
			fmt.Fprintf(&b, " %s |", c.What)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(curves)) + "\n")
		for i, point := range curves[0].Points {
			fmt.Fprintf(&b, "| %.0f |", point[0])
			for _, c := range curves {
				fmt.Fprintf(&b, " %.0f |", c.Points[i][1])
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// WriteAll writes JSON, Markdown and plots into a folder.
func (s *Scale) WriteAll(dir string) error {
	files := map[string]string{"scale.md": s.Markdown()}
	for name, curves := range s.plots() {
		var drawn []Curve
		for _, c := range curves {
			drawn = append(drawn, Curve{c.What, c.Points})
		}
		files["scale-"+name+".svg"] = CurvesSVG("A packet's cost by "+curves[0].Across, curves[0].Across, "ns over the baseline", drawn)
	}
	return writeReport(dir, "scale.json", s, files)
}
