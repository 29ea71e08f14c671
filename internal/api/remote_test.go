// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/netlab/pki"
)

const (
	adminToken = "the-token-of-the-administrator"
	readToken  = "the-token-of-somebody-who-reads"
)

// remote is a daemon that listens with TLS.
type remote struct {
	t    *testing.T
	ca   *pki.Authority
	opts RemoteOptions
	gate *Gate
	url  string
	log  *safeBuffer
}

// safeBuffer is a log that may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newRemote(t *testing.T, b Backend, change ...func(*RemoteOptions)) *remote {
	t.Helper()
	r := &remote{t: t, ca: pki.New(t, "CA"), log: &safeBuffer{}}
	server := r.ca.Issue("server", pkix.Name{CommonName: "director"}, time.Hour, "127.0.0.1")
	r.opts = RemoteOptions{CertFile: server.Cert, KeyFile: server.Key, ClientCAFile: r.ca.File,
		Tokens: []Token{
			{Name: "ops", Admin: true, File: r.ca.Secret("ops", adminToken+"\n")},
			{Name: "prometheus", SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(readToken)))},
		},
		Clients: []ClientCertificate{{Subject: "CN=boss,O=Example", Admin: true}, {Subject: "clerk"}},
	}
	for _, c := range change {
		c(&r.opts)
	}
	r.serve(b)
	return r
}

func (r *remote) serve(b Backend) {
	r.t.Helper()
	before := runtime.NumGoroutine()
	log := slog.New(slog.NewTextHandler(r.log, nil))
	gate, err := NewGate(log, r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	listeners, err := ListenRemote([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		r.t.Fatal(err)
	}
	r.gate, r.url = gate, "https://"+listeners[0].Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- NewRemoteServer(log, b, ServerOptions{Pages: somePages()}, gate).Serve(ctx, listeners[0])
	}()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Serve: %v", err)
		}
		wantGoroutines(r.t, before)
	})
}

func (r *remote) client(d RemoteDaemon) *Client {
	r.t.Helper()
	d.URL, d.CAFile = r.url, r.ca.File
	c, err := DialRemote(d)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func (r *remote) certified(name pkix.Name, lasting time.Duration) *Client {
	pair := r.ca.Issue(name.CommonName, name, lasting)
	return r.client(RemoteDaemon{CertFile: pair.Cert, KeyFile: pair.Key})
}

func anyBackend() *fakeBackend {
	return &fakeBackend{timeouts: director.DefaultTimeouts, snapshot: bigSnapshot(1, 1), reload: func(context.Context) error { return nil }}
}

// TestRemoteRoles: what each kind of caller may do.
func TestRemoteRoles(t *testing.T) {
	r := newRemote(t, anyBackend(), func(o *RemoteOptions) { o.Rate = 1000 }) // wrong guesses cost more than others
	boss := pkix.Name{CommonName: "boss", Organization: []string{"Example"}}
	pair := r.ca.Issue("both", boss, time.Hour)
	const refused = " may not change: that is for those with role admin"
	for name, c := range map[string]struct {
		client       *Client
		read, change string // the errors
	}{
		"admin token":        {r.client(RemoteDaemon{Token: adminToken}), "", ""},
		"read token":         {r.client(RemoteDaemon{Token: readToken}), "", "token prometheus" + refused},
		"wrong token":        {r.client(RemoteDaemon{Token: adminToken + "x"}), "unknown token", "unknown token"},
		"the digest":         {r.client(RemoteDaemon{Token: r.opts.Tokens[1].SHA256}), "unknown token", "unknown token"},
		"nothing":            {r.client(RemoteDaemon{}), "who asks? Over TCP", "who asks? Over TCP"},
		"admin certificate":  {r.certified(boss, time.Hour), "", ""},
		"by common name":     {r.certified(pkix.Name{CommonName: "clerk", Organization: []string{"Any"}}, time.Hour), "", "certificate CN=clerk,O=Any" + refused},
		"another subject":    {r.certified(pkix.Name{CommonName: "boss"}, time.Hour), "certificate CN=boss may not read: that is for those with role read", "may not read"},
		"expired":            {r.certified(pkix.Name{CommonName: "clerk", Country: []string{"XX"}}, -time.Minute), "tls: expired certificate", "tls: expired certificate"},
		"both, wrong token":  {r.client(RemoteDaemon{Token: "wrong", CertFile: pair.Cert, KeyFile: pair.Key}), "unknown token", "unknown token"},
		"both, higher taken": {r.client(RemoteDaemon{Token: readToken, CertFile: pair.Cert, KeyFile: pair.Key}), "", ""},
	} {
		_, err := c.client.Timeouts(t.Context())
		r.want(name+" reads", err, c.read)
		r.want(name+" changes", c.client.Reload(t.Context()), c.change)
	}
	if log := r.log.String(); strings.Contains(log, adminToken) || strings.Contains(log, readToken) || !strings.Contains(log, `who="token ops"`) {
		t.Errorf("log is\n%s", log)
	}
}

func (r *remote) want(what string, err error, want string) {
	r.t.Helper()
	if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
		r.t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// TestRemoteStrangers: a certificate of another authority, TLS that is too old, and HTTP without TLS come to nothing.
func TestRemoteStrangers(t *testing.T) {
	r := newRemote(t, anyBackend(), func(o *RemoteOptions) { o.MinVersion = tls.VersionTLS13 })
	own := r.ca
	r.ca = pki.New(t, "CA") // of the same name
	pair := r.ca.Issue("stranger", pkix.Name{CommonName: "clerk"}, time.Hour)
	_, err := r.client(RemoteDaemon{Token: adminToken}).Version(t.Context())
	r.want("a client that does not know the daemon", err, "certificate signed by unknown authority")
	r.ca = own
	_, err = r.client(RemoteDaemon{CertFile: pair.Cert, KeyFile: pair.Key}).Version(t.Context())
	r.want("a client that the daemon does not know", err, "tls: unknown certificate authority")

	address := strings.TrimPrefix(r.url, "https://")
	_, err = tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	r.want("TLS 1.2", err, "protocol version not supported")
	answer, err := http.Get("http://" + address + pathVersion)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "HTTP request to an HTTPS server") {
		t.Errorf("without TLS: %s %s", answer.Status, text)
	}
}

// TestRemotePages: who may read gets the pages, nobody those for administrators.
func TestRemotePages(t *testing.T) {
	r := newRemote(t, anyBackend())
	for token, want := range map[string][2]int{readToken: {200, 404}, adminToken: {200, 404}, "wrong": {401, 401}} {
		client := r.client(RemoteDaemon{Token: token})
		for i, page := range []string{"/metrics", "/debug/pprof/"} {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+page, nil)
			req.Header.Set("Authorization", "Bearer "+token)
			answer, err := client.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != want[i] {
				t.Errorf("%s with %s: %s, want %d", page, token, answer.Status, want[i])
			}
		}
	}
}

// TestRemoteRenewal: a new certificate, another CA and another token are taken without a restart; what is broken is not.
func TestRemoteRenewal(t *testing.T) {
	r := newRemote(t, anyBackend(), func(o *RemoteOptions) { o.Rate = 1000 })
	r.gate.mu.Lock()
	r.gate.every = time.Millisecond
	r.gate.mu.Unlock()
	serial := func() string {
		c, err := tls.Dial("tcp", strings.TrimPrefix(r.url, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	r.ca.Issue("server", pkix.Name{CommonName: "director"}, time.Hour, "127.0.0.1")
	r.eventually("a new certificate", func() bool { return serial() != first })

	broken := serial()
	if err := os.WriteFile(r.opts.CertFile, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.eventually("a refusal in the log", func() bool {
		now := serial()
		return now == broken && strings.Contains(r.log.String(), "event=api_files_refused")
	})
	r.ca.Issue("server", pkix.Name{CommonName: "director"}, time.Hour, "127.0.0.1")
	r.eventually("the next certificate", func() bool { return serial() != broken })

	r.ca.Secret("ops", "another-token-of-the-administrator")
	r.eventually("another token", func() bool {
		return r.client(RemoteDaemon{Token: "another-token-of-the-administrator"}).Reload(t.Context()) == nil
	})
	r.want("the former token", r.client(RemoteDaemon{Token: adminToken}).Reload(t.Context()), "unknown token")
}

func (r *remote) eventually(what string, ok func() bool) {
	r.t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			r.t.Fatalf("in 30 s not: %s\n%s", what, r.log)
		}
	}
}

// TestRemoteLimits: a body that is too large, and more requests than a client may make.
func TestRemoteLimits(t *testing.T) {
	r := newRemote(t, anyBackend(), func(o *RemoteOptions) { o.Rate = 1 })
	client := r.client(RemoteDaemon{Token: adminToken})
	_, err := client.do(t.Context(), http.MethodPatch, pathTimeouts, nil, strings.Repeat("x", maxBody+1))
	wantStatus(t, err, http.StatusRequestEntityTooLarge)
	for range 10 {
		if _, err = client.Version(t.Context()); err != nil {
			break
		}
	}
	wantStatus(t, err, http.StatusTooManyRequests)
	r.want("the next", err, "too many requests from 127.0.0.1: try again in ")
}

// TestRemoteConnections: one client does not take all connections.
func TestRemoteConnections(t *testing.T) {
	r := newRemote(t, anyBackend())
	open := 0
	for range 40 {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open != 16 {
		t.Errorf("%d connections are open, want a quarter of 64", open)
	}
}

// TestBadRemoteFiles: everything that is wrong is named at once.
func TestBadRemoteFiles(t *testing.T) {
	ca := pki.New(t, "CA")
	good, other := ca.Issue("a", pkix.Name{CommonName: "a"}, time.Hour), ca.Issue("b", pkix.Name{CommonName: "b"}, time.Hour)
	open := ca.Secret("open", adminToken)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := NewGate(discard(), RemoteOptions{CertFile: good.Cert, KeyFile: other.Key, Tokens: []Token{
		{Name: "open", File: open}, {Name: "short", File: ca.Secret("short", "secret\n")}, {Name: "unset", Env: "NO_SUCH_VARIABLE"},
		{Name: "digest", SHA256: "abc"}, {Name: "missing", File: "/nonexistent"},
	}})
	for _, want := range []string{
		"certificate " + good.Cert + " and key " + other.Key + ": tls: private key does not match public key",
		"token open: " + open + ": permissions 0644 are too open: everybody can get at it (chmod o= " + open + ")",
		"token short: " + ca.File[:len(ca.File)-len("ca.pem")] + "short has a token of 6 characters, which is less than 16",
		"token unset: environment variable NO_SUCH_VARIABLE has a token of 0 characters, which is less than 16",
		"token digest: a SHA-256 has 64 hexadecimal digits",
		"token missing: open /nonexistent: no such file or directory",
	} {
		wantError(t, err, want)
	}
	if strings.Contains(fmt.Sprint(err), "secret\n") {
		t.Errorf("the error tells a secret: %v", err)
	}
	for want, o := range map[string]RemoteOptions{
		"read certificate: open /nonexistent: no such file or directory": {CertFile: "/nonexistent", KeyFile: good.Key},
		"read key: open /nonexistent: no such file or directory":         {CertFile: good.Cert, KeyFile: "/nonexistent"},
		good.Key + " has no certificate in PEM":                          {CertFile: good.Cert, KeyFile: good.Key, ClientCAFile: good.Key},
	} {
		_, err := NewGate(discard(), o)
		wantError(t, err, want)
	}
}

func TestBadDial(t *testing.T) {
	ca := pki.New(t, "CA")
	open := ca.Secret("open", adminToken)
	if err := os.Chmod(open, 0o604); err != nil {
		t.Fatal(err)
	}
	for want, d := range map[string]RemoteDaemon{
		"over TCP the daemon speaks https only":        {URL: "http://127.0.0.1:1"},
		`"https://h/x" is not https://HOST:PORT`:       {URL: "https://h/x"},
		`"h:9443" is not https://HOST:PORT`:            {URL: "h:9443"},
		"permissions 0604 are too open":                {URL: "https://h", TokenFile: open},
		"a certificate needs its key":                  {URL: "https://h", CertFile: ca.File},
		"read CA: open /nonexistent: no such file":     {URL: "https://h", CAFile: "/nonexistent"},
		"read token: open /nonexistent: no such file ": {URL: "https://h", TokenFile: "/nonexistent"},
	} {
		_, err := DialRemote(d)
		wantError(t, err, want)
	}
	_, err := Failing(fmt.Errorf("read token: nothing")).Version(t.Context())
	if err == nil || err.Error() != "read token: nothing" {
		t.Errorf("error %v", err)
	}
}

// TestListenRemote: all addresses or none.
func TestListenRemote(t *testing.T) {
	taken, err := ListenRemote([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	defer taken[0].Close()
	at := taken[0].Addr().(*net.TCPAddr).AddrPort()
	_, err = ListenRemote([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:" + fmt.Sprint(at.Port())), at})
	wantError(t, err, "listen for the api: listen tcp "+at.String()+": bind: address already in use")
	again, err := ListenRemote([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:" + fmt.Sprint(at.Port()))})
	if err != nil {
		t.Fatal(err)
	}
	again[0].Close()
}

// TestClientTable: what a client may ask fills with time, whoever else asks; who is remembered is bounded.
func TestClientTable(t *testing.T) {
	now := time.Unix(0, 0)
	table := newClientTable()
	table.now = func() time.Time { return now }
	table.setRate(10)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range 20 {
		if wait := table.take(a, 1); wait != 0 {
			t.Fatalf("request %d waits %v", i, wait)
		}
	}
	if wait := table.take(a, 1); wait != 100*time.Millisecond {
		t.Errorf("the request after a burst waits %v", wait)
	}
	if wait := table.take(b, 1); wait != 0 {
		t.Errorf("another client waits %v", wait)
	}
	now = now.Add(time.Second)
	if wait := table.take(a, 1); wait != 0 {
		t.Errorf("a second later it waits %v", wait)
	}
	table.take(a, 1000)
	if wait := table.take(a, 0); wait != 2*time.Second {
		t.Errorf("after far too much it waits %v", wait)
	}
	if table.open(a, 100) {
		t.Error("who is far beyond his limit may connect")
	}
	v6 := netip.MustParseAddr("2001:db8::1")
	if !table.open(v6, 1) || table.open(netip.MustParseAddr("2001:db8::2"), 1) {
		t.Error("a network of 64 bits is not one client")
	}
	table.close(v6)
	for i := range 2 * mostClients {
		table.take(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
	}
	if n := len(table.all); n != mostClients {
		t.Errorf("%d clients are remembered", n)
	}
}
