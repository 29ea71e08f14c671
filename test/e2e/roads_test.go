// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// method is a forwarding method, and what a network needs for it.
type method struct {
	name    string // as in the configuration
	variant string // of the method, for the test's name
	keys    string // further ones of a service
	direct  bool   // real servers answer clients themselves
	mixed   bool   // real servers have addresses of the other family than the service
	shim    int    // by tun: bytes between the IP headers
	prepare func(*farm)
}

var (
	byDR      = method{name: "dr", direct: true}
	byNAT     = method{name: "nat", prepare: (*farm).routeByDirector}
	byFullNAT = method{name: "fullnat"}
	byTunnel  = method{name: "tun", direct: true, prepare: (*farm).decapsulate}
	byLocal   = method{name: "local", prepare: (*farm).serveItself}

	methods = []method{byDR, byNAT, byFullNAT, byTunnel, byLocal}
)

// added is by how many bytes a packet to the address becomes longer on its way to a real server.
func (m method) added(vip netip.Addr) int {
	switch {
	case m.name != "tun":
		return 0
	case vip.Is4() != m.mixed:
		return 20 + m.shim
	default:
		return 40 + m.shim
	}
}

// routeByDirector sends answers through the director.
func (f *farm) routeByDirector() {
	for _, r := range f.reals {
		f.defaultRoute(r.Host, director4.String(), director6.String())
	}
}

// serveItself makes the director the only real server.
func (f *farm) serveItself() {
	f.reals = []*realServer{f.serveOn(f.director, "rs1", director4, director6)}
}

// netWay is where clients and real servers are: in different networks.
type netWay struct {
	name       string
	build      func(*farm)
	direct     func(*farm) // how answers reach clients past the director, where a method wants that
	interfaces string
}

var netWays = []netWay{
	{"two interfaces", twoNetworks, router, "eth0, eth1"},
	{"one interface", oneWire, onLink, "eth0"},
	{"two interfaces, generic", twoNetworks, router, "{name: eth0, mode: generic}, {name: eth1, mode: generic}"},
}

func twoNetworks(f *farm) {
	f.addOutside()
	f.addInside()
}

// oneWire has both networks on one switch, and the director with one interface.
func oneWire(f *farm) {
	f.sw = get(f.lab.Switch("sw"))(f.t)
	f.clientEnd = f.connect(f.client, f.sw, "eth0", "10.1.0.1/24", "fd01::1/64")
	f.directorEnd = f.connect(f.director, f.sw, "eth0", outside4.String()+"/24", outside6.String()+"/64",
		director4.String()+"/24", director6.String()+"/64")
	f.routeVIPs(outside4, outside6)
	for i := range 3 {
		f.addReal(i)
	}
}

// onLink tells everybody that the other network is on the same wire.
func onLink(f *farm) {
	for _, r := range f.reals {
		for i, there := range prefixes("10.1.0.0/24", "fd01::/64") {
			must(f.t, r.AddRoute(there, netip.Addr{}, "eth0"))
			must(f.t, f.client.AddRoute(prefixes("10.0.0.0/24", "fd00::/64")[i], netip.Addr{}, "eth0"))
		}
	}
}

// serves are services by the method with a real server each, on the ports that those listen on.
func (m method) services(reals int) []service {
	weights := make([]int, reals)
	for i := range weights {
		weights[i] = 1
	}
	keys := "method: " + m.name
	if m.keys != "" {
		keys += ", " + m.keys
	}
	list := join(both("web", "tcp", webPort, "rr", weights...), both("dns", "udp", dnsPort, "rr", weights...))
	for i := range list {
		list[i].mixed = m.mixed
	}
	return with(keys, list)
}

// farm has services by the method, at work.
func (m method) farm(t *testing.T, way netWay) (*farm, *daemon) {
	f := newLab(t)
	way.build(f)
	if m.direct && way.direct != nil {
		way.direct(f)
	}
	if m.prepare != nil {
		m.prepare(f)
	}
	services := m.services(len(f.reals))
	if m.name == "nat" || m.name == "fullnat" {
		services = byMethod(m.name, "rr", 1, 1, 1)
	}
	f.writeConfig(mapPorts(f.config(way.interfaces, services...)))
	return f, f.start()
}

// on runs a test with a farm of its own.
func (m method) on(t *testing.T, way netWay, test func(t *testing.T, f *farm, d *daemon)) {
	t.Run(m.name+m.variant+", "+way.name, func(t *testing.T) {
		f, d := m.farm(t, way)
		test(t, f, d)
		if t.Failed() {
			t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
		}
	})
}

// mustReachAll fails unless the real servers have about even shares. (Which one each connection gets
// test/conformance compares; on a busy machine one may begin twice.)
func (f *farm) mustReachAll(ask asker, vip netip.Addr, port uint16) {
	f.t.Helper()
	got := f.spread(ask, vip, port, 5*len(f.reals))
	for i := range f.reals {
		if got[realName(i)] < 3 {
			f.t.Errorf("questions to %s were spread %v", netip.AddrPortFrom(vip, port), got)
			return
		}
	}
}

// mustCarry fails unless so many bytes arrive whole in both directions.
func (f *farm) mustCarry(vip netip.Addr, down, up int64) {
	f.t.Helper()
	must(f.t, getBytes(f.client.HTTPClient(carryTime(down)), vip, down))
	must(f.t, putBytes(f.client.HTTPClient(carryTime(up)), vip, up))
}

// carryTime is how long so many bytes may take, even on a busy machine: 1 MB/s.
func carryTime(n int64) time.Duration { return 6*patience + time.Duration(n)*time.Microsecond }

// By every method, over one interface and over two: a large transfer is whole in both directions, and many small ones at a
// time are; a datagram of every size comes back; however a connection ends, its port can be used again at once; and when
// the way to the real servers becomes narrow, clients are told.
func TestRoads(t *testing.T) {
	t.Parallel()
	for i, way := range netWays[:2] {
		much := allTraffic()
		if i > 0 && !fullSize() {
			much.large /= 10
		}
		for _, m := range methods {
			m.on(t, way, func(t *testing.T, f *farm, _ *daemon) {
				for _, family := range families {
					t.Run(family.name, func(t *testing.T) { f.on(t).mustGo(family.vip, m, much) })
				}
				f.mustRecountSoon()
			})
		}
	}
}

// allTraffic is what a method must carry over each kind of network.
func allTraffic() traffic { return traffic{large: bulk(), many: 1000, step: echoStep(), fraction: 4} }

// traffic is how much of it a test wants.
type traffic struct {
	large    int64 // bytes of one download
	many     int   // downloads at a time
	step     int   // from one size of datagrams to the next
	fraction int   // of the usual number of connections that are closed, as 4: a quarter
}

// mustGo looks at all that a method must do.
func (f *farm) mustGo(vip netip.Addr, m method, much traffic) {
	f.t.Helper()
	for _, part := range []struct {
		name string
		must func(*farm)
	}{
		{"large", func(f *farm) { f.mustCarry(vip, much.large, much.large/4) }},
		{"many", func(f *farm) { f.mustServeMany(vip, much.many) }},
		{"datagrams", func(f *farm) { f.mustEchoSizes(vip, much.step) }},
		{"close", func(f *farm) { f.mustCloseAll(vip, much.fraction) }},
		{"path MTU", func(f *farm) { f.mustDiscover(vip, m) }},
	} {
		f.t.Run(part.name, func(t *testing.T) { part.must(f.on(t)) })
	}
}

// mustServeMany makes so many downloads at a time, and looks at the connections.
func (f *farm) mustServeMany(vip netip.Addr, n int) {
	f.t.Helper()
	_, errs := f.manyDownloads(vip, n, 20_000)
	must(f.t, errors.Join(errs...))
	if listed := f.mustDiffer(ofFamily("web", vip)); listed < n/2 { // they are closed, and the time of most is not over
		f.t.Errorf("%d connections are listed of %d", listed, n)
	}
}

// mustCloseAll ends connections in every way. fraction: of the usual number of connections.
func (f *farm) mustCloseAll(vip netip.Addr, fraction int) {
	f.t.Helper()
	must(f.t, f.client.Sysctl("net.ipv4.tcp_tw_reuse", "1"))
	defer f.client.Sysctl("net.ipv4.ip_local_port_range", "32768 60999")
	for _, closing := range closings {
		f.t.Run(closing.name, func(t *testing.T) {
			f := f.on(t)
			must(t, f.client.Sysctl("net.ipv4.ip_local_port_range", closing.ports))
			before := netstat(t, f.client, "TcpExt", "TCPSynRetrans")
			n := closing.conns / fraction
			served := f.openAndClose(vip, n, closing.close)
			// One may be late on a busy machine; what waits for a port waits always.
			if lost := netstat(t, f.client, "TcpExt", "TCPSynRetrans") - before; lost > uint64(n/30) {
				t.Errorf("of %d connections %d SYNs were sent again", n, lost)
			}
			if len(served) != len(f.reals) {
				t.Errorf("connections were served by %v", served)
			}
		})
	}
}

// echoStep is from one size of datagrams to the next.
func echoStep() int {
	if fullSize() {
		return 1
	}
	return 61
}

// mustEchoSizes asks with datagrams of 1 to 9,000 bytes. Who is told that one was too long asks again, in
// smaller fragments.
func (f *farm) mustEchoSizes(vip netip.Addr, step int) {
	f.t.Helper()
	conn := get(f.dialUDP(vip, dnsPort))(f.t)
	defer conn.Close()
	question, told := strings.Repeat("0123456789", 900), 0
	for size := 1; size <= len(question); size += step {
		_, err := ask(conn, question[:size], patience)
		if errors.Is(err, unix.EMSGSIZE) {
			told++
			_, err = ask(conn, question[:size], patience)
		}
		if err != nil {
			f.t.Fatalf("datagram of %d bytes: %v", size, err)
		}
	}
	if told > 1 {
		f.t.Errorf("the client was told %d times what fits", told)
	}
}

// mustDiscover makes the director's ways to the real servers narrow, which clients cannot know: they are told, and send less.
func (f *farm) mustDiscover(vip netip.Addr, m method) {
	f.t.Helper()
	if m.name == byLocal.name { // there is no way
		return
	}
	for _, r := range f.reals {
		addr := r.addr4
		if vip.Is6() {
			addr = r.addr6
		}
		route := fmt.Sprintf("%s %s mtu %d", addr, f.wayTo(addr), narrowMTU)
		f.ip(f.director, "route add "+route)
		defer f.ip(f.director, "route del "+route)
	}
	defer f.ip(f.client, "-6 route flush cache")
	defer f.ip(f.client, "route flush cache")
	eventually(f.t, 6*patience, func() error { // the director learns of routes in a moment
		if err := putBytes(f.client.HTTPClient(6*patience), vip, 1_000_000); err != nil {
			return err
		}
		return f.fits(vip, narrowMTU-m.added(vip))
	})
}

// wayTo is how the director reaches an address, as ip route has it: by which interface, and from where.
func (f *farm) wayTo(addr netip.Addr) string {
	f.t.Helper()
	words := strings.Fields(string(get(f.director.Run(context.Background(), "ip", "route", "get", addr.String()))(f.t)))
	return "dev " + words[slices.Index(words, "dev")+1] + " src " + words[slices.Index(words, "src")+1]
}

// mustFit fails unless the client has been told how many bytes its packets to the address may have;
// 0: it has not.
func (f *farm) mustFit(vip netip.Addr, mtu int) {
	f.t.Helper()
	if err := f.fits(vip, mtu); err != nil {
		f.t.Error(err)
	}
}

func (f *farm) fits(vip netip.Addr, mtu int) error {
	f.t.Helper()
	out := string(get(f.client.Run(context.Background(), "ip", "route", "get", vip.String()))(f.t))
	if told := fmt.Sprintf(" mtu %d ", mtu); mtu > 0 && !strings.Contains(out, told) || mtu == 0 && strings.Contains(out, " mtu ") {
		return fmt.Errorf("the client's route is\n%s, want MTU %d", out, mtu)
	}
	return nil
}

// mixedMethods are those of five real servers of one service.
var mixedMethods = map[string]string{"rs1": "dr", "rs2": "tun", "rs3": "fullnat", "rs4": "nat", "rs5": "local"}

// mixedFarm has a service whose real servers have a method each. The last one is the director itself.
func mixedFarm(t *testing.T) *farm {
	f := newLab(t)
	oneWire(f)
	f.addReal(3)
	onLink(f)
	get(f.reals[1].Decapsulate(guePort))(t)
	f.ip(f.reals[3].Host, "route del 10.1.0.0/24") // by nat it answers through the director
	f.ip(f.reals[3].Host, "route del fd01::/64")
	f.defaultRoute(f.reals[3].Host, director4.String(), director6.String())
	f.reals = append(f.reals, f.serveOn(f.director, "rs5", director4, director6))
	config := f.config("eth0", byDR.services(len(f.reals))...)
	for name, method := range mixedMethods {
		config = strings.ReplaceAll(config, "{name: "+name+", ", fmt.Sprintf("{name: %s, method: %s, ", name, method))
	}
	f.writeConfig(config)
	f.start()
	return f
}

// Real servers of one service have methods of their own. When all but one vanish while frames are under
// way to each, the rest serves; when they come back, all do.
func TestMixedMethods(t *testing.T) {
	t.Parallel()
	f := mixedFarm(t)
	all := slices.Sorted(maps.Keys(mixedMethods))
	for _, family := range families {
		f.mustReachAll(f.fetch, family.vip, webPort)
		f.mustReachAll(f.query, family.vip, dnsPort)
		for _, d := range f.downloads(family.vip, 2_000_000, all...) {
			must(t, d.finish())
		}
		for range all {
			must(t, putBytes(f.client.HTTPClient(carryTime(2_000_000)), family.vip, 2_000_000))
		}
	}
	l := f.load(4, question{f.fetch, webPort}, question{f.queryShortly, dnsPort})
	l.await(t, 200)
	for _, r := range f.reals[:4] {
		must(t, r.eth0.Peer.SetUp(false)) // the switch's end: so it keeps its routes
	}
	for _, name := range all[:4] {
		eventually(t, noticed, func() error { return f.reach(name, false, "no answer to") })
	}
	l.mark()
	if served := l.await(t, 200); len(served) != 1 || served["rs5"] == 0 {
		t.Errorf("with rs5 alone, questions were answered by %v", served)
	}
	l.end()
	for _, family := range families { // nothing of what was lost keeps others from anything
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs5": 20})
		f.mustSpread(f.query, family.vip, dnsPort, map[string]int{"rs5": 20})
	}
	for _, r := range f.reals[:4] {
		must(t, r.eth0.Peer.SetUp(true))
	}
	for _, name := range all[:4] {
		eventually(t, noticed, func() error { return f.reach(name, true, "") })
	}
	for _, family := range families {
		f.mustReachAll(f.fetch, family.vip, webPort)
		f.mustReachAll(f.query, family.vip, dnsPort)
	}
	f.mustRecountSoon()
}

// queryShortly asks without much patience.
func (f *farm) queryShortly(vip netip.Addr, port uint16) (string, error) {
	return f.queryFor(vip, port, patience/10)
}
