// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/netlab"
)

// quick are the options of the tests on real interfaces: everything ten times as fast.
var quick = Options{
	Refresh: time.Second, Retry: 100 * time.Millisecond, FirstWait: 2 * leeway, ProbeRate: 10000,
}

// leeway is how late something may be on a machine that has other things to do. The tests with a
// fake kernel are exact.
const leeway = 5 * time.Second

// rig is a director and a switch, in namespaces of their own.
type rig struct {
	t   *testing.T
	lab *netlab.Lab
	sw  *netlab.Switch
	dir *netlab.Host
	eth *netlab.Iface // the director's eth0: 10.0.0.1/24 and fd00::1/64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	lab, err := netlab.New("nh")
	if errors.Is(err, os.ErrPermission) {
		t.Skip("network namespaces need root")
	}
	r := &rig{t: t, lab: lab}
	r.must(err)
	t.Cleanup(func() { r.must(lab.Close()) })
	r.sw, err = lab.Switch("s")
	r.must(err)
	r.dir, r.eth = r.host("dir", "10.0.0.1/24", "fd00::1/64")
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// host adds a host that is connected to the switch.
func (r *rig) host(name string, prefixes ...string) (*netlab.Host, *netlab.Iface) {
	r.t.Helper()
	h, err := r.lab.Host(name)
	r.must(err)
	return h, r.connect(h, "eth0", prefixes...)
}

func (r *rig) connect(h *netlab.Host, ifname string, prefixes ...string) *netlab.Iface {
	r.t.Helper()
	var list []netip.Prefix
	for _, p := range prefixes {
		list = append(list, netip.MustParsePrefix(p))
	}
	ifc, err := h.Connect(r.sw, ifname, list...)
	r.must(err)
	return ifc
}

// ip runs iproute2 on a host.
func (r *rig) ip(h *netlab.Host, args string) string {
	r.t.Helper()
	out, err := h.Run(context.Background(), "ip", strings.Fields(args)...)
	if err != nil {
		r.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

// resolve runs a Resolver on the director for the addresses and waits until it is synced.
func (r *rig) resolve(opts Options, addrs ...string) *Resolver {
	r.t.Helper()
	res := New(slog.New(slog.NewTextHandler(r.t.Output(), nil)), opts)
	res.SetTargets(parse(addrs...))
	r.run(res)
	select {
	case <-res.Synced():
	case <-time.After(3 * leeway):
		r.t.Fatal("not synced")
	}
	return res
}

// run runs the Resolver on the director until the test ends, when nothing of it may be left.
func (r *rig) run(res *Resolver) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.dir.Do(func() error { return res.Run(ctx) }) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
}

func parse(addrs ...string) (list []netip.Addr) {
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

// await waits until the hop to an address satisfies ok and tells how long that took.
func await(t *testing.T, res *Resolver, address string, limit time.Duration, ok func(Hop) bool) time.Duration {
	t.Helper()
	begin, a := time.Now(), netip.MustParseAddr(address)
	for time.Since(begin) < limit {
		if ok(res.Hops()[a]) {
			return time.Since(begin)
		}
		time.Sleep(500 * time.Microsecond)
	}
	t.Fatalf("hop to %s after %v: %v", address, limit, res.Hops()[a])
	return 0
}

func toMAC(m []byte) func(Hop) bool {
	return func(h Hop) bool { return h.Resolved && h.DstMAC == [6]byte(m) }
}

func because(reason string) func(Hop) bool {
	return func(h Hop) bool { return !h.Resolved && h.Reason == reason }
}

func TestResolveOnLink(t *testing.T) {
	r := newRig(t)
	_, a := r.host("a", "10.0.0.2/24", "fd00::2/64")
	res := r.resolve(quick, "10.0.0.2", "fd00::2", "10.0.0.77", "fd00::77", "10.0.0.1", "127.0.0.1", "::ffff:10.0.0.2")
	for _, addr := range parse("10.0.0.2", "fd00::2", "::ffff:10.0.0.2") {
		src := netip.MustParseAddr("10.0.0.1")
		if addr.Is6() && !addr.Is4In6() {
			src = netip.MustParseAddr("fd00::1")
		}
		want := Hop{Resolved: true, Link: r.eth.Index, LinkName: "eth0", SrcMAC: [6]byte(r.eth.MAC), DstMAC: [6]byte(a.MAC),
			Gateway: addr.Unmap(), Source: src, MTU: 1500}
		if got := res.Hops()[addr]; !got.Equal(want) {
			t.Errorf("%s: got %+v, want %+v", addr, got, want)
		}
	}
	for addr, reason := range map[string]string{
		"10.0.0.77": "no answer to ARP for 10.0.0.77 on eth0",
		"fd00::77":  "no answer to ND for fd00::77 on eth0",
	} {
		if got := res.Hops()[netip.MustParseAddr(addr)]; !because(reason)(got) {
			t.Errorf("%s: got %v, want %s", addr, got, reason)
		}
	}
	for _, addr := range parse("10.0.0.1", "127.0.0.1") {
		if got := res.Hops()[addr]; !got.Local || !got.Resolved {
			t.Errorf("%s: got %v, want local", addr, got)
		}
	}
	if out := r.ip(r.dir, "neigh show"); strings.Contains(out, "10.0.0.77") || strings.Contains(out, "fd00::77") {
		t.Errorf("the resolver made the kernel resolve too:\n%s", out)
	}
}

func TestHostChangesItsMAC(t *testing.T) {
	r := newRig(t)
	h, a := r.host("a", "10.0.0.2/24", "fd00::2/64")
	both := []string{"10.0.0.2", "fd00::2"}
	res := r.resolve(quick, both...)
	best := time.Hour // of some attempts: what a busy machine adds is not the resolver's
	for i := range byte(4) {
		hw := mac{2, 0, 0, 0, 0x99, i}
		r.ip(h, "link set eth0 address "+hw.String())
		begin := time.Now()
		r.must(h.Do(func() error { return announce(a.Index, hw.String(), both...) }))
		for _, addr := range both {
			await(t, res, addr, leeway, toMAC(hw[:]))
		}
		best = min(best, time.Since(begin))
	}
	t.Logf("taken over after %v", best)
	if limit := slower(50 * time.Millisecond); best > limit {
		t.Errorf("an announced change was taken over after %v, want %v", best, limit)
	}
}

func TestHostChangesItsMACSilently(t *testing.T) {
	r := newRig(t)
	h, _ := r.host("a", "10.0.0.2/24", "fd00::2/64")
	r.must(h.Sysctl("net.ipv4.conf.all.arp_notify", "0"))
	res := r.resolve(quick, "10.0.0.2", "fd00::2")
	r.ip(h, "link set eth0 address 02:00:00:00:99:03")
	for _, addr := range []string{"10.0.0.2", "fd00::2"} {
		await(t, res, addr, quick.Refresh+3*quick.Retry+leeway, toMAC([]byte{2, 0, 0, 0, 0x99, 3}))
	}
}

// announce sends what a host sends that takes over addresses: an ARP announcement (RFC 5227, 3) and
// an unsolicited neighbour advertisement (RFC 4861, 7.2.6). It acts in the calling thread's namespace.
func announce(ifindex int, hw string, addrs ...string) error {
	for _, a := range parse(addrs...) {
		if err := sendAnnouncement(ifindex, hw, a); err != nil {
			return fmt.Errorf("announce %s: %w", a, err)
		}
	}
	return nil
}

func TestHostVanishesAndComesBack(t *testing.T) {
	r := newRig(t)
	_, a := r.host("a", "10.0.0.2/24", "fd00::2/64")
	res := r.resolve(quick, "10.0.0.2", "fd00::2")
	r.must(a.Peer.SetUp(false)) // the switch's port: the director sees nothing but silence
	limit := quick.Refresh + 3*quick.Retry + leeway
	await(t, res, "10.0.0.2", limit, because("no answer to ARP for 10.0.0.2 on eth0"))
	await(t, res, "fd00::2", limit, because("no answer to ND for fd00::2 on eth0"))
	r.must(a.Peer.SetUp(true))
	for _, addr := range []string{"10.0.0.2", "fd00::2"} {
		t.Logf("%s is back after %v", addr, await(t, res, addr, quick.Refresh+quick.Retry+leeway, toMAC(a.MAC)))
	}
}

func TestRouteChanges(t *testing.T) {
	r := newRig(t)
	_, gw := r.host("gw", "10.0.0.254/24", "fd00::254/64")
	_, other := r.host("other", "10.0.0.253/24", "fd00::253/64")
	targets := []string{"192.0.2.9", "2001:db8::9"}
	res := r.resolve(quick, targets...)
	for _, a := range targets {
		if got := res.Hops()[netip.MustParseAddr(a)]; !because("no route to " + a)(got) {
			t.Errorf("%s: got %v", a, got)
		}
	}
	r.ip(r.dir, "route add default via 10.0.0.254")
	r.ip(r.dir, "route add 2001:db8::/32 via fd00::254 mtu 1400")
	for _, a := range targets {
		await(t, res, a, leeway, toMAC(gw.MAC))
	}
	if got := res.Hops()[netip.MustParseAddr("2001:db8::9")].MTU; got != 1400 {
		t.Errorf("MTU of the route is %d, want 1400", got)
	}
	r.ip(r.dir, "route add 192.0.2.0/25 via 10.0.0.253")
	r.ip(r.dir, "route add 2001:db8::9 via fe80::ff:fe00:fd dev eth0")
	r.ip(other.Host, "addr add fe80::ff:fe00:fd/64 dev eth0 nodad")
	for _, a := range targets {
		await(t, res, a, leeway, toMAC(other.MAC))
	}
	if got := res.Hops()[netip.MustParseAddr("2001:db8::9")].Gateway; got != netip.MustParseAddr("fe80::ff:fe00:fd%eth0") {
		t.Errorf("gateway is %s, want a zone", got)
	}
	for _, kind := range []string{"blackhole", "unreachable", "prohibit"} {
		r.ip(r.dir, "route replace "+kind+" 192.0.2.9/32")
		await(t, res, "192.0.2.9", leeway, because(kind+" route to 192.0.2.9"))
		r.ip(r.dir, "route del 2001:db8::9")
		r.ip(r.dir, "route add "+kind+" 2001:db8::9")
		await(t, res, "2001:db8::9", leeway, because(kind+" route to 2001:db8::9"))
	}
	r.ip(r.dir, "rule add to 192.0.2.9 lookup 77 pref 5")
	r.ip(r.dir, "-4 route add default via inet6 fd00::254 dev eth0 table 77")
	await(t, res, "192.0.2.9", leeway, toMAC(gw.MAC))
	if got := res.Hops()[netip.MustParseAddr("192.0.2.9")].Gateway; got != netip.MustParseAddr("fd00::254") {
		t.Errorf("gateway of the other family is %s", got)
	}
	r.ip(r.dir, "rule del pref 5")
	await(t, res, "192.0.2.9", leeway, because("prohibit route to 192.0.2.9"))
}

func TestLinkDownAndUp(t *testing.T) {
	r := newRig(t)
	_, a := r.host("a", "10.0.0.2/24", "fd00::2/64")
	res := r.resolve(quick, "10.0.0.2", "fd00::2")
	both := []string{"10.0.0.2", "fd00::2"}
	r.must(r.eth.Peer.SetUp(false))
	for _, addr := range both {
		await(t, res, addr, leeway, because("link eth0 has no carrier"))
	}
	r.must(r.eth.Peer.SetUp(true))
	for _, addr := range both {
		await(t, res, addr, leeway, toMAC(a.MAC))
	}
	r.must(r.eth.SetUp(false))
	for _, addr := range both {
		await(t, res, addr, leeway, because("link eth0 is down"))
	}
	time.Sleep(100 * time.Millisecond) // the kernel took the routes away, too
	for _, addr := range both {
		await(t, res, addr, leeway, because("link eth0 is down"))
	}
	r.must(r.eth.SetUp(true))
	for _, addr := range both {
		await(t, res, addr, leeway, toMAC(a.MAC))
	}
	r.ip(r.dir, "link del eth0")
	for _, addr := range both {
		await(t, res, addr, leeway, because("link eth0 is gone"))
	}
}

// What happens between two readings of a table leaves no trace there, but in the routes.
func TestDownAndUpAtOnce(t *testing.T) {
	r := newRig(t)
	_, gw := r.host("gw", "10.0.0.254/24")
	r.connect(r.dir, "eth1", "10.1.0.1/24")
	r.ip(r.dir, "route add 192.0.2.0/24 via 10.0.0.254")
	r.ip(r.dir, "route add 198.51.100.0/24 via 10.0.0.254 src 10.1.0.1")
	res := r.resolve(Options{Coalesce: 300 * time.Millisecond}, "192.0.2.9", "198.51.100.9")
	r.ip(r.dir, "address del 10.1.0.1/24 dev eth1")
	r.ip(r.dir, "address add 10.1.0.1/24 dev eth1")
	await(t, res, "198.51.100.9", leeway, because("no route to 198.51.100.9"))
	await(t, res, "192.0.2.9", leeway, toMAC(gw.MAC))
	r.ip(r.dir, "link set eth0 down")
	r.ip(r.dir, "link set eth0 up")
	await(t, res, "192.0.2.9", leeway, because("no route to 192.0.2.9"))
}

// A host, unlike a router, does not choose a gateway of which the kernel knows that it is dead.
func TestDeadGatewayOfIPv6(t *testing.T) {
	r := newRig(t)
	r.host("gw", "fd00::a/64")
	r.ip(r.dir, "-6 route add 2001:db8::/64 nexthop via fd00::a dev eth0 nexthop via fd00::b dev eth0")
	var targets []string
	for i := range 16 {
		targets = append(targets, fmt.Sprintf("2001:db8::%x", i+1))
	}
	res := r.resolve(quick, targets...)
	var dead []string
	for a, h := range res.Hops() {
		if h.Gateway == netip.MustParseAddr("fd00::b") {
			dead = append(dead, a.String())
		}
	}
	if len(dead) == 0 {
		t.Fatalf("no target is reached by the dead gateway: %v", res.Hops())
	}
	gateway := func(a string) func(Hop) bool {
		return func(h Hop) bool { return h.Gateway == netip.MustParseAddr(a) }
	}
	reachable := "neigh replace fd00::b dev eth0 lladdr 02:00:00:00:00:0b nud reachable"
	r.ip(r.dir, reachable) // the kernel announces the failure of those only that it knew
	r.ip(r.dir, "neigh replace fd00::b dev eth0 nud failed")
	for _, a := range dead {
		await(t, res, a, leeway, gateway("fd00::a"))
	}
	r.ip(r.dir, reachable)
	for _, a := range dead {
		await(t, res, a, leeway, gateway("fd00::b"))
	}
}

func TestKernelEntries(t *testing.T) {
	r := newRig(t)
	res := r.resolve(quick, "10.0.0.66", "fd00::66")
	for addr, proto := range map[string]string{"10.0.0.66": "ARP", "fd00::66": "ND"} {
		r.ip(r.dir, "neigh replace "+addr+" lladdr 02:00:00:00:00:66 dev eth0 nud permanent")
		await(t, res, addr, leeway, toMAC([]byte{2, 0, 0, 0, 0, 0x66}))
		r.ip(r.dir, "neigh replace "+addr+" lladdr 02:00:00:00:00:67 dev eth0 nud permanent")
		await(t, res, addr, leeway, toMAC([]byte{2, 0, 0, 0, 0, 0x67}))
		time.Sleep(quick.Refresh + 4*quick.Retry)
		await(t, res, addr, time.Millisecond, toMAC([]byte{2, 0, 0, 0, 0, 0x67})) // nobody is there, it is believed
		r.ip(r.dir, "neigh replace "+addr+" lladdr 02:00:00:00:00:68 dev eth0 nud reachable")
		await(t, res, addr, leeway, toMAC([]byte{2, 0, 0, 0, 0, 0x68}))
		await(t, res, addr, quick.Refresh+4*quick.Retry+leeway, because("no answer to "+proto+" for "+addr+" on eth0"))
	}
}

func TestPointToPointHasNoAddress(t *testing.T) {
	r := newRig(t)
	if out, err := r.dir.Run(context.Background(), "ip", "tuntap", "add", "tun0", "mode", "tun"); err != nil {
		t.Skipf("this kernel makes no tun device: %v: %s", err, out)
	}
	r.ip(r.dir, "link set tun0 up")
	r.ip(r.dir, "route add 198.51.100.0/24 dev tun0")
	res := r.resolve(quick, "198.51.100.1")
	await(t, res, "198.51.100.1", leeway, because("device tun0 has no link-layer address"))
}

func TestVLANDeviceOfTheKernel(t *testing.T) {
	r := newRig(t)
	if out, err := r.dir.Run(context.Background(), "ip", "link", "add", "link", "eth0", "eth0.100", "type", "vlan", "id", "100", "proto", "802.1ad"); err != nil {
		t.Skipf("this kernel makes no VLAN devices: %v: %s", err, out)
	}
	a, end := r.host("a")
	r.ip(r.dir, "link add link eth0.100 name in type vlan id 7")
	r.ip(a, "link add link eth0 name out type vlan id 100 proto 802.1ad")
	r.ip(a, "link add link out name in type vlan id 7")
	for h, n := range map[*netlab.Host]string{r.dir: "1", a: "2"} {
		r.ip(h, "address add 10.7.0."+n+"/24 dev in")
		r.ip(h, "address add fd07::"+n+"/64 dev in nodad")
	}
	r.ip(r.dir, "link set eth0.100 up")
	r.ip(r.dir, "link set in up mtu 1400 address 02:00:00:00:07:01")
	r.ip(a, "link set out up")
	r.ip(a, "link set in up")
	res := r.resolve(quick, "10.7.0.2", "fd07::2")
	for _, addr := range parse("10.7.0.2", "fd07::2") {
		await(t, res, addr.String(), leeway, toMAC(end.MAC))
		got := res.Hops()[addr]
		want := Hop{Resolved: true, Link: r.eth.Index, LinkName: "eth0", VLAN: []uint16{100, 7}, TPID: []uint16{TPIDService, TPIDCustomer},
			SrcMAC: [6]byte{2, 0, 0, 0, 7, 1}, DstMAC: [6]byte(end.MAC), Gateway: addr, Source: got.Source, MTU: 1400}
		if !got.Equal(want) {
			t.Errorf("%s: %+v, want %+v", addr, got, want)
		}
	}
	r.must(r.eth.SetUp(false))
	await(t, res, "10.7.0.2", leeway, func(h Hop) bool { return !h.Resolved && strings.HasPrefix(h.Reason, "link ") })
	t.Log(res.Hops()[netip.MustParseAddr("10.7.0.2")])
}

func TestUnnumberedInterface(t *testing.T) {
	r := newRig(t)
	r.connect(r.dir, "eth1")
	_, a := r.host("a", "10.7.0.2/32")
	r.ip(a.Host, "route add 10.0.0.0/24 dev eth0")
	r.ip(r.dir, "route add 10.7.0.2 dev eth1")
	res := r.resolve(quick, "10.7.0.2")
	await(t, res, "10.7.0.2", leeway, toMAC(a.MAC))
}

func TestTargetsChange(t *testing.T) {
	r := newRig(t)
	r.host("a", "10.0.0.2/24", "fd00::2/64")
	res := r.resolve(quick, "10.0.0.2", "fd00::2")
	if n := countSockets(t); n < 2 {
		t.Errorf("%d packet sockets are open, want those of two families", n)
	}
	res.SetTargets(parse("fd00::2", "fe80::1", "fe80::1%eth0", "fe80::1%nosuch"))
	await(t, res, "fe80::1", leeway, because("link-local address fe80::1 needs a zone"))
	await(t, res, "fe80::1%nosuch", leeway, because("no link named nosuch"))
	await(t, res, "fe80::1%eth0", leeway, because("no answer to ND for fe80::1 on eth0"))
	if len(res.Hops()) != 4 {
		t.Errorf("hops are %v, want four", res.Hops())
	}
	res.SetTargets(nil)
	for begin := time.Now(); len(res.Hops()) > 0 || countSockets(t) > 0; time.Sleep(time.Millisecond) {
		if time.Since(begin) > leeway {
			t.Fatalf("without targets there are %d hops and %d packet sockets", len(res.Hops()), countSockets(t))
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	r := newRig(t)
	r.host("a", "10.0.0.2/24", "fd00::2/64")
	fds, routines := countFiles(t), runtime.NumGoroutine()
	for range 3 {
		res := New(nil, quick)
		res.SetTargets(parse("10.0.0.2", "fd00::2"))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.dir.Do(func() error { return res.Run(ctx) }) }()
		<-res.Synced()
		cancel()
		r.must(<-done)
		if err := res.Run(ctx); err == nil {
			t.Error("a second Run did not fail")
		}
	}
	for range 100 { // exits of goroutines and threads are not instantaneous
		if countFiles(t) == fds && runtime.NumGoroutine() <= routines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("files: %d, before %d; goroutines: %d, before %d", countFiles(t), fds, runtime.NumGoroutine(), routines)
}
