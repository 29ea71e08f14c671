// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// reachable is an error unless the director knows the way to the real server in each service.
func (f *farm) reachable(server string) error {
	f.t.Helper()
	return f.reach(server, true, "")
}

// reach is an error unless the real server is reachable or not, with a reason of that text, in each service.
func (f *farm) reach(server string, want bool, reason string) error {
	f.t.Helper()
	for _, s := range f.snapshot().Services {
		for _, r := range s.Reals {
			if r.Name == server && (r.Reachable != want || !strings.Contains(r.Unreachable, reason)) {
				return fmt.Errorf("service %s: real server %s: reachable %v, reason %q; want %v, %q",
					s.Name, server, r.Reachable, r.Unreachable, want, reason)
			}
		}
	}
	return nil
}

// answers is an error unless of n new connections and n datagrams to each address the real server answers its share.
func (f *farm) answers(server string, n, share int) error {
	for _, family := range families {
		for _, s := range []question{{f.fetch, webPort}, {f.query, onePort}} {
			got := 0
			for range n {
				name, err := s.ask(family.vip, s.port)
				if err != nil {
					return err
				}
				if name == server {
					got++
				}
			}
			if got != share {
				return fmt.Errorf("%s answered %d of %d questions to %s port %d, want %d", server, got, n, family.vip, s.port, share)
			}
		}
	}
	return nil
}

// noticed is how long it may take until a real server that vanished is known to be: nexthop probes
// each 10 s, and three times more a second apart. The rest is for a busy machine.
const noticed = 13*time.Second + 12*time.Second

func TestUnreachableAtStart(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1, 1)...)
	f.start()
	for _, line := range []string{
		"10.0.0.13:80                 Route   1      0          0           unreachable: no answer to ARP for 10.0.0.13 on eth0",
		"[fd00::13]:80                Route   1      0          0           unreachable: no answer to ND for fd00::13 on eth0",
	} {
		if out := f.output("list"); !strings.Contains(out, line+"\n") {
			t.Errorf("list has no line %q:\n%s", line, out)
		}
	}
	must(t, f.reach("rs3", false, "no answer to"))
	for _, family := range families {
		even := map[string]int{"rs1": 6, "rs2": 6}
		f.mustSpread(f.fetch, family.vip, webPort, even)
		f.mustSpread(f.query, family.vip, onePort, even)
	}
	f.addReal(2)
	took := eventually(t, 10*time.Second, func() error { return f.answers("rs3", 6, 2) })
	t.Logf("a real server that came up got connections after %v", took)
	must(t, f.reachable("rs3"))
}

// A real server without any way to it: no route, or the director's own address.
func TestUnreachableForGood(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	more := strings.NewReplacer(
		`"10.0.0.11", weight: 1}`, `"10.0.0.11", weight: 1}, {address: "10.9.9.9"}, {address: "10.0.0.2"}`,
		`"fd00::11", weight: 1}`, `"fd00::11", weight: 1}, {address: "fd99::9"}, {address: "fd00::2"}`)
	f.writeConfig(more.Replace(f.config("eth0", standard("rr", 1)...)))
	f.start()
	out := f.output("list")
	for addr, reason := range map[string]string{
		"10.9.9.9:80": "unreachable: no route to 10.9.9.9", "10.0.0.2:80": "unreachable: ",
		"[fd99::9]:80": "unreachable: no route to fd99::9", "[fd00::2]:80": "unreachable: ",
	} {
		if line := lineWith(out, addr); !strings.Contains(line, reason) {
			t.Errorf("list says %q of %s, want %q", line, addr, reason)
		}
	}
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 6})
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, " "+part+" ") {
			return strings.TrimRight(line, "\n")
		}
	}
	return ""
}

func TestRealServerVanishes(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	f.start()
	held := f.hold("rs1", "rs2")
	must(t, f.reals[2].eth0.SetUp(false))
	took := eventually(t, noticed, func() error { return f.reach("rs3", false, "no answer to") })
	t.Logf("a real server that vanished was noticed after %v", took)
	must(t, f.answers("rs3", 6, 0))
	held.goOn()
	must(t, f.reals[2].eth0.SetUp(true))
	took = eventually(t, 10*time.Second, func() error { return f.answers("rs3", 6, 2) })
	t.Logf("one that came back got connections after %v", took)
	held.finish()
}

// The director's own interface goes down and comes back: nothing is reachable, then all is.
func TestDirectorLosesCarrier(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	f.start()
	port := f.reals[0].eth0.Peer.Host
	must(t, setLink(port.Netlink, "director-eth0", false))
	took := eventually(t, noticed, func() error { return f.reach("rs1", false, "link eth0 has no carrier") })
	t.Logf("a pulled cable was noticed after %v", took)
	must(t, setLink(port.Netlink, "director-eth0", true))
	took = eventually(t, 10*time.Second, func() error { return f.answers("rs1", 4, 2) })
	t.Logf("one that was put in again served after %v", took)
}

func setLink(handle func() (*netlink.Handle, error), name string, up bool) error {
	nl, err := handle()
	if err != nil {
		return err
	}
	link, err := nl.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return nl.LinkSetUp(link)
	}
	return nl.LinkSetDown(link)
}

// A real server gets another network card: announced, the director follows at once; not announced,
// when it asks next.
func TestAddressChange(t *testing.T) {
	t.Parallel()
	for _, change := range []struct {
		name     string
		announce string
		limit    time.Duration
	}{{"announced", "1", time.Second}, {"silent", "0", noticed}} {
		t.Run(change.name, func(t *testing.T) {
			f := newFarm(t, 2)
			f.configure(standard("rr", 1, 1)...)
			f.start()
			must(t, f.answers("rs2", 4, 2))
			rs2 := f.reals[1]
			must(t, rs2.Sysctl("net.ipv4.conf.eth0.arp_notify", change.announce))
			must(t, rs2.Sysctl("net.ipv6.conf.eth0.ndisc_notify", change.announce))
			must(t, f.changeMAC(rs2, net.HardwareAddr{2, 0, 0, 0, 0x77, 0x77}))
			took := f.awaitAnswers("rs2", change.limit)
			t.Logf("followed after %v", took)
			must(t, f.answers("rs2", 4, 2))
		})
	}
}

// changeMAC changes the address of eth0, which stays up. In the farm it matters to the director only:
// nobody else sends anything to a real server.
func (f *farm) changeMAC(r *realServer, mac net.HardwareAddr) error {
	nl, err := r.Netlink()
	if err != nil {
		return err
	}
	link, err := nl.LinkByName("eth0")
	if err != nil {
		return err
	}
	return nl.LinkSetHardwareAddr(link, mac)
}

// awaitAnswers waits until the real server answers one datagram of some, on both addresses. A lost
// datagram is not waited for long.
func (f *farm) awaitAnswers(server string, limit time.Duration) time.Duration {
	f.t.Helper()
	return eventually(f.t, limit, func() error {
		for _, family := range families {
			conn, err := f.dialUDP(family.vip, onePort)
			if err != nil {
				return err
			}
			defer conn.Close()
			lost := 0
			for range 4 {
				name, err := ask(conn, "are you there?", 50*time.Millisecond)
				if err != nil {
					lost++
				} else if name == server {
					lost = -4
				}
			}
			if lost >= 0 {
				return fmt.Errorf("%s did not answer on %s, %d datagrams were lost", server, family.vip, lost)
			}
		}
		return nil
	})
}
