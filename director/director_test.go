// SPDX-License-Identifier: Apache-2.0

package director

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
)

func TestPlansFollowTheKernel(t *testing.T) {
	f := newFarm(t)
	s := web(80, "rr", 1, 1, 1)
	f.set(desired(s))
	if got := f.take(s.Key, 6); !bytes.Equal(got, []byte{3, 2, 1, 3, 2, 1}) {
		t.Errorf("rr chose %v: the last added comes first", got)
	}
	w := web(81, "wrr", 1, 2, 4)
	f.set(desired(s, w))
	want := []byte{3, 2, 1, 3, 3, 3, 2, 3, 2, 1, 3, 3}
	if got := f.take(w.Key, 12); !bytes.Equal(got, want) {
		t.Errorf("wrr chose %v, want %v", got, want)
	}
}

// What one plan has handed out is not handed out again by the next.
func TestPlanGoesOnWhereItWasLeft(t *testing.T) {
	f := newFarm(t)
	s := web(80, "rr", 1, 1, 1)
	f.set(desired(s))
	f.take(s.Key, 1)
	s.Reals[0].Weight = 2 // rr does not care, but it is an edit
	f.set(desired(s))
	if got := f.take(s.Key, 3); !bytes.Equal(got, []byte{2, 1, 3}) {
		t.Errorf("after an edit rr went on with %v, want 2 1 3", got)
	}
}

func TestUntouchedRowsStay(t *testing.T) {
	f := newFarm(t)
	a, b := web(80, "rr", 1, 1), web(81, "rr", 1, 1)
	f.set(desired(a, b))
	f.tables.Counts[0].Conns = 5
	f.tables.Traffic[0].N.Conns = 7
	before := append([]bpf.Real(nil), f.tables.Reals...)
	b.Reals[1].Weight = 9
	f.set(desired(a, b))
	changed := 0
	for i := range before {
		if before[i] != f.tables.Reals[i] {
			changed++
		}
	}
	if changed != 1 || f.tables.Counts[0].Conns != 5 || f.tables.Traffic[0].N.Conns != 7 {
		t.Errorf("one weight changed %d rows", changed)
	}
}

func TestUnreachableGetsNothing(t *testing.T) {
	f := newFarm(t)
	s := web(80, "rr", 1, 1, 1)
	f.set(desired(s))
	f.resolve(desired(s), "10.0.0.2")
	f.check()
	if got := f.take(s.Key, 4); bytes.Contains(got, []byte{2}) {
		t.Errorf("an unreachable real server was chosen: %v", got)
	}
	snapshot, err := f.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if r := snapshot.Services[0].Reals[1]; r.Reachable || r.Unreachable != "no answer to ARP" {
		t.Errorf("snapshot shows %+v", r)
	}
	f.resolve(desired(s))
	if got := f.take(s.Key, 3); !bytes.Contains(got, []byte{2}) {
		t.Errorf("reachable again, but not chosen: %v", got)
	}
}

// While an answer is awaited, the last address holds.
func TestPendingHopKeepsTheOld(t *testing.T) {
	f := newFarm(t)
	s := web(80, "rr", 1)
	f.set(desired(s))
	row := f.tables.Reals[0]
	f.setHops(map[netip.Addr]NextHop{s.Reals[0].Key.Addr: {Reason: "asked", Pending: true}})
	if f.tables.Reals[0] != row {
		t.Error("a pending next hop changed the row")
	}
}

func TestRemovedLivesOnWithItsConnections(t *testing.T) {
	f := newFarm(t)
	s := web(80, "rr", 1, 1)
	f.set(desired(s))
	id := f.services[s.Key].find(s.Reals[1].Key).id
	f.tables.Counts[id].Conns = 1
	generation := f.tables.Reals[id].Generation
	f.set(desired(web(80, "rr", 1)))
	f.reap()
	if r := f.tables.Reals[id]; r.Flags&bpf.RealNextHop == 0 || r.Flags&bpf.RealUsable != 0 || r.Generation != generation {
		t.Errorf("removed with a connection left: %+v", r)
	}
	f.set(desired(s))
	if got := f.services[s.Key].find(s.Reals[1].Key).id; got != id {
		t.Errorf("added again it is row %d, its connections are in %d", got, id)
	}
	f.set(desired(web(80, "rr", 1)))
	f.tables.Counts[id].Conns = 0
	f.reap()
	if f.tables.Reals[id].Addr != [16]byte{} {
		t.Error("row is not free though its last connection has gone")
	}
}

func TestRemovedServiceEndsWithItsConnections(t *testing.T) {
	f := newFarm(t)
	s := web(80, "rr", 1)
	f.set(desired(s))
	f.tables.Counts[0].Conns = 1
	f.set(desired())
	f.reap()
	row := f.row(s.Key)
	if row == nil || row.Flags&bpf.ServiceRemoved == 0 {
		t.Fatalf("removed service with a connection: row %+v", row)
	}
	f.set(desired(s))
	if row := f.row(s.Key); row.Flags&bpf.ServiceRemoved != 0 {
		t.Error("added again, but still marked as removed")
	}
	f.set(desired())
	f.tables.Counts[0].Conns = 0
	f.reap()
	if f.row(s.Key) != nil || len(f.keys.All()) != 0 {
		t.Errorf("keys are left: %v", f.keys.All())
	}
}

// A new process finds everything where the old one left it.
func TestRestart(t *testing.T) {
	f := newFarm(t)
	a, b := web(80, "wrr", 1, 2), web(81, "rr", 1, 1)
	f.set(desired(a, b))
	f.tables.Counts[1].Conns = 3
	f.tables.Traffic[2].N = bpf.Counters{Conns: 4, InPackets: 9}
	reals := append([]bpf.Real(nil), f.tables.Reals...)
	g := farmOn(t, f.tables)
	if err := g.apply(desired(a, b)); err != nil {
		t.Fatal(err)
	}
	g.check()
	if !reflect.DeepEqual(reals, g.tables.Reals) {
		t.Error("a restart changed rows of real servers")
	}
	if c := g.services[a.Key].counters(); c.Conns != 4 || c.InPkts != 9 {
		t.Errorf("counters after a restart: %+v", c)
	}
	for id, r := range g.services {
		for _, x := range r.reals {
			if !x.hop.Resolved {
				t.Errorf("%s: %s lost its next hop", id, x.want.Key)
			}
		}
	}
	// What the new configuration does not name any more leaves.
	h := farmOn(t, f.tables)
	if err := h.apply(desired(web(81, "rr", 1))); err != nil {
		t.Fatal(err)
	}
	h.tables.Counts[1].Conns = 0
	h.reap()
	h.check()
	if h.row(a.Key) != nil {
		t.Error("a service that is not configured any more has a row")
	}
}

func TestRefused(t *testing.T) {
	good := web(80, "rr", 1)
	many := make([]Service, 9)
	for i := range many {
		many[i] = web(uint16(100+i), "rr", 1)
	}
	big := web(80, "rr", make([]uint32, 33)...)
	for i := range big.Reals {
		big.Reals[i].Weight = 1
	}
	for name, c := range map[string]struct {
		want Desired
		text string
	}{
		"services full":      {desired(many...), "limits.services"},
		"real servers full":  {desired(big), "limits.real_servers"},
		"plan slots full":    {desired(web(80, "wrr", 9001, 9002)), "limits.plan_slots"},
		"twice":              {desired(good, good), "twice"},
		"unknown scheduler":  {desired(web(80, "nonesuch", 1)), "known: "},
		"no such interface":  {Desired{Interfaces: []Interface{{Name: "eth9"}}, Timeouts: DefaultTimeouts}, "eth9"},
		"port of the server": {desired(Service{Key: good.Key, Scheduler: "rr", Reals: []RealServer{{Key: RealKey{good.Reals[0].Key.Addr, 81}, Method: DirectRouting}}}), "cannot change the port"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFarm(t)
			f.set(desired(good))
			before := fmt.Sprint(f.tables.Services, f.tables.Reals, f.tables.Plans, f.keys.All(), f.plane.attached)
			err := f.apply(c.want)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error is %v, want something about %q", err, c.text)
			}
			if after := fmt.Sprint(f.tables.Services, f.tables.Reals, f.tables.Plans, f.keys.All(), f.plane.attached); after != before {
				t.Error("a refused state changed the tables")
			}
		})
	}
}

func TestAttachFailureRollsBack(t *testing.T) {
	f := newFarm(t)
	f.plane.attach = func(index int, _ AttachMode) error {
		if index == 3 {
			return errors.New("device busy")
		}
		return nil
	}
	want := desired()
	want.Interfaces = []Interface{{Name: "eth0"}, {Name: "eth1"}}
	if err := f.apply(want); err == nil || !strings.Contains(err.Error(), "interface eth1: device busy") {
		t.Errorf("error is %v", err)
	}
	if len(f.plane.attached) != 0 {
		t.Errorf("left attached: %v", f.plane.attached)
	}
}

func TestModeChange(t *testing.T) {
	f := newFarm(t)
	f.set(desired())
	want := desired()
	want.Interfaces[0].Mode = AttachGeneric
	f.set(want)
	if f.plane.attached[2] != AttachGeneric {
		t.Errorf("attached %v", f.plane.attached)
	}
	f.plane.attach = func(_ int, mode AttachMode) error {
		if mode == AttachNative {
			return errors.New("driver cannot")
		}
		return nil
	}
	want.Interfaces[0].Mode = AttachNative
	if err := f.apply(want); err == nil {
		t.Error("no error")
	}
	if f.plane.attached[2] != AttachGeneric {
		t.Errorf("the old mode did not come back: %v", f.plane.attached)
	}
}

// Whatever came before, the same configuration ends in the same choices.
func TestAnySequenceOfStates(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	f := newFarm(t)
	for step := range 300 {
		var services []Service
		for port := range uint16(1 + r.IntN(6)) {
			weights := make([]uint32, r.IntN(5))
			for i := range weights {
				weights[i] = uint32(r.IntN(4))
			}
			names := []string{"rr", "wrr", "wlc", "sh"}
			services = append(services, web(80+port, names[r.IntN(len(names))], weights...))
		}
		f.set(desired(services...))
		for id := range f.tables.Counts {
			f.tables.Counts[id].Conns = uint64(r.IntN(2))
		}
		f.reap()
		f.follow()
		if t.Failed() {
			t.Fatalf("after step %d", step)
		}
	}
	clear(f.tables.Counts)
	f.set(desired())
	f.reap()
	if f.arena.used != 0 || f.realIDs.n != 0 || f.serviceIDs.n != 0 || len(f.keys.All()) != 0 {
		t.Errorf("left over: %d plan slots, %d real servers, %d services, keys %v", f.arena.used, f.realIDs.n, f.serviceIDs.n, f.keys.All())
	}
}

func TestConnectionsAndStop(t *testing.T) {
	f := newFarm(t)
	s := web(80, "rr", 1)
	f.set(desired(s))
	slot := &f.tables.Conns4[5]
	slot.C = bpf.Conn{Tag: 2 | 6<<8, Word: 1, Ports: 0x5000_3930, Real: 0, Generation: 1}
	slot.Saddr, slot.Daddr = 0x0100000a, 0x0a0200c0
	f.clock.now = 1000
	ctx := f.running()
	var got []Conn
	if err := f.Connections(ctx, func(c *Conn) error { got = append(got, *c); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].State != "ESTABLISHED" || got[0].Client.String() != "10.0.0.1:12345" ||
		got[0].Virtual.String() != "192.0.2.10:80" || got[0].Real.String() != "10.0.0.1:80" || got[0].Expires != 899*time.Second {
		t.Errorf("connections: %+v", got)
	}
	stop := errors.New("enough")
	if err := f.Connections(ctx, func(*Conn) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of the reader is %v", err)
	}
}
