// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/netlab"
)

// Addresses of the farm: everybody is in one network, but for the virtual addresses.
var (
	vip4 = netip.MustParseAddr("192.0.2.10")
	vip6 = netip.MustParseAddr("2001:db8:1::10")

	client4   = netip.MustParseAddr("10.0.0.1")
	client6   = netip.MustParseAddr("fd00::1")
	director4 = netip.MustParseAddr("10.0.0.2")
	director6 = netip.MustParseAddr("fd00::2")
)

// families is the table that most tests go through.
var families = []struct {
	name string
	vip  netip.Addr
}{{"v4", vip4}, {"v6", vip6}}

// The ports that real servers listen on.
const (
	webPort = 80
	altPort = 8080
	dnsPort = 53
	onePort = 5353 // the tests' services with one_packet
)

// farm is a client, a director and real servers. Its methods fail the test t.
type farm struct {
	t        *testing.T
	lab      *netlab.Lab
	sw       *netlab.Switch // in a farm of newFarm, everybody's
	outside  *netlab.Switch // the clients', if that is another one
	client   *netlab.Host
	director *netlab.Host
	reals    []*realServer
	dir      string

	clientEnd, directorEnd *netlab.Iface // eth0
}

// realServer serves HTTP on webPort and altPort, UDP on dnsPort and onePort, under its host's name.
type realServer struct {
	*netlab.Host
	addr4, addr6 netip.Addr
	eth0         *netlab.Iface
	http         *netlab.HTTPServer
}

// labs bounds how many farms work at a time, whatever -parallel says. Those that only wait do not count.
var labs = make(chan struct{}, 2)

// idle gives a farm's place to another, until the function that it returns is called. That does not wait for a place: what
// comes next may not be late.
func idle() (end func()) {
	select {
	case <-labs:
		return func() { go func() { labs <- struct{}{} }() }
	default: // a test without a farm
		return func() {}
	}
}

// pass is a time that a test only waits.
func pass(d time.Duration) {
	defer idle()()
	time.Sleep(d)
}

// newLab makes a farm with a client and a director that are not connected to anything.
func newLab(t *testing.T) *farm {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and XDP")
	}
	labs <- struct{}{}
	t.Cleanup(func() { <-labs })
	lab := get(netlab.New(labPrefix))(t)
	t.Cleanup(func() { must(t, lab.Close()) })
	f := &farm{t: t, lab: lab, dir: t.TempDir()}
	f.client = f.host("client")
	// It keeps what it is told of MTUs. By a gateway that does not call itself a router, the kernel forgets that at each
	// collection of garbage (rt6_age_examine_exception, net/ipv6/route.c), every half minute.
	must(t, f.client.Sysctl("net.ipv6.route.gc_interval", "3600"))
	f.director = f.host("director")
	t.Cleanup(func() { must(t, os.RemoveAll(f.stateDir())) })
	return f
}

// newFarm makes the ordinary farm: real servers rs1, rs2, ... and all others on one switch.
func newFarm(t *testing.T, reals int) *farm {
	t.Helper()
	f := newLab(t)
	f.sw = get(f.lab.Switch("sw"))(t)
	f.clientEnd = f.connect(f.client, f.sw, "eth0", client4.String()+"/24", client6.String()+"/64")
	f.directorEnd = f.connect(f.director, f.sw, "eth0", director4.String()+"/24", director6.String()+"/64")
	f.routeVIPs(director4, director6)
	for i := range reals {
		f.addReal(i)
	}
	return f
}

// on is the farm for a subtest.
func (f *farm) on(t *testing.T) *farm {
	g := *f
	g.t = t
	return &g
}

func (f *farm) host(name string) *netlab.Host {
	f.t.Helper()
	return get(f.lab.Host(name))(f.t)
}

func (f *farm) connect(h *netlab.Host, sw *netlab.Switch, ifname string, addrs ...string) *netlab.Iface {
	f.t.Helper()
	return get(h.Connect(sw, ifname, prefixes(addrs...)...))(f.t)
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// routeVIPs sends the client's packets for the virtual addresses to the director.
func (f *farm) routeVIPs(via ...netip.Addr) {
	f.t.Helper()
	for _, gateway := range via {
		vip := vip4
		if gateway.Is6() {
			vip = vip6
		}
		must(f.t, f.client.AddRoute(netip.PrefixFrom(vip, vip.BitLen()), gateway, "eth0"))
	}
}

func real4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + i)}) }
func real6(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00::%x", 0x11+i)) }

func realName(i int) string { return fmt.Sprintf("rs%d", i+1) }

// addReal adds the real server of number i, counted from 0, to the switch.
func (f *farm) addReal(i int) *realServer {
	f.t.Helper()
	r := f.serve(realName(i), real4(i), real6(i))
	r.eth0 = f.connect(r.Host, f.sw, "eth0", r.addr4.String()+"/24", r.addr6.String()+"/64")
	return r
}

// serve makes a host that is a real server, not connected to anything yet.
func (f *farm) serve(name string, addr4, addr6 netip.Addr) *realServer {
	f.t.Helper()
	r := f.serveOn(f.host(name), name, addr4, addr6)
	f.reals = append(f.reals, r)
	return r
}

// serveOn lets a host serve what a real server of the name does.
func (f *farm) serveOn(h *netlab.Host, name string, addr4, addr6 netip.Addr) *realServer {
	f.t.Helper()
	r := &realServer{Host: h, addr4: addr4, addr6: addr6}
	must(f.t, r.RealServerDR(vip4, vip6))
	r.http = get(r.ServeHTTP(name, everywhere(webPort, altPort)...))(f.t)
	get(r.ServeUDP(name, everywhere(dnsPort, onePort)...))(f.t)
	return r
}

func everywhere(ports ...uint16) []netip.AddrPort {
	var list []netip.AddrPort
	for _, port := range ports {
		list = append(list, netip.AddrPortFrom(netip.IPv4Unspecified(), port),
			netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	}
	return list
}

func (f *farm) socket() string     { return filepath.Join(f.dir, "director.sock") }
func (f *farm) configFile() string { return filepath.Join(f.dir, "director.yaml") }
func (f *farm) stateDir() string   { return pinDir(f.director.NSName()) }

// service is a virtual service in the configuration.
type service struct {
	name, protocol string
	vip            netip.Addr
	port           uint16
	scheduler      string
	keys           string // further ones, as "one_packet: true, answer: drop"
	weights        []int  // of the farm's real servers, in their order
	mixed          bool   // they have addresses of the other family
}

// absent is the weight of a real server that is not in the configuration.
const absent = -1

// both are a service on each virtual address, with "4" and "6" appended to the name.
func both(name, protocol string, port uint16, scheduler string, weights ...int) []service {
	s := service{name: name + "4", protocol: protocol, vip: vip4, port: port, scheduler: scheduler, weights: weights}
	s6 := s
	s6.name, s6.vip = name+"6", vip6
	return []service{s, s6}
}

// onePacket are the services with one-packet scheduling.
func onePacket(services []service) []service {
	for i := range services {
		services[i].keys = "one_packet: true"
	}
	return services
}

// standard are services for HTTP, for UDP, and for UDP with one-packet scheduling.
func standard(scheduler string, weights ...int) []service {
	return join(both("web", "tcp", webPort, scheduler, weights...),
		both("dns", "udp", dnsPort, scheduler, weights...),
		onePacket(both("one", "udp", onePort, scheduler, weights...)))
}

func join(lists ...[]service) (all []service) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// configure writes the director's configuration, with the interface eth0.
func (f *farm) configure(services ...service) {
	f.t.Helper()
	f.configureOn("eth0", services...)
}

// configureOn writes the director's configuration, with interfaces as in "eth0, {name: eth1, mode: generic}".
func (f *farm) configureOn(interfaces string, services ...service) {
	f.t.Helper()
	f.writeConfig(f.config(interfaces, services...))
}

func (f *farm) writeConfig(text string) {
	f.t.Helper()
	must(f.t, os.WriteFile(f.configFile(), []byte(text), 0o600))
}

// config is the text of a configuration. Its tables are small: a sweep of large ones costs time.
func (f *farm) config(interfaces string, services ...service) string {
	var b strings.Builder
	fmt.Fprintf(&b, "interfaces: [%s]\nsocket: %s\nstate_dir: %s\n", interfaces, f.socket(), f.stateDir())
	b.WriteString("limits: {connections4: 16k, connections6: 16k, services: 64, real_servers: 256, plan_slots: 64k}\n")
	b.WriteString("services:\n")
	for _, s := range services {
		fmt.Fprintf(&b, "  - {name: %s, protocol: %s, address: %q, port: %d, scheduler: %s", s.name, s.protocol, s.vip, s.port, s.scheduler)
		if s.keys != "" {
			fmt.Fprintf(&b, ", %s", s.keys)
		}
		fmt.Fprintf(&b, ", reals: [%s]}\n", strings.Join(f.realsOf(s), ", "))
	}
	return b.String()
}

// realsOf are the real servers of a service as the configuration writes them. A weight beyond the
// farm's real servers is that of one which does not exist.
func (f *farm) realsOf(s service) []string {
	var list []string
	family := s.vip
	if s.mixed {
		family = map[bool]netip.Addr{true: vip6, false: vip4}[s.vip.Is4()]
	}
	for i, weight := range s.weights {
		if weight != absent {
			list = append(list, fmt.Sprintf("{name: %s, address: %q, weight: %d}", realName(i), f.addrOf(i, family), weight))
		}
	}
	return list
}

// addrOf is the address of the real server of number i in the family of the virtual address.
func (f *farm) addrOf(i int, vip netip.Addr) netip.Addr {
	addr4, addr6 := real4(i), real6(i)
	if i < len(f.reals) {
		addr4, addr6 = f.reals[i].addr4, f.reals[i].addr6
	}
	if vip.Is4() {
		return addr4
	}
	return addr6
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get makes a value of a result: get(f())(t).
func get[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// eventually asks until there is no error, or fails with the last one. It returns how long it took.
func eventually(t *testing.T, limit time.Duration, ask func() error) time.Duration {
	t.Helper()
	return until(t, limit, time.Second, ask)
}

// until is eventually, and takes what has not come after some time for something to wait for, not to work for.
func until(t *testing.T, limit, work time.Duration, ask func() error) time.Duration {
	t.Helper()
	end := func() {}
	defer func() { end() }()
	for start, waits := time.Now(), false; ; {
		asked := time.Now()
		err := ask()
		took := time.Since(start)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("after %v still: %v", limit, err)
		}
		if took > work && !waits {
			end, waits = idle(), true
		}
		time.Sleep(max(20*time.Millisecond, time.Since(asked))) // half of the time, where asking is a command
	}
}
