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
// new ones are served. The long form takes 30 s: DIRECTOR_LONG=1 go test ./test/e2e -run TestFloodCookies.
func TestFloodCookies(t *testing.T) {
	f := newLab(t)
	oneWire(f)
	byNAT.prepare(f)
	f.writeConfig(f.config("eth0", with("method: nat", both("web", "tcp", webPort, "rr", 1, 1, 1))...) +
		"timeouts: {tcp_time_wait: 2s, tcp_close: 2s, tcp_last_ack: 2s, tcp_close_wait: 2s, tcpfin: 2s}\ndefense: {syn_cookies: always}\n")
	f.start()
	flooder := f.flooder()
	duration := 6 * time.Second
	if long() {
		duration = 30 * time.Second
	}
	for _, wave := range []struct {
		name     string
		vip      netip.Addr
		clients  int
		duration time.Duration
	}{{"v4", vip4, 200, duration}, {"v6", vip6, 50, duration / 3}} {
		crowd := f.crowd(wave.vip, wave.clients)
		t.Run(wave.name, func(t *testing.T) { f.on(t).floodedInVain(flooder, crowd, wave.duration) })
	}
}

// floodedInVain floods the service that the crowd uses.
func (f *farm) floodedInVain(flooder *flooder, crowd *crowd, duration time.Duration) {
	t := f.t
	before, tables := f.snapshot(), f.tableBytes()
	crowd.begin()
	sent, share, err := flooder.flood(crowd.vip, duration)
	must(t, err)
	crowd.check(t)
	crowd.mustBeListed(t)
	after := f.snapshot()
	count := func(verdict string) int { return int(after.Verdicts[verdict] - before.Verdicts[verdict]) }
	t.Logf("%d SYNs sent, with %.0f %% of a core; %d cookies; %d exchanges, %d new connections served, %d not", sent, 100*share,
		count("tx_cookie"), crowd.exchanges, crowd.opened, len(crowd.refused))
	if n := count("tx_cookie"); n < sent/2 { // a busy machine loses some on the way
		t.Errorf("%d of %d SYNs were answered with cookies", n, sent)
	}
	if n := count("tx_new"); n > crowd.opened+len(crowd.refused) {
		t.Errorf("%d connections are stored, the clients have made %d: the flood made some", n, crowd.opened)
	}
	if now := f.tableBytes(); now != tables {
		t.Errorf("tables have %s bytes, and had %s before the flood", now, tables)
	}
	f.mustBeAsBefore(crowd)
}

// mustBeAsBefore fails unless 10 s after a flood only the connections that stay are left.
func (f *farm) mustBeAsBefore(crowd *crowd) {
	f.t.Helper()
	eventually(f.t, 10*time.Second, func() error {
		n, want := len(f.connections("service", ofFamily("web", crowd.vip))), len(crowd.talks)
		if n != want {
			return fmt.Errorf("%d connections are left, want those %d that stay", n, want)
		}
		return nil
	})
	k := get(crowd.connect())(f.t)
	must(f.t, k.conn.Close())
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
