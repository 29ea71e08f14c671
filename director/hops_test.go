// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"xdplvs/bpf"
)

// manyReals is a service with so many real servers.
func manyReals(n int) Desired {
	want := one("rr")
	for i := range n {
		want.Services[0].Reals = append(want.Services[0].Reals, real4(i, 1))
	}
	return want
}

func reachable(d *Director) int {
	n := 0
	for _, r := range d.everyReal() {
		if r.hop.Resolved {
			n++
		}
	}
	return n
}

// TestManyLinks: the data plane transmits on 64 interfaces. The real servers
// behind a 65th are unreachable, with a reason; places of interfaces that no real
// server is behind any more are given to others.
func TestManyLinks(t *testing.T) {
	const n = bpf.TxPorts + 6
	w := newWorld(t, bpf.Sizes{Conns4: 8, Conns6: 8, Overflow: 1, Services: 2, Reals: 256, Plans: 1 << 14, CPUs: 1})
	w.mustWant(manyReals(n))
	hops := map[netip.Addr]NextHop{}
	for i := range n {
		hop := hopFor(real4(i, 1).Key.Addr)
		hop.Link = 100 + i
		hops[real4(i, 1).Key.Addr] = hop
	}
	w.setHops(hops)
	expect(t, "reachable real servers", reachable(w.d), bpf.TxPorts)
	expect(t, "unused places in the map", slices.Index(w.plane.ports[:], 0), -1)
	refused := 0
	s, err := w.d.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Services[0].Reals {
		if strings.Contains(r.Unreachable, "more than 64 interfaces") {
			refused++
		}
	}
	expect(t, "real servers that have the reason", refused, n-bpf.TxPorts)

	// Interfaces come and go, as containers do: new numbers each time.
	for round := range 5 {
		hops = maps.Clone(hops)
		for i := range 60 {
			hop := hops[real4(i, 1).Key.Addr]
			hop.Link = 1000*(round+1) + i
			hops[real4(i, 1).Key.Addr] = hop
		}
		for i := 60; i < n; i++ {
			hops[real4(i, 1).Key.Addr] = NextHop{Reason: "interface is down"}
		}
		w.setHops(hops)
		w.tick()
		expect(t, "reachable real servers", reachable(w.d), 60)
	}
}

// TestPortIsWrittenAgain: the kernel empties a place of the map when the
// interface goes. When it is back, maybe with the same number, it is written anew.
func TestPortIsWrittenAgain(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	a := real4(1, 1).Key.Addr
	w.resolve(a)
	w.setHops(map[netip.Addr]NextHop{a: {Reason: "link eth0 is gone"}})
	*w.plane.ports = portMap{}
	w.resolve(a)
	expect(t, "interface of the place", w.plane.ports[0], 2)
}

// TestHopIsNotRewritten: what stays as it is costs no packet.
func TestHopIsNotRewritten(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1), real4(2, 1)))
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
	plan := w.d.services[key4(1)].row.Plan
	rows := fmt.Sprint(w.tables.Reals)
	w.plane.fault = func(what string) error { return errors.New("nothing is to be done") }
	w.setHops(maps.Clone(w.hops))
	expect(t, "rows", fmt.Sprint(w.tables.Reals), rows)
	expect(t, "plans", w.d.services[key4(1)].row.Plan, plan)
}

// TestNextHopRefusals: each with its reason, and never half an address.
func TestNextHopRefusals(t *testing.T) {
	a := real4(1, 1).Key.Addr
	good := hopFor(a)
	for name, c := range map[string]struct {
		change func(*NextHop)
		reason string
	}{
		"no address":         {func(h *NextHop) { h.DstMAC = [6]byte{} }, "link-layer address is 0"},
		"three tags":         {func(h *NextHop) { h.VLAN, h.TPID = []uint16{1, 2, 3}, []uint16{1, 2, 3} }, "3 VLAN tags"},
		"tags without types": {func(h *NextHop) { h.VLAN = []uint16{1, 2} }, "VLAN tags"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, small)
			w.mustWant(one("rr", real4(1, 1)))
			w.resolve(a)
			hop := good
			c.change(&hop)
			w.setHops(map[netip.Addr]NextHop{a: hop})
			r := w.d.services[key4(1)].reals[0]
			expect(t, "resolved", r.hop.Resolved, false)
			if !strings.Contains(r.hop.Reason, c.reason) {
				t.Errorf("reason %q, want %q", r.hop.Reason, c.reason)
			}
			w.resolve(a)
			expect(t, "resolved again", r.hop.Resolved, true)
		})
	}
}

// TestLargeMTU: a row holds 16 bits.
func TestLargeMTU(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	hop := hopFor(real4(1, 1).Key.Addr)
	hop.MTU = 65536 // the loopback device's
	w.setHops(map[netip.Addr]NextHop{real4(1, 1).Key.Addr: hop})
	expect(t, "MTU", w.d.services[key4(1)].reals[0].row.Mtu, 65535)
}

// TestTargets: every address once, that of a removed real server until its row is
// free, and nothing when nothing changed.
func TestTargets(t *testing.T) {
	w := newWorld(t, small)
	published := func() string {
		select {
		case list := <-w.d.Targets():
			var names []string
			for _, a := range list {
				names = append(names, a.String())
			}
			return fmt.Sprint(len(names)) + " " + strings.Join(names, " ")
		default:
			return "nothing"
		}
	}
	w.mustWant(Desired{})
	expect(t, "of an empty state", published(), "0 ")
	want := one("rr", real4(1, 1))
	second := want.Services[0]
	second.Key.Port = 81
	second.Reals = []RealServer{{Key: RealKey{real4(1, 1).Key.Addr, 81}, Method: DirectRouting, Weight: 1}}
	want.Services = append(want.Services, second)
	w.mustWant(want)
	expect(t, "of one address", published(), "1 10.0.0.1")
	w.mustWant(want)
	expect(t, "of the same", published(), "nothing")
	w.mustWant(Desired{Services: want.Services[:1]})
	expect(t, "with one less of the address", published(), "nothing")
	w.tick()
	w.tick()
	expect(t, "with the row free", published(), "nothing")
	w.mustWant(Desired{})
	expect(t, "with the row kept", published(), "nothing")
	w.tick()
	w.tick()
	expect(t, "with no address", published(), "0 ")
}
