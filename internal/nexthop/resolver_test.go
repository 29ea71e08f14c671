// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

var (
	macA = mac{2, 0, 0, 0, 1, 0xa}
	macB = mac{2, 0, 0, 0, 1, 0xb}
	all  = mac{} // the recipient of a question to everybody
)

const (
	noARP = "no answer to ARP for 10.0.0.9 on eth0"
	noND  = "no answer to ND for fd00::9 on eth0"
)

// withHost is a kernel with a host 10.0.0.9, fd00::9 on eth0 of which its tables know nothing.
func withHost() *fakeKernel {
	f := newFake()
	f.hosts[on(2, "10.0.0.9")] = &fakeHost{mac: macA}
	f.hosts[on(2, "fd00::9")] = &fakeHost{mac: macA}
	return f
}

func TestAsksForAnUnknownNeighbor(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9", "fd00::9"}, func(b *bench) {
		b.wants("10.0.0.9", "waiting for an answer to ARP for 10.0.0.9 on eth0")
		b.wants("fd00::9", "waiting for an answer to ND for fd00::9 on eth0")
		if is(b.Synced()) {
			b.Error("synced before the answer")
		}
		b.after(answerTime + 10*time.Millisecond)
		b.wants("10.0.0.9", macA)
		b.wants("fd00::9", macA)
		if !is(b.Synced()) || !is(b.Changed()) {
			b.Error("not synced, or no change shown, after the answer")
		}
		for _, a := range b.questions() {
			if want := netip.MustParseAddr("10.0.0.1"); a.q.target.Is4() && a.q.from != want {
				b.Errorf("asked from %s, want %s", a.q.from, want)
			}
			if want := netip.MustParseAddr("fe80::1"); a.q.target.Is6() && a.q.from != want {
				b.Errorf("asked from %s, want %s", a.q.from, want)
			}
			if a.q.to != all || a.q.mac != b.linkT[2].mac {
				b.Errorf("question is %+v, want one to everybody from eth0", a.q)
			}
		}
	})
}

func TestRefreshesByUnicastWithJitter(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Hour)
		list := b.questions()
		for i, a := range list[1:] {
			if gap := a.at - list[i].at; gap < 8*time.Second || gap > 10*time.Second+20*time.Millisecond {
				b.Errorf("%v between two probes, want 8 to 10 s", gap)
			}
			if a.q.to != macA {
				b.Errorf("probe went to %v, want %v", a.q.to, macA)
			}
		}
		if len(list) < 360 || len(list) > 450 {
			b.Errorf("%d probes in an hour", len(list))
		}
	})
}

func TestTakesKernelEntriesAtOnce(t *testing.T) {
	f := withHost()
	f.neighT[on(2, "10.0.0.9")] = entry{mac: macA, valid: true, reachable: true}
	f.neighT[on(2, "fd00::9")] = entry{mac: macA, valid: true} // stale
	simulate(t, f, Options{}, []string{"10.0.0.9", "fd00::9"}, func(b *bench) {
		b.wants("10.0.0.9", macA)
		b.wants("fd00::9", macA)
		if !is(b.Synced()) {
			b.Error("not synced")
		}
		list := b.questions()
		if len(list) != 1 || list[0].q.to != macA || list[0].q.target != netip.MustParseAddr("fd00::9") {
			b.Errorf("asked %+v, want a verification of the stale entry only", list)
		}
		b.after(10 * time.Second)
		if list := b.questions(); len(list) < 1 || len(list) > 4 {
			b.Errorf("asked %+v, want one probe each or two", list)
		}
	})
}

func TestSilentMACChange(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Minute)
		b.setHost(on(2, "10.0.0.9"), &fakeHost{mac: macB})
		b.questions()
		b.after(11*time.Second + 50*time.Millisecond) // Refresh, one miss, the answer
		b.wants("10.0.0.9", macB)
		if to := recipients(b.questions()); !slices.Equal(to[:2], []mac{macA, all}) {
			b.Errorf("asked %v, want the old address, then everybody", to)
		}
	})
}

func TestAnnouncementIsTakenOverAtOnceAndVerified(t *testing.T) {
	for _, address := range []string{"10.0.0.9", "fd00::9"} {
		simulate(t, withHost(), Options{}, []string{address}, func(b *bench) {
			b.after(time.Minute)
			b.questions()
			b.setHost(on(2, address), &fakeHost{mac: macB})
			b.announce(on(2, address), macB)
			b.after(10 * time.Millisecond)
			b.wants(address, macB)
			if to := recipients(b.questions()); !slices.Equal(to, []mac{macB}) {
				b.Errorf("asked %v, want the new address", to)
			}
		})
	}
}

func TestFalseAnnouncementIsRepaired(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Minute)
		b.announce(on(2, "10.0.0.9"), macB)
		b.after(10 * time.Millisecond)
		b.wants("10.0.0.9", macB)
		b.after(time.Second + 20*time.Millisecond)
		b.wants("10.0.0.9", macA)
	})
}

// A proxy may advertise itself without the override flag, RFC 4861, 7.2.5 (and 7.2.8).
func TestAdvertisementWithoutOverrideDoesNotReplace(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"fd00::9"}, func(b *bench) {
		b.after(time.Minute)
		b.questions()
		b.ports[portKey{2, true}].put(func(n *news) {
			n.addSighting(sighting{key: on(2, "fd00::9"), mac: macB})
		})
		b.after(10 * time.Millisecond)
		b.wants("fd00::9", macA)
		if to := recipients(b.questions()); !slices.Equal(to, []mac{macA}) {
			b.Errorf("asked %v, want a verification", to)
		}
	})
}

func TestSilentHostIsGivenUpAndFoundAgain(t *testing.T) {
	for address, reason := range map[string]string{"10.0.0.9": noARP, "fd00::9": noND} {
		simulate(t, withHost(), Options{}, []string{address}, func(b *bench) {
			b.after(time.Minute)
			b.wants(address, macA)
			b.setHost(on(2, address), &fakeHost{mac: macA, dead: true})
			b.after(time.Second) // 1 s less than the earliest
			b.wants(address, macA)
			b.after(12*time.Second + 20*time.Millisecond)
			b.wants(address, reason)
			b.questions()
			b.after(time.Minute)
			if n := len(b.questions()); n < 6 || n > 9 {
				b.Errorf("%d questions in a minute to a dead host, want the refresh interval", n)
			}
			b.setHost(on(2, address), &fakeHost{mac: macB})
			b.after(10*time.Second + 20*time.Millisecond)
			b.wants(address, macB)
		})
	}
}

func TestUnansweredFromTheStart(t *testing.T) {
	simulate(t, newFake(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(3*time.Second - time.Millisecond)
		b.wants("10.0.0.9", "waiting for an answer to ARP for 10.0.0.9 on eth0")
		if is(b.Synced()) {
			b.Error("synced without an answer")
		}
		b.after(2 * time.Millisecond)
		b.wants("10.0.0.9", noARP)
		if !is(b.Synced()) {
			b.Error("not synced with a definite reason")
		}
		if to := recipients(b.questions()); !slices.Equal(to, []mac{all, all, all, all}) {
			b.Errorf("asked %v, want three times everybody, and again", to)
		}
	})
}

func TestSyncedAtTheLatest(t *testing.T) {
	simulate(t, newFake(), Options{FirstWait: time.Second}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Second - time.Millisecond)
		if is(b.Synced()) {
			b.Error("synced early")
		}
		b.after(2 * time.Millisecond)
		if !is(b.Synced()) {
			b.Error("not synced after FirstWait")
		}
	})
}

func TestSyncedNeedsTargets(t *testing.T) {
	simulate(t, newFake(), Options{}, nil, func(b *bench) {
		b.after(time.Hour)
		if is(b.Synced()) {
			b.Error("synced before SetTargets")
		}
		b.SetTargets(nil)
		b.after(0)
		if !is(b.Synced()) {
			b.Error("not synced with no targets")
		}
	})
}

func TestPermanentEntryIsBelieved(t *testing.T) {
	f := newFake()
	k := on(2, "10.0.0.9")
	f.neighT[k] = entry{mac: macA, valid: true, static: true}
	simulate(t, f, Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Hour)
		b.wants("10.0.0.9", macA)
		b.announce(k, macB)
		b.after(time.Minute)
		b.wants("10.0.0.9", macA)
		if list := b.questions(); len(list) != 0 {
			b.Errorf("asked %+v for a permanent entry", list)
		}
		b.setHost(k, &fakeHost{mac: macB})
		b.setNeigh(k, entry{})
		b.after(10 * time.Millisecond)
		b.wants("10.0.0.9", macA)
		b.after(20 * time.Millisecond)
		b.wants("10.0.0.9", macB)
		if to := recipients(b.questions()); !slices.Equal(to, []mac{all}) {
			b.Errorf("asked %v after the entry was removed, want everybody", to)
		}
	})
}

func TestKernelNewsAndNoNews(t *testing.T) {
	k := on(2, "10.0.0.9")
	f := withHost()
	f.neighT[k] = entry{mac: macA, valid: true, reachable: true}
	simulate(t, f, Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.setHost(k, &fakeHost{mac: macB})
		b.announce(k, macB)
		b.after(20 * time.Millisecond)
		b.setNeigh(k, entry{mac: macA, valid: true}) // reachable becomes stale, the old address is repeated
		b.after(20 * time.Millisecond)
		b.wants("10.0.0.9", macB)
		b.setHost(k, &fakeHost{mac: macA})
		b.setNeigh(k, entry{mac: macA, valid: true, reachable: true}) // the kernel asked
		b.after(20 * time.Millisecond)
		b.wants("10.0.0.9", macA)
		b.questions()
		b.setNeigh(k, entry{failed: true})
		b.after(20 * time.Millisecond)
		b.wants("10.0.0.9", macA)
		if to := recipients(b.questions()); !slices.Equal(to, []mac{macA}) {
			b.Errorf("asked %v when the kernel failed, want our own attempt", to)
		}
	})
}

func TestRateIsBounded(t *testing.T) {
	var addrs []string
	for i := range 2000 {
		addrs = append(addrs, fmt.Sprintf("10.1.%d.%d", i/250, i%250+1))
	}
	f := newFake()
	f.routeT[netip.MustParsePrefix("10.1.0.0/16")] = via(2, "")
	simulate(t, f, Options{ProbeRate: 100, Retry: 100 * time.Millisecond}, addrs, func(b *bench) {
		for second := range 10 {
			b.questions()
			b.after(time.Second)
			if n := len(b.questions()); n > 103 || n < 90 {
				b.Errorf("%d probes in second %d, want 100", n, second)
			}
		}
	})
}

func TestOverloadMakesNobodyUnresolved(t *testing.T) {
	f := newFake()
	f.routeT[netip.MustParsePrefix("10.1.0.0/16")] = via(2, "")
	var addrs []string
	for i := range 1000 {
		addrs = append(addrs, fmt.Sprintf("10.1.%d.%d", i/250, i%250+1))
		f.hosts[on(2, addrs[i])] = &fakeHost{mac: macA}
	}
	simulate(t, f, Options{ProbeRate: 10}, addrs, func(b *bench) {
		b.after(101 * time.Second)
		b.questions()
		for range 100 {
			b.after(10 * time.Second)
			for a, h := range b.Hops() {
				if !h.Resolved {
					b.Fatalf("%s became %v", a, h)
				}
			}
		}
	})
}

func TestLinkStates(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*link)
		reason string
	}{
		{"down", func(l *link) { l.up, l.carrier = false, false }, "link eth0 is down"},
		{"no carrier", func(l *link) { l.carrier = false }, "link eth0 has no carrier"},
		{"no address", func(l *link) { l.ether = false }, "device eth0 has no link-layer address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
				b.after(time.Minute)
				good, bad := b.linkT[2], b.linkT[2]
				c.change(&bad)
				b.setLink(bad)
				b.after(10 * time.Millisecond)
				b.wants("10.0.0.9", c.reason)
				b.questions()
				b.after(time.Hour)
				if list := b.questions(); len(list) != 0 {
					b.Errorf("asked %d times on a link that does not work", len(list))
				}
				b.setLink(good)
				b.after(10 * time.Millisecond)
				b.wants("10.0.0.9", macA) // the last that was known, verified at once:
				if to := recipients(b.questions()); !slices.Equal(to, []mac{macA}) {
					b.Errorf("asked %v when the link came back", to)
				}
			})
		})
	}
}

func TestLinkGoneAndRouteGone(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Second)
		p := netip.MustParsePrefix("10.0.0.0/24")
		b.change(func() { delete(b.linkT, 2); delete(b.routeT, p) }, func(n *news) { n.addGone(2) })
		b.after(10 * time.Millisecond)
		b.wants("10.0.0.9", "link eth0 is gone")
		b.setLink(ether(3, "eth1"))
		b.setHost(on(3, "10.0.0.9"), &fakeHost{mac: macB})
		b.setRoute("10.0.0.0/24", via(3, ""))
		b.after(30 * time.Millisecond)
		b.wants("10.0.0.9", macB)
	})
}

func TestAddressBecomesLocal(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Second)
		b.setRoute("10.0.0.9/32", route{kind: unix.RTN_LOCAL, link: 1})
		b.change(func() { delete(b.linkT, 2) }, func(n *news) { n.addGone(2) })
		b.after(10 * time.Millisecond)
		if h := b.hop("10.0.0.9"); !h.Local {
			b.Errorf("hop is %v, want local", h)
		}
	})
}

// Pending tells the first resolution by a route from a failed one.
func TestPending(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		pending := func(want bool, when string) {
			b.Helper()
			if h := b.hop("10.0.0.9"); h.Pending != want {
				b.Errorf("%s: hop is %+v, want pending %v", when, h, want)
			}
		}
		pending(true, "asked")
		b.after(time.Second)
		pending(false, "answered")
		b.setRoute("10.0.0.9/32", via(2, "10.0.0.254"))
		b.after(10 * time.Millisecond)
		pending(true, "by a new gateway")
		b.after(3 * time.Second)
		pending(false, "which does not answer")
		b.setRoute("10.0.0.9/32", route{errno: unix.EINVAL})
		b.after(10 * time.Millisecond)
		pending(false, "no way")
	})
}

func TestLinkOnlyAddressesChange(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Second)
		looked := b.reads["routes"]
		l := b.linkT[2]
		l.mac, l.mtu = macB, 9000
		b.setLink(l)
		b.after(10 * time.Millisecond)
		if h := b.hop("10.0.0.9"); h.SrcMAC != macB || h.MTU != 9000 {
			b.Errorf("hop is %+v, want the link's new address and MTU", h)
		}
		if b.reads["routes"] != looked {
			b.Error("routes were looked up for a change of MAC and MTU")
		}
	})
}

func TestVLANDevices(t *testing.T) {
	vlan := func(index, parent int, name string, id, tpid uint16) link {
		l := ether(index, name)
		l.vlan, l.parent, l.tag = true, parent, tag{id, tpid}
		return l
	}
	f := newFake()
	for _, l := range []link{
		vlan(10, 2, "eth0.100", 100, TPIDService), vlan(11, 10, "eth0.100.7", 7, TPIDCustomer),
		vlan(12, 11, "too.deep", 8, TPIDCustomer), vlan(13, 99, "orphan", 9, TPIDCustomer),
	} {
		f.linkT[l.index] = l
	}
	foreign := vlan(14, 2, "moved", 10, TPIDCustomer)
	foreign.foreign = true
	f.linkT[14] = foreign
	var addrs []string
	for i := 10; i <= 14; i++ {
		address := fmt.Sprintf("10.9.0.%d", i)
		addrs = append(addrs, address)
		f.routeT[netip.MustParsePrefix(address+"/32")] = via(i, "")
		f.hosts[on(i, address)] = &fakeHost{mac: macA}
	}
	simulate(t, f, Options{}, addrs, func(b *bench) {
		b.after(time.Second)
		want := Hop{Resolved: true, Link: 2, LinkName: "eth0", VLAN: []uint16{100}, TPID: []uint16{TPIDService},
			SrcMAC: f.linkT[10].mac, DstMAC: macA, Gateway: netip.MustParseAddr("10.9.0.10"), Source: netip.MustParseAddr("10.0.0.1"), MTU: 1500}
		if h := b.hop("10.9.0.10"); !h.Equal(want) {
			b.Errorf("one tag: %+v, want %+v", h, want)
		}
		want.VLAN, want.TPID, want.SrcMAC = []uint16{100, 7}, []uint16{TPIDService, TPIDCustomer}, f.linkT[11].mac
		want.Gateway = netip.MustParseAddr("10.9.0.11")
		if h := b.hop("10.9.0.11"); !h.Equal(want) {
			b.Errorf("two tags: %+v, want %+v", h, want)
		}
		b.wants("10.9.0.12", "device too.deep needs more than 2 VLAN tags")
		b.wants("10.9.0.13", "parent of device orphan is gone")
		b.wants("10.9.0.14", "parent of device moved is in another network namespace")
		l := b.linkT[2]
		l.up = false
		b.setLink(l)
		b.after(10 * time.Millisecond)
		b.wants("10.9.0.11", "link eth0 is down")
	})
}

func TestRouteKinds(t *testing.T) {
	f := newFake()
	f.linkT[5] = link{index: 5, name: "tun0", mtu: 1400, up: true, carrier: true, noARP: true}
	quiet := ether(6, "dummy0")
	quiet.noARP = true
	f.linkT[6] = quiet
	cases := map[string]struct {
		r    route
		want string
	}{
		"10.9.0.1": {route{errno: unix.EINVAL}, "blackhole route to 10.9.0.1"},
		"10.9.0.2": {route{errno: unix.EHOSTUNREACH}, "unreachable route to 10.9.0.2"},
		"10.9.0.3": {route{errno: unix.EACCES}, "prohibit route to 10.9.0.3"},
		"10.9.0.4": {route{errno: unix.ENODEV}, "look up route to 10.9.0.4: no such device"},
		"10.9.0.5": {via(5, ""), "device tun0 has no link-layer address"},
		"10.9.0.6": {via(6, ""), "device dummy0 does no address resolution"},
		"10.9.0.7": {route{kind: unix.RTN_UNICAST, link: 2, encap: true}, "route to 10.9.0.7 encapsulates"},
		"10.9.0.8": {route{kind: unix.RTN_BROADCAST, link: 2}, "10.9.0.8 is a broadcast address"},
		"10.9.0.9": {route{kind: unix.RTN_UNICAST}, "route to 10.9.0.9 has no interface"},
		"fd09::1":  {route{kind: unix.RTN_BLACKHOLE, link: 1}, "blackhole route to fd09::1"},
		"fd09::2":  {route{kind: unix.RTN_UNREACHABLE, link: 1}, "unreachable route to fd09::2"},
		"fd09::3":  {route{kind: unix.RTN_PROHIBIT, link: 1}, "prohibit route to fd09::3"},
	}
	addrs := []string{"10.0.0.1", "192.0.2.1", "224.0.0.9", "0.0.0.0", "ff02::1", "fe80::5", "fe80::5%nosuch"}
	for address, c := range cases {
		addrs = append(addrs, address)
		f.routeT[netip.PrefixFrom(netip.MustParseAddr(address), netip.MustParseAddr(address).BitLen())] = c.r
	}
	simulate(t, f, Options{}, addrs, func(b *bench) {
		if !is(b.Synced()) {
			b.Error("not synced although every reason is definite")
		}
		for address, c := range cases {
			b.wants(address, c.want)
		}
		b.wants("192.0.2.1", "no route to 192.0.2.1")
		b.wants("224.0.0.9", "224.0.0.9 is not a unicast address")
		b.wants("0.0.0.0", "0.0.0.0 is not a unicast address")
		b.wants("ff02::1", "ff02::1 is not a unicast address")
		b.wants("fe80::5", "link-local address fe80::5 needs a zone")
		b.wants("fe80::5%nosuch", "no link named nosuch")
		if h := b.hop("10.0.0.1"); !h.Local || !h.Resolved || h.LinkName != "lo" {
			b.Errorf("own address is %+v, want local", h)
		}
		if list := b.questions(); len(list) != 0 {
			b.Errorf("asked %+v", list)
		}
	})
}

func TestZonesFollowTheirLinks(t *testing.T) {
	f := newFake()
	f.routeT[netip.MustParsePrefix("fe80::/64")] = via(3, "")
	f.hosts[on(3, "fe80::9")] = &fakeHost{mac: macA}
	f.addrT[3] = []address{{prefix: netip.MustParsePrefix("fe80::3/64"), usable: true}}
	simulate(t, f, Options{}, []string{"fe80::9%eth1", "fe80::9%3"}, func(b *bench) {
		b.wants("fe80::9%eth1", "no link named eth1")
		b.setLink(ether(3, "eth1"))
		b.after(time.Second)
		b.wants("fe80::9%eth1", macA)
		b.wants("fe80::9%3", macA)
		if g := b.hop("fe80::9%3").Gateway; g != netip.MustParseAddr("fe80::9%eth1") {
			b.Errorf("gateway is %s, want the link's name as zone", g)
		}
		l := b.linkT[3]
		l.name = "wan"
		b.setLink(l)
		b.after(time.Second)
		b.wants("fe80::9%eth1", "no link named eth1")
		b.wants("fe80::9%3", macA)
	})
}

func TestGatewayIsSharedAndChanges(t *testing.T) {
	f := newFake()
	f.hosts[on(2, "10.0.0.254")] = &fakeHost{mac: macA}
	f.hosts[on(2, "10.0.0.253")] = &fakeHost{mac: macB}
	f.routeT[netip.MustParsePrefix("10.9.0.0/16")] = via(2, "10.0.0.254")
	simulate(t, f, Options{}, []string{"10.9.0.1", "10.9.1.1"}, func(b *bench) {
		b.after(time.Second)
		if n := len(b.questions()); n != 1 {
			b.Errorf("%d questions for one gateway", n)
		}
		looked := b.reads["routes"]
		b.setRoute("10.9.1.0/24", via(2, "10.0.0.253"))
		b.after(30 * time.Millisecond)
		b.wants("10.9.0.1", macA)
		b.wants("10.9.1.1", macB)
		if n := b.reads["routes"] - looked; n != 1 {
			b.Errorf("%d look-ups for a changed prefix, want the one target in it", n)
		}
	})
}

func TestBurstIsOneReading(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Minute)
		is(b.Changed())
		before := b.reads["addresses"]
		for i := range 90 {
			l := b.linkT[2]
			l.mtu = 1000 + i
			b.setLink(l)
			b.change(func() {}, func(n *news) { n.addresses = true })
			b.after(100 * time.Microsecond)
		}
		b.after(10 * time.Millisecond)
		if n := b.reads["addresses"] - before; n != 1 {
			b.Errorf("addresses were read %d times in a burst of 9 ms, want once", n)
		}
		if !is(b.Changed()) || is(b.Changed()) {
			b.Error("want exactly one change")
		}
		if h := b.hop("10.0.0.9"); h.MTU != 1089 {
			b.Errorf("MTU %d, want the last", h.MTU)
		}
	})
}

func TestLostSubscription(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Minute - time.Second)
		b.watchErr = errors.New("no more sockets")
		b.overrun(func() {
			b.routeT[netip.MustParsePrefix("10.0.0.0/24")] = route{errno: unix.EINVAL}
		})
		b.after(20 * time.Millisecond)
		b.wants("10.0.0.9", macA)
		b.fakeKernel.mu.Lock()
		b.watchErr = nil
		b.fakeKernel.mu.Unlock()
		b.after(time.Second)
		b.wants("10.0.0.9", "blackhole route to 10.0.0.9")
		b.setRoute("10.0.0.0/24", via(2, "")) // it hears again
		b.after(30 * time.Millisecond)
		b.wants("10.0.0.9", macA)
	})
}

func TestLossAfterLossLeavesTimeForOtherThings(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Second)
		before := b.reads["watch"]
		for range 10_000 {
			b.overrun(func() {})
			b.after(time.Millisecond)
		}
		if n := b.reads["watch"] - before; n < 90 || n > 101 {
			b.Errorf("%d subscriptions in 10 s, want at most one in 100 ms", n)
		}
	})
}

func TestResyncFindsWhatNobodyAnnounced(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(time.Second)
		b.change(func() {
			b.neighT[on(2, "10.0.0.9")] = entry{mac: macB, valid: true, static: true}
			l := b.linkT[2]
			l.mtu = 1280
			b.linkT[2] = l
		}, nil)
		b.after(time.Minute)
		b.wants("10.0.0.9", macB)
		if h := b.hop("10.0.0.9"); h.MTU != 1280 {
			b.Errorf("MTU %d after a resync, want 1280", h.MTU)
		}
	})
}

func TestFailedLookupsAreTriedAgain(t *testing.T) {
	f := withHost()
	f.routeErr = errors.New("out of memory")
	simulate(t, f, Options{}, []string{"10.0.0.9"}, func(b *bench) {
		b.after(partialEvery)
		b.wants("10.0.0.9", "route to 10.0.0.9 was not looked up yet")
		b.fakeKernel.mu.Lock()
		b.routeErr = nil
		b.fakeKernel.mu.Unlock()
		b.after(time.Second + 20*time.Millisecond)
		b.wants("10.0.0.9", macA)
	})
}

func TestProbesThatCannotBeSentSayNothing(t *testing.T) {
	f := withHost()
	f.portErr = errors.New("operation not permitted")
	f.neighT[on(2, "10.0.0.9")] = entry{mac: macA, valid: true}
	simulate(t, f, Options{}, []string{"10.0.0.9", "fd00::9"}, func(b *bench) {
		b.after(time.Hour)
		b.wants("10.0.0.9", macA)
		b.wants("fd00::9", "ask for fd00::9 on eth0: open socket: operation not permitted")
		b.fakeKernel.mu.Lock()
		b.portErr = nil
		b.fakeKernel.mu.Unlock()
		b.after(2 * time.Second)
		b.wants("fd00::9", macA)
	})
}

func TestLatestTargetsWin(t *testing.T) {
	simulate(t, withHost(), Options{}, []string{"10.0.0.9", "10.0.0.9"}, func(b *bench) {
		b.after(time.Second)
		b.SetTargets(parse("fd00::9", "10.0.0.8"))
		b.SetTargets(parse("fd00::9"))
		b.after(time.Second)
		if len(b.Hops()) != 1 {
			b.Errorf("hops are %v, want one", b.Hops())
		}
		b.wants("fd00::9", macA)
		if b.ports[portKey{2, false}] != nil || b.ports[portKey{2, true}] == nil {
			b.Errorf("ports are %v, want the one for IPv6", b.ports)
		}
		b.questions()
		b.after(time.Minute)
		for _, a := range b.questions() {
			if a.q.target.Is4() {
				b.Errorf("asked for %s, which nobody wants", a.q.target)
			}
		}
		b.SetTargets(nil)
		b.after(0)
		if b.open != 1 { // the subscription
			b.Errorf("%d things are open without targets", b.open)
		}
	})
}

func TestStartFailsWithoutTables(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.watchErr = errors.New("not permitted")
		err := New(nil, Options{}).run(context.Background(), f)
		if want := "read kernel tables: subscribe: not permitted"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %q", err, want)
		}
	})
}

func TestSourceOfQuestions(t *testing.T) {
	table := addressTable{2: {
		{prefix: netip.MustParsePrefix("10.0.0.100/32"), usable: true}, // a virtual address
		{prefix: netip.MustParsePrefix("10.0.0.1/24"), usable: true},
		{prefix: netip.MustParsePrefix("10.0.0.2/24"), usable: true},
		{prefix: netip.MustParsePrefix("fd00::1/64"), usable: true},
		{prefix: netip.MustParsePrefix("fe80::1/64")}, // tentative
	}}
	for _, c := range []struct{ neighbor, prefer, want string }{
		{"10.0.0.9", "10.0.0.1", "10.0.0.1"},
		{"10.0.0.9", "10.0.0.2", "10.0.0.2"},
		{"10.0.0.9", "10.0.0.100", "10.0.0.1"},
		{"10.7.0.9", "10.0.0.1", "10.0.0.1"},
		{"10.7.0.9", "fd00::1", "0.0.0.0"},
		{"fd00::9", "fd00::1", "fd00::1"},
	} {
		got, err := table.source(on(2, c.neighbor), netip.MustParseAddr(c.prefer))
		if err != nil || got.String() != c.want {
			t.Errorf("source to ask for %s, route prefers %s: %v, %v, want %s", c.neighbor, c.prefer, got, err, c.want)
		}
	}
	if got, err := table.source(on(3, "fe80::9"), netip.Addr{}); err == nil {
		t.Errorf("source on a link without IPv6 is %s", got)
	}
}
