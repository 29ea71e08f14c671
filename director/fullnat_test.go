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

// byFullNAT is a state with a service whose real servers, by number, are by fullnat.
func byFullNAT(sources []netip.Addr, reals ...int) Desired {
	want := one("rr")
	for _, i := range reals {
		r := real4(i, 1)
		r.Method = FullNAT
		want.Services[0].Reals = append(want.Services[0].Reals, r)
	}
	want.Locals.Sources = sources
	return want
}

// fullHops are next hops of real4's real servers, with a route that prefers a source.
func fullHops(source netip.Addr, reals ...int) map[netip.Addr]NextHop {
	hops := map[netip.Addr]NextHop{}
	for _, i := range reals {
		a := real4(i, 1).Key.Addr
		hop := hopFor(a)
		hop.Source = source
		hops[a] = hop
	}
	return hops
}

// newHost is a world on a host with these addresses.
func newHost(t *testing.T, own ...string) *world {
	w := newWorld(t, small)
	w.own = map[netip.Addr]bool{}
	for _, a := range own {
		w.own[addr(a)] = true
	}
	w.restart()
	return w
}

// sourcesOf are the sources that new connections to the first service's first real server have.
func (w *world) sourcesOf(t *testing.T) string {
	t.Helper()
	r := w.d.services[key4(1)].reals[0]
	if !r.hop.Resolved {
		return r.hop.Reason
	}
	seen := map[string]bool{}
	for _, n := range w.tables.Pools[r.row.Pool].Source {
		seen[netip.AddrFrom16(w.tables.Sources[n].Addr).Unmap().String()] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), " ")
}

// TestSources: they are the service's, else all services', else the route's, and this host's only.
func TestSources(t *testing.T) {
	w := newHost(t, "10.0.0.250", "10.0.0.251", "10.0.0.252", "fd00::1")
	want := byFullNAT(nil, 1)
	w.mustWant(want)
	w.setHops(fullHops(netip.Addr{}, 1))
	expect(t, "without any", w.sourcesOf(t), "fullnat has no source: the route to 10.0.0.1 prefers none (fullnat.sources can name some)")
	w.setHops(fullHops(addr("10.0.0.250"), 1))
	expect(t, "the route's", w.sourcesOf(t), "10.0.0.250")
	for _, c := range []struct {
		what         string
		all, service []string
		want         string
	}{
		{"those of all services", []string{"10.0.0.251", "10.0.0.252", "fd00::1"}, nil, "10.0.0.251 10.0.0.252"},
		{"of the other family only", []string{"fd00::1"}, nil, "10.0.0.250"},
		{"the service's", []string{"10.0.0.251"}, []string{"10.0.0.252"}, "10.0.0.252"},
		{"one that is not ours", []string{"10.0.0.251", "10.9.9.9"}, nil, "10.0.0.251"},
		{"none that is ours", []string{"10.9.9.9", "10.9.9.8"}, nil, "fullnat has no source: 10.9.9.9, 10.9.9.8 is no address of this host"},
		{"none", nil, nil, "10.0.0.250"},
	} {
		want.Locals.Sources, want.Services[0].Sources = addrs(c.all), addrs(c.service)
		w.mustWant(want)
		expect(t, c.what, w.sourcesOf(t), c.want)
	}
	expect(t, "warnings of 10.9.9.9", strings.Count(w.log.String(), "source=10.9.9.9"), 1)
}

func addrs(texts []string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, addr(text))
	}
	return list
}

// TestSourceComes: an address that this host gets is used from then on, and one that it loses is not.
func TestSourceComes(t *testing.T) {
	w := newHost(t, "10.0.0.250")
	w.mustWant(byFullNAT(addrs([]string{"10.0.0.250", "10.0.0.251"}), 1))
	w.setHops(fullHops(netip.Addr{}, 1))
	expect(t, "with one", w.sourcesOf(t), "10.0.0.250")
	w.own[addr("10.0.0.251")] = true
	w.tick()
	expect(t, "with both", w.sourcesOf(t), "10.0.0.250 10.0.0.251")
	delete(w.own, addr("10.0.0.250"))
	w.tick()
	expect(t, "with the other", w.sourcesOf(t), "10.0.0.251")
	w.plane.fault = func(string) error { return errors.New("netlink is gone") }
	w.tick()
	expect(t, "when they are not known", w.sourcesOf(t), "10.0.0.251")
	if !strings.Contains(w.log.String(), "netlink is gone") {
		t.Errorf("log %q", w.log)
	}
	w.plane.fault = nil
	delete(w.own, addr("10.0.0.251"))
	w.tick()
	expect(t, "with none", w.sourcesOf(t), "fullnat has no source: 10.0.0.250, 10.0.0.251 is no address of this host")
	states := need(w.d.snapshot())(t).Sources
	expect(t, "sources", fmt.Sprint(states), "[{10.0.0.250 0 it is no address of this host} {10.0.0.251 0 it is no address of this host}]")
}

// need makes a value of a result: need(f())(t).
func need[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// establish stores connections by full-NAT with the number of a source.
func (w *world) establish(n int, source uint8) {
	w.t.Helper()
	for i := range n {
		id := w.connect(key4(1), client(i))
		for c := range w.everyConn() {
			if c.Real == id && c.Source == 0 {
				c.Source, c.Port = source, uint16(i+1)<<8
			}
		}
	}
}

// TestSourceNumbers: an address keeps its number over a restart and as long as a connection has it, and
// gives it back then.
func TestSourceNumbers(t *testing.T) {
	w := newHost(t, "10.0.0.250", "10.0.0.251", "10.0.0.252")
	w.mustWant(byFullNAT(addrs([]string{"10.0.0.250", "10.0.0.251"}), 1))
	w.setHops(fullHops(netip.Addr{}, 1))
	number := w.d.locals.numbers[addr("10.0.0.251")]
	w.establish(3, number)
	before := w.tables.Reals[0].Pool

	w.restart()
	expect(t, "number after a restart", w.d.locals.numbers[addr("10.0.0.251")], number)
	w.mustWant(byFullNAT(addrs([]string{"10.0.0.250", "10.0.0.251"}), 1))
	expect(t, "pool before the next hops are known", w.tables.Reals[0].Pool, before)
	w.setHops(fullHops(netip.Addr{}, 1))
	expect(t, "pool", w.tables.Reals[0].Pool, before)
	lines := w.locals(t)
	expect(t, "local ends", strings.Join(lines, " "), "10.0.0.251:1 10.0.0.251:2 10.0.0.251:3")

	w.restart()
	w.mustWant(byFullNAT(addrs([]string{"10.0.0.252"}), 1))
	w.setHops(fullHops(netip.Addr{}, 1))
	s := newSweeper(w.d)
	for range 3 {
		w.sweepOnce(s)
	}
	expect(t, "with connections", fmt.Sprint(need(w.d.snapshot())(t).Sources), "[{10.0.0.251 3 no real server has it} {10.0.0.252 0 }]")
	w.expire()
	for range 3 {
		w.sweepOnce(s)
	}
	expect(t, "when they have ended", fmt.Sprint(need(w.d.snapshot())(t).Sources), "[{10.0.0.252 0 }]")
	expect(t, "row of the number", w.tables.Sources[number], bpf.Source{})
}

// locals are the local ends of the connections, sorted.
func (w *world) locals(t *testing.T) (list []string) {
	t.Helper()
	ctx := t.Context()
	l := w.d.lister(w.clock.now.Load())
	if err := l.each(ctx, func(c *Conn) error {
		list = append(list, c.Local.String())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// TestTooManySources: what finds no number, or no pool, says so.
func TestTooManySources(t *testing.T) {
	sizes := small
	sizes.Reals = 2 * uint32(bpf.Pools)
	w := newWorld(t, sizes)
	var many []netip.Addr
	for i := range bpf.Sources {
		many = append(many, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	w.mustWant(byFullNAT(many, 1))
	w.setHops(fullHops(netip.Addr{}, 1))
	expect(t, "sources", w.sourcesOf(t), "more than 255 addresses are sources of fullnat")
	w.mustWant(byFullNAT(many[:bpf.Sources-1], 1))
	expect(t, "one less", strings.Count(w.sourcesOf(t), " "), bpf.Sources-2)
	for i := 1; i < bpf.Pools; i++ { // as if other real servers had them
		w.tables.Reals[bpf.Pools+i].Pool = uint8(i)
	}
	w.mustWant(byFullNAT(many[:2], 1))
	expect(t, "pools", w.sourcesOf(t), "fullnat has more than 255 different lists of sources")
}

// TestPortUse: the use of local ports is shown for each real server, whichever services share it, and
// warned of once each time that it comes to 80 percent.
func TestPortUse(t *testing.T) {
	sizes := small
	sizes.Conns4 = 256
	w := newWorld(t, sizes)
	want := byFullNAT(addrs([]string{"10.0.0.250", "10.0.0.251"}), 1)
	want.Locals.Ports = PortRange{2000, 2009}
	other := want.Services[0]
	other.Name, other.Key = "other", key4(2)
	want.Services = append(want.Services, other)
	w.mustWant(want)
	w.setHops(fullHops(netip.Addr{}, 1))
	use := func() string {
		t.Helper()
		s := need(w.d.snapshot())(t)
		expect(t, "use by the other service", *s.Services[1].Reals[0].Ports, *s.Services[0].Reals[0].Ports)
		return fmt.Sprint(*s.Services[0].Reals[0].Ports)
	}
	warned := func() int { return strings.Count(w.log.String(), "event=ports_scarce") }
	for i := range 15 {
		w.connect([]ServiceKey{key4(1), key4(2)}[i%2], client(i))
	}
	w.tick()
	expect(t, "use", use(), "{15 20}")
	expect(t, "warnings at 75 %", warned(), 0)
	w.connect(key4(1), client(15))
	w.tick()
	w.tick()
	expect(t, "use", use(), "{16 20}")
	expect(t, "warnings at 80 %", warned(), 1)
	w.expire()
	w.tick()
	expect(t, "use", use(), "{0 20}")
	for i := range 20 {
		w.connect(key4(1), client(i))
	}
	w.tick()
	expect(t, "warnings at the second time", warned(), 2)
	if !strings.Contains(w.log.String(), "protocol=tcp real=10.0.0.1:80 used=20 available=20") {
		t.Errorf("log %s", w.log)
	}
}

// TestPortsInForce: the range is what packets read, the default where none is said; what cannot be is
// refused.
func TestPortsInForce(t *testing.T) {
	w := newWorld(t, small)
	want := byFullNAT(nil, 1)
	w.mustWant(want)
	expect(t, "default", w.tables.Settings.LocalPorts, bpf.LocalPorts(1024, 31744))
	want.Locals.Ports = PortRange{1, 65535}
	w.mustWant(want)
	expect(t, "all", w.tables.Settings.LocalPorts, bpf.LocalPorts(1, 65535))
	want.Locals.Ports = PortRange{5, 4}
	want.Locals.Sources = addrs([]string{"0.0.0.0"})
	expectError(t, w.d.apply(want), nil, "local ports 5-4 are none", "source 0.0.0.0: unspecified address")
	expect(t, "after a refusal", w.tables.Settings.LocalPorts, bpf.LocalPorts(1, 65535))
}

// TestHairpinSources: real servers by nat have sources where there are some, for clients that are real
// servers themselves, and are reached without.
func TestHairpinSources(t *testing.T) {
	w := newWorld(t, small)
	want := byFullNAT(nil, 1)
	want.Services[0].Reals[0].Method = NAT
	w.mustWant(want)
	w.setHops(fullHops(netip.Addr{}, 1))
	expect(t, "reachable without", w.d.services[key4(1)].reals[0].hop.Resolved, true)
	expect(t, "pool", w.tables.Reals[0].Pool, 0)
	w.setHops(fullHops(addr("10.0.0.250"), 1))
	expect(t, "with the route's", w.sourcesOf(t), "10.0.0.250")
	if s := need(w.d.snapshot())(t); s.Services[0].Reals[0].Ports != nil {
		t.Error("the use of local ports is shown of a real server by nat")
	}
}
