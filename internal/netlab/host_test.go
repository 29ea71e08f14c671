// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// ping returns nil if one echo request is answered.
func ping(h *Host, args ...string) error {
	_, err := h.Run(context.Background(), "ping", append([]string{"-n", "-c", "1", "-W", "2"}, args...)...)
	return err
}

// namespaceOf returns the identity of the calling thread's namespace.
func namespaceOf(t *testing.T) inode {
	t.Helper()
	return need(inodeOf("/proc/thread-self/ns/net"))(t)
}

func TestDoReturnsTheThread(t *testing.T) {
	l := newLab(t)
	a, b := need(l.Host("a"))(t), need(l.Host("b"))(t)
	outside := namespaceOf(t)
	ways := map[string]func(fn func() error){
		"return": func(fn func() error) { a.Do(fn) },
		"nested": func(fn func() error) {
			a.Do(func() error {
				inA := namespaceOf(t)
				err := b.Do(fn)
				if namespaceOf(t) != inA {
					t.Error("the inner Do does not return to the outer namespace")
				}
				return err
			})
		},
		"panic": func(fn func() error) {
			defer func() { recover() }()
			a.Do(func() error { fn(); panic("in the namespace") })
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			var inside inode
			way(func() error { inside = namespaceOf(t); return nil })
			if inside == outside {
				t.Error("fn runs outside")
			}
			if namespaceOf(t) != outside {
				t.Error("the thread stays inside")
			}
		})
	}
}

func TestDoReturnsTheThreadOfAnEndedGoroutine(t *testing.T) {
	l := newLab(t)
	h := need(l.Host("h"))(t)
	outside := namespaceOf(t)
	var ended sync.WaitGroup
	for range 20 {
		ended.Go(func() {
			h.Do(func() error { runtime.Goexit(); return nil })
		})
	}
	ended.Wait()
	// If a thread had been lost to the namespace, one of these would run on it.
	for range 200 {
		ended.Go(func() {
			if id, err := inodeOf("/proc/thread-self/ns/net"); err != nil || id != outside {
				t.Errorf("a goroutine runs in %v, not in %v: %v", id, outside, err)
			}
			time.Sleep(time.Millisecond)
		})
	}
	ended.Wait()
}

func TestDoPassesTheError(t *testing.T) {
	h := need(newLab(t).Host("h"))(t)
	want := errors.New("of fn")
	if err := h.Do(func() error { return want }); err != want {
		t.Errorf("got %v", err)
	}
}

func TestRun(t *testing.T) {
	h := need(newLab(t).Host("h"))(t)
	out := need(h.Run(context.Background(), "sh", "-c", "echo out; echo err >&2"))(t)
	if string(out) != "out\n" {
		t.Errorf("standard output: %q", out)
	}
	_, err := h.Run(context.Background(), "sh", "-c", "echo out; echo err >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("exit status 3: %v", err)
	}
	if err == nil || !strings.Contains(err.Error(), "out\nerr") {
		t.Errorf("the error does not quote the outputs: %v", err)
	}
	if _, err := h.Run(context.Background(), "no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a missing program: %v", err)
	}
}

func TestRunEndsWithContext(t *testing.T) {
	h := need(newLab(t).Host("h"))(t)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := h.Run(ctx, "sh", "-c", "sleep 1000 & wait"); err == nil {
		t.Error("no error")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestSysctl(t *testing.T) {
	h := need(newLab(t).Host("h"))(t)
	before := need(os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl"))(t)
	must(t, h.Sysctl("net.ipv4.ip_default_ttl", "77"))
	if out := need(h.Run(context.Background(), "cat", "/proc/sys/net/ipv4/ip_default_ttl"))(t); string(out) != "77\n" {
		t.Errorf("inside: %q", out)
	}
	if after := need(os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl"))(t); string(after) != string(before) {
		t.Errorf("outside: %q", after)
	}
	if err := h.Sysctl("net.ipv4.no_such_key", "1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	p := newPair(t)
	for _, text := range []string{"10.0.0.9/24", "fd00::9/64"} {
		prefix := netip.MustParsePrefix(text)
		must(t, p.b.AddAddr("eth0", prefix))
		must(t, p.b.AddAddr("eth0", prefix)) // again
		must(t, ping(p.a, prefix.Addr().String()))
		must(t, p.b.DelAddr("eth0", prefix))
		if err := p.b.DelAddr("eth0", prefix); err == nil {
			t.Errorf("%v is deleted twice", prefix)
		}
	}
	if err := p.b.AddAddr("eth7", prefixes("10.0.0.9/24")[0]); err == nil || !strings.Contains(err.Error(), "eth7 of b") {
		t.Errorf("an unknown interface: %v", err)
	}
}

// TestNoTentativeAddress proves that nothing waits for duplicate address detection.
func TestNoTentativeAddress(t *testing.T) {
	p := newPair(t)
	out := need(p.a.Run(context.Background(), "ip", "-6", "addr", "show", "tentative"))(t)
	if len(out) > 0 {
		t.Errorf("tentative addresses: %s", out)
	}
}

func TestNeighbours(t *testing.T) {
	p := newPair(t)
	for _, ip := range []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")} {
		if _, err := p.a.Neigh("eth0", ip); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v before any traffic: %v", ip, err)
		}
		must(t, ping(p.a, ip.String()))
		if mac := need(p.a.Neigh("eth0", ip))(t); mac.String() != p.bEnd.MAC.String() {
			t.Errorf("%v is at %v, want %v", ip, mac, p.bEnd.MAC)
		}
		static := net.HardwareAddr{2, 0, 0, 0, 0, 7}
		must(t, p.a.SetNeigh("eth0", ip, static))
		if mac := need(p.a.Neigh("eth0", ip))(t); mac.String() != static.String() {
			t.Errorf("%v is at %v, want %v", ip, mac, static)
		}
	}
}

func TestListenAndDial(t *testing.T) {
	p := newPair(t)
	listener := need(p.b.Listen("tcp", "[fd00::2]:80"))(t)
	conn := need(p.a.DialFrom(context.Background(), "tcp", addrPort("[fd00::1]:4000"), "[fd00::2]:80"))(t)
	defer conn.Close()
	accepted := need(listener.Accept())(t)
	defer accepted.Close()
	if from := accepted.RemoteAddr().String(); from != "[fd00::1]:4000" {
		t.Errorf("the connection comes from %s", from)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	var netErr net.Error
	if _, err := p.a.DialContext(ctx, "tcp", "10.0.0.99:80"); !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("nobody is there: %v", err)
	}
	if _, err := p.a.DialContext(ctx, "tcp", "localhost:80"); err == nil || !strings.Contains(err.Error(), "not numeric") {
		t.Errorf("a name: %v", err)
	}
}

func TestHTTPClientFrom(t *testing.T) {
	p := newPair(t)
	must(t, p.a.AddAddr("eth0", prefixes("10.0.0.77/24")[0]))
	server := need(p.b.ServeHTTP("b", addrPort("10.0.0.2:80")))(t)
	client := p.a.HTTPClientFrom(time.Second, netip.MustParseAddr("10.0.0.77"))
	ports := map[string]bool{}
	for range 3 {
		_, header := get(t, client, "http://10.0.0.2/")
		host, port, err := net.SplitHostPort(header.Get("X-Client"))
		if err != nil || host != "10.0.0.77" {
			t.Errorf("the server saw %q", header.Get("X-Client"))
		}
		ports[port] = true
	}
	if len(ports) != 3 || server.Requests() != 3 {
		t.Errorf("%d connections, %d requests, want 3", len(ports), server.Requests())
	}
}

func TestRealServerDRIsSilent(t *testing.T) {
	p := newPair(t)
	vip4, vip6 := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("fd00::100")
	must(t, p.b.RealServerDR(vip4, vip6))
	must(t, p.b.RealServerDR(vip4, vip6)) // again
	for _, vip := range []netip.Addr{vip4, vip6} {
		if err := ping(p.a, "-W", "1", vip.String()); err == nil {
			t.Errorf("%v is answered for, without a director", vip)
		}
		must(t, p.a.SetNeigh("eth0", vip, p.bEnd.MAC))
		must(t, ping(p.a, vip.String()))
	}
}

// TestRealServerDRAnnouncesItsOwnAddress sends from the virtual address to a new neighbour: that must
// not learn from the question where the virtual address is, or it would bypass the director.
func TestRealServerDRAnnouncesItsOwnAddress(t *testing.T) {
	p := newPair(t)
	vip, own := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("10.0.0.2")
	must(t, p.b.RealServerDR(vip))
	listener := need(p.a.ListenPacket("udp", "10.0.0.1:9"))(t)
	conn := need(p.b.DialFrom(context.Background(), "udp", netip.AddrPortFrom(vip, 0), "10.0.0.1:9"))(t)
	defer conn.Close()
	need(conn.Write([]byte("x")))(t)
	must(t, listener.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, from, err := listener.ReadFrom(make([]byte, 1)); err != nil || !strings.HasPrefix(from.String(), "10.0.0.100:") {
		t.Fatalf("from %v: %v", from, err)
	}
	if mac, err := p.a.Neigh("eth0", vip); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a learned that %v is at %v: %v", vip, mac, err)
	}
	if _, err := p.a.Neigh("eth0", own); err != nil {
		t.Error(err)
	}
}

// readDatagram returns what one datagram holds, within a second.
func readDatagram(t *testing.T, conn net.Conn) string {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(time.Second)))
	buffer := make([]byte, 1<<16)
	n, err := conn.Read(buffer)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// TestAddressIsUsableAtOnce asks at an address as soon as AddAddr has returned.
func TestAddressIsUsableAtOnce(t *testing.T) {
	p := newPair(t)
	need(p.b.ServeUDPEcho(addrPort("[::]:7")))(t)
	for i := range 50 {
		for n, ifname := range []string{"lo", "eth0"} {
			vip := netip.MustParseAddr(fmt.Sprintf("fd00::1:%x:%x", n, i))
			must(t, p.a.SetNeigh("eth0", vip, p.bEnd.MAC))
			must(t, p.b.AddAddr(ifname, netip.PrefixFrom(vip, 128)))
			if answer := ask(t, p.a, netip.AddrPortFrom(vip, 7).String(), "x"); answer != "x" {
				t.Errorf("%v answers %q", vip, answer)
			}
		}
	}
}

func TestAddressOnAnInterfaceThatIsDown(t *testing.T) {
	p := newPair(t)
	must(t, p.bEnd.SetUp(false))
	must(t, p.b.AddAddr("eth0", prefixes("fd00::9/64")[0]))
	must(t, p.bEnd.SetUp(true))
	must(t, ping(p.a, "fd00::9"))
	must(t, p.bEnd.Peer.SetUp(false))
	must(t, p.b.AddAddr("eth0", prefixes("fd00::a/64")[0]))
	must(t, p.bEnd.Peer.SetUp(true))
	must(t, ping(p.a, "fd00::a"))
}
