// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/netlab"
)

// byMethod are services by nat or fullnat, on ports of their own: the real servers have the usual ones.
func byMethod(method, scheduler string, weights ...int) []service {
	list := join(both("web", "tcp", webPort, scheduler, weights...), both("mapped", "tcp", mappedPort, scheduler, weights...),
		both("dns", "udp", dnsPort, scheduler, weights...))
	return with("method: "+method, list)
}

// mappedPort is the port of a service whose real servers have webPort.
const mappedPort = 8080

// mapPorts gives the real servers of the services named mapped their port.
func mapPorts(config string) string {
	var lines []string
	for line := range strings.Lines(config) {
		if strings.Contains(line, "name: mapped") {
			line = strings.ReplaceAll(line, ", weight:", fmt.Sprintf(", port: %d, weight:", webPort))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// netWay is where clients and real servers are. They are in different networks, and the real servers
// know the director as their router only if they are by nat.
type netWay struct {
	name       string
	build      func(*farm)
	interfaces string
}

var netWays = []netWay{
	{"two interfaces", twoNetworks, "eth0, eth1"},
	{"one interface", oneWire, "eth0"},
	{"two interfaces, generic", twoNetworks, "{name: eth0, mode: generic}, {name: eth1, mode: generic}"},
}

func twoNetworks(f *farm) {
	outside := get(f.lab.Switch("outside"))(f.t)
	f.clientEnd = f.connect(f.client, outside, "eth0", "10.1.0.1/24", "fd01::1/64")
	f.directorEnd = f.connect(f.director, outside, "eth0", outside4.String()+"/24", outside6.String()+"/64")
	f.routeVIPs(outside4, outside6)
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

// methods of which the replies come back through the director.
var natMethods = []string{"nat", "fullnat"}

// natFarm has services by a method, at work.
func natFarm(t *testing.T, method string, way netWay) (f *farm, d *daemon) {
	f = newLab(t)
	way.build(f)
	if method == "nat" {
		for _, r := range f.reals {
			f.defaultRoute(r.Host, director4.String(), director6.String())
		}
	}
	f.writeConfig(mapPorts(f.config(way.interfaces, byMethod(method, "rr", 1, 1, 1)...)))
	return f, f.start()
}

// eachNAT runs a test for every method and way, each with a farm of its own.
func eachNAT(t *testing.T, ways []netWay, test func(t *testing.T, f *farm, d *daemon, method string)) {
	for _, way := range ways {
		for _, method := range natMethods {
			t.Run(method+", "+way.name, func(t *testing.T) {
				f, d := natFarm(t, method, way)
				test(t, f, d, method)
				if t.Failed() {
					t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
				}
			})
		}
	}
}

// mustReachAll fails unless three real servers have about even shares. (Which one each connection gets
// test/conformance compares; on a busy machine one may begin twice.)
func (f *farm) mustReachAll(ask asker, vip netip.Addr, port uint16) {
	f.t.Helper()
	got := f.spread(ask, vip, port, 15)
	for _, name := range []string{"rs1", "rs2", "rs3"} {
		if got[name] < 3 {
			f.t.Errorf("15 questions to %s were spread %v", netip.AddrPortFrom(vip, port), got)
			return
		}
	}
}

// The real servers know nothing of the virtual address: requests and replies are rewritten. By fullnat
// they know nothing of the clients either.
func TestNAT(t *testing.T) {
	t.Parallel()
	eachNAT(t, netWays, func(t *testing.T, f *farm, _ *daemon, method string) {
		for _, family := range families {
			t.Run(family.name, func(t *testing.T) {
				f := f.on(t)
				const size = 20_000_000
				f.mustReachAll(f.fetch, family.vip, webPort)
				f.mustReachAll(f.fetch, family.vip, mappedPort)
				f.mustReachAll(f.query, family.vip, dnsPort)
				must(t, getBytes(f.client.HTTPClient(0), family.vip, size))
				must(t, putBytes(f.client.HTTPClient(0), family.vip, size))
				f.mustComeFrom(method, family.vip)
			})
		}
		f.mustRecount(f.snapshot())
	})
}

// mustComeFrom fails unless the real server saw the connection come from where the listing says.
func (f *farm) mustComeFrom(method string, vip netip.Addr) {
	f.t.Helper()
	d := f.download(vip, 1000)
	must(f.t, d.finish())
	seen := netip.MustParseAddrPort(d.client)
	list := f.connections("service", ofFamily("web", vip))
	found := slices.ContainsFunc(list, func(c director.Conn) bool {
		if method == "nat" {
			return c.Client == seen && !c.Local.IsValid()
		}
		return c.Local == seen && (seen.Addr() == director4 || seen.Addr() == director6)
	})
	if !found {
		f.t.Errorf("%s: the real server saw %s, connections are %+v", method, seen, list)
	}
}

// A large transfer is whole in both directions, and many small ones at a time are.
func TestNATBulk(t *testing.T) {
	t.Parallel()
	eachNAT(t, netWays[:1], func(t *testing.T, f *farm, _ *daemon, method string) {
		for _, family := range families {
			t.Run(family.name, func(t *testing.T) {
				f := f.on(t)
				must(t, getBytes(f.client.HTTPClient(0), family.vip, bulk()))
				must(t, putBytes(f.client.HTTPClient(0), family.vip, bulk()/4))
				_, errs := f.manyDownloads(family.vip, 1000, 20_000)
				must(t, errors.Join(errs...))
				f.mustDiffer(method, ofFamily("web", family.vip))
			})
		}
	})
}

// mustDiffer fails if two of the service's connections by fullnat have one local end at a real server.
func (f *farm) mustDiffer(method, service string) {
	f.t.Helper()
	list := f.connections("service", service)
	seen := map[[2]netip.AddrPort]director.Conn{}
	for _, c := range list {
		ends := [2]netip.AddrPort{c.Local, c.Real}
		if other, twice := seen[ends]; twice && method == "fullnat" {
			f.t.Errorf("%+v and %+v have one local end", c, other)
		}
		seen[ends] = c
	}
	if len(list) < 900 { // they are closed, and their time is not over
		f.t.Errorf("%d connections are listed of 1,000", len(list))
	}
}

// However a connection ends, its port can be used again at once.
func TestNATClose(t *testing.T) {
	t.Parallel()
	eachNAT(t, netWays[:2], func(t *testing.T, f *farm, _ *daemon, _ string) {
		must(t, f.client.Sysctl("net.ipv4.tcp_tw_reuse", "1"))
		for _, family := range families {
			for _, closing := range closings {
				t.Run(family.name+" "+closing.name, func(t *testing.T) {
					f := f.on(t)
					must(t, f.client.Sysctl("net.ipv4.ip_local_port_range", closing.ports))
					before := netstat(t, f.client, "TcpExt", "TCPSynRetrans")
					served := f.openAndClose(family.vip, closing.conns/4, closing.close)
					if lost := netstat(t, f.client, "TcpExt", "TCPSynRetrans") - before; lost > 0 {
						t.Errorf("%d SYNs were sent again", lost)
					}
					if len(served) != 3 {
						t.Errorf("connections were served by %v", served)
					}
				})
			}
		}
		f.mustRecount(f.snapshot())
	})
}

// A datagram of every size comes back whole, in as many fragments as it takes.
func TestNATDatagrams(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() || raceEnabled {
		step = 61
	}
	eachNAT(t, netWays[:2], func(t *testing.T, f *farm, _ *daemon, _ string) {
		for _, family := range families {
			t.Run(family.name, func(t *testing.T) {
				f := f.on(t)
				conn := get(f.dialUDP(family.vip, dnsPort))(t)
				defer conn.Close()
				question := strings.Repeat("0123456789", 900)
				for size := 1; size <= len(question); size += step {
					if _, err := ask(conn, question[:size], patience); err != nil {
						t.Fatalf("datagram of %d bytes: %v", size, err)
					}
				}
			})
		}
	})
}

// What the real servers send is counted, and connections end as both sides' packets say.
func TestNATCounts(t *testing.T) {
	t.Parallel()
	eachNAT(t, netWays[:1], func(t *testing.T, f *farm, _ *daemon, method string) {
		for _, family := range families {
			t.Run(family.name, func(t *testing.T) { f.on(t).mustCount(method, family.vip) })
		}
	})
}

func (f *farm) mustCount(method string, vip netip.Addr) {
	f.t.Helper()
	name := ofFamily("web", vip)
	must(f.t, getBytes(f.client.HTTPClient(0), vip, 1_000_000))
	s := f.service(name)
	if s.Counters.OutBytes < 1_000_000 || s.Counters.OutPkts == 0 || s.Counters.InPkts == 0 {
		f.t.Errorf("counters %+v, want a megabyte out", s.Counters)
	}
	eventually(f.t, patience, func() error {
		if list := f.output("connections", "service", name, "state", "established"); strings.Contains(list, "ESTABLISHED") {
			return fmt.Errorf("both sides have closed, and there is\n%s", list)
		}
		return nil
	})
	if list := f.output("connections", "service", name); !strings.Contains(list, "TIME_WAIT") && !strings.Contains(list, "LAST_ACK") && !strings.Contains(list, "CLOSE") {
		f.t.Errorf("connections are\n%s", list)
	}
	word := map[string]string{"nat": "Masq", "fullnat": "FullNat"}[method]
	if list := f.output("list"); !strings.Contains(list, word) {
		f.t.Errorf("list has no %s:\n%s", word, list)
	}
}

// Without the daemon, and when another one takes over, replies are known as before.
func TestNATWithoutDaemon(t *testing.T) {
	t.Parallel()
	eachNAT(t, netWays[:1], func(t *testing.T, f *farm, d *daemon, method string) {
		held := map[string]*download{}
		for _, family := range families {
			held[family.name] = f.download(family.vip, heldSize)
			must(t, held[family.name].read(100_000))
		}
		d.kill()
		for _, family := range families {
			must(t, held[family.name].read(1_000_000))
			f.mustReachAll(f.fetch, family.vip, webPort)
		}
		f.start()
		for _, family := range families {
			must(t, held[family.name].finish())
			must(t, getBytes(f.client.HTTPClient(0), family.vip, 1_000_000))
			f.mustComeFrom(method, family.vip)
		}
		f.mustRecount(f.snapshot())
	})
}

// Requests come with tags, and replies leave with those.
func TestNATTags(t *testing.T) {
	t.Parallel()
	eachNAT(t, netWays[:2], func(t *testing.T, f *farm, _ *daemon, _ string) {
		w := tap(t, f.clientEnd)
		for _, family := range families {
			src := map[bool]string{true: "10.1.0.1", false: "fd01::1"}[family.vip.Is4()]
			for i, vlan := range vlans {
				t.Run(family.name+" "+vlan.name, func(t *testing.T) {
					here := netip.AddrPortFrom(netip.MustParseAddr(src), uint16(50000+i))
					payload := fmt.Appendf(nil, "with %d tags, case %d", len(vlan.tags), i)
					sent := udpFrame(f.clientEnd.MAC, f.directorEnd.MAC, here, netip.AddrPortFrom(family.vip, dnsPort), payload, vlan.tags...)
					for range 3 { // on the long way, and where nothing is tagged on the short one
						must(t, w.send(sent))
						seen := w.await(t, patience, func(seen frame) bool {
							return !seen.sent && bytes.HasSuffix(seen.data, payload) && bytes.Contains(seen.data, []byte("rs"))
						})
						mustHaveTags(t, seen, vlan.tags)
						if from := net.HardwareAddr(seen.data[6:12]); from.String() != f.directorEnd.MAC.String() {
							t.Errorf("reply came from %s, the director is %s", from, f.directorEnd.MAC)
						}
					}
				})
			}
		}
	})
}

// mustHaveTags fails unless the frame came with the tags. Of two the kernel takes off the outer one.
func mustHaveTags(t *testing.T, seen frame, tags []tag) {
	t.Helper()
	if seen.tagged != (len(tags) > 0) || seen.tagged && (seen.tpid != tags[0].tpid || seen.tci != tags[0].tci) {
		t.Errorf("frame came (tagged: %v, tag %#x %#x), want tags %#x", seen.tagged, seen.tpid, seen.tci, tags)
	}
	if len(tags) == 2 {
		if inner := seen.data[12:16]; !bytes.Equal(inner, []byte{byte(tags[1].tpid >> 8), byte(tags[1].tpid), byte(tags[1].tci >> 8), byte(tags[1].tci)}) {
			t.Errorf("behind the outer tag is %x, want the tag %#x", inner, tags[1])
		}
	}
}

// narrowFarm is a line of hosts with the director in the middle, and two routers on each side of it. One
// wire is narrow, and the end that is far from it cannot know.
func narrowFarm(t *testing.T, method string, narrow int) *farm {
	f := newLab(t)
	r := f.serve("rs1", hop4(6, 2), hop6(6, 2))
	line := []*netlab.Host{f.client, f.host("r1"), f.host("r2"), f.director, f.host("r3"), f.host("r4"), r.Host}
	for i, h := range line[1:] {
		wire, far := f.hop(line[i], h, i+1)
		switch i + 1 { // a wire's number is its network's
		case narrow:
			must(t, wire.SetMTU(1300))
		case 3:
			must(t, wire.AcceptXDP())
		case 4:
			must(t, far.AcceptXDP())
		}
	}
	for i, h := range line {
		if h != f.director && i > 0 && i < 6 {
			f.forwarding(h)
		}
		f.routeLine(h, i)
	}
	f.configureOn("eth0, eth1", with("method: "+method, both("web", "tcp", webPort, "rr", 1))...)
	f.start()
	return f
}

// hop links two hosts by the wire of a number. The first one's end is eth1, but for the client.
func (f *farm) hop(a, b *netlab.Host, n int) (here, there *netlab.Iface) {
	f.t.Helper()
	name := "eth1"
	if a == f.client {
		name = "eth0"
	}
	here, there, err := netlab.Link(a, name, hopPrefixes(n, 1), b, "eth0", hopPrefixes(n, 2))
	must(f.t, err)
	return here, there
}

// routeLine tells host i the way to the line's two ends: who is behind the director routes everything
// towards it, and so do those before it.
func (f *farm) routeLine(h *netlab.Host, i int) {
	switch {
	case i == 0:
		f.via(h, "eth0", 1, 2, anywhere...)
	case i < 3:
		f.via(h, "eth1", i+1, 2, anywhere...)
		if i == 2 {
			f.via(h, "eth0", 2, 1, hopNets(1)...)
		}
	case i == 3:
		f.via(h, "eth0", 3, 1, hopNets(1, 2)...)
		f.via(h, "eth1", 4, 2, hopNets(5, 6)...)
	default:
		f.via(h, "eth0", i, 1, anywhere...)
		if i == 4 {
			f.via(h, "eth1", 5, 2, hopNets(6)...)
		}
	}
}

func hop4(net, host int) netip.Addr { return netip.AddrFrom4([4]byte{10, 10, byte(net), byte(host)}) }
func hop6(net, host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd10:%d::%d", net, host))
}

func hopPrefixes(net, host int) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(hop4(net, host), 24), netip.PrefixFrom(hop6(net, host), 64)}
}

// hopNets are networks of both families, IPv4 and IPv6 in turn.
func hopNets(nets ...int) (list []netip.Prefix) {
	for _, n := range nets {
		for _, p := range hopPrefixes(n, 0) {
			list = append(list, p.Masked())
		}
	}
	return list
}

// via routes networks, IPv4 and IPv6 in turn, by a router's address of each family.
func (f *farm) via(h *netlab.Host, ifname string, net, host int, to ...netip.Prefix) {
	f.t.Helper()
	for _, p := range to {
		gateway := hop4(net, host)
		if p.Addr().Is6() {
			gateway = hop6(net, host)
		}
		must(f.t, h.AddRoute(p, gateway, ifname))
	}
}

// The routers' "too big" reach the end that has to send less, in its own terms.
func TestNATPathMTU(t *testing.T) {
	t.Parallel()
	const size = 3_000_000
	for _, c := range []struct {
		name   string
		narrow int
		load   func(f *farm, vip netip.Addr) error
	}{
		{"download", 2, func(f *farm, vip netip.Addr) error { return getBytes(f.client.HTTPClient(6*patience), vip, size) }},
		{"upload", 5, func(f *farm, vip netip.Addr) error { return putBytes(f.client.HTTPClient(6*patience), vip, size) }},
	} {
		for _, method := range natMethods {
			t.Run(method+" "+c.name, func(t *testing.T) {
				f := narrowFarm(t, method, c.narrow)
				for _, family := range families {
					t.Run(family.name, func(t *testing.T) {
						f := f.on(t)
						before := f.snapshot().Verdicts["tx_icmp"]
						must(t, c.load(f, family.vip))
						if f.snapshot().Verdicts["tx_icmp"] == before {
							t.Error("no error was carried")
						}
					})
				}
				if t.Failed() {
					t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
				}
			})
		}
	}
}

// A client that is a real server of the service itself is served: by nat and fullnat by all, itself
// included, by dr by the others.
func TestHairpin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method string
		itself bool
	}{{"nat", true}, {"fullnat", true}, {"dr", false}} {
		t.Run(c.method, func(t *testing.T) {
			f := newFarm(t, 2)
			rs1 := f.reals[0]
			for _, vip := range []netip.Addr{vip4, vip6} { // or its own stack would answer
				must(t, rs1.DelAddr("lo", netip.PrefixFrom(vip, vip.BitLen())))
			}
			must(t, rs1.AddRoute(netip.PrefixFrom(vip4, 32), director4, "eth0"))
			must(t, rs1.AddRoute(netip.PrefixFrom(vip6, 128), director6, "eth0"))
			f.configure(with("method: "+c.method, both("web", "tcp", webPort, "rr", 1, 1))...)
			f.start()
			inside := *f
			inside.client = rs1.Host
			for _, family := range families {
				t.Run(family.name, func(t *testing.T) {
					f := inside.on(t)
					got := f.spread(f.fetch, family.vip, webPort, 20)
					if (got["rs1"] > 0) != c.itself || got["rs2"] == 0 {
						t.Errorf("20 connections of rs1 were served by %v", got)
					}
					must(t, getBytes(f.client.HTTPClient(6*patience), family.vip, 5_000_000))
				})
			}
		})
	}
}

// When the local ports for a real server are in use a further connection is dropped, by name; the end of
// them is warned of once. A port that is free is used again.
func TestLocalPorts(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	twoNetworks(f)
	f.writeConfig("fullnat: {ports: 3000-3004}\ntimeouts: {tcp_close: 1, tcp_time_wait: 1, tcp_last_ack: 1}\n" +
		f.config("eth0, eth1", with("method: fullnat", both("web", "tcp", webPort, "rr", 1))...))
	d := f.start()
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			f := f.on(t)
			before := f.snapshot().Verdicts["drop_no_port"]
			var held []*session
			for range 5 {
				held = append(held, f.anySession(family.vip, webPort))
			}
			if err := f.connectTo(netip.AddrPortFrom(family.vip, webPort), 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a sixth connection: %v", err)
			}
			s := f.snapshot()
			if s.Verdicts["drop_no_port"] == before {
				t.Errorf("verdicts have no drop_no_port: %v", s.Verdicts)
			}
			if list := f.output("list", "-o", "wide"); !strings.Contains(list, "local_ports=5/5") {
				t.Errorf("list -o wide shows no use of the ports:\n%s", list)
			}
			if list := f.output("connections", "-o", "wide"); !strings.Contains(list, fmt.Sprintf("local=%s", netip.AddrPortFrom(localOf(family.vip), 3004))) {
				t.Errorf("connections -o wide shows no local ends:\n%s", list)
			}
			eventually(t, 2*noticed, func() error {
				if !strings.Contains(d.log.String(), "event=ports_scarce protocol=tcp real="+f.service(ofFamily("web", family.vip)).Reals[0].Key.String()+" used=5 available=5") {
					return errors.New("no warning is logged")
				}
				return nil
			})
			for _, s := range held {
				must(t, s.conn.Close())
			}
			eventually(t, 3*patience, func() error {
				return f.connectTo(netip.AddrPortFrom(family.vip, webPort), patience)
			})
		})
	}
}

func localOf(vip netip.Addr) netip.Addr {
	if vip.Is4() {
		return director4
	}
	return director6
}

// A source that is no address of the director is not used, and is as soon as it is one.
func TestForeignSource(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	twoNetworks(f)
	f.writeConfig("fullnat: {sources: [10.0.0.99, \"fd00::99\"]}\n" +
		f.config("eth0, eth1", with("method: fullnat", both("web", "tcp", webPort, "rr", 1))...))
	d := f.start()
	eventually(t, patience, func() error {
		return f.reach("rs1", false, "is no address of this host")
	})
	if !strings.Contains(d.log.String(), "event=source_foreign source=10.0.0.99") {
		t.Errorf("log has no warning:\n%s", d.log)
	}
	for _, p := range prefixes("10.0.0.99/24", "fd00::99/64") {
		must(t, f.director.AddAddr("eth1", p))
	}
	f.awaitReachable("rs1")
	for _, family := range families {
		d := f.download(family.vip, 100_000)
		must(t, d.finish())
		if seen := netip.MustParseAddrPort(d.client).Addr(); seen.String() != "10.0.0.99" && seen.String() != "fd00::99" {
			t.Errorf("the real server saw %s", seen)
		}
	}
}
