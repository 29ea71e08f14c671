// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestResultText(t *testing.T) {
	r := Result{Code: L7STS, Status: 503, Duration: 12345 * time.Microsecond, Text: "no", Warning: "soon"}
	if got := r.String(); got != "L7STS/503 in 12ms: no (soon)" {
		t.Errorf("got %q", got)
	}
	if got := (Result{Code: L4OK}).String(); got != "L4OK in 0ms" {
		t.Errorf("got %q", got)
	}
	for text, want := range map[string]string{
		"plain":                  "plain",
		"a\nb\x00c\x1b[31m":      `a\nb\x00c\x1b[31m`,
		"größe \u202e x \xff":    `größe \u202e x \ufffd`,
		strings.Repeat("ä", 200): strings.Repeat("ä", 126) + "…",
	} {
		if got := printable(text, MaxText); got != want || len(got) > MaxText {
			t.Errorf("%q: got %q", text, got)
		}
	}
	if Up.String()+Down.String()+Unknown.String() != "updownunknown" {
		t.Error("verdicts have other names")
	}
}

// TestSecret prints one in every way that prints.
func TestSecret(t *testing.T) {
	s := NewSecret("s3cret!")
	options := MySQLOptions{User: "joe", Password: s}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "password", s, "options", options)
	asJSON, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{
		s.String(), fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q %x %d", s, s, s, s, s, s, s), fmt.Sprintf("%+v %#v", options, &options),
		string(asJSON), log.String(), fmt.Sprint(must(NewMySQL(options)).Identity()),
	} {
		if strings.Contains(got, "s3cret") || strings.Contains(got, fmt.Sprintf("%x", "s3cret")) {
			t.Errorf("the secret is shown: %s", got)
		}
	}
	if NewSecret("").String() != "" || !NewSecret("").IsZero() || s.IsZero() {
		t.Error("no secret looks like one, or the reverse")
	}
}

func TestSecretSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for text, want := range map[string]string{"abc\n": "abc", "abc": "abc", "abc\r\n": "abc", " a b \n\n": " a b \n"} {
		s, err := SecretFromFile(write("good", text))
		if err != nil || s.value != want {
			t.Errorf("%q: got %q, %v", text, s.value, err)
		}
	}
	_, err := SecretFromFile(write("empty", "\n"))
	wantError(t, err, "read secret: "+dir+"/empty is empty")
	_, err = SecretFromFile(write("long", strings.Repeat("x", 5000)))
	wantError(t, err, "long has more than 4096 bytes")
	_, err = SecretFromFile(dir + "/none")
	wantError(t, err, "read secret: open "+dir+"/none: no such file")
	_, err = SecretFromFile(dir)
	wantError(t, err, "read secret: read "+dir)
	t.Setenv("CHECK_SECRET", "from env")
	if s, err := SecretFromEnv("CHECK_SECRET"); err != nil || s.value != "from env" {
		t.Errorf("got %q, %v", s.value, err)
	}
	_, err = SecretFromEnv("CHECK_NO_SECRET")
	wantError(t, err, "read secret: environment variable CHECK_NO_SECRET is not set")
}

// TestIdentity: checkers are the same if, and only if, their options are.
func TestIdentity(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	make := func() []Checker {
		trust := func(a *authority) *TLSClient { return &TLSClient{Verify: "chain", CAFile: a.file} }
		return []Checker{
			must(NewTCP(TCPOptions{})), must(NewTCP(TCPOptions{Reset: true})), must(NewTLS(TLSOptions{})),
			must(NewHTTP(HTTPOptions{})), must(NewHTTP(HTTPOptions{TLS: &TLSClient{}})), must(NewHTTP(HTTPOptions{TLS: trust(ca)})), must(NewHTTP(HTTPOptions{TLS: trust(other)})),
			must(NewHTTP(HTTPOptions{Header: map[string]Secret{"a": NewSecret("b"), "c": NewSecret("d")}})), must(NewHTTP(HTTPOptions{Header: map[string]Secret{"a": NewSecret("d"), "c": NewSecret("b")}})),
			must(NewHTTP(HTTPOptions{URLs: []HTTPURL{{Path: "/a"}, {Path: "/b"}}})), must(NewHTTP(HTTPOptions{URLs: []HTTPURL{{Path: "/b"}, {Path: "/a"}}})),
			must(NewPOP3(MailboxOptions{})), must(NewIMAP(MailboxOptions{})),
			must(NewIMAP(MailboxOptions{User: "ab", Password: NewSecret("c")})), must(NewIMAP(MailboxOptions{User: "a", Password: NewSecret("bc")})),
			must(NewMySQL(MySQLOptions{User: "a", Lag: LagOptions{Curve: []LagPoint{{1, 2}}}})), must(NewMySQL(MySQLOptions{User: "a", Lag: LagOptions{Curve: []LagPoint{{2, 1}}}})),
			must(NewAll(must(NewTCP(TCPOptions{})))), must(NewAll(must(NewTLS(TLSOptions{})))),
		}
	}
	seen := map[string]int{}
	first, second := make(), make()
	for i, c := range first {
		if was, ok := seen[c.Identity()]; ok {
			t.Errorf("checkers %d and %d have one identity", was, i)
		}
		seen[c.Identity()] = i
		if second[i].Identity() != c.Identity() {
			t.Errorf("checker %d is not the same as itself: %s, %s", i, c.Identity(), second[i].Identity())
		}
	}
}

// failing is a Dialer that cannot.
type failing struct{ err error }

func (f failing) DialContext(_ context.Context, network, _ string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", f.err)}
}

// halting is a Dialer whose UDP sockets find a route.
type halting struct{ err error }

func (h halting) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "udp" {
		return Sockets{}.DialContext(ctx, network, address)
	}
	return failing(h).DialContext(ctx, network, address)
}

// TestUnsent tells what never left this host from what the network answered.
func TestUnsent(t *testing.T) {
	address := netip.MustParseAddrPort("127.0.0.1:9")
	for _, c := range []struct {
		dialer Dialer
		want   string
	}{
		{failing{unix.EMFILE}, "unknown SOCKERR: connect to 127.0.0.1:9: too many open files"},
		{failing{unix.EADDRNOTAVAIL}, "unknown SOCKERR: connect to 127.0.0.1:9: cannot assign requested address"},
		{failing{unix.EPERM}, "unknown SOCKERR: connect to 127.0.0.1:9: operation not permitted"},
		{failing{unix.ENETUNREACH}, "unknown SOCKERR: connect to 127.0.0.1:9: network is unreachable"},
		{halting{unix.ENETUNREACH}, "down L4CON: connect to 127.0.0.1:9: network is unreachable"},
		{halting{unix.EHOSTUNREACH}, "down L4CON: connect to 127.0.0.1:9: no route to host"},
		{halting{unix.EACCES}, "down L4CON: connect to 127.0.0.1:9: permission denied"},
		{halting{unix.ECONNREFUSED}, "down L4CON: connect to 127.0.0.1:9: connection refused"},
		{halting{unix.ETIMEDOUT}, "down L4TOUT: connect to 127.0.0.1:9: no answer in time"},
	} {
		wants(t, ask(t, must(NewTCP(TCPOptions{})), Target{Address: address, Dialer: c.dialer}), c.want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wants(t, must(NewTCP(TCPOptions{})).Check(ctx, Target{Address: address}), "unknown SOCKERR: connect to 127.0.0.1:9: the check was cancelled")
}

// TestDefaultTimeout is a check without a deadline against a server that says nothing.
func TestDefaultTimeout(t *testing.T) {
	target := serve(t, misbehaviours["silent"])
	begin := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	wants(t, must(NewSMTP(SMTPOptions{})).Check(ctx, target), "unknown SOCKERR: banner: the check was cancelled")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("a cancelled check took %s", took)
	}
	run(context.Background(), target, func(p *probe) (Result, error) {
		if deadline, ok := p.ctx.Deadline(); !ok || time.Until(deadline) > DefaultTimeout {
			t.Errorf("deadline %v, %t", deadline, ok)
		}
		return Result{}, errors.New("enough")
	})
}

// TestSockets sees the options of a socket.
func TestSockets(t *testing.T) {
	target := serve(t, func(net.Conn) {})
	source := netip.MustParseAddr("127.0.0.2")
	for _, network := range []string{"tcp", "udp"} {
		c, err := Sockets{Source: source, Interface: "lo"}.DialContext(t.Context(), network, target.Address.String())
		if errors.Is(err, os.ErrPermission) {
			t.Skip("needs CAP_NET_RAW to bind to an interface")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := netip.MustParseAddrPort(c.LocalAddr().String()).Addr(); got != source {
			t.Errorf("%s comes from %s", network, got)
		}
		if got := sockopt(t, c, unix.SO_BINDTODEVICE); got != "lo" {
			t.Errorf("%s is bound to %q", network, got)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to mark packets")
	}
	c, err := Sockets{Mark: 77, Source: source}.DialContext(t.Context(), "ip4:icmp", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, _ := c.(*net.IPConn).SyscallConn()
	raw.Control(func(fd uintptr) {
		if mark, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); err != nil || mark != 77 {
			t.Errorf("mark %d, %v", mark, err)
		}
	})
	if c.LocalAddr().String() != source.String() {
		t.Errorf("ICMP comes from %s", c.LocalAddr())
	}
	r := ask(t, must(NewTCP(TCPOptions{})), Target{Address: target.Address, Dialer: Sockets{Interface: "no-such-if"}})
	wants(t, r, "unknown SOCKERR: connect to "+target.Address.String()+": no such device")
}

func sockopt(t *testing.T, c net.Conn, option int) (value string) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { value, err = unix.GetsockoptString(int(fd), unix.SOL_SOCKET, option) })
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(value, "\x00")
}
