// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"xdplvs/director"
	"xdplvs/internal/arpnd"
	"xdplvs/internal/netlab"
)

const labPrefix = "vip"

// The virtual addresses are of the clients' network: who wants them asks for them.
var (
	near4 = netip.MustParseAddr("10.0.0.100")
	near6 = netip.MustParseAddr("fd00::100")
)

// lab is a director with a manager, a client and another host, on one switch.
type lab struct {
	t                       *testing.T
	director, client, rival *netlab.Host
	eth0, rivalEnd          *netlab.Iface
	answers                 memory
	file                    string

	m      *Manager
	cancel context.CancelFunc
	done   chan error
}

// memory is a table without a data plane.
type memory struct {
	mu    sync.Mutex
	table map[Place]arpnd.MAC
}

func (m *memory) Answered() (map[Place]arpnd.MAC, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.table), nil
}

func (m *memory) SetAnswered(p Place, mac arpnd.MAC) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table[p] = mac
	return nil
}

func (m *memory) DeleteAnswered(p Place) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.table, p)
	return nil
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	nl := get(netlab.New(labPrefix))(t)
	t.Cleanup(func() { must(t, nl.Close()) })
	sw := get(nl.Switch("sw"))(t)
	host := func(name string, n int) (*netlab.Host, *netlab.Iface) {
		h := get(nl.Host(name))(t)
		return h, get(h.Connect(sw, "eth0", netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", n)),
			netip.MustParsePrefix(fmt.Sprintf("fd00::%d/64", n))))(t)
	}
	l := &lab{t: t, file: filepath.Join(t.TempDir(), "addresses.json"), answers: memory{table: map[Place]arpnd.MAC{}}}
	l.client, _ = host("client", 1)
	l.director, l.eth0 = host("director", 2)
	l.rival, l.rivalEnd = host("rival", 3)
	l.start()
	return l
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

// start runs a manager in the director's namespace until stop, or the test's end.
func (l *lab) start() {
	l.m = New(Options{Answers: &l.answers, File: l.file, Answering: true, ProbeWait: 100 * time.Millisecond, Retry: time.Second})
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.done = cancel, make(chan error, 1)
	m, done := l.m, l.done
	go func() { done <- l.director.Do(func() error { return m.Run(ctx) }) }()
	l.t.Cleanup(l.stop)
}

func (l *lab) stop() {
	if l.cancel == nil {
		return
	}
	l.cancel()
	l.cancel = nil
	if err := <-l.done; err != nil {
		l.t.Errorf("Run: %v", err)
	}
}

func (l *lab) set(addresses ...director.Address) {
	l.t.Helper()
	must(l.t, l.m.Set(l.t.Context(), addresses, director.Announcing{Burst: 3, Refresh: time.Second}))
}

// eventually waits for what is bound to happen.
func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 15*time.Second {
			l.t.Fatalf("in 15 s not: %s; states are %+v, addresses %v", what, l.m.States(), l.has())
		}
	}
}

// has are the addresses of eth0, without those that every interface has.
func (l *lab) has() (all []string) {
	l.t.Helper()
	nl := get(l.director.Netlink())(l.t)
	link := get(nl.LinkByIndex(l.eth0.Index))(l.t)
	for _, a := range get(nl.AddrList(link, netlink.FAMILY_ALL))(l.t) {
		if !a.IP.IsLinkLocalUnicast() {
			all = append(all, a.IPNet.String())
		}
	}
	return all
}

func (l *lab) held(n int) func() bool {
	return func() bool {
		states := l.m.States()
		return len(states) == n && !slices.ContainsFunc(states, func(s director.AddressState) bool { return s.Status != director.AddressHeld })
	}
}

// ask makes a host find out who has an address.
func (l *lab) ask(h *netlab.Host, a netip.Addr) {
	conn, err := h.DialContext(l.t.Context(), "udp", netip.AddrPortFrom(a, 9).String())
	if err == nil {
		_, err = conn.Write([]byte("x"))
		conn.Close()
	}
	must(l.t, err)
}

// resolves tells whether a host finds the address at an interface.
func (l *lab) resolves(h *netlab.Host, a netip.Addr, at *netlab.Iface) func() bool {
	return func() bool {
		mac, err := h.Neigh("eth0", a)
		return err == nil && mac.String() == at.MAC.String()
	}
}

func both() []director.Address { return []director.Address{onInterface(near4), onInterface(near6)} }

// TestKernelAddresses: addresses come, are found by clients, come back when somebody removes them, stay
// when the manager ends, and go when the next one is told so.
func TestKernelAddresses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	before := l.has()
	l.set(both()...)
	l.eventually("both are held", l.held(2))
	all := append(slices.Clone(before), "10.0.0.100/32", "fd00::100/128")
	l.wantSame(all)
	for _, a := range []netip.Addr{near4, near6} {
		l.ask(l.client, a)
		l.eventually("the client finds "+a.String(), l.resolves(l.client, a, l.eth0))
		must(t, l.director.DelAddr("eth0", netip.PrefixFrom(a, a.BitLen())))
	}
	l.eventually("both are repaired", func() bool {
		s := l.m.States()
		return s[0].Repaired == 1 && s[1].Repaired == 1
	})
	l.wantSame(all)
	l.stop()
	l.wantSame(all)
	l.start()
	l.set()
	l.wantSame(before)
}

func (l *lab) wantSame(want []string) {
	l.t.Helper()
	got := l.has()
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		l.t.Errorf("eth0 has %v, want %v", got, want)
	}
}

// TestKernelSource: the director never speaks from a virtual address by itself.
func TestKernelSource(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.set(both()...)
	l.eventually("both are held", l.held(2))
	for _, a := range []string{"10.0.0.1", "fd00::1"} {
		conn := get(l.director.DialContext(t.Context(), "udp", netip.AddrPortFrom(netip.MustParseAddr(a), 9).String()))(t)
		from := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr()
		conn.Close()
		if from == near4 || from == near6 {
			t.Errorf("to %s it speaks from %s", a, from)
		}
	}
}

// TestKernelConflict: another host that has the addresses keeps them and is named. When it gives them up
// they are taken, and clients learn it without asking.
func TestKernelConflict(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, a := range []netip.Addr{near4, near6} {
		must(t, l.rival.AddAddr("eth0", netip.PrefixFrom(a, a.BitLen())))
		l.ask(l.client, a)
		l.eventually("the client finds the rival", l.resolves(l.client, a, l.rivalEnd))
	}
	before := l.has()
	l.set(both()...)
	l.eventually("both are seen", func() bool {
		for _, s := range l.m.States() {
			if s.Status != director.AddressConflict || s.Rival.MAC != l.rivalEnd.MAC.String() || !strings.Contains(s.Reason, s.Rival.MAC) {
				return false
			}
		}
		return len(l.m.States()) == 2
	})
	time.Sleep(1500 * time.Millisecond) // another attempt
	l.wantSame(before)
	for _, a := range []netip.Addr{near4, near6} {
		must(t, l.rival.DelAddr("eth0", netip.PrefixFrom(a, a.BitLen())))
	}
	l.eventually("both are held", l.held(2))
	for _, a := range []netip.Addr{near4, near6} {
		l.eventually("the client has learnt it", l.resolves(l.client, a, l.eth0))
	}
}

// TestKernelRival: a host that takes an address of ours is named, and clients come back to us.
func TestKernelRival(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.set(both()...)
	l.eventually("both are held", l.held(2))
	for _, a := range []netip.Addr{near4, near6} {
		l.ask(l.client, a)
		l.eventually("the client finds us", l.resolves(l.client, a, l.eth0))
		must(t, l.rival.AddAddr("eth0", netip.PrefixFrom(a, a.BitLen())))
	}
	frames := append(get(arpnd.Announcement(near4, arpnd.MAC(l.rivalEnd.MAC)))(t), get(arpnd.Announcement(near6, arpnd.MAC(l.rivalEnd.MAC)))(t)...)
	must(t, l.rival.Do(func() error {
		s, err := arpnd.Open(l.rivalEnd.Index, arpnd.ARP)
		if err != nil {
			return err
		}
		defer s.Close()
		for _, f := range frames {
			if err := s.Send(f); err != nil {
				return err
			}
		}
		return nil
	}))
	l.eventually("the rival is named", func() bool {
		for _, s := range l.m.States() {
			if s.Rival == nil || s.Rival.MAC != l.rivalEnd.MAC.String() {
				return false
			}
		}
		return true
	})
	for _, a := range []netip.Addr{near4, near6} {
		l.eventually("the client comes back", l.resolves(l.client, a, l.eth0))
	}
}

// TestKernelLinkDown: IPv6 addresses go with their link. They come back with it, and all are announced.
func TestKernelLinkDown(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.set(both()...)
	l.eventually("both are held", l.held(2))
	all := l.has()
	must(t, l.eth0.SetUp(false))
	l.eventually("it is seen", func() bool { return l.m.States()[0].Reason == "interface is down" })
	announced := l.m.States()[0].Announcements
	must(t, l.eth0.SetUp(true))
	l.eventually("both are held again", l.held(2))
	l.eventually("both are announced again", func() bool { return l.m.States()[0].Announcements > announced })
	if !slices.Contains(l.has(), "fd00::100/128") || !slices.Contains(all, "fd00::100/128") {
		t.Errorf("eth0 has %v, before it was down %v", l.has(), all)
	}
}

// TestKernelGroup: who answers for an IPv6 address is member of the group that questions go to, also
// after the link was down, until the address is given up.
func TestKernelGroup(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := director.Address{Addr: near6, Mode: director.AddressAnswer, Interface: "eth0"}
	member := func() (is bool) {
		must(t, l.director.Do(func() error {
			groups, err := tables{}.groups()
			is = groups[spot{l.eth0.Index, netip.MustParseAddr("ff02::1:ff00:100")}]
			return err
		}))
		return is
	}
	if member() {
		t.Fatal("it is a member beforehand")
	}
	l.set(a)
	l.eventually("it is held", l.held(1))
	if !member() || slices.Contains(l.has(), "fd00::100/128") {
		t.Errorf("member: %v, eth0 has %v", member(), l.has())
	}
	l.set()
	l.eventually("it is no member any more", func() bool { return !member() })
	l.set(a)
	l.eventually("it is held again", l.held(1))
	must(t, l.eth0.SetUp(false))
	l.eventually("it is seen", func() bool { return l.m.States()[0].Status == director.AddressWaiting })
	must(t, l.eth0.SetUp(true))
	l.eventually("it is held once more", l.held(1))
	l.eventually("it is a member again", member)
}

// TestKernelForeign: what an administrator adds in the place of an address of ours is his.
func TestKernelForeign(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.set(onInterface(near4))
	l.eventually("it is held", l.held(1))
	l.stop()
	must(t, l.director.DelAddr("eth0", netip.PrefixFrom(near4, 32)))
	must(t, l.director.AddAddr("eth0", netip.PrefixFrom(near4, 32)))
	l.start()
	l.set(onInterface(near4))
	l.eventually("it is somebody else's", func() bool { return len(l.m.States()) == 1 && l.m.States()[0].Foreign })
	l.set()
	time.Sleep(300 * time.Millisecond)
	if !slices.Contains(l.has(), "10.0.0.100/32") {
		t.Errorf("it was removed: %v", l.has())
	}
}

// TestKernelSecondaries: an address that the kernel would take others along with stays, unless it is
// told to keep those.
func TestKernelSecondaries(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	far := netip.MustParseAddr("10.7.0.1")
	l.set(onInterface(far, length(24)))
	l.eventually("it is held", l.held(1))
	must(t, l.director.AddAddr("eth0", netip.MustParsePrefix("10.7.0.2/24")))
	l.set()
	time.Sleep(300 * time.Millisecond)
	if has := l.has(); !slices.Contains(has, "10.7.0.1/24") || !slices.Contains(has, "10.7.0.2/24") {
		t.Errorf("eth0 has %v", has)
	}
	must(t, l.director.Sysctl("net.ipv4.conf.eth0.promote_secondaries", "1"))
	l.stop()
	must(t, l.director.Do(l.m.Release))
	if has := l.has(); slices.Contains(has, "10.7.0.1/24") || !slices.Contains(has, "10.7.0.2/24") {
		t.Errorf("after it was given up eth0 has %v", has)
	}
}

// TestKernelRuns: Run leaves no file or socket open.
func TestKernelRuns(t *testing.T) {
	l := newLab(t)
	l.set(both()...)
	l.eventually("both are held", l.held(2))
	l.stop()
	open := func() int { return len(get(os.ReadDir("/proc/self/fd"))(t)) }
	before := open()
	for range 3 {
		l.start()
		l.set(both()...)
		l.eventually("both are held", l.held(2))
		l.stop()
	}
	if after := open(); after > before {
		t.Errorf("%d files are open, before it were %d", after, before)
	}
}

// TestKernelErrors: what the kernel refuses is said in its words.
func TestKernelErrors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	must(t, l.director.Do(func() error {
		if err := (tables{}).add(9999, netip.PrefixFrom(near4, 32)); err == nil || !strings.Contains(err.Error(), "add 10.0.0.100/32: ") {
			t.Errorf("to no interface: %v", err)
		}
		if err := (tables{}).remove(l.eth0.Index, netip.PrefixFrom(near4, 32)); err != nil {
			t.Errorf("remove what is not there: %v", err)
		}
		if err := (tables{}).remove(9999, netip.PrefixFrom(near4, 32)); err != nil {
			t.Errorf("remove from an interface that is not there: %v", err)
		}
		for range 2 {
			if err := (tables{}).add(l.eth0.Index, netip.PrefixFrom(near4, 32)); err != nil {
				t.Errorf("add what is there: %v", err)
			}
		}
		return nil
	}))
	must(t, l.director.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "1"))
	l.set(onInterface(near6))
	l.eventually("it is refused", func() bool {
		s := l.m.States()
		return len(s) == 1 && s[0].Status == director.AddressFailed && strings.Contains(s[0].Reason, "fd00::100/128: permission denied")
	})
}
