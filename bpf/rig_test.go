// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"xdplvs/internal/packet"
)

// XDP actions (uapi/linux/bpf.h).
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpTx       = 3
	xdpRedirect = 4
)

// ingress is the interface that test runs come in by: lo.
const ingress = 1

// IP protocols.
const (
	tcpProto  = packet.ProtoTCP
	udpProto  = packet.ProtoUDP
	sctpProto = packet.ProtoSCTP
)

// smallSizes are those of most tests. Load takes what they leave at 0 for this machine's.
var smallSizes = Sizes{Conns4: 64, Conns6: 64, Overflow: 4, Services: 32, Reals: 64, Plans: 8192, Prefixes: 1 << 13}

// rig is a loaded data plane, and the services that a test sets up in it.
type rig struct {
	*Tables
	plane *DataPlane
	keys  *KeyTable
	clock *Clock

	entry   *ebpf.Program // poisons the headroom, then calls the director
	targets *ebpf.Map

	f        family
	services map[string]uint32 // ids by name
	reals    map[string]uint32
	names    map[uint32]string // of real servers
	plans    uint32            // first free plan slot
	traffic  map[uint32]Counters
	counted  []uint64 // verdicts, as far as they are known; nil: read them
	traces   *Traces  // nil: nobody traces
	fuzzed   bool     // set up for FuzzPacket
}

// rigs are loaded once for each of the sizes, and closed when all tests have run: loading takes longer than most tests.
var rigs = map[Sizes]*rig{}

// newRig returns the rig of these sizes, empty, in the world of the first family. Tests that use it do not run in parallel.
func newRig(t testing.TB, sizes Sizes) *rig {
	t.Helper()
	needRoot(t)
	r := rigs[sizes]
	if r == nil {
		r = need(openRig(sizes))(t)
		loaded.note(t, r.plane.objects)
		rigs[sizes] = r
	}
	r.reset(families[0])
	return r
}

// smallRig returns the rig of the small sizes in the world of f.
func smallRig(t testing.TB, f family) *rig {
	t.Helper()
	r := newRig(t, smallSizes)
	if f != families[0] {
		r.reset(f)
	}
	return r
}

func closeRigs() error {
	var errs []error
	for _, r := range rigs {
		errs = append(errs, r.close())
	}
	clear(rigs)
	return errors.Join(errs...)
}

func openRig(sizes Sizes) (*rig, error) {
	d, err := Load(sizes)
	if err != nil {
		return nil, err
	}
	r := &rig{Tables: d.Tables, plane: d, keys: NewKeyTable(d.Tables)}
	if r.clock, err = d.Clock(); err == nil {
		err = r.openEntry()
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return r, nil
}

func (r *rig) close() error {
	r.entry.Close()
	r.targets.Close()
	return r.plane.Close()
}

// poisoned is how much headroom holds 0xff instead of the zeros of a test run.
const poisoned = 128

// openEntry makes the program that test runs call. It moves the packet's start
// forward over the headroom, fills that, moves it back and calls the director.
func (r *rig) openEntry() (err error) {
	r.targets, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	if err := r.targets.Put(uint32(0), r.plane.objects.Programs[directorProgDirector]); err != nil {
		return err
	}
	moveStart := func(by int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, by),
			asm.FnXdpAdjustHead.Call(),
			asm.JNE.Imm(asm.R0, 0, "abort"),
		}
	}
	code := append(asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, moveStart(-poisoned)...)
	code = append(code,
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, poisoned),
		asm.JGT.Reg(asm.R4, asm.R3, "abort"),
	)
	for at := int16(0); at < poisoned; at += 4 {
		code = append(code, asm.StoreImm(asm.R2, at, -1, asm.Word))
	}
	code = append(code, moveStart(poisoned)...)
	code = append(code,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, r.targets.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("abort"),
		asm.Return(),
	)
	r.entry, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "poison", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, Instructions: code, License: "Apache-2.0"})
	return err
}

// IPVS's timeouts in seconds.
var timeouts = map[uint8]int{
	0: 2, 1: 900, 2: 120, 3: 60, 4: 120, 5: 120, 6: 10, 7: 60, 8: 30, 9: 120, 10: 120,
	StateUDP: 300,
	32:       2, 33: 4, 34: 61, 35: 61, 36: 61, 37: 61, 38: 61, 39: 61, 40: 900, 41: 61, 42: 61, 43: 61, 44: 4, 45: 61,
}

// reset empties the tables and sets up the world of family f.
func (r *rig) reset(f family) {
	for _, e := range r.keys.All() {
		r.keys.Delete(e.Key)
	}
	clear(r.Services)
	clear(r.Plans)
	clear(r.Reals)
	clear(r.Sources)
	clear(r.Pools)
	clear(r.Guards)
	clear(r.Budgets)
	clear(r.Samples)
	clear(r.Counts)
	clear(r.Traffic)
	r.forget()
	r.keys = NewKeyTable(r.Tables) // another table of keys, of a program that shares the maps, may have had its say
	s := r.Settings
	*s = Settings{HashKey: s.HashKey, Hz: r.clock.Jiffies(time.Second)}
	s.keepWaysBack()
	for state, seconds := range timeouts {
		s.Timeout[state] = r.clock.Jiffies(time.Duration(seconds) * time.Second)
	}
	r.f = f
	r.services, r.reals, r.names = map[string]uint32{}, map[string]uint32{}, map[uint32]string{}
	r.traffic = map[uint32]Counters{}
	r.counted = nil // threads may have counted since
	r.plans, r.fuzzed = 0, false
	r.world()
}

// forget empties the tables of connections, and what counts them.
func (r *rig) forget() {
	r.forgetConns()
	for name, m := range r.plane.objects.Maps {
		switch {
		case name == directorMapOverflow, m.Type() == ebpf.LRUHash:
			emptyMap(m)
		case name != directorMapVerdicts && m.Type() == ebpf.PerCPUArray:
			zeroMap(m, r.CPUs)
		}
	}
}

// forgetConns is forget, but for what lies in maps.
func (r *rig) forgetConns() {
	clear(r.Conns4)
	clear(r.Conns6)
	clear(r.Splices4)
	clear(r.Counts)
}

func emptyMap(m *ebpf.Map) {
	key := make([]byte, m.KeySize())
	for m.NextKey(nil, &key) == nil {
		if m.Delete(key) != nil {
			return
		}
	}
}

// zeroMap clears the first element of a per-CPU array.
func zeroMap(m *ebpf.Map, cpus int) {
	values := make([][]byte, cpus)
	for i := range values {
		values[i] = make([]byte, m.ValueSize())
	}
	if err := m.Put(uint32(0), values); err != nil {
		panic(err)
	}
}

// world is what every case begins with: a TCP service "web" with real servers
// a, b, c in this order, a UDP service "dns" with d, e. All are usable and on
// the interface that packets come in by. The ids are not those that memory
// full of zeros would give by accident.
func (r *rig) world() {
	r.setKey(Key{Addr: r.f.vip, Port: 0, Protocol: r.f.icmp()}, 0) // a virtual address is known by itself, too
	r.addService("web", 3, Key{Addr: r.f.vip, Port: webPort, Protocol: tcpProto}, "a", "b", "c")
	r.addService("dns", 9, Key{Addr: r.f.vip, Port: dnsPort, Protocol: udpProto}, "d", "e")
}

const (
	webPort = 80
	dnsPort = 53
)

func (r *rig) setKey(k Key, id uint32) {
	if err := r.keys.Set(k, id); err != nil {
		panic(err)
	}
}

// addService adds a service with a sequence plan over its real servers. What
// finds no real server is dropped.
func (r *rig) addService(name string, id uint32, k Key, reals ...string) {
	r.services[name] = id
	r.Services[id] = Service{Id: id, Protocol: k.Protocol, Port: k.Port>>8 | k.Port<<8, Answer: uint8(directorServiceAnswerANSWER_DROP)}
	for _, real := range reals {
		r.addReal(real, id)
	}
	r.plan(name, 0, reals...)
	r.setKey(k, id)
}

// realIDs are given by name: a is 5, b is 6.
func realID(name string) uint32 { return 5 + uint32(name[0]-'a') }

func (r *rig) addReal(name string, service uint32) {
	id := realID(name)
	r.reals[name], r.names[id] = id, name
	mac := realMAC(name)
	r.Reals[id] = Real{
		Generation: 100 + id,
		Flags:      RealUsable | RealNextHop,
		Method:     uint8(directorForwardMethodMETHOD_DR),
		Ifindex:    ingress,
		TxPort:     7,
		Mtu:        9000,
		Service:    service,
		Weight:     1,
		Mac:        mac,
		Addr:       netip.AddrFrom4([4]byte{10, 0, 0, byte(id)}).As16(),
	}
}

// realMAC is the head of the frames to a real server.
func realMAC(name string) (mac [12]uint8) {
	copy(mac[:], []byte{2, 0, 0, 0, 1, name[0], 2, 0, 0, 0, 2, name[0]})
	return mac
}

// plan gives the service a sequence plan: names of real servers, "-" for none.
func (r *rig) plan(service string, loop uint32, reals ...string) {
	s := r.service(service)
	s.Plan[s.Current&1] = r.newPlan(PlanSequence, loop, reals...)
	s.Cursor[s.Current&1] = 0
}

// flowPlan gives the service a hash plan to fall back to.
func (r *rig) flowPlan(service string, reals ...string) {
	r.service(service).Flow = r.newPlan(PlanFlow, 0, reals...)
}

func (r *rig) newPlan(kind, loop uint32, reals ...string) Plan {
	p := Plan{Base: r.plans, Length: uint32(len(reals)), Loop: loop, Kind: kind}
	for i, name := range reals {
		id, ok := r.reals[name]
		if !ok {
			id = NoReal
		}
		r.Plans[p.Base+uint32(i)] = id
	}
	r.plans += (p.Length + PlanAlign - 1) / PlanAlign * PlanAlign
	return p
}

func (r *rig) service(name string) *Service {
	id, ok := r.services[name]
	if !ok {
		panic("no service " + name)
	}
	return &r.Services[id]
}

func (r *rig) real(name string) *Real {
	id, ok := r.reals[name]
	if !ok {
		panic("no real server " + name)
	}
	return &r.Reals[id]
}

func (r *rig) now() uint32 {
	now, err := r.clock.Now()
	if err != nil {
		panic(err)
	}
	return now
}

// pass lets time go by: every connection is that much longer unused.
func (r *rig) pass(d time.Duration) {
	ticks := r.clock.Jiffies(d)
	for _, e := range r.entries() {
		e.conn.LastUse -= ticks
		e.store()
	}
}

// sweep frees what has expired, wherever it is.
func (r *rig) sweep(t testing.TB) (freed int) {
	t.Helper()
	now := r.now()
	for _, s := range []*Sweep{NewSweep4(r.Tables), NewSweep6(r.Tables)} {
		n, passed := s.Next(now, 1<<30)
		if !passed {
			t.Error("the sweep did not reach the last slot")
		}
		freed += n
	}
	must(t, r.plane.SweepOverflow())
	return freed
}

// result is what became of a packet.
type result struct {
	verdict string
	action  uint32
	out     []byte
}

func (v result) String() string { return fmt.Sprintf("%s, action %d, %x", v.verdict, v.action, v.out) }

func (v result) transmitted() bool { return v.action == xdpTx || v.action == xdpRedirect }

// run gives a frame to the director and does not look at what it counts.
func (r *rig) run(frame []byte) (result, error) {
	r.counted = nil
	return r.runAlone(frame)
}

// runAlone is run for threads that do not share anything but the tables.
func (r *rig) runAlone(frame []byte) (result, error) {
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	action, err := r.entry.Run(&o)
	return result{"", action, o.DataOut}, err
}

// verdicts are the packets counted under each, by number.
func (r *rig) verdicts() ([]uint64, error) {
	m := r.plane.objects.Maps[directorMapVerdicts]
	keys, perCPU := make([]uint32, m.MaxEntries()), make([]uint64, int(m.MaxEntries())*r.CPUs)
	n, err := m.BatchLookup(new(ebpf.MapBatchCursor), keys, perCPU, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || n != len(keys) {
		return nil, fmt.Errorf("read %d of %d verdicts: %w", n, len(keys), err)
	}
	counts := make([]uint64, len(keys))
	for i, key := range keys {
		for _, n := range perCPU[i*r.CPUs : (i+1)*r.CPUs] {
			counts[key] += n
		}
	}
	return counts, nil
}

// send gives a frame to the director. Whatever comes of it: exactly one verdict
// is counted, the action is what that verdict says, and a frame that passes is
// untouched.
func (r *rig) send(t testing.TB, frame []byte) result {
	t.Helper()
	before := r.counted
	if before == nil {
		before = need(r.verdicts())(t)
	}
	in := bytes.Clone(frame)
	got, err := r.run(frame)
	if err != nil {
		t.Fatalf("run %x: %v", in, err)
	}
	r.counted = need(r.verdicts())(t)
	var names []string
	for i, n := range r.counted {
		for range n - before[i] {
			names = append(names, verdictNames()[i])
		}
	}
	if len(names) != 1 {
		t.Fatalf("verdicts counted of %x: %v", in, names)
	}
	got.verdict = names[0]
	if err := got.consistent(in); err != nil {
		t.Errorf("%v\n  in %x\n got %v", err, in, got)
	}
	if r.traces != nil {
		r.checkTrace(t, in, got)
	}
	return got
}

// consistent tells whether the action is that of the verdict.
func (v result) consistent(in []byte) error {
	class, _, _ := strings.Cut(v.verdict, "_")
	switch {
	case class == "pass" && v.action != xdpPass, class == "drop" && v.action != xdpDrop,
		class == "tx" && !v.transmitted():
		return fmt.Errorf("action %d of verdict %s", v.action, v.verdict)
	case class == "pass" && !bytes.Equal(v.out, in):
		return fmt.Errorf("a packet was changed that passes, %s", v.verdict)
	}
	return nil
}

// account adds one packet to what a real server's traffic should be.
func (r *rig) account(name string, bytes, conns uint64) {
	id := r.reals[name]
	n := r.traffic[id]
	n.Conns += conns
	n.InPackets++
	n.InBytes += bytes
	r.traffic[id] = n
}

// checkTraffic compares what the data plane counted with what was accounted.
func (r *rig) checkTraffic(t testing.TB) {
	t.Helper()
	for id := range r.Reals {
		var sum Counters
		for _, n := range r.Traffic[id*r.CPUs : (id+1)*r.CPUs] {
			sum.Conns += n.N.Conns
			sum.InPackets += n.N.InPackets
			sum.InBytes += n.N.InBytes
		}
		if want := r.traffic[uint32(id)]; sum != want {
			t.Errorf("traffic of real server %s:\n got %+v\nwant %+v", r.names[uint32(id)], sum, want)
		}
	}
}
