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

// eachNAT runs a test for the methods of which the replies come back through the director.
func eachNAT(t *testing.T, ways []netWay, test func(t *testing.T, f *farm, d *daemon, method string)) {
	for _, way := range ways {
		for _, m := range []method{byNAT, byFullNAT} {
			m.on(t, way, func(t *testing.T, f *farm, d *daemon) { test(t, f, d, m.name) })
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
		f.mustRecountSoon()
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

// mustDiffer fails if two of the service's connections by fullnat have one local end at a real server. It
// returns how many there are.
func (f *farm) mustDiffer(service string) int {
	f.t.Helper()
	list := f.connections("service", service)
	seen := map[[2]netip.AddrPort]director.Conn{}
	for _, c := range list {
		ends := [2]netip.AddrPort{c.Local, c.Real}
		if other, twice := seen[ends]; twice && c.Local.IsValid() {
			f.t.Errorf("%+v and %+v have one local end", c, other)
		}
		seen[ends] = c
	}
	return len(list)
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
		f.mustRecountSoon()
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
