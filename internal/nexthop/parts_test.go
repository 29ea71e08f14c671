// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPace(t *testing.T) {
	p, now, allowed := newPace(1000), epoch, 0
	for range 10_000 { // 10 s in steps of a millisecond, tried more often than allowed
		for range 5 {
			if p.allow(now) {
				allowed++
			}
		}
		now = now.Add(time.Millisecond)
	}
	if allowed < 10_000 || allowed > 10_000+21 {
		t.Errorf("%d allowed in 10 s, want 1000 per second and one burst", allowed)
	}
}

func TestPatienceDoublesUpToRefresh(t *testing.T) {
	p := prober{opts: Options{}.withDefaults()}
	var got []time.Duration
	for misses := range 9 {
		got = append(got, p.patience(misses)/time.Second)
	}
	if want := []time.Duration{1, 1, 1, 2, 4, 8, 10, 10, 10}; !slices.Equal(got, want) {
		t.Errorf("patience by misses is %v s, want %v", got, want)
	}
	p.opts.Retry = time.Minute // longer than Refresh: an odd wish, but nothing is given up early
	if d := p.patience(0); d != time.Minute {
		t.Errorf("patience is %v, want Retry", d)
	}
}

func TestInboxIsBounded(t *testing.T) {
	in := newInbox()
	in.put(func(n *news) {
		for i := range maxPrefixes {
			n.addPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 32))
		}
		if n.routes || len(n.prefixes) != maxPrefixes {
			t.Errorf("%d prefixes, all routes: %v", len(n.prefixes), n.routes)
		}
		n.addPrefix(netip.MustParsePrefix("10.255.0.0/16"))
		if !n.routes || n.prefixes != nil {
			t.Error("too many prefixes do not mean all")
		}
		for i := range maxEntries + 1 {
			n.addEntry(neighKey{link: i}, entry{})
			n.addSighting(sighting{})
		}
		if !n.lost || len(n.entries) != maxEntries || len(n.sightings) != maxSightings || n.overlooked != 1 {
			t.Errorf("%d entries, lost: %v, %d sightings", len(n.entries), n.lost, len(n.sightings))
		}
	})
	if !is(in.ready) || is(in.ready) {
		t.Error("news are not shown exactly once")
	}
	if n := in.take(); !n.lost {
		t.Error("news were not handed over")
	}
	if n := in.take(); n.lost {
		t.Error("news were handed over twice")
	}
}

func TestTargetsWithinPrefix(t *testing.T) {
	list, index := makeTargets(parse("10.0.0.1", "10.0.1.0", "10.0.0.255", "10.0.0.1", "fd00::1", "::ffff:10.0.0.7", "fe80::1%a", "fe80::1%b", "9.255.255.255"), nil)
	if len(list) != 8 || len(index) != 8 {
		t.Fatalf("%d targets, %d in the index, want each once", len(list), len(index))
	}
	for prefix, want := range map[string]string{
		"10.0.0.0/24": "[10.0.0.1 ::ffff:10.0.0.7 10.0.0.255]", "0.0.0.0/0": "[9.255.255.255 10.0.0.1 ::ffff:10.0.0.7 10.0.0.255 10.0.1.0]",
		"fe80::/64": "[fe80::1%a fe80::1%b]", "::/0": "[fd00::1 fe80::1%a fe80::1%b]", "11.0.0.0/8": "[]", "10.0.0.1/32": "[10.0.0.1]",
	} {
		var got []netip.Addr
		for target := range list.within(netip.MustParsePrefix(prefix)) {
			got = append(got, target.addr)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s covers %v, want %s", prefix, got, want)
		}
	}
}

func TestEntryFromRow(t *testing.T) {
	hw := macA[:]
	for _, c := range []struct {
		name string
		row  netlink.Neigh
		want entry
	}{
		{"reachable", netlink.Neigh{State: netlink.NUD_REACHABLE, HardwareAddr: hw}, entry{mac: macA, valid: true, reachable: true}},
		{"stale", netlink.Neigh{State: netlink.NUD_STALE, HardwareAddr: hw}, entry{mac: macA, valid: true}},
		{"permanent", netlink.Neigh{State: netlink.NUD_PERMANENT, HardwareAddr: hw}, entry{mac: macA, valid: true, static: true}},
		{"EVPN", netlink.Neigh{State: netlink.NUD_NOARP, Flags: netlink.NTF_EXT_LEARNED, HardwareAddr: hw}, entry{mac: macA, valid: true, static: true}},
		{"noarp of a dummy", netlink.Neigh{State: netlink.NUD_NOARP, HardwareAddr: hw}, entry{mac: macA}},
		{"incomplete", netlink.Neigh{State: netlink.NUD_INCOMPLETE}, entry{}},
		{"failed", netlink.Neigh{State: netlink.NUD_FAILED}, entry{failed: true}},
		{"failed, with the old address", netlink.Neigh{State: netlink.NUD_FAILED, HardwareAddr: hw}, entry{mac: macA, failed: true}},
		{"group address", netlink.Neigh{State: netlink.NUD_PERMANENT, HardwareAddr: groupHW[:]}, entry{}},
	} {
		c.row.LinkIndex, c.row.Family, c.row.IP = 2, unix.AF_INET, ip9.AsSlice()
		k, got, ok := entryFrom(&c.row)
		if !ok || k != (neighKey{2, ip9}) || got != c.want {
			t.Errorf("%s: %+v of %+v, %v, want %+v", c.name, got, k, ok, c.want)
		}
	}
	for _, row := range []netlink.Neigh{
		{Family: unix.AF_BRIDGE, IP: ip9.AsSlice()}, {Family: unix.AF_INET, IP: ip9.AsSlice(), Flags: netlink.NTF_PROXY}, {Family: unix.AF_INET},
	} {
		if _, _, ok := entryFrom(&row); ok {
			t.Errorf("%+v was taken for a neighbour", row)
		}
	}
}

func TestLinkFromKernel(t *testing.T) {
	attrs := netlink.NewLinkAttrs()
	attrs.Index, attrs.Name, attrs.MTU, attrs.EncapType, attrs.ParentIndex = 7, "eth0.5", 1496, "ether", 2
	attrs.HardwareAddr, attrs.RawFlags = macA[:], unix.IFF_UP|unix.IFF_RUNNING
	want := link{index: 7, parent: 2, name: "eth0.5", mac: macA, ether: true, mtu: 1496, up: true, carrier: true, kind: "veth"}
	if got := linkFrom(&netlink.Veth{LinkAttrs: attrs}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	want.kind, want.vlan, want.tag = "vlan", true, tag{5, TPIDCustomer}
	vlan := &netlink.Vlan{LinkAttrs: attrs, VlanId: 5, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	if got := linkFrom(vlan); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	vlan.VlanProtocol, vlan.NetNsID, want.tag.tpid, want.foreign = netlink.VLAN_PROTOCOL_8021AD, 0, TPIDService, true
	if got := linkFrom(vlan); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for mode, want := range map[netlink.BondMode]bondMode{
		netlink.BOND_MODE_ACTIVE_BACKUP: bondAny, netlink.BOND_MODE_802_3AD: bondAny, netlink.BOND_MODE_BROADCAST: bondBroadcast,
		netlink.BOND_MODE_BALANCE_TLB: bondAdaptive, netlink.BOND_MODE_BALANCE_ALB: bondAdaptive,
	} {
		bond := netlink.NewLinkBond(attrs)
		bond.Mode, bond.ActiveSlave = mode, 9
		if got := linkFrom(bond); got.kind != "bond" || got.mode != want || got.active != 9 {
			t.Errorf("a bond in mode %s is %+v", mode, got)
		}
	}
	attrs.EncapType, attrs.HardwareAddr, attrs.RawFlags = "none", nil, unix.IFF_NOARP
	if got := linkFrom(&netlink.Tuntap{LinkAttrs: attrs}); got.ether || got.up || !got.noARP {
		t.Errorf("a tun device is %+v", got)
	}
}

func TestNotesLinksAndAddresses(t *testing.T) {
	link := func(kind uint16, family byte, index byte, flags uint32) syscall.NetlinkMessage {
		b := make([]byte, unix.SizeofIfInfomsg)
		b[0], b[4] = family, index
		binary.NativeEndian.PutUint32(b[8:], flags)
		return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: b}
	}
	with := func(m syscall.NetlinkMessage, attrs []byte) syscall.NetlinkMessage {
		m.Data = append(m.Data, attrs...)
		return m
	}
	const on = unix.IFF_UP | unix.IFF_RUNNING
	seen := linkStates{2: {up: true, carrier: true}}
	for _, c := range []struct {
		name          string
		msg           syscall.NetlinkMessage
		links, routes bool
	}{
		{"only other flags", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 2, on|unix.IFF_PROMISC), true, false},
		{"enslaved", with(link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 2, on), attr(unix.IFLA_MASTER, 9, 0, 0, 0)), true, true},
		{"set free", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 2, on), true, true},
		{"down", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 2, 0), true, true},
		{"up again", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 2, on), true, true},
		{"never seen", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 3, on), true, true},
		{"of a bridge", link(unix.RTM_DELLINK, unix.AF_BRIDGE, 2, 0), false, false},
		{"deleted", link(unix.RTM_DELLINK, unix.AF_UNSPEC, 2, 0), true, true},
		{"short", syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}}, false, false},
	} {
		var n news
		n.note(c.msg, seen)
		if noted := len(n.links)+len(n.gone) > 0; noted != c.links || n.routes != c.routes {
			t.Errorf("%s: links %v, routes %v, want %v, %v", c.name, noted, n.routes, c.links, c.routes)
		}
	}
	gone := append(make([]byte, unix.SizeofIfAddrmsg), attr(unix.IFA_LOCAL, 10, 0, 0, 9)...)
	gone[4] = 7
	var n news
	n.note(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_DELADDR}, Data: gone}, seen)
	if _, ok := n.withdrawn[withdrawal{7, ip9}]; !ok || !n.addresses {
		t.Errorf("a deleted address is noted as %+v", n)
	}
}

func TestAddressChanges(t *testing.T) {
	a4 := address{prefix: netip.MustParsePrefix("10.0.0.1/24"), usable: true}
	b4 := address{prefix: netip.MustParsePrefix("10.0.1.1/24"), usable: true}
	a6 := address{prefix: netip.MustParsePrefix("fd00::1/64"), usable: true}
	for _, c := range []struct {
		name        string
		old, now    addressTable
		v4          int // links
		revived, v6 bool
	}{
		{"nothing", addressTable{2: {a4, a6}}, addressTable{2: {a4, a6}}, 0, false, false},
		{"second IPv4", addressTable{2: {a4, a6}}, addressTable{2: {a4, b4, a6}}, 1, false, false},
		{"first IPv4", addressTable{2: {a6}}, addressTable{2: {a4, a6}}, 1, true, false},
		{"last IPv4", addressTable{2: {a4}, 3: {a4}}, addressTable{2: {a4}}, 1, true, false},
		{"moved", addressTable{2: {a4, b4}, 3: {}}, addressTable{2: {a4}, 3: {b4}}, 2, true, false},
		{"IPv6", addressTable{2: {a4}}, addressTable{2: {a4, a6}}, 0, false, true},
	} {
		got := c.now.since(c.old)
		if len(got.v4) != c.v4 || got.revived != c.revived || got.v6 != c.v6 {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestHopSaysItsState(t *testing.T) {
	h := Hop{Resolved: true, LinkName: "eth0", DstMAC: macA, SrcMAC: own, Gateway: ip9, Source: ip1, MTU: 1500}
	for _, c := range []struct {
		hop  Hop
		want string
	}{
		{Hop{}, "unresolved: "},
		{Hop{Reason: "no route to 10.9.0.1"}, "unresolved: no route to 10.9.0.1"},
		{Hop{Resolved: true, Local: true}, "local"},
		{h, "02:00:00:00:01:0a on eth0 vlan [] from 02:00:00:00:00:01, via 10.0.0.9 src 10.0.0.1 mtu 1500"},
	} {
		if got := c.hop.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	other := h
	other.VLAN = []uint16{5}
	if !h.Equal(h) || h.Equal(other) {
		t.Error("Equal is wrong")
	}
}
