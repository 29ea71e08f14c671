// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serve runs a TCP server on loopback for as long as the test; handle gets each connection.
func serve(t testing.TB, handle func(net.Conn)) Target {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			running.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return Target{Address: listener.Addr().(*net.TCPAddr).AddrPort()}
}

// serveUDP answers datagrams on loopback; no answer is sent for nil.
func serveUDP(t testing.TB, answer func(request []byte) [][]byte) Target {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		b := make([]byte, 65536)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			for _, a := range answer(b[:n]) {
				conn.WriteToUDPAddrPort(a, from)
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		running.Wait()
	})
	return Target{Address: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// refusing is a target that nobody listens at: its port is bound, so that nobody else gets it.
func refusing(t testing.TB) Target {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return Target{Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(bound.(*syscall.SockaddrInet4).Port))}
}

// must gives a checker whose options are right.
func must(c Checker, err error) Checker {
	if err != nil {
		panic(err)
	}
	return c
}

// ask runs a check that has some time; one that answers needs far less.
func ask(t testing.TB, c Checker, target Target) Result {
	t.Helper()
	return askWithin(t, c, target, 20*time.Second)
}

// askWithin runs a check and sees that it keeps to its time, its texts and its goroutines.
func askWithin(t testing.TB, c Checker, target Target, timeout time.Duration) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	begin := time.Now()
	r := c.Check(ctx, target)
	if took := time.Since(begin); took > timeout+time.Second {
		t.Errorf("the check took %s, its timeout is %s", took, timeout)
	}
	if len(r.Text) > MaxText || r.Text != printable(r.Text, MaxText) {
		t.Errorf("text too long or not printable: %q", r.Text)
	}
	if r.Begin.IsZero() || r.Code == "" {
		t.Errorf("no time or no code: %+v", r)
	}
	return r
}

// wants compares a result with "verdict CODE/status: text", where the text is a part of the evidence.
func wants(t testing.TB, r Result, want string) {
	t.Helper()
	head, text, _ := strings.Cut(want, ": ")
	got := Result{Code: r.Code, Status: r.Status}.String()
	got = r.Verdict.String() + " " + strings.TrimSuffix(got, " in 0ms")
	if r.Drain {
		got = "drain" + strings.TrimPrefix(got, "up")
	}
	if got != head || !strings.Contains(r.Text, text) {
		t.Errorf("got  %s: %s\nwant %s", got, r.Text, want)
	}
	if (r.Verdict != Up || r.Drain) && r.Factor != 0 {
		t.Errorf("a factor of %d %% with %s", r.Factor, head)
	}
}

// noLeaks fails the test if goroutines remain that were not there before.
func noLeaks(t testing.TB, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
}

// allOverTCP has a checker of each kind that talks over TCP, with options that make it talk.
func allOverTCP() map[string]Checker {
	secret := NewSecret("s3cret!")
	return map[string]Checker{
		"tls":         must(NewTLS(TLSOptions{})),
		"http":        must(NewHTTP(HTTPOptions{})),
		"http2":       must(NewHTTP(HTTPOptions{Version: "2"})),
		"https":       must(NewHTTP(HTTPOptions{TLS: &TLSClient{}, Version: "auto"})),
		"smtp":        must(NewSMTP(SMTPOptions{})),
		"smtps":       must(NewSMTP(SMTPOptions{Security: TLS})),
		"pop3":        must(NewPOP3(MailboxOptions{})),
		"imap":        must(NewIMAP(MailboxOptions{})),
		"ftp":         must(NewFTP(FTPOptions{})),
		"ldap":        must(NewLDAP(LDAPOptions{})),
		"ldaptls":     must(NewLDAP(LDAPOptions{Security: StartTLS})),
		"redis":       must(NewRedis(RedisOptions{Password: secret})),
		"mysql":       must(NewMySQL(MySQLOptions{User: "u", Password: secret})),
		"mysqltls":    must(NewMySQL(MySQLOptions{User: "u", Password: secret, Security: TLS})),
		"postgres":    must(NewPostgres(PostgresOptions{User: "u", Password: secret})),
		"postgrestls": must(NewPostgres(PostgresOptions{User: "u", Password: secret, Security: TLS})),
		"rtsp":        must(NewRTSP(RTSPOptions{Path: "/live"})),
		"dns":         must(NewDNS(DNSOptions{TCP: true})),
		"sip":         must(NewSIP(SIPOptions{Transport: "tcp"})),
		"expect":      must(NewExpect(ExpectOptions{Steps: []ExpectStep{{Expect: Pattern{Regex: "^ready"}}}})),
	}
}
