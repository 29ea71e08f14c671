// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
)

// tunnelReal is a real server by tun.
func tunnelReal(address string, o TunnelOptions) RealServer {
	return RealServer{Key: RealKey{addr(address), 80}, Method: Tunnel, Tunnel: o, Weight: 1}
}

// sourced is a next hop whose route prefers a source address.
func sourced(a netip.Addr, source string, mtu int) NextHop {
	hop := hopFor(a)
	hop.Source, hop.MTU = addr(source), mtu
	return hop
}

// theReal is the only real server of the only service.
func (w *world) theReal() *real {
	w.t.Helper()
	r := w.d.services[key4(1)].reals
	if len(r) != 1 {
		w.t.Fatalf("%d real servers", len(r))
	}
	return r[0]
}

func (w *world) mustTunnel(what string, want bpf.Tunnel, mtu int) {
	w.t.Helper()
	row := w.theReal().row
	if !row.SameTunnel(want.Row()) {
		got, _ := row.TunnelWritten()
		w.t.Errorf("%s: tunnel %+v, want %+v", what, got, want)
	}
	expect(w.t, what+": MTU", int(row.Mtu), mtu)
}

// TestTunnelOptions: each type, over each family, in the row and in what is shown.
func TestTunnelOptions(t *testing.T) {
	for _, c := range []struct {
		options TunnelOptions
		text    string
		shim    int
	}{
		{TunnelOptions{}, "ipip", 0},
		{TunnelOptions{Type: GUE, Port: 6080}, "gue:6080", 12},
		{TunnelOptions{Type: GUE, Port: 6080, Checksum: true}, "gue:6080+csum", 12},
		{TunnelOptions{Type: GRE}, "gre", 4},
		{TunnelOptions{Type: GRE, Checksum: true}, "gre+csum", 8},
	} {
		for _, ends := range [][2]string{{"10.0.0.1", "10.0.0.254"}, {"fd00::1", "fd00::254"}} {
			w := newWorld(t, small)
			w.mustWant(one("rr", tunnelReal(ends[0], c.options)))
			w.setHops(map[netip.Addr]NextHop{addr(ends[0]): sourced(addr(ends[0]), ends[1], 1500)})
			header := 20
			if addr(ends[0]).Is6() {
				header = 40
			}
			w.mustTunnel(c.text, bpf.Tunnel{Type: bpf.TunnelType(c.options.Type), Source: addr(ends[1]), Destination: addr(ends[0]),
				Inner: key4(1).Addr, Port: c.options.Port, Checksum: c.options.Checksum}, 1500-header-c.shim)
			state := w.theReal().state()
			expect(t, c.text+": is reachable", state.Reachable, true)
			expect(t, c.text+": tunnel", state.Tunnel.String(), c.text)
			expect(t, c.text+": MTU", state.MTU, 1500-header-c.shim)
			expect(t, c.text+": packets look for errors", w.tables.Settings.Tunnels, 1)
			w.mustWant(Desired{})
			w.tick()
			w.tick()
			expect(t, c.text+": packets look for errors about no tunnel", w.tables.Settings.Tunnels, 0)
		}
	}
}

// TestTunnelFollows: the tunnel is another one with its options, and with its route's source and MTU.
func TestTunnelFollows(t *testing.T) {
	w := newWorld(t, small)
	a := addr("10.0.0.1")
	want := bpf.Tunnel{Source: addr("10.0.0.254"), Destination: a, Inner: key4(1).Addr}
	w.mustWant(one("rr", tunnelReal("10.0.0.1", TunnelOptions{})))
	w.setHops(map[netip.Addr]NextHop{a: sourced(a, "10.0.0.254", 1500)})
	w.mustTunnel("ipip", want, 1480)
	w.mustWant(one("rr", tunnelReal("10.0.0.1", TunnelOptions{Type: GUE, Port: 7000})))
	want.Type, want.Port = bpf.TunnelGUE, 7000
	w.mustTunnel("gue", want, 1468)
	w.mustWant(one("rr", tunnelReal("10.0.0.1", TunnelOptions{Type: GUE, Port: 7001, Checksum: true})))
	want.Port, want.Checksum = 7001, true
	w.mustTunnel("another port, checksum", want, 1468)
	w.setHops(map[netip.Addr]NextHop{a: sourced(a, "10.0.0.253", 9000)})
	want.Source = addr("10.0.0.253")
	w.mustTunnel("another source and MTU", want, 8968)
	w.mustWant(one("rr", real4(1, 1)))
	expect(t, "by dr: MTU", w.theReal().row.Mtu, 9000)
	expect(t, "by dr: flags of a tunnel", w.theReal().row.Tunnel, bpf.RealTunnel{})
}

// TestTunnelRestart: a new process leaves what is as it should be, and changes what is not.
func TestTunnelRestart(t *testing.T) {
	a := addr("fd00::1")
	options := TunnelOptions{Type: GUE, Port: 6080, Checksum: true}
	w := newWorld(t, small)
	w.mustWant(one("rr", tunnelReal("fd00::1", options)))
	w.setHops(map[netip.Addr]NextHop{a: sourced(a, "fd00::254", 1500)})
	row := *w.theReal().row
	w.restart()
	w.mustWant(one("rr", tunnelReal("fd00::1", options)))
	w.setHops(w.hops)
	expect(t, "row after a restart", *w.theReal().row, row)
	w.restart()
	w.mustWant(one("rr", tunnelReal("fd00::1", TunnelOptions{Type: GRE})))
	w.mustTunnel("another type, before the next hops are known", bpf.Tunnel{Type: bpf.TunnelGRE, Source: addr("fd00::254"),
		Destination: a, Inner: key4(1).Addr}, 1456)

	// One that is not wanted any more keeps its tunnel for the connections that it has.
	w.restart()
	w.d.services = map[ServiceKey]*service{}
	w.theRealHas(1)
	row = w.tables.Reals[row0(w)]
	w.mustWantLoosely(Desired{})
	w.d.setHops(w.hops)
	expect(t, "tunnel of a removed real server", w.tables.Reals[row0(w)].Tunnel, row.Tunnel)
}

// row0 is the row that is in use.
func row0(w *world) int {
	for i := range w.tables.Reals {
		if w.tables.Reals[i].Addr != [16]byte{} {
			return i
		}
	}
	w.t.Fatal("no row is in use")
	return 0
}

// theRealHas gives the real server of the tables connections.
func (w *world) theRealHas(n uint64) { w.tables.Counts[row0(w)].Conns = n }

// mustWantLoosely is mustWant where connections are only counted.
func (w *world) mustWantLoosely(want Desired) {
	w.t.Helper()
	if err := w.d.apply(want); err != nil {
		w.t.Fatal(err)
	}
}

// TestMethodRefusals: what a next hop cannot be by a method is said.
func TestMethodRefusals(t *testing.T) {
	a, vip := addr("10.0.0.1"), key4(1).Addr
	local := NextHop{Resolved: true, Local: true, Link: 1, MTU: 65536}
	nat := real4(1, 1)
	nat.Method = NAT
	itself := real4(1, 1)
	itself.Method = Local
	for name, c := range map[string]struct {
		real   RealServer
		hop    NextHop
		vip    *NextHop
		reason string
	}{
		"tun to oneself":            {tunnelReal("10.0.0.1", TunnelOptions{}), local, nil, "10.0.0.1 is this host itself: method tun goes to another one, use local"},
		"nat to oneself":            {nat, local, nil, "10.0.0.1 is this host itself: method nat goes to another one, use local"},
		"local elsewhere":           {itself, hopFor(a), &local, "10.0.0.1 is no address of this host, and method local is for those"},
		"local, service elsewhere":  {itself, local, new(hopFor(vip)), "192.0.0.1 is no address of this host: its stack would not take the packets"},
		"local, service not known":  {itself, local, nil, "it is being looked up whether 192.0.0.1 is an address of this host"},
		"dr here, service nowhere":  {real4(1, 1), local, &NextHop{Reason: "no route"}, "192.0.0.1 is no address of this host"},
		"tun without source":        {tunnelReal("10.0.0.1", TunnelOptions{}), hopFor(a), nil, "the route to 10.0.0.1 has no source address for a tunnel"},
		"tun from the other family": {tunnelReal("10.0.0.1", TunnelOptions{}), sourced(a, "fd00::1", 1500), nil, "has no source address"},
		"tun by a narrow way":       {tunnelReal("10.0.0.1", TunnelOptions{Type: GRE}), sourced(a, "10.0.0.2", 80), nil, "the MTU to 10.0.0.1, 80, leaves 56 bytes in a tunnel of type gre, less than the 68 that IP needs"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, small)
			w.mustWant(one("rr", c.real))
			hops := map[netip.Addr]NextHop{a: c.hop}
			if c.vip != nil {
				hops[vip] = *c.vip
			}
			w.setHops(hops)
			state := w.theReal().state()
			expect(t, "reachable", state.Reachable, false)
			if !strings.Contains(state.Unreachable, c.reason) {
				t.Errorf("reason %q, want %q", state.Unreachable, c.reason)
			}
		})
	}
	six := one("rr", tunnelReal("10.0.0.1", TunnelOptions{}))
	six.Services[0].Key.Addr = addr("2001:db8::1")
	w := newWorld(t, small)
	w.mustWant(six)
	w.setHops(map[netip.Addr]NextHop{a: sourced(a, "10.0.0.2", 1299)})
	state := w.d.services[six.Services[0].Key].reals[0].state()
	if !strings.Contains(state.Unreachable, "leaves 1279 bytes") {
		t.Errorf("IPv6 by an MTU of 1299: %+v", state)
	}
}

// TestLocal: a real server that is the director itself, by its method or by its address.
func TestLocal(t *testing.T) {
	a, vip := addr("10.0.0.1"), key4(1).Addr
	local := NextHop{Resolved: true, Local: true, Link: 1, MTU: 65536}
	for _, method := range []Method{Local, DirectRouting} {
		t.Run(method.String(), func(t *testing.T) {
			w := newWorld(t, small)
			r := real4(1, 1)
			r.Method = method
			w.mustWant(one("rr", r))
			w.setHops(map[netip.Addr]NextHop{a: local})
			expect(t, "the service's address is looked up", w.d.watched[vip], 1)
			w.setHops(map[netip.Addr]NextHop{a: local, vip: local})
			expect(t, "flags", w.theReal().row.Flags&(bpf.RealLocal|bpf.RealNextHop), bpf.RealLocal|bpf.RealNextHop)
			state := w.theReal().state()
			expect(t, "reachable", state.Reachable, true)
			expect(t, "local", state.Local, true)
			expect(t, "MTU", state.MTU, 0)
			expect(t, "listed method", state.Method, method)
			expect(t, "places to transmit by", len(w.d.txPorts), 0)

			row := *w.theReal().row
			w.restart()
			w.mustWant(one("rr", r))
			w.setHops(w.hops)
			expect(t, "row after a restart", *w.theReal().row, row)

			w.setHops(map[netip.Addr]NextHop{a: hopFor(a), vip: local})
			expect(t, "flag when it moved to another host", w.theReal().row.Flags&bpf.RealLocal, 0)
			expect(t, "reachable there", w.theReal().state().Reachable, method == DirectRouting)
			w.mustWant(Desired{})
			w.tick()
			w.tick()
			expect(t, "addresses that are looked up in the end", len(w.d.watched), 0)
		})
	}
}

// TestPathMTU: what an error lowered is said once, shown, and forgotten after a time.
func TestPathMTU(t *testing.T) {
	a := addr("10.0.0.1")
	w := newWorld(t, small)
	w.mustWant(one("rr", tunnelReal("10.0.0.1", TunnelOptions{})))
	w.setHops(map[netip.Addr]NextHop{a: sourced(a, "10.0.0.254", 1500)})
	row := w.theReal().row
	learn := func(mtu uint16) { row.Mtu, row.Tunnel.Learned = mtu, w.clock.now.Load()|1 } // as tunnel_icmp.h does
	told := func() int { return strings.Count(w.log.String(), "event=path_mtu real=10.0.0.1 mtu=1180") }
	learn(1180)
	w.d.forgetPaths()
	w.d.forgetPaths()
	expect(t, "log lines", told(), 1)
	expect(t, "shown MTU", w.theReal().state().MTU, 1180)
	w.setHops(w.hops)
	expect(t, "MTU with the same next hop", row.Mtu, 1180)
	w.clock.advance(pathMTULife - time.Second)
	w.d.forgetPaths()
	expect(t, "MTU before its time is over", row.Mtu, 1180)
	w.clock.advance(2 * time.Second)
	w.d.forgetPaths()
	expect(t, "MTU afterwards", row.Mtu, 1480)
	expect(t, "time that it was learned", row.Tunnel.Learned, 0)
	learn(1180)
	w.d.forgetPaths()
	expect(t, "log lines when it is learned again", told(), 2)
	w.setHops(map[netip.Addr]NextHop{a: sourced(a, "10.0.0.254", 1400)})
	expect(t, "MTU of another route", row.Mtu, 1380)
	learn(1180)
	w.clock.fault.Store(true)
	w.d.forgetPaths()
	expect(t, "MTU without a clock", row.Mtu, 1180)
}
