// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"xdplvs/bpf"
	"xdplvs/internal/testkit"
)

// world is a director with everything around it, driven without its goroutine:
// each step is over when the call returns.
type world struct {
	t      testing.TB
	tables *bpf.Tables
	plane  *worldPlane
	clock  *worldClock
	links  map[string]Entrance
	log    *testkit.Log
	d      *Director
	hops   map[netip.Addr]NextHop
	own    map[netip.Addr]bool // addresses of the host; nil: the director does not ask

	merging map[int][]string // devices that merge segments before another one gets them
}

// small tables are full soon.
var small = bpf.Sizes{Conns4: 64, Conns6: 64, Overflow: 1, Services: 4, Reals: 12, Plans: 512, CPUs: 2}

func memoryTables(t testing.TB, sizes bpf.Sizes) *bpf.Tables {
	t.Helper()
	tables, err := bpf.NewMemoryTables(sizes)
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

func newWorld(t testing.TB, sizes bpf.Sizes) *world {
	t.Helper()
	return newWorldOn(t, memoryTables(t, sizes))
}

func newWorldOn(t testing.TB, tables *bpf.Tables) *world {
	w := &world{
		t:      t,
		tables: tables,
		plane:  &worldPlane{on: map[int]*worldAttachment{}, below: map[int]int{}, ports: new(portMap)},
		clock:  &worldClock{},
		links:  map[string]Entrance{"eth0": card(2, "eth0"), "eth1": card(3, "eth1"), "eth2": card(4, "eth2")},
		log:    &testkit.Log{},
		hops:   map[netip.Addr]NextHop{},
	}
	w.clock.now.Store(1000)
	w.restart()
	return w
}

// card is the entrance of a device that is no other's.
func card(index int, name string) Entrance {
	return Entrance{Native: Device{index, name}, Generic: Device{index, name}}
}

// restart is a new process on the same tables.
func (w *world) restart() {
	for _, a := range w.plane.on {
		a.former = true
	}
	w.d = New(w.options())
}

func (w *world) options() Options {
	opts := Options{
		Log:    slog.New(slog.NewTextHandler(w.log, nil)),
		Tables: w.tables,
		Plane:  w.plane,
		Clock:  w.clock,
		Links: func(name string) (Entrance, error) {
			if at, ok := w.links[name]; ok {
				return at, nil
			}
			return Entrance{}, errors.New("no such interface")
		},
		Tags:   func(index int) error { return w.plane.fails("tags %d", index) },
		Merges: func(index int) ([]string, error) { return w.merging[index], w.plane.fails("merges %d", index) },
	}
	if w.own != nil {
		opts.Own = func() ([]netip.Addr, error) { return slices.Collect(maps.Keys(w.own)), w.plane.fails("own addresses") }
	}
	return opts
}

// mustWant puts a state in force and looks whether everything is as it should be.
func (w *world) mustWant(want Desired) {
	w.t.Helper()
	if err := w.d.apply(want); err != nil {
		w.t.Fatalf("apply: %v", err)
	}
	w.mustHold()
}

func (w *world) mustHold() {
	w.t.Helper()
	if err := w.broken(); err != nil {
		w.t.Fatal(err)
	}
}

// resolve lets real servers be reached; the rest stays as it is.
func (w *world) resolve(addrs ...netip.Addr) {
	w.t.Helper()
	hops := maps.Clone(w.hops)
	for _, a := range addrs {
		hops[a] = hopFor(a)
	}
	w.setHops(hops)
}

func (w *world) setHops(hops map[netip.Addr]NextHop) {
	w.t.Helper()
	w.hops = hops
	w.d.setHops(hops)
	w.mustHold()
}

// hopFor is a next hop that one can tell the address from.
func hopFor(a netip.Addr) NextHop {
	b := a.As16()
	return NextHop{Resolved: true, Link: 2, SrcMAC: [6]byte{2, 1, 1, 1, 1, 1}, DstMAC: [6]byte{2, 0, b[12], b[13], b[14], b[15]}, MTU: 1500}
}

// tick is what happens every two seconds.
func (w *world) tick() {
	w.t.Helper()
	w.d.estimate()
	w.d.reap()
	w.d.followOwn()
	w.d.retryHops()
	w.d.watchPorts()
	w.d.publishTargets()
	w.d.followInterfaces()
	w.mustHold()
}

// follow lets every plan be looked at that is to be made anew.
func (w *world) follow() {
	w.d.follow()
	w.d.follow()
}

// worldPlane remembers what is attached, and fails on demand.
type worldPlane struct {
	mu       sync.Mutex
	on       map[int]*worldAttachment // by interface
	below    map[int]int              // devices that VLAN devices are on
	ports    *portMap
	fault    func(what string) error // nil: nothing fails
	overflow []overflowed
	sweeps   int
	verdicts map[string]uint64
	asked    bpf.MarkQuestion
	rule     int // that marks every packet, as the data plane counts
	closed   map[netip.Addr]uint32

	destinations map[bpf.DestinationKey]bpf.Destination
}

// portMap is the kernel's map of interfaces to transmit on.
type portMap [bpf.TxPorts]int32

type worldAttachment struct {
	index  int
	mode   AttachMode
	former bool // left by a former process
}

type overflowed struct {
	key  bpf.ConnKey
	conn bpf.Conn
}

func (a *worldAttachment) AttachedMode() AttachMode { return a.mode }

func (p *worldPlane) fails(format string, args ...any) error {
	if p.fault == nil {
		return nil
	}
	return p.fault(fmt.Sprintf(format, args...))
}

// Attach is as strict as the kernel: one mode at a time. What a former process left
// is taken over, or replaced where the mode is another.
func (p *worldPlane) Attach(index int, mode AttachMode) (Attachment, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fails("attach %d %s", index, mode); err != nil {
		return nil, err
	}
	if a := p.on[index]; a != nil && a.former && (mode == AttachAuto || mode == a.mode) {
		a.former = false
		return a, nil
	}
	if a := p.on[index]; a != nil && !a.former {
		if mode != AttachAuto && mode != a.mode {
			return nil, fmt.Errorf("busy: attached in %s mode", a.mode)
		}
		return a, nil
	}
	for above := range p.on {
		if below, ok := p.below[above]; ok && below == index {
			return nil, errors.New("busy: a device above has a program")
		}
	}
	if mode == AttachAuto {
		mode = AttachNative
	}
	p.on[index] = &worldAttachment{index: index, mode: mode}
	return p.on[index], nil
}

func (p *worldPlane) Detach(a Attachment) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := a.(*worldAttachment)
	if err := p.fails("detach %d", own.index); err != nil {
		return err
	}
	if p.on[own.index] != own {
		return fmt.Errorf("detach %d: it is not attached", own.index)
	}
	delete(p.on, own.index)
	return nil
}

func (p *worldPlane) DetachOthers(keep map[int]bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fails("detach others"); err != nil {
		return err
	}
	maps.DeleteFunc(p.on, func(index int, _ *worldAttachment) bool { return !keep[index] })
	return nil
}

func (p *worldPlane) SetTxPort(port uint16, index int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fails("port %d", index); err != nil {
		return err
	}
	p.ports[port] = int32(index)
	return nil
}

func (p *worldPlane) Verdicts() (map[string]uint64, error) { return p.verdicts, p.fails("verdicts") }

func (p *worldPlane) Overflow(yield func(*bpf.ConnKey, *bpf.Conn) bool) error {
	for _, o := range p.overflow {
		if !yield(&o.key, &o.conn) {
			return nil
		}
	}
	return p.fails("overflow")
}

func (p *worldPlane) SweepOverflow() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeps++
	return p.fails("sweep")
}

func (p *worldPlane) FreeOverflow(key *bpf.ConnKey) error {
	p.overflow = slices.DeleteFunc(p.overflow, func(o overflowed) bool { return o.key == *key })
	return p.fails("free overflow")
}

// ExplainMark answers that the last rule has marked the packet for service 0.
func (p *worldPlane) ExplainMark(q bpf.MarkQuestion) (bpf.MarkAnswer, error) {
	p.asked = q
	return bpf.MarkAnswer{Mark: 7, Rule: p.rule}, p.fails("explain")
}

func (p *worldPlane) Closed() (map[netip.Addr]uint32, error) { return p.closed, nil }

func (p *worldPlane) TxPort(port uint16) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(p.ports[port]), nil
}

func (p *worldPlane) RepairPins() (int, error) { return 0, nil }

func (p *worldPlane) Repair(Attachment) (bool, error) { return false, nil }

func (p *worldPlane) SetClosed(want map[netip.Addr]uint32) error {
	if err := p.fails("closed %v", want); err != nil {
		return err
	}
	p.closed = want
	return nil
}

func (p *worldPlane) Destinations(yield func(*bpf.DestinationKey, *bpf.Destination) bool) error {
	for key, value := range p.destinations {
		if !yield(&key, &value) {
			return nil
		}
	}
	return p.fails("destinations")
}

func (p *worldPlane) ForgetDestination(key *bpf.DestinationKey) error {
	delete(p.destinations, *key)
	return p.fails("forget")
}

// attached is what packets meet, as text.
func (p *worldPlane) attached() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, index := range slices.Sorted(maps.Keys(p.on)) {
		list = append(list, fmt.Sprintf("%d %s", index, p.on[index].mode))
	}
	return strings.Join(list, ", ")
}

// worldClock is a kernel with 250 jiffies a second.
type worldClock struct {
	now   atomic.Uint32
	fault atomic.Bool
}

const jiffy = 4 * time.Millisecond

func (c *worldClock) Now() (uint32, error) {
	if c.fault.Load() {
		return 0, errors.New("no clock")
	}
	return c.now.Load(), nil
}

func (c *worldClock) Jiffies(d time.Duration) uint32 { return uint32((d + jiffy - 1) / jiffy) }

func (c *worldClock) Duration(jiffies int32) time.Duration { return time.Duration(jiffies) * jiffy }

func (c *worldClock) advance(d time.Duration) { c.now.Add(c.Jiffies(d)) }

// seeded returns a generator whose seed is in the test's log.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func expect[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// expectError looks for texts in an error, and that it wraps one.
func expectError(t testing.TB, err, wraps error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", texts)
		return
	}
	if wraps != nil && !errors.Is(err, wraps) {
		t.Errorf("error %q does not wrap %v", err, wraps)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not have %q", err, text)
		}
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// key4 is a service on an address of its own.
func key4(i int) ServiceKey {
	return ServiceKey{Protocol: TCP, Addr: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), Port: 80}
}

// real4 is a real server for key4's services.
func real4(i int, weight uint32) RealServer {
	return RealServer{Key: RealKey{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80}, Method: DirectRouting, Weight: weight}
}

// one is a state with one service.
func one(scheduler string, reals ...RealServer) Desired {
	return Desired{Services: []Service{{Name: "web", Key: key4(1), Scheduler: scheduler, Reals: reals}}}
}
