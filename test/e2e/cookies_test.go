// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/director"
)

// A port on which real servers speak first, as with mail.
const bannerPort = 2525

// bannerLine is what they say.
const bannerLine = "220 %s ready\r\n"

// serveBanner lets a real server say its name to who connects, and then what it is told.
func (r *realServer) serveBanner(t *testing.T) {
	for _, addr := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		l := get(r.Listen(map[bool]string{true: "tcp4", false: "tcp6"}[addr.Is4()], netip.AddrPortFrom(addr, bannerPort).String()))(t)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					fmt.Fprintf(conn, bannerLine, r.Name())
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
	}
}

// cookieFarm has services by a method that always answer SYNs with cookies, one of them for real servers that speak first.
func cookieFarm(t *testing.T, m method, way netWay, defense string) (*farm, *daemon) {
	f := newLab(t)
	way.build(f)
	if m.prepare != nil {
		m.prepare(f)
	}
	services := join(byMethod(m.name, "rr", 1, 1, 1), with("method: "+m.name, both("mail", "tcp", bannerPort, "rr", 1, 1, 1)))
	f.writeConfig(mapPorts(f.config(way.interfaces, services...)) + "defense: " + defense + "\n")
	for _, r := range f.reals {
		r.serveBanner(t)
	}
	return f, f.start()
}

// TestSynCookies: clients and real servers whose TCP is the kernel's do not notice: whoever speaks first, however much goes
// each way, also after the daemon has died. TCP is as able as without cookies.
func TestSynCookies(t *testing.T) {
	t.Parallel()
	for _, m := range []method{byNAT, byFullNAT} {
		for _, way := range netWays {
			t.Run(m.name+", "+way.name, func(t *testing.T) {
				f, d := cookieFarm(t, m, way, "{syn_cookies: always}")
				for _, family := range families {
					t.Run(family.name, func(t *testing.T) { f.on(t).mustSplice(family.vip) })
				}
				if t.Failed() {
					t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
				}
				held := map[string]*download{}
				for _, family := range families {
					held[family.name] = f.download(family.vip, heldSize)
					must(t, held[family.name].read(100_000))
				}
				d.kill()
				for _, family := range families {
					must(t, held[family.name].finish())
					must(t, f.banner(family.vip))
				}
			})
		}
	}
}

// mustSplice uses the services of a virtual address.
func (f *farm) mustSplice(vip netip.Addr) {
	t := f.t
	t.Helper()
	before := f.snapshot().Verdicts
	f.mustReachAll(f.fetch, vip, webPort)
	f.mustReachAll(f.fetch, vip, mappedPort)
	for range 5 {
		must(t, f.banner(vip))
	}
	f.mustCarry(vip, 20_000_000, 20_000_000)
	f.mustNegotiate(vip)
	after := f.snapshot().Verdicts
	if n := after["tx_cookie"] - before["tx_cookie"]; n < 30 {
		t.Errorf("%d SYNs were answered with cookies", n)
	}
	if n := after["drop_cookie"] - before["drop_cookie"]; n > 0 {
		t.Errorf("%d cookies of clients were refused", n)
	}
}

// banner connects to the service whose real servers speak first, says something and hears it back.
func (f *farm) banner(vip netip.Addr) error {
	conn, err := f.dial(vip, bannerPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "220 rs") {
		return fmt.Errorf("banner is %q: %w", line, err)
	}
	if _, err := io.WriteString(conn, "NOOP\r\n"); err != nil {
		return err
	}
	if line, err = in.ReadString('\n'); line != "NOOP\r\n" {
		return fmt.Errorf("echo is %q: %w", line, err)
	}
	return nil
}

// dial connects from the client; all that follows has a deadline.
func (f *farm) dial(vip netip.Addr, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	conn, err := f.client.DialContext(ctx, "tcp", netip.AddrPortFrom(vip, port).String())
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(4 * patience))
}

// What a connection's ends have agreed on (uapi/linux/tcp.h).
const (
	agreedStamps = 1
	agreedSACK   = 2
	agreedScale  = 4
)

// mustNegotiate fails unless the client's end has the options that Linux has with Linux, and the MSS of the way.
func (f *farm) mustNegotiate(vip netip.Addr) {
	f.t.Helper()
	conn := get(f.dial(vip, bannerPort))(f.t)
	defer conn.Close()
	_ = get(bufio.NewReader(conn).ReadString('\n'))(f.t)
	var info *unix.TCPInfo
	raw := get(conn.(*net.TCPConn).SyscallConn())(f.t)
	var err error
	must(f.t, errors.Join(raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }), err))
	if all := uint8(agreedStamps | agreedSACK | agreedScale); info.Options&all != all {
		f.t.Errorf("options of the connection are %#x, want %#x", info.Options, all)
	}
	header := uint32(40)
	if vip.Is6() {
		header = 60
	}
	if want := 1500 - header - 12; info.Snd_mss != want { // timestamps take 12
		f.t.Errorf("MSS is %d, want %d", info.Snd_mss, want)
	}
}

// TestSynCookiesSwitched: what an administrator sets is in force at once, and those who began with a
// cookie go on when there are none any more.
func TestSynCookiesSwitched(t *testing.T) {
	t.Parallel()
	f, _ := cookieFarm(t, byNAT, netWays[0], "{}")
	answered := func() uint64 {
		var s director.DefenseState
		f.decode(&s, "defense")
		return s.Cookies.Answered
	}
	must(t, f.banner(vip4))
	if n := answered(); n != 0 {
		t.Errorf("%d SYNs were answered with cookies, which are off", n)
	}
	if out := f.output("defense", "set", "syn_cookies=always"); !strings.Contains(out, "SYNs are answered with cookies") {
		t.Errorf("set says\n%s", out)
	}
	held := f.download(vip4, heldSize)
	must(t, held.read(100_000))
	n := answered()
	if n == 0 {
		t.Error("no SYN was answered with a cookie")
	}
	f.output("defense", "set", "syn_cookies=off")
	must(t, f.banner(vip4))
	must(t, held.finish())
	if answered() != n {
		t.Error("SYNs are answered with cookies, which are off again")
	}
}

// TestFloodCookies: a flood stores nothing, where clients have to prove themselves first: all that are connected stay so, and
// new ones are served. The long form takes 30 s at the generator's full speed: DIRECTOR_LONG=1 go test ./test/e2e -run TestFloodCookies.
func TestFloodCookies(t *testing.T) {
	f, d := floodedFarm(t, byNAT, "defense: {syn_cookies: always}\n")
	from := f.flooder()
	if long() {
		from.share = 1
	}
	f.eachWave(from, func(f *farm, from *flooder, crowd *crowd, duration time.Duration) {
		w := f.floodedInVain(d, from, crowd, duration)
		if n := w.count("tx_cookie"); n < w.sent/2 { // a busy machine loses some on the way
			f.t.Errorf("%d of %d SYNs were answered with cookies", n, w.sent)
		}
		if n := w.count("tx_new"); n > crowd.opened+len(crowd.refused) {
			f.t.Errorf("%d connections are stored, the clients have made %d: the flood made some", n, crowd.opened)
		}
	})
}

// TestFloodCookiesAutomatic: a flood begins cookies, and its end ends them.
func TestFloodCookiesAutomatic(t *testing.T) {
	f, d := floodedFarm(t, byFullNAT, "defense: {syn_cookies: auto}\n")
	flooder, crowd := f.flooder(), f.crowd(vip4, 50)
	if n := f.cookieServices(); n != 0 {
		t.Errorf("%d services give cookies before the flood", n)
	}
	w := f.floodedInVain(d, flooder, crowd, 6*time.Second)
	var r director.DefenseReport
	if f.decode(&r, "defense", "report"); r.Total.Cookies < uint64(w.count("tx_cookie"))/2 {
		t.Errorf("%d SYNs with cookies are reported, of %d", r.Total.Cookies, w.count("tx_cookie"))
	}
	if n := w.count("tx_cookie"); n < w.sent/10 { // it took some seconds to see the flood
		t.Errorf("%d of %d SYNs were answered with cookies", n, w.sent)
	}
	eventually(t, 4*patience, func() error {
		if n := f.cookieServices(); n != 0 {
			return fmt.Errorf("%d services give cookies after the flood", n)
		}
		return nil
	})
	must(t, f.fetchOnce(vip4))
}

// TestFloodLeavesNothing: with dr and tun, a flood has half-open connections stored, which are in no one's way and end by themselves;
// budgets bound how many.
func TestFloodLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, m := range []method{byDR, byTunnel} {
		t.Run(m.name, func(t *testing.T) {
			f, d := floodedFarm(t, m, "")
			flooder := f.flooder()
			flooder.share = floodShare / 2
			for _, family := range families {
				crowd := f.crowd(family.vip, 10)
				t.Run(family.name, func(t *testing.T) {
					w := f.on(t).floodedInVain(d, flooder, crowd, time.Second)
					if n := w.count("tx_new"); n < 1000 {
						t.Errorf("%d connections were stored: nothing was tested", n)
					}
				})
			}
			const rate, burst = 100, 200
			f.writeConfig(f.floodedConfig(m, fmt.Sprintf("defense: {budget: {rate: %d, burst: %d, prefix4: 16, prefix6: 48}}\n", rate, burst)))
			f.reload()
			for _, family := range families {
				crowd := f.crowd(family.vip, 5)
				t.Run(family.name+" with a budget", func(t *testing.T) {
					start := time.Now()
					w := f.on(t).floodedInVain(d, flooder, crowd, time.Second)
					// The flood's prefix, and that of the clients, who stay far below it.
					most := burst + rate*int(time.Since(start).Seconds()+1) + crowd.opened + len(crowd.refused)
					if n := w.count("tx_new"); n > most || w.count("drop_budget") < w.sent/2 {
						t.Errorf("of %d SYNs %d were dropped, and %d connections stored, want %d at most", w.sent, w.count("drop_budget"), n, most)
					}
				})
			}
		})
	}
}

// floodedFarm is a farm whose connections go soon once they are closed, or were never open.
func floodedFarm(t *testing.T, m method, defense string) (*farm, *daemon) {
	f := newLab(t)
	oneWire(f)
	if m.direct {
		onLink(f)
	}
	if m.prepare != nil {
		m.prepare(f)
	}
	f.writeConfig(f.floodedConfig(m, defense))
	return f, f.start()
}

func (f *farm) floodedConfig(m method, defense string) string {
	return f.config("eth0", with("method: "+m.name, both("web", "tcp", webPort, "rr", 1, 1, 1))...) + defense +
		"timeouts: {tcp_syn_recv: 3s, tcp_time_wait: 2s, tcp_close: 2s, tcp_last_ack: 2s, tcp_close_wait: 2s, tcpfin: 2s}\n"
}

// floodedInVain floods the service that the crowd uses. What it has stored is soon gone, and what tables and daemon take did not grow.
func (f *farm) floodedInVain(d *daemon, flooder *flooder, crowd *crowd, duration time.Duration) wave {
	t := f.t
	t.Helper()
	tables, took, held := f.tableBytes(), get(memory(d.cmd.Process.Pid, "RssAnon"))(t), f.countConnections(crowd.vip)
	w := crowd.flood(t, flooder, duration)
	w.log(t, crowd, "tx_cookie", "tx_new", "drop_budget")
	if now := f.tableBytes(); now != tables {
		t.Errorf("tables have %s bytes, and had %s before the flood", now, tables)
	}
	if grown := get(memory(d.cmd.Process.Pid, "RssAnon"))(t) - took; grown > 64<<20 {
		t.Errorf("the daemon has %d bytes more than before the flood", grown)
	}
	f.mustHold(held, crowd.vip)
	return w
}

// mustHold fails unless 10 s after a flood there are as many connections as before it, all active, and a new one is served.
func (f *farm) mustHold(want int, vip netip.Addr) {
	f.t.Helper()
	eventually(f.t, 10*time.Second*slowness(), func() error {
		active, inactive := 0, 0
		for _, r := range f.service(ofFamily("web", vip)).Reals {
			active, inactive = active+int(r.Active), inactive+int(r.Inactive)
		}
		if n := f.countConnections(vip); n != want || active != want || inactive != 0 {
			return fmt.Errorf("%d connections are left, %d counted as active and %d as inactive, want those %d that stay", n, active, inactive, want)
		}
		return nil
	})
	must(f.t, f.fetchOnce(vip))
}

// fetchOnce opens a connection that has to be served soon.
func (f *farm) fetchOnce(vip netip.Addr) error {
	start := time.Now()
	if _, err := f.fetch(vip, webPort); err != nil {
		return err
	}
	if took := time.Since(start); took > soon {
		return fmt.Errorf("a connection was served after %v", took)
	}
	return nil
}

// cookieServices is how many services give cookies now.
func (f *farm) cookieServices() int {
	f.t.Helper()
	var s director.DefenseState
	f.decode(&s, "defense")
	return s.Cookies.Services
}

// tableBytes is what the tables take.
func (f *farm) tableBytes() string {
	f.t.Helper()
	_, text := page(f.t, f.socketClient(), "http://director/metrics")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "director_table_memory_bytes "); ok {
			return strings.TrimSpace(rest)
		}
	}
	f.t.Fatal("no director_table_memory_bytes")
	return ""
}
