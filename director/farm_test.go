// SPDX-License-Identifier: Apache-2.0

package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"testing"
	"time"

	"xdplvs/bpf"
)

// fakePlane is a data plane without a kernel; attach decides what fails.
type fakePlane struct {
	attached map[int]AttachMode
	ports    map[uint16]int
	closed   map[netip.Addr]uint32
	unpinned int // tables whose pins somebody has removed
	attach   func(index int, mode AttachMode) error
}

type fakeAttachment struct {
	index int
	mode  AttachMode
}

func (a *fakeAttachment) AttachedMode() AttachMode { return a.mode }

func (p *fakePlane) Attach(index int, mode AttachMode) (Attachment, error) {
	if p.attach != nil {
		if err := p.attach(index, mode); err != nil {
			return nil, err
		}
	}
	if _, on := p.attached[index]; on {
		return nil, errors.New("file exists")
	}
	if mode == AttachAuto {
		mode = AttachNative
	}
	p.attached[index] = mode
	return &fakeAttachment{index, mode}, nil
}

func (p *fakePlane) Detach(a Attachment) error {
	delete(p.attached, a.(*fakeAttachment).index)
	return nil
}

func (p *fakePlane) DetachOthers(map[int]bool) error                   { return nil }
func (p *fakePlane) SetTxPort(port uint16, index int) error            { p.ports[port] = index; return nil }
func (p *fakePlane) Verdicts() (map[string]uint64, error)              { return map[string]uint64{}, nil }
func (p *fakePlane) Overflow(func(*bpf.ConnKey, *bpf.Conn) bool) error { return nil }
func (p *fakePlane) SweepOverflow() error                              { return nil }
func (p *fakePlane) FreeOverflow(*bpf.ConnKey) error                   { return nil }
func (p *fakePlane) ForgetDestination(*bpf.DestinationKey) error       { return nil }

func (p *fakePlane) ExplainMark(bpf.MarkQuestion) (bpf.MarkAnswer, error) {
	return bpf.MarkAnswer{}, nil
}

func (p *fakePlane) SetClosed(rows map[netip.Addr]uint32) error {
	p.closed = maps.Clone(rows)
	return nil
}
func (p *fakePlane) Closed() (map[netip.Addr]uint32, error) { return p.closed, nil }
func (p *fakePlane) TxPort(port uint16) (int, error)        { return p.ports[port], nil }
func (p *fakePlane) RepairPins() (int, error)               { n := p.unpinned; p.unpinned = 0; return n, nil }

// Repair attaches again what a test has taken off.
func (p *fakePlane) Repair(a Attachment) (bool, error) {
	own := a.(*fakeAttachment)
	if _, on := p.attached[own.index]; on {
		return false, nil
	}
	_, err := p.Attach(own.index, own.mode)
	return err == nil, err
}

func (p *fakePlane) Destinations(func(*bpf.DestinationKey, *bpf.Destination) bool) error { return nil }

// fakeClock counts milliseconds, and stands still unless it is moved.
type fakeClock struct{ now uint32 }

func (c *fakeClock) Now() (uint32, error)           { return c.now, nil }
func (c *fakeClock) Jiffies(d time.Duration) uint32 { return uint32(d.Milliseconds()) }
func (c *fakeClock) Duration(j int32) time.Duration { return time.Duration(j) * time.Millisecond }

var testSizes = bpf.Sizes{Conns4: 64, Conns6: 64, Overflow: 1, Services: 8, Reals: 32, Plans: 4096, CPUs: 2}

// farm is a director on tables in memory. Its owner does not run: the test is
// the owner.
type farm struct {
	*Director
	t      *testing.T
	tables *bpf.Tables
	plane  *fakePlane
	clock  *fakeClock
}

func newFarm(t *testing.T) *farm {
	t.Helper()
	tables, err := bpf.NewMemoryTables(testSizes)
	if err != nil {
		t.Fatal(err)
	}
	return farmOn(t, tables)
}

func farmOn(t *testing.T, tables *bpf.Tables) *farm {
	f := &farm{t: t, tables: tables, clock: &fakeClock{},
		plane: &fakePlane{attached: map[int]AttachMode{}, ports: map[uint16]int{}}}
	links := map[string]Entrance{"eth0": card(2, "eth0"), "eth1": card(3, "eth1")}
	f.Director = New(Options{
		Log: slog.New(slog.DiscardHandler), Tables: tables, Plane: f.plane, Clock: f.clock,
		Links: func(name string) (Entrance, error) {
			if at, ok := links[name]; ok {
				return at, nil
			}
			return Entrance{}, fmt.Errorf("no such interface")
		},
	})
	return f
}

// set applies and resolves every next hop.
func (f *farm) set(want Desired) {
	f.t.Helper()
	if err := f.apply(want); err != nil {
		f.t.Fatal(err)
	}
	f.resolve(want)
	f.check()
}

// reap is what happens in four seconds: a row is free when it was seen without
// connections twice.
func (f *farm) reap() {
	f.Director.reap()
	f.Director.reap()
}

func (f *farm) resolve(want Desired, unreachable ...string) {
	hops := map[netip.Addr]NextHop{}
	for _, s := range want.Services {
		for _, r := range s.Reals {
			b := r.Key.Addr.As16()
			hops[r.Key.Addr] = NextHop{Resolved: true, Link: 2, MTU: 1500, DstMAC: [6]byte{2, 0, 0, b[13], b[14], b[15]}, SrcMAC: [6]byte{2, 1}}
		}
	}
	for _, addr := range unreachable {
		hops[netip.MustParseAddr(addr)] = NextHop{Reason: "no answer to ARP"}
	}
	f.setHops(hops)
}

// web is a service on 192.0.2.10:port with real servers 10.0.0.1, ... of those weights.
func web(port uint16, scheduler string, weights ...uint32) Service {
	s := Service{Key: ServiceKey{Protocol: TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: port}, Scheduler: scheduler}
	for i, w := range weights {
		s.Reals = append(s.Reals, RealServer{
			Key:    RealKey{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), port},
			Method: DirectRouting, Weight: w,
		})
	}
	return s
}

func desired(services ...Service) Desired {
	return Desired{Interfaces: []Interface{{Name: "eth0"}}, Services: services, Timeouts: DefaultTimeouts}
}

// row is what a packet finds for a service.
func (f *farm) row(key ServiceKey) *bpf.Service {
	for _, e := range f.keys.All() {
		if e.Key == key.row() {
			return &f.tables.Services[e.Service]
		}
	}
	return nil
}

// take hands out n choices of the plan in force, as packets do, and returns the
// last byte of each real server's address.
func (f *farm) take(key ServiceKey, n int) (got []byte) {
	f.t.Helper()
	row := f.row(key)
	if row == nil {
		f.t.Fatalf("service %s has no row", key)
	}
	which := row.Current & 1
	plan := row.Plan[which]
	for range n {
		p := row.Cursor[which]
		row.Cursor[which]++
		if plan.Length == 0 {
			got = append(got, 0)
			continue
		}
		if p >= uint64(plan.Length) {
			p = uint64(plan.Loop) + (p-uint64(plan.Loop))%uint64(plan.Length-plan.Loop)
		}
		got = append(got, f.tables.Reals[f.tables.Plans[uint64(plan.Base)+p]].Addr[15])
	}
	return got
}

// check holds the tables to what must be true between any two steps.
func (f *farm) check() {
	f.t.Helper()
	slots := map[uint32]ServiceKey{}
	for _, e := range f.keys.All() {
		if isVIPKey(e.Key) {
			continue
		}
		key := ServiceKey{Protocol: Protocol(e.Key.Protocol), Addr: e.Key.Addr, Port: e.Key.Port}
		row := &f.tables.Services[e.Service]
		if row.Id != e.Service {
			f.t.Errorf("%s: row %d says it is %d", key, e.Service, row.Id)
		}
		for _, p := range []bpf.Plan{row.Plan[row.Current&1], row.Flow} {
			for i := range p.Length {
				if other, taken := slots[p.Base+i]; taken {
					f.t.Fatalf("%s and %s share plan slot %d", key, other, p.Base+i)
				}
				slots[p.Base+i] = key
				if p.Kind == bpf.PlanSequence || p.Kind == bpf.PlanFlow { // sh and dh keep quiesced servers in their tables
					f.checkSlot(key, row, f.tables.Plans[p.Base+i])
				}
			}
		}
	}
}

func (f *farm) checkSlot(key ServiceKey, row *bpf.Service, id uint32) {
	f.t.Helper()
	if id == bpf.NoReal {
		return
	}
	if r := &f.tables.Reals[id]; r.Service != row.Id {
		f.t.Errorf("%s: its plan names real server %d of service %d", key, id, r.Service)
	} else if row.Flags&bpf.ServiceRemoved == 0 && r.Flags&bpf.RealUsable == 0 {
		f.t.Errorf("%s: its plan names real server %d, which takes no connections", key, id)
	}
}

// running runs the owner for tests of what others call.
func (f *farm) running() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	return ctx
}
