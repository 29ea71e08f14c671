// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"xdplvs/bpf"
	"xdplvs/internal/netlab"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a director with an interface, and a client at its other end.
type site struct {
	t                *testing.T
	client, director *netlab.Host
	iface            *netlab.Iface
}

func newSite(t *testing.T) *site {
	t.Helper()
	lab, err := netlab.New("bpftest")
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs root to make network namespaces")
	}
	must(t, err)
	t.Cleanup(func() { must(t, lab.Close()) })
	s := &site{t: t}
	s.client, err = lab.Host("client")
	must(t, err)
	s.director, err = lab.Host("director")
	must(t, err)
	_, s.iface, err = netlab.Link(s.client, "eth0", []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
		s.director, "eth0", []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")})
	must(t, err)
	return s
}

// open opens a data plane with pins.
func (s *site) open(dir string) *bpf.DataPlane {
	s.t.Helper()
	d, lost, err := bpf.Open(dir, bpf.SmallSizes)
	must(s.t, err)
	if lost != nil {
		s.t.Errorf("open: lost %v", lost)
	}
	return d
}

// load loads a data plane without.
func (s *site) load() *bpf.DataPlane {
	s.t.Helper()
	d, err := bpf.Load(bpf.SmallSizes)
	must(s.t, err)
	s.t.Cleanup(func() { must(s.t, d.Close()) })
	return d
}

// attach attaches to an interface of the director's.
func (s *site) attach(d *bpf.DataPlane, index int, mode bpf.Mode) (*bpf.Attachment, error) {
	var a *bpf.Attachment
	err := s.director.Do(func() (err error) {
		a, err = d.Attach(index, mode)
		return err
	})
	return a, err
}

func (s *site) mustAttach(d *bpf.DataPlane, mode bpf.Mode) *bpf.Attachment {
	s.t.Helper()
	a, err := s.attach(d, s.iface.Index, mode)
	must(s.t, err)
	return a
}

// program is what the kernel says is attached: 0 is nothing.
func (s *site) program(name string) (id uint32, mode bpf.Mode) {
	s.t.Helper()
	nl, err := s.director.Netlink()
	must(s.t, err)
	link, err := nl.LinkByName(name)
	must(s.t, err)
	xdp := link.Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return 0, bpf.Auto
	}
	const driver = 1 // XDP_ATTACHED_DRV, linux/if_link.h
	if mode = bpf.Generic; xdp.AttachMode == driver {
		mode = bpf.Native
	}
	return xdp.ProgId, mode
}

func ids(t *testing.T, a *bpf.Attachment) (uint32, ebpf.ProgramID) {
	t.Helper()
	link, program, err := a.IDs()
	must(t, err)
	return link, program
}

func TestAttachModes(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	d := s.load()
	for _, test := range []struct{ ask, get bpf.Mode }{
		{bpf.Auto, bpf.Native}, {bpf.Native, bpf.Native}, {bpf.Generic, bpf.Generic},
	} {
		a := s.mustAttach(d, test.ask)
		_, program := ids(t, a)
		if id, mode := s.program("eth0"); id != uint32(program) || mode != test.get || a.Mode != test.get || a.Index != s.iface.Index {
			t.Errorf("asked for %v: attached is program %d of %d, %v, %+v", test.ask, id, program, mode, a)
		}
		if second, err := s.attach(d, s.iface.Index, test.ask); err == nil {
			t.Errorf("%v: attached twice: %+v", test.ask, second)
		}
		must(t, d.Detach(a))
		if id, _ := s.program("eth0"); id != 0 {
			t.Errorf("%v: program %d is still attached", test.ask, id)
		}
	}
}

// An interface whose driver knows no XDP gets the generic mode, unless the native was asked for.
func TestAttachWithoutDriver(t *testing.T) {
	s := newSite(t)
	d := s.load()
	index := s.addBridge("br0", 0)
	if a, err := s.attach(d, index, bpf.Native); err == nil || !strings.Contains(err.Error(), "native mode: the driver has no XDP") {
		t.Errorf("native: %+v, %v", a, err)
	}
	a, err := s.attach(d, index, bpf.Auto)
	must(t, err)
	if id, mode := s.program("br0"); id == 0 || mode != bpf.Generic || a.Mode != bpf.Generic {
		t.Errorf("attached is program %d, %v, %+v", id, mode, a)
	}
	must(t, d.Detach(a))
}

// addBridge adds an interface whose driver knows no XDP; index 0: the kernel chooses one.
func (s *site) addBridge(name string, index int) int {
	s.t.Helper()
	nl, err := s.director.Netlink()
	must(s.t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = name, index
	must(s.t, nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link, err := nl.LinkByName(name)
	must(s.t, err)
	return link.Attrs().Index
}

func (s *site) remove(name string) {
	s.t.Helper()
	nl, err := s.director.Netlink()
	must(s.t, err)
	link, err := nl.LinkByName(name)
	must(s.t, err)
	must(s.t, nl.LinkDel(link))
}

func TestAttachToNothing(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	d := s.load()
	for _, mode := range []bpf.Mode{bpf.Auto, bpf.Native, bpf.Generic} {
		if a, err := s.attach(d, 4711, mode); err == nil || !strings.Contains(err.Error(), "4711") {
			t.Errorf("%v: %+v, %v", mode, a, err)
		}
	}
}

// The end of a process leaves its program at work. The next one takes the link
// over and puts its own program into it.
func TestAttachmentOutlivesProcess(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	dir := bpf.PinDir(t)
	first := s.open(dir)
	a := s.mustAttach(first, bpf.Auto)
	link1, program1 := ids(t, a)
	must(t, a.CloseLink())
	must(t, first.Close())
	if id, mode := s.program("eth0"); id != uint32(program1) || mode != bpf.Native {
		t.Fatalf("attached is program %d of %d, %v", id, program1, mode)
	}
	second := s.open(dir)
	defer func() { must(t, second.Close()) }()
	b := s.mustAttach(second, bpf.Auto)
	link2, program2 := ids(t, b)
	if link1 != link2 || program1 == program2 || b.Mode != bpf.Native {
		t.Errorf("link %d became %d, program %d became %d, %+v", link1, link2, program1, program2, b)
	}
	if id, _ := s.program("eth0"); id != uint32(program2) {
		t.Errorf("attached is program %d of %d", id, program2)
	}
	must(t, b.CloseLink())
	must(t, second.DetachOthers(map[int]bool{s.iface.Index: true}))
	if id, _ := s.program("eth0"); id != uint32(program2) {
		t.Errorf("what was to be kept is %d, was %d", id, program2)
	}
	must(t, second.DetachOthers(nil))
	s.gone("eth0")
}

// gone waits until nothing is attached: a link whose last pin went is freed soon.
func (s *site) gone(name string) {
	s.t.Helper()
	for range 100 {
		if id, _ := s.program(name); id == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Errorf("something is still attached to %s", name)
}

// Detach and Remove take the pins away, too.
func TestDetachPinned(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	dir := bpf.PinDir(t)
	d := s.open(dir)
	must(t, d.Detach(s.mustAttach(d, bpf.Native)))
	s.gone("eth0")
	a := s.mustAttach(d, bpf.Generic)
	must(t, a.CloseLink())
	must(t, d.Close())
	if id, _ := s.program("eth0"); id == 0 {
		t.Error("nothing is attached")
	}
	must(t, bpf.Remove(dir))
	s.gone("eth0")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// Another mode than the one that a former process attached in means another link.
func TestReattachInAnotherMode(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	d := s.open(bpf.PinDir(t))
	defer func() { must(t, d.Close()) }()
	a := s.mustAttach(d, bpf.Native)
	must(t, a.CloseLink())
	b := s.mustAttach(d, bpf.Generic)
	if _, mode := s.program("eth0"); mode != bpf.Generic || b.Mode != bpf.Generic {
		t.Errorf("attached is %v, %+v", mode, b)
	}
	must(t, b.CloseLink())
	c := s.mustAttach(d, bpf.Auto) // whatever it is
	if c.Mode != bpf.Generic {
		t.Errorf("auto made %v of generic", c.Mode)
	}
	must(t, d.Detach(c))
}

// A pinned link whose interface is gone is dropped, even when another interface
// has its number now.
func TestReattachToAnotherInterface(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	dir := bpf.PinDir(t)
	d := s.open(dir)
	defer func() { must(t, d.Close()) }()
	index := s.addBridge("old", 0)
	a, err := s.attach(d, index, bpf.Generic)
	must(t, err)
	old, _ := ids(t, a)
	must(t, a.CloseLink())
	s.remove("old")
	s.addBridge("new", index)
	b, err := s.attach(d, index, bpf.Auto)
	must(t, err)
	if link, _ := ids(t, b); link == old {
		t.Error("the old link was taken over")
	}
	if id, _ := s.program("new"); id == 0 {
		t.Error("nothing is attached to the new interface")
	}
	must(t, b.CloseLink())
	s.remove("new")
	must(t, d.DetachOthers(nil))
	if left, _ := filepath.Glob(filepath.Join(dir, "xdp_*")); len(left) > 0 {
		t.Errorf("links are left: %v", left)
	}
}

// While programs replace each other no packet passes unseen: the service drops
// all, and the address is the director's own, so one that passed would arrive.
func TestReattachLosesNoPacket(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	arrived, sent := s.traffic(netip.MustParseAddrPort("10.0.0.2:9999"))
	if !eventually(func() bool { return arrived() > 10 }) {
		t.Fatal("packets do not arrive while nothing is attached")
	}
	dir := bpf.PinDir(t)
	d := s.open(dir)
	d.Tables.Services[5] = bpf.Service{Id: 5, Answer: 2 /* ANSWER_DROP */}
	must(t, bpf.NewKeyTable(d.Tables).Set(bpf.Key{Addr: netip.MustParseAddr("10.0.0.2"), Port: 9999, Protocol: 17}, 5))
	a := s.mustAttach(d, bpf.Native)
	time.Sleep(20 * time.Millisecond) // what was on its way
	before, sentBefore := arrived(), sent()
	for range 5 {
		must(t, a.CloseLink())
		must(t, d.Close())
		d = s.open(dir)
		a = s.mustAttach(d, bpf.Auto)
	}
	verdicts, err := d.Verdicts()
	must(t, err)
	t.Logf("%d packets sent meanwhile, %d dropped", sent()-sentBefore, verdicts["drop_no_real"])
	if n := arrived() - before; n != 0 {
		t.Errorf("%d packets have passed", n)
	}
	if verdicts["drop_no_real"] < 100 {
		t.Errorf("only %d packets were seen", verdicts["drop_no_real"])
	}
	must(t, d.Detach(a))
	must(t, d.Close())
	if !eventually(func() bool { return arrived() > before }) {
		t.Error("packets do not arrive after the end")
	}
}

func eventually(f func() bool) bool {
	for range 500 {
		if f() {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// traffic sends datagrams from the client to the director until the test ends.
// It counts what was sent and what arrived.
func (s *site) traffic(to netip.AddrPort) (arrived, sent func() uint64) {
	s.t.Helper()
	var server, client net.Conn
	must(s.t, s.director.Do(func() (err error) {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(to))
		server = c
		return err
	}))
	must(s.t, s.client.Do(func() (err error) {
		client, err = net.Dial("udp", to.String())
		return err
	}))
	in, out := &counter{}, &counter{}
	done := make(chan struct{}, 2)
	go in.count(done, func(b []byte) error { _, err := server.Read(b); return err })
	go out.count(done, func(b []byte) error {
		time.Sleep(50 * time.Microsecond)
		_, err := client.Write(b)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	s.t.Cleanup(func() {
		must(s.t, errors.Join(client.Close(), server.Close()))
		<-done
		<-done
	})
	return in.n.Load, out.n.Load
}

// counter counts until something fails.
type counter struct{ n atomic.Uint64 }

func (c *counter) count(done chan<- struct{}, f func([]byte) error) {
	for b := make([]byte, 8); f(b) == nil; {
		c.n.Add(1)
	}
	done <- struct{}{}
}

func TestAttachPass(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	must(t, s.director.Do(func() error {
		c, err := bpf.AttachPass(s.iface.Index)
		if err != nil {
			return err
		}
		if id, mode := s.program("eth0"); id == 0 || mode != bpf.Native {
			t.Errorf("attached is program %d, %v", id, mode)
		}
		return c.Close()
	}))
	s.gone("eth0")
}

// A transmit port is an interface that exists.
func TestSetTxPort(t *testing.T) {
	s := newSite(t)
	d := s.load()
	must(t, s.director.Do(func() error { return d.SetTxPort(3, s.iface.Index) }))
	for _, bad := range []struct {
		port  uint16
		index int
	}{{uint16(bpf.TxPorts), s.iface.Index}, {3, 4711}} {
		if err := s.director.Do(func() error { return d.SetTxPort(bad.port, bad.index) }); err == nil {
			t.Errorf("port %d, interface %d: no error", bad.port, bad.index)
		}
	}
}
