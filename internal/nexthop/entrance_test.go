// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/netlab"
)

// devices are a card of each sort, VLANs on them, a bond of two and a bridge of two.
func devices() linkTable {
	t := linkTable{}
	add := func(index int, name string, change func(*link)) {
		l := ether(index, name)
		l.kind = "device"
		change(&l)
		t[index] = l
	}
	on := func(parent int, id uint16) func(*link) {
		return func(l *link) { l.kind, l.vlan, l.parent, l.tag = "vlan", true, parent, tag{id, TPIDCustomer} }
	}
	kind := func(kind string) func(*link) { return func(l *link) { l.kind = kind } }
	of := func(master int) func(*link) { return func(l *link) { l.master = master } }
	add(2, "eth0", func(*link) {})
	add(3, "eth0.100", on(2, 100))
	add(4, "eth0.100.7", on(3, 7))
	add(5, "deep", on(4, 8))
	add(6, "orphan", on(99, 9))
	add(7, "moved", func(l *link) { on(2, 10)(l); l.foreign = true })
	add(10, "bond0", kind("bond"))
	add(11, "eth1", of(10))
	add(12, "bond0.5", on(10, 5))
	add(13, "eth1.6", on(11, 6))
	add(20, "br0", kind("bridge"))
	add(21, "eth2", of(20))
	add(22, "eth3.20", func(l *link) { on(2, 20)(l); l.master = 20 })
	add(23, "br0.9", on(20, 9))
	add(30, "vrf0", kind("vrf"))
	add(31, "eth4", of(30))
	add(40, "mac0", func(l *link) { l.kind, l.parent = "macvlan", 2 })
	return t
}

func TestEntrances(t *testing.T) {
	links := devices()
	for name, want := range map[string]string{
		"eth0":       "eth0 eth0",
		"eth0.100":   "eth0 eth0.100 eth0.100 is VLAN 100 of eth0",
		"eth0.100.7": "eth0 eth0.100.7 eth0.100.7 is VLAN 7 of eth0.100, eth0.100 is VLAN 100 of eth0",
		"deep":       "device deep has more than 2 VLAN tags",
		"orphan":     "parent of device orphan is gone",
		"moved":      "parent of device moved is in another network namespace",
		"bond0":      "bond0 bond0",
		"eth1":       "bond0 bond0 eth1 belongs to the bond bond0",
		"bond0.5":    "bond0 bond0.5 bond0.5 is VLAN 5 of bond0",
		"eth1.6":     "bond0 eth1.6 eth1.6 is VLAN 6 of eth1, eth1 belongs to the bond bond0",
		"eth2":       "br0 br0 eth2 belongs to the bridge br0",
		"eth3.20":    "br0 br0 eth3.20 belongs to the bridge br0",
		"br0.9":      "br0 br0.9 br0.9 is VLAN 9 of br0",
		"eth4":       "eth4 eth4", // a VRF is about routes, not about frames
		"mac0":       "mac0 mac0",
	} {
		l, _ := links.named(name)
		e, err := links.entrance(l)
		got := strings.TrimSpace(strings.Join([]string{e.Native.Name, e.Generic.Name, e.Why}, " "))
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if blind := links.carriesVLANs(e.Generic.Index) && links[e.Generic.Index].joins(); blind != (e.Generic.Name == "bond0" || e.Generic.Name == "br0") {
			t.Errorf("%s: blind is %v", name, blind)
		}
		if err == nil && (links[e.Native.Index].name != e.Native.Name || links[e.Generic.Index].name != e.Generic.Name) {
			t.Errorf("%s: names and indexes differ: %+v", name, e)
		}
	}
}

// What the kernel tells of real devices. (This one may have no VLANs and bonds: test/e2e has those.)
func TestFindEntrance(t *testing.T) {
	r := newRig(t)
	r.ip(r.dir, "link add br0 type bridge")
	r.ip(r.dir, "link add link eth0 name mac0 type macvlan mode bridge")
	r.mustEnter(r.dir, "eth0", "eth0 eth0 ")
	r.mustEnter(r.dir, "mac0", "mac0 mac0 ")
	r.ip(r.dir, "link del mac0")
	r.ip(r.dir, "link set eth0 master br0")
	r.mustEnter(r.dir, "eth0", "br0 br0 eth0 belongs to the bridge br0")
	err := r.dir.Do(func() error { _, err := FindEntrance("eth9"); return err })
	if err == nil || err.Error() != "no such interface (there are lo, eth0, br0)" {
		t.Errorf("eth9: %v", err)
	}
}

func (r *rig) mustEnter(h *netlab.Host, name, want string) {
	r.t.Helper()
	var e Entrance
	r.must(h.Do(func() (err error) { e, err = FindEntrance(name); return err }))
	if got := e.Native.Name + " " + e.Generic.Name + " " + e.Why; got != want {
		r.t.Errorf("%s enters at %q, want %q", name, got, want)
	}
}

// What XDP sends by instead of a bond that it cannot send by.
func TestBonds(t *testing.T) {
	f := newFake()
	bond := func(index int, name string, mode bondMode, active int) {
		l := ether(index, name)
		l.kind, l.mode, l.active = "bond", mode, active
		f.linkT[index] = l
	}
	bond(10, "bond0", bondAny, 3)
	bond(11, "tlb0", bondAdaptive, 3)
	bond(12, "all0", bondBroadcast, 0)
	bond(13, "none0", bondAdaptive, 0)
	vlan := ether(14, "tlb0.5")
	vlan.vlan, vlan.parent, vlan.tag = true, 11, tag{5, TPIDCustomer}
	f.linkT[14] = vlan
	f.linkT[3], f.linkT[4] = ether(3, "eth1"), ether(4, "eth2")
	var addrs []string
	for i := 10; i <= 14; i++ {
		address := fmt.Sprintf("10.9.0.%d", i)
		addrs = append(addrs, address)
		f.routeT[netip.MustParsePrefix(address+"/32")] = via(i, "")
		f.hosts[on(i, address)] = &fakeHost{mac: macA}
	}
	simulate(t, f, Options{}, addrs, func(b *bench) {
		b.after(time.Second)
		b.leavesBy("10.9.0.10", "bond0", f.linkT[10].mac, nil)
		b.leavesBy("10.9.0.11", "eth1", f.linkT[11].mac, nil)
		b.leavesBy("10.9.0.14", "eth1", f.linkT[14].mac, []uint16{5})
		b.wants("10.9.0.12", "bond all0 sends by all its slaves at once (broadcast), which XDP cannot")
		b.wants("10.9.0.13", "bond none0 has no active slave")
		other := f.linkT[11]
		other.active = 4
		b.setLink(other)
		b.after(10 * time.Millisecond)
		b.leavesBy("10.9.0.11", "eth2", other.mac, nil)
		l := f.linkT[4]
		l.carrier = false
		b.setLink(l)
		b.after(10 * time.Millisecond)
		b.wants("10.9.0.11", "link eth2 has no carrier")
	})
}

// leavesBy fails unless frames to the address leave by the link, from and with these.
func (b *bench) leavesBy(address, link string, from mac, vlan []uint16) {
	b.Helper()
	if h := b.hop(address); !h.Resolved || h.LinkName != link || h.SrcMAC != from || !slices.Equal(h.VLAN, vlan) {
		b.Errorf("%s: %+v, want it by %s from %s with tags %v", address, h, link, from, vlan)
	}
}
