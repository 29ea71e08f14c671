// SPDX-License-Identifier: Apache-2.0

// Package bench measures what a packet costs. Each figure stands beside its own
// baseline, measured in the same round: machines differ, and the same machine
// differs from minute to minute, but a difference taken within a fraction of a
// second holds.
package bench

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
)

// Options say how long to measure.
type Options struct {
	Rounds  int           // repetitions of every figure
	Loads   int           // of the data plane, that share the rounds
	Slice   time.Duration // how long one measurement of one program takes
	Packets uint32        // of a live run
	Fills   int           // repetitions of filling tables
	Windows int           // in which a director that runs is watched
	Window  time.Duration // each; 2 s at least, the time of a sweep's pass
	Log     func(format string, args ...any)
	Only    *regexp.Regexp // the figures of test runs whose keys it finds, and nothing else; nil: everything
}

// Thorough is what make bench uses, Quick what make bench-quick uses.
var (
	Thorough = Options{Rounds: 21, Loads: 3, Slice: 40 * time.Millisecond, Packets: 2_000_000,
		Fills: 11, Windows: 7, Window: 4 * time.Second}
	Quick = Options{Rounds: 7, Loads: 1, Slice: 15 * time.Millisecond, Packets: 300_000,
		Fills: 3, Windows: 3, Window: 2 * time.Second}
)

// scenario is one figure: what a target costs more than its baseline.
type scenario struct {
	key      string
	baseline bpf.Target
	dst      netip.Addr
	flags    byte
	flows    bpf.Flows
	places   uint32 // of the connection tables
	fill     bool   // the flows are known before
	fresh    uint32 // new flows of one measurement, into an empty table
	limit    float64
	what     string
	nat      bool // in a plane with services by nat
	reply    bool // the real server's packets are measured
	denied   int  // prefixes, of which the client has one
	rules    int  // that mark packets
	options  bool // frames have those of a SYN
	spliced  bool // a SYN cookie began the connections
	defended bool // every defense is on, but for the baseline
	// beside: the baseline is the data plane itself, with packets to this address and so many rules.
	beside      netip.Addr
	besideRules int
}

const (
	smallTable = 1 << 19
	largeTable = 1 << 21
)

// ipipOverhead is an IPv4 header.
const ipipOverhead = 20

var scenarios = []scenario{
	{key: "no_service_over_pass_ns", baseline: bpf.TargetPass, dst: nobody4, flags: tcpACK,
		flows: bpf.Flows{Count: 1}, places: smallTable, limit: 20, what: "a packet that is no service's"},
	{key: "syn_denied_over_drop_ns", baseline: bpf.TargetDrop, dst: vip4, flags: tcpSYN,
		flows: bpf.Flows{Count: 1}, places: smallTable, denied: 100_000, limit: 60, what: "IPv4, a SYN from a denied prefix, of 100,000"},
	{key: "dr4_established_over_raw_ns", baseline: bpf.TargetRaw, dst: vip4, flags: tcpACK,
		flows: bpf.Flows{Count: 1}, places: smallTable, fill: true, limit: 30, what: "IPv4, dr, one hot flow"},
	{key: "dr6_established_over_raw_ns", baseline: bpf.TargetRaw, dst: vip6, flags: tcpACK,
		flows: bpf.Flows{Count: 1}, places: smallTable, fill: true, limit: 45, what: "IPv6, dr, one hot flow"},
	{key: "tun4_over_raw_ns", baseline: bpf.TargetRaw, dst: tunVIP4, flags: tcpACK,
		flows: bpf.Flows{Count: 1, Growth: ipipOverhead}, places: smallTable, fill: true, limit: 65, what: "IPv4, tun (ipip), one hot flow"},
	{key: "dr4_established_2e14_over_raw_ns", baseline: bpf.TargetRaw, dst: vip4, flags: tcpACK,
		flows: bpf.Flows{Count: 1 << 14}, places: smallTable, fill: true, what: "IPv4, dr, among 2^14 flows"},
	{key: "dr4_new_over_raw_ns", baseline: bpf.TargetRaw, dst: vip4, flags: tcpSYN,
		flows: bpf.Flows{Count: 1 << 31, Counting: true}, places: smallTable, fresh: 1 << 17, limit: 280,
		what: "IPv4, dr, a new connection, stored"},
	{key: "dr6_new_over_raw_ns", baseline: bpf.TargetRaw, dst: vip6, flags: tcpSYN,
		flows: bpf.Flows{Count: 1 << 31, Counting: true}, places: smallTable, fresh: 1 << 17,
		what: "IPv6, dr, a new connection, stored"},
	{key: "dr4_new_full_over_raw_ns", baseline: bpf.TargetRaw, dst: vip4, flags: tcpSYN,
		flows: bpf.Flows{Count: 1 << 31, Counting: true}, places: 1 << 17,
		what: "IPv4, dr, a new connection into a table full of half-open ones"},
	{key: "dr4_established_2e18_over_raw_ns", baseline: bpf.TargetRaw, dst: vip4, flags: tcpACK,
		flows: bpf.Flows{Count: 1 << 18}, places: largeTable, fill: true, limit: 190, what: "IPv4, dr, among 2^18 flows"},
	{key: "dr6_established_2e18_over_raw_ns", baseline: bpf.TargetRaw, dst: vip6, flags: tcpACK,
		flows: bpf.Flows{Count: 1 << 18}, places: largeTable, fill: true, what: "IPv6, dr, among 2^18 flows"},
	{key: "dr4_established_2e20_over_raw_ns", baseline: bpf.TargetRaw, dst: vip4, flags: tcpACK,
		flows: bpf.Flows{Count: 1 << 20}, places: largeTable, fill: true, limit: 300, what: "IPv4, dr, among 2^20 flows"},
	byNAT("nat4_request_over_raw_ns", nat4, false, 60, "IPv4, nat, one hot flow, the client's packets"),
	byNAT("nat4_reply_over_raw_ns", nat4, true, 60, "IPv4, nat, one hot flow, the real server's packets"),
	byNAT("nat6_request_over_raw_ns", nat6, false, 0, "IPv6, nat, one hot flow, the client's packets"),
	byNAT("nat6_reply_over_raw_ns", nat6, true, 0, "IPv6, nat, one hot flow, the real server's packets"),
	byNAT("fullnat4_over_raw_ns", fullnat4, false, 75, "IPv4, fullnat, one hot flow, the client's packets"),
	byNAT("fullnat4_reply_over_raw_ns", fullnat4, true, 0, "IPv4, fullnat, one hot flow, the real server's packets"),
	{key: "syncookie_over_raw_ns", baseline: bpf.TargetRaw, dst: cookie4, flags: tcpSYN, options: true, nat: true,
		flows: bpf.Flows{Count: 1, SYN: true}, places: smallTable, what: "IPv4, nat, a SYN with the options of Linux, answered with a cookie"},
	spliced("nat4_spliced_request_over_raw_ns", false, "IPv4, nat, a connection that a cookie began, the client's packets"),
	spliced("nat4_spliced_reply_over_raw_ns", true, "IPv4, nat, a connection that a cookie began, the real server's packets"),
	byDefense("nat4_request_defended_over_nat4_ns", byNAT("", nat4, false, 0, "IPv4, nat, one hot flow, the client's packets")),
	byDefense("dr4_established_defended_over_dr4_ns", scenario{dst: vip4, flags: tcpACK, flows: bpf.Flows{Count: 1}, places: smallTable, fill: true,
		what: "IPv4, dr, one hot flow"}),
	byMark("fwmark4_established_over_raw_ns", tcpACK, netip.Addr{}, 0, 0, "IPv4, dr, one hot flow that a rule marked, 10,000 rules"),
	byMark("fwmark4_established_over_dr4_ns", tcpACK, vip4, 0, 5, "the same, more than of an address's service without rules"),
	byMark("fwmark4_new_over_raw_ns", tcpSYN, netip.Addr{}, 0, 0, "IPv4, dr, a new connection that the last of 10,000 rules marks, stored"),
	byMark("fwmark4_new_over_dr4_ns", tcpSYN, vip4, 0, 40, "the same, more than of an address's service without rules"),
	byMark("fwmark4_new_over_10_rules_ns", tcpSYN, markVIP4, fewRules, 15, "the same, more than with 10 rules"),
}

// byNAT is a figure of a known connection whose packets are rewritten. A limit of 0 is none.
func byNAT(key string, dst netip.Addr, reply bool, limit float64, what string) scenario {
	return scenario{key: key, baseline: bpf.TargetRaw, dst: dst, flags: tcpACK, flows: bpf.Flows{Count: 1, Undo: true},
		places: smallTable, fill: true, nat: true, reply: reply, limit: limit, what: what}
}

// So many rules mark packets.
const (
	manyRules = 10_000
	fewRules  = 10
)

// byMark is a figure of a firewall mark's service, whose packets the last rule marks.
func byMark(key string, flags byte, beside netip.Addr, besideRules int, limit float64, what string) scenario {
	s := scenario{key: key, baseline: bpf.TargetRaw, dst: markVIP4, flags: flags, flows: bpf.Flows{Count: 1}, places: smallTable, fill: true,
		rules: manyRules, beside: beside, besideRules: besideRules, limit: limit, what: what}
	if flags == tcpSYN {
		s.flows, s.fill, s.fresh = bpf.Flows{Count: 1 << 31, Counting: true}, false, 1<<17
	}
	if beside.IsValid() {
		s.baseline = bpf.TargetDirector
	}
	return s
}

// base is what the baseline measures.
func (s scenario) base() scenario {
	if s.beside.IsValid() {
		s.dst, s.rules, s.defended = s.beside, s.besideRules, false
	}
	return s
}

// Figure is a measured scenario.
type Figure struct {
	Key      string
	What     string
	Value    float64   // median, nanoseconds
	Baseline float64   // median of the baseline, nanoseconds
	Limit    float64   // what it may be; 0: no promise
	All      []float64 // every round, in order
	base     []float64
}

// plane is a loaded data plane with one service on each virtual address.
type plane struct {
	data            *bpf.DataPlane
	keys            *bpf.KeyTable
	services, reals uint32 // so many there are
	slots           uint32 // of plans, that they use
	targets         map[bpf.Target]*bpf.Bench
	rules           int      // that mark packets
	proxied         []uint32 // services whose SYNs can be answered with cookies
	defended        bool
}

// overflowShare is how many places stand behind one entry of the overflow map, as
// in the daemon.
const overflowShare = 64

func newPlane(places4, places6 uint32, reals int) (*plane, error) {
	return newPlaneOf(bpf.Sizes{Conns4: places4, Conns6: places6, Overflow: (places4 + places6) / overflowShare,
		Services: 1 << 14, Reals: 1 << 16, Plans: director.DefaultLimits.PlanSlots,
		Prefixes: director.DefaultLimits.Prefixes, Marks: director.DefaultLimits.MarkEntries}, reals)
}

func newPlaneOf(sizes bpf.Sizes, reals int) (*plane, error) {
	data, err := bpf.Load(sizes)
	if err != nil {
		return nil, err
	}
	p := &plane{data: data, keys: bpf.NewKeyTable(data.Tables), targets: map[bpf.Target]*bpf.Bench{}}
	for _, t := range []bpf.Target{bpf.TargetPass, bpf.TargetRaw, bpf.TargetDrop, bpf.TargetDirector} {
		if p.targets[t], err = bpf.NewBench(data, t); err != nil {
			return nil, err
		}
	}
	return p, p.prepare(reals)
}

// longTimeout is that of every state: no connection ends while it is measured.
const longTimeout = 15 * time.Minute

// prepare makes the services by direct routing and tun.
func (p *plane) prepare(reals int) error {
	t := p.data.Tables
	clock, err := p.data.Clock()
	if err != nil {
		return err
	}
	for i := range t.Settings.Timeout {
		t.Settings.Timeout[i] = clock.Jiffies(longTimeout)
	}
	if err := p.serve(vip4, director.DirectRouting, reals); err != nil {
		return err
	}
	if err := p.serve(vip6, director.DirectRouting, reals); err != nil {
		return err
	}
	if err := p.serve(markVIP4, director.DirectRouting, reals); err != nil {
		return err
	}
	if err := p.keys.Set(bpf.Key{Addr: netip.IPv4Unspecified(), Mark: mark}, p.services-1); err != nil {
		return err
	}
	p.keys.Delete(bpf.Key{Addr: markVIP4, Port: port, Protocol: uint8(director.TCP)})
	return p.serve(tunVIP4, director.Tunnel, reals)
}

// mark is that of the service whose packets rules mark.
const mark = 7

// setRules puts so many marking rules in force, half of them with a prefix of sources; the last one marks
// the service's packets.
func (p *plane) setRules(n int) error {
	if n == p.rules {
		return nil
	}
	var rules []bpf.MarkRule
	for i := range n {
		r := bpf.MarkRule{Protocol: uint8(director.TCP), Dest: netip.PrefixFrom(real4(uint32(i)), 32),
			DestPorts: []bpf.PortRange{{First: port, Last: port}}, DSCP: -1, Mark: mark + 1}
		if i%2 == 0 {
			r.Source = netip.PrefixFrom(nobody4, 24).Masked()
		}
		if i == n-1 {
			r.Dest, r.Mark = netip.PrefixFrom(markVIP4, 32), mark
		}
		rules = append(rules, r)
	}
	m, err := bpf.NewMarks(rules, p.data.Tables)
	if err != nil {
		return err
	}
	p.keys.SetMarks(m)
	p.rules = n
	return nil
}

// prepareNAT adds services by nat and fullnat, with one real server each.
func (p *plane) prepareNAT() error {
	t := p.data.Tables
	t.Settings.LocalPorts = bpf.LocalPorts(1024, 31744)
	t.Sources[1].Addr = own4.As16()
	for i := range t.Pools[1].Source {
		t.Pools[1].Source[i] = 1
	}
	for vip, method := range map[netip.Addr]director.Method{nat4: director.NAT, nat6: director.NAT, fullnat4: director.FullNAT} {
		p.proxied = append(p.proxied, p.services)
		if err := p.serve(vip, method, 1); err != nil {
			return err
		}
	}
	if err := p.serve(cookie4, director.NAT, 1); err != nil {
		return err
	}
	t.Services[p.services-1].Flags, t.Services[p.services-1].Mss = cookies, 1460
	return nil
}

// serve makes a service, with real servers that are reached by the interface
// that test runs come in by.
func (p *plane) serve(vip netip.Addr, method director.Method, reals int) error {
	t, id, base, slots := p.data.Tables, p.services, p.reals, p.slots
	p.services, p.reals = id+1, base+uint32(reals)
	p.slots = slots + (uint32(reals)+bpf.PlanAlign-1)&^(bpf.PlanAlign-1)
	t.Services[id] = bpf.Service{Id: id, Protocol: uint8(director.TCP), Port: bits.ReverseBytes16(port)}
	t.Services[id].Plan[0] = bpf.Plan{Base: slots, Length: uint32(reals)}
	for i := range uint32(reals) {
		t.Plans[slots+i] = base + i
		r := &t.Reals[base+i]
		*r = bpf.Real{
			Flags: bpf.RealUsable | bpf.RealNextHop, Method: uint8(method), Service: id, Ifindex: 1, Mtu: 1500,
			Addr: realOf(vip).As16(), Port: bits.ReverseBytes16(realPort), ToPort: bits.ReverseBytes16(realPort), Pool: 1,
		}
		if method == director.Tunnel {
			r.Tunnel = bpf.Tunnel{Source: source4, Destination: real4(i), Inner: vip}.Row()
		}
		copy(r.Mac[:], []byte{2, 1, 0, byte(id), byte(i >> 8), byte(i), 2, 0, 0, 0, 0, 1})
		p.keys.MarkReal(r)
	}
	return p.keys.Set(bpf.Key{Addr: vip, Port: port, Protocol: uint8(director.TCP)}, id)
}

// real4 is the address of a real server by tun.
func real4(n uint32) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}) }

// realOf is the address of the real servers of a service, which by direct routing
// is no matter.
func realOf(vip netip.Addr) netip.Addr {
	a := vip.AsSlice()
	a[0] ^= 1
	real, _ := netip.AddrFromSlice(a)
	return real
}

// realPort is what the real servers by nat listen on.
const realPort = 8080

// empty forgets every connection.
func (p *plane) empty() {
	clear(p.data.Tables.Conns4)
	clear(p.data.Tables.Conns6)
	clear(p.data.Tables.Counts)
}

func (p *plane) close() error {
	var errs []error
	for _, b := range p.targets {
		errs = append(errs, b.Close())
	}
	return errors.Join(append(errs, p.data.Close())...)
}

// learn makes the flows known, as clients that are in the midst of a connection.
func (p *plane) learn(s scenario) error {
	flows := s.flows
	flows.Counting = true
	for _, flags := range greeting {
		if _, _, err := p.targets[bpf.TargetDirector].Run(frame(s.dst, flags), flows, int(s.flows.Count)); err != nil {
			return err
		}
	}
	return nil
}

// greeting is what a client sends until its connection is written rarely.
var greeting = append([]byte{tcpSYN}, bytes.Repeat([]byte{tcpACK}, bpf.PacketsCounted)...)

// frame is what is sent, again and again.
func (s scenario) frame(p *plane) []byte {
	if s.reply {
		return segment(netip.AddrPortFrom(realOf(s.dst), realPort), p.answered(s.dst), s.flags)
	}
	if s.options {
		return withOptions(frame(s.dst, s.flags))
	}
	return frame(s.dst, s.flags)
}

// answered is where the real server's packets go: to the client, or, by full-NAT,
// to the director, at the port that the connection has taken.
func (p *plane) answered(vip netip.Addr) netip.AddrPort {
	switch vip {
	case nat6:
		return netip.AddrPortFrom(client6, clientPort)
	case fullnat4:
		for i := range p.data.Tables.Conns4 {
			if c, ok := bpf.ReadConn4(&p.data.Tables.Conns4[i]); ok && c.C.Source != 0 {
				return netip.AddrPortFrom(own4, bits.ReverseBytes16(c.C.Port))
			}
		}
	}
	return netip.AddrPortFrom(client4, clientPort)
}

// run measures one scenario, rounds times, and adds to its figure.
func (s scenario) run(p *plane, opts Options, rounds int, f *Figure) error {
	if err := s.begin(p); err != nil {
		return err
	}
	packets, err := s.packets(p, opts)
	if err != nil {
		return err
	}
	return s.rounds(p, packets, rounds, f)
}

// begin makes the scenario's flows known, and has prefixes denied.
func (s scenario) begin(p *plane) error {
	p.empty()
	if err := p.defend(false); err != nil {
		return err
	}
	if err := p.deny(s.denied); err != nil {
		return err
	}
	sides := []scenario{s}
	if s.beside.IsValid() {
		sides = []scenario{s.base(), s} // with its rules in force in the end
	}
	for _, of := range sides {
		if err := p.setRules(of.rules); err != nil {
			return err
		}
		if s.fill {
			if err := p.learn(of); err != nil {
				return err
			}
		}
	}
	if s.spliced {
		p.data.Tables.Splice()
	}
	if s.reply { // one makes the way back a proven one
		if _, err := p.measure(bpf.TargetDirector, s, 1); err != nil {
			return err
		}
	}
	return nil
}

// rounds measures baseline and director in turn.
func (s scenario) rounds(p *plane, packets, rounds int, f *Figure) error {
	for range rounds {
		b, err := p.fresh(s.baseline, s.base(), packets)
		if err != nil {
			return err
		}
		v, err := p.fresh(bpf.TargetDirector, s, packets)
		if err != nil {
			return err
		}
		f.base, f.All = append(f.base, b), append(f.All, v-b)
	}
	return nil
}

// packets is how many fill the time of one measurement.
func (s scenario) packets(p *plane, opts Options) (int, error) {
	if s.fresh > 0 {
		return int(s.fresh), nil
	}
	const probe = 1 << 15
	each, err := p.measure(bpf.TargetDirector, s, probe)
	if err != nil {
		return 0, err
	}
	return max(probe, int(float64(opts.Slice.Nanoseconds())/max(each, 1))), nil
}

// fresh measures with the scenario's rules, and where connections are new in an empty table.
func (p *plane) fresh(t bpf.Target, s scenario, packets int) (float64, error) {
	if err := errors.Join(p.setRules(s.rules), p.defend(s.defended)); err != nil {
		return 0, err
	}
	if s.fresh > 0 {
		p.empty()
	}
	return p.measure(t, s, packets)
}

func (p *plane) measure(t bpf.Target, s scenario, packets int) (float64, error) {
	action, each, err := p.targets[t].Run(s.frame(p), s.flows, packets)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.key, err)
	}
	const drop, pass, tx = 1, 2, 3
	if want := map[bpf.Target]uint32{bpf.TargetDrop: drop, bpf.TargetPass: pass, bpf.TargetRaw: tx, bpf.TargetDirector: tx}[s.baseline]; action != want {
		return 0, fmt.Errorf("%s: %s returned XDP action %d instead of %d: the wrong path was measured", s.key, t, action, want)
	}
	return float64(each), nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// chosen are the scenarios to measure.
func (o Options) chosen() []scenario {
	if o.Only == nil {
		return scenarios
	}
	return slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return !o.Only.MatchString(s.key) })
}

// Micro measures all scenarios with test runs. The data plane is loaded several
// times, as where its memory lies makes a difference that stays.
func Micro(opts Options) ([]Figure, error) {
	chosen := opts.chosen()
	figures := make([]Figure, len(chosen))
	for i, s := range chosen {
		figures[i] = Figure{Key: s.key, What: s.what, Limit: s.limit}
	}
	for range opts.Loads {
		if err := microLoad(opts, figures); err != nil {
			return nil, err
		}
	}
	for i := range figures {
		f := &figures[i]
		f.Value, f.Baseline = median(f.All), median(f.base)
		opts.Log("%-36s %7.1f ns", f.Key, f.Value)
	}
	return figures, nil
}

// plane loads one that the scenario can be measured in.
func (s scenario) plane() (*plane, error) {
	p, err := newPlane(s.places, s.places, 4)
	if err == nil && s.nat {
		err = p.prepareNAT()
	}
	return p, err
}

// microLoad is one load's share of the rounds.
func microLoad(opts Options, figures []Figure) error {
	var p *plane
	places, nat := uint32(0), false
	defer func() {
		if p != nil {
			p.close()
		}
	}()
	for i, s := range opts.chosen() {
		if s.places != places || s.nat != nat {
			if p != nil {
				p.close()
			}
			var err error
			if p, err = s.plane(); err != nil {
				return err
			}
			places, nat = s.places, s.nat
		}
		if err := s.run(p, opts, opts.Rounds/opts.Loads, &figures[i]); err != nil {
			return err
		}
	}
	return nil
}
