// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"

	"xdplvs/bpf"
	"xdplvs/internal/netlab"
)

// peer is a way in which packets come back to the generator: this director's, or another one's of
// the same machine.
type peer struct {
	key    string
	what   string
	ours   string // of this director's, the scenario
	raw    bool   // the raw bounce
	arrive bool   // arrival, and nothing else
	dst    netip.Addr
	fresh  bool       // every packet begins a connection
	setup  [][]string // programs that make the kernel of the director's namespace do it
}

// peerReals are where the kernel's ways lead to.
var peerReals = []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")}

// nft is a ruleset that translates a virtual address by choosing with an expression.
func nft(choice string) [][]string {
	return [][]string{{"nft", fmt.Sprintf(`table ip lb { chain pre { type nat hook prerouting priority dstnat;
		ip daddr %s tcp dport %d dnat to %s mod 2 map { 0 : %s, 1 : %s }; }; }`, vip4, port, choice, peerReals[0], peerReals[1])}}
}

// ipvs is a virtual service of Linux IPVS; method is ipvsadm's flag.
func ipvs(method string) [][]string {
	service := netip.AddrPortFrom(vip4, port).String()
	commands := [][]string{{"ipvsadm", "-A", "-t", service, "-s", "rr"}}
	for _, real := range peerReals {
		commands = append(commands, []string{"ipvsadm", "-a", "-t", service, "-r", netip.AddrPortFrom(real, port).String(), method})
	}
	return commands
}

var peers = []peer{
	{key: "arrive", what: "arrival and drop: what generator and wire cost", arrive: true, dst: vip4},
	{key: "raw", what: "raw bounce: link-layer addresses swapped in XDP", raw: true, dst: vip4},
	{key: "director_dr", what: "this director, dr, established", ours: "dr4_established_over_raw_ns"},
	{key: "director_tun", what: "this director, tun, established", ours: "tun4_over_raw_ns"},
	{key: "director_nat", what: "this director, nat, established", ours: "nat4_request_over_raw_ns"},
	{key: "director_dr_new", what: "this director, dr, every packet new", ours: "dr4_new_over_raw_ns", fresh: true},
	{key: "director_nat_new", what: "this director, nat, every packet new", ours: "nat4_new_over_raw_ns", fresh: true},
	{key: "forward", what: "the kernel forwards, no balancing", dst: peerReals[0]},
	{key: "nft_numgen", what: "nftables DNAT (numgen), established", dst: vip4, setup: nft("numgen inc")},
	{key: "nft_jhash", what: "nftables DNAT (jhash), established", dst: vip4, setup: nft("jhash ip saddr . tcp sport")},
	{key: "nft_numgen_new", what: "nftables DNAT (numgen), every packet new", dst: vip4, fresh: true, setup: nft("numgen inc")},
	{key: "ipvs_dr", what: "Linux IPVS, dr, established", dst: vip4, setup: ipvs("-g")},
	{key: "ipvs_nat", what: "Linux IPVS, nat, established", dst: vip4, setup: ipvs("-m")},
	{key: "ipvs_dr_new", what: "Linux IPVS, dr, every packet new", dst: vip4, fresh: true, setup: ipvs("-g")},
	{key: "ipvs_nat_new", what: "Linux IPVS, nat, every packet new", dst: vip4, fresh: true, setup: ipvs("-m")},
}

// PeerFigure is what one of them came to.
type PeerFigure struct {
	Key     string  `json:"key"`
	What    string  `json:"what"`
	Mpps    float64 `json:"mpps,omitempty"`
	Each    float64 `json:"each,omitempty"` // nanoseconds a packet; instructions, where the clock counts them
	Skipped string  `json:"skipped,omitempty"`
}

// PeerOptions say how much is sent.
type PeerOptions struct {
	Rounds  int
	Packets uint32
	Warm    uint32
}

// PeersHost is for a machine whose clock tells the time, PeersCounted for one where it counts
// instructions, which are the same in every round.
var (
	PeersHost    = PeerOptions{Rounds: 7, Packets: 500_000, Warm: 10_000}
	PeersQuick   = PeerOptions{Rounds: 3, Packets: 100_000, Warm: 2_000}
	PeersCounted = PeerOptions{Rounds: 1, Packets: 8_000, Warm: 1_000}
)

// peerFlows are the connections that the kernel's ways see: their frames differ in nothing that the
// checksum of the IP header covers.
const peerFlows = 1 << 16

// path is a peer that is ready.
type path struct {
	peer
	wire   *wire
	stream stream
	place  bpf.Place // of the generator, for new flows
	rates  []float64
	failed error
}

// peerRun is one run of all of them.
type peerRun struct {
	lab    *netlab.Lab
	opts   PeerOptions
	known  *wire // the director's established connections; its programs generate everything else, too
	paths  []*path
	closed []io.Closer // in the end
}

// Peers measures all ways, in turn in every round. A way that cannot be is skipped with the reason.
func Peers(opts PeerOptions) ([]PeerFigure, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	lab, err := netlab.New("peers")
	if err != nil {
		return nil, err
	}
	defer lab.Close()
	r := &peerRun{lab: lab, opts: opts}
	defer r.close()
	if err := r.openFirst(); err != nil {
		return nil, err
	}
	var figures []PeerFigure
	for _, p := range peers {
		f := PeerFigure{Key: p.key, What: p.what}
		if err := r.open(p); err != nil {
			f.Skipped = err.Error()
		}
		figures = append(figures, f)
	}
	if err := r.rounds(); err != nil {
		return nil, err
	}
	for i := range figures {
		figures[i].take(r.paths)
	}
	return figures, nil
}

func (r *peerRun) close() {
	for _, c := range slices.Backward(r.closed) {
		c.Close()
	}
}

// open makes a peer ready.
func (r *peerRun) open(p peer) error {
	path := &path{peer: p}
	open := r.openKernel
	switch {
	case p.ours != "" && p.fresh:
		open = r.openNew
	case p.ours != "":
		open = r.openKnown
	}
	if err := open(path); err != nil {
		return err
	}
	path.place = path.wire.bench().Place()
	r.paths = append(r.paths, path)
	return nil
}

// peerTable are the places of the director's tables, of which peerFlows may be new at a time.
const peerTable = 1 << 17

// director makes a wire to one with the scenario's services.
func (r *peerRun) director(s scenario) (*wire, error) {
	s.places = peerTable
	p, err := s.plane()
	if err != nil {
		return nil, err
	}
	w, err := newWire(r.lab, fmt.Sprint(len(r.closed)), p)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	w.aim()
	r.closed = append(r.closed, closer(w.close))
	return w, nil
}

// openFirst makes the wire that the others need.
func (r *peerRun) openFirst() (err error) {
	r.known, err = r.director(scenarioOf(byNATKey))
	return err
}

func (r *peerRun) openKnown(p *path) error {
	s := scenarioOf(p.ours)
	s.flows.Undo = s.nat
	p.wire = r.known
	p.stream = stream{s.frame(p.wire.plane), s.flows, r.opts.Warm}
	return nil
}

func (r *peerRun) openNew(p *path) (err error) {
	s := scenarioOf(p.ours)
	if p.wire = r.known; !s.nat { // without real servers by nat, new connections are cheaper
		p.wire, err = r.director(s)
	}
	if err != nil {
		return err
	}
	s.flows.Count = peerFlows
	p.stream = stream{s.frame(p.wire.plane), s.flows, r.opts.Warm}
	return nil
}

// openKernel makes the kernel of a namespace do it.
func (r *peerRun) openKernel(p *path) error {
	for _, command := range p.setup {
		if _, err := exec.LookPath(command[0]); err != nil {
			return fmt.Errorf("%s is not installed", command[0])
		}
	}
	w, err := newWire(r.lab, fmt.Sprint(len(r.closed)), r.known.plane)
	if err != nil {
		return err
	}
	r.closed = append(r.closed, w.sink)
	p.wire = w
	p.stream = stream{kernelFrame(p.dst, p.fresh), bpf.Flows{Count: 1, Undo: true}, r.opts.Warm}
	if p.fresh {
		p.stream.flows = bpf.Flows{Count: peerFlows, Counting: true, Undo: true}
	}
	if p.raw || p.arrive {
		return nil
	}
	return w.route(p.setup)
}

// route makes the director's namespace a router to the real servers, and runs the programs there.
func (w *wire) route(setup [][]string) error {
	host := w.far.Host
	for key, value := range map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.eth0.rp_filter": "0",
		"net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.eth0.send_redirects": "0",
	} {
		if err := host.Sysctl(key, value); err != nil {
			return err
		}
	}
	addrs := []netip.Prefix{netip.MustParsePrefix("10.1.0.254/24"), netip.PrefixFrom(vip4, 32)}
	for _, a := range addrs {
		if err := host.AddAddr("eth0", a); err != nil {
			return err
		}
	}
	for _, real := range peerReals {
		if err := host.SetNeigh("eth0", real, w.generator.MAC); err != nil {
			return err
		}
	}
	for _, command := range setup { // no deadline: where instructions are counted, waiting makes hours pass
		if _, err := host.Run(context.Background(), command[0], command[1:]...); err != nil {
			return err
		}
	}
	return w.relax(setup)
}

// relax makes the kernel's ways take frames as they are: with wrong TCP checksums, and in the midst of a
// connection, whose SYN they have not seen.
func (w *wire) relax(setup [][]string) error {
	if len(setup) == 0 {
		return nil
	}
	if setup[0][0] == "nft" {
		return w.far.Host.Sysctl("net.netfilter.nf_conntrack_checksum", "0")
	}
	return w.far.Host.Sysctl("net.ipv4.vs.sloppy_tcp", "1")
}

// kernelFrame is a frame whose IP header a kernel accepts. New flows come from an address of their own.
func kernelFrame(dst netip.Addr, fresh bool) []byte {
	client, flags := client4, byte(tcpACK)
	if fresh {
		client, flags = client4.Prev(), tcpSYN
	}
	f := segment(netip.AddrPortFrom(client, clientPort), netip.AddrPortFrom(dst, port), flags)
	binary.BigEndian.PutUint16(f[14+10:], headerCheck(f[14:34]))
	return f
}

// headerCheck is the checksum of an IP header (RFC 1071) that has none yet.
func headerCheck(header []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func (r *peerRun) rounds() error {
	for range r.opts.Rounds {
		for _, p := range r.paths {
			if err := p.round(r.opts); err != nil {
				return err
			}
		}
	}
	return nil
}

// round measures a path once. One of the kernel's that brings nothing back is measured no more.
func (p *path) round(opts PeerOptions) error {
	if p.failed != nil {
		return nil
	}
	rate, err := p.rate(opts)
	if err != nil && (p.ours != "" || p.raw || p.arrive) {
		return fmt.Errorf("%s: %w", p.key, err)
	}
	p.rates, p.failed = append(p.rates, rate), err
	return nil
}

// rate is one measurement, in millions per second.
func (p *path) rate(opts PeerOptions) (float64, error) {
	if p.arrive {
		return p.arrivals(opts)
	}
	packets := opts.Packets
	if p.ours != "" && !p.fresh { // what was new before has emptied the table
		if err := p.wire.greet(); err != nil {
			return 0, err
		}
	}
	if p.fresh { // each flow is new once
		packets = min(packets, peerFlows/uint32(opts.Rounds)-opts.Warm)
		p.wire.bench().Return(p.place)
		if p.ours != "" {
			p.wire.plane.empty()
		}
	}
	rate, err := p.wire.rate(p.attach(), p.stream, packets)
	p.place = p.wire.bench().Place()
	return rate, err
}

func (p *path) attach() func() (io.Closer, error) {
	switch {
	case p.ours != "":
		return p.wire.director
	case p.raw:
		return p.wire.raw
	default: // for frames that XDP sends, a veth interface must have a program; the kernel does the rest
		return func() (io.Closer, error) { return p.wire.bench().AttachTarget(bpf.TargetPass, p.wire.far.Index) }
	}
}

// arrivals is the rate at which frames come to the other end, where they are dropped.
func (p *path) arrivals(opts PeerOptions) (float64, error) {
	var on io.Closer
	err := p.wire.far.Host.Do(func() (err error) {
		on, err = p.wire.bench().AttachSink(p.wire.far.Index)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer on.Close()
	return p.wire.received(p.stream, opts.Packets)
}

// take fills in what was measured.
func (f *PeerFigure) take(paths []*path) {
	for _, p := range paths {
		switch {
		case p.key != f.Key:
		case p.failed != nil:
			f.Skipped = p.failed.Error()
		default:
			f.Mpps = median(p.rates)
			f.Each = 1000 / f.Mpps
		}
	}
}
