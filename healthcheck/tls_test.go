// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveTLS runs a server that makes handshakes and then reads.
func serveTLS(t testing.TB, config *tls.Config) Target {
	return serve(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.Handshake() == nil {
			io.Copy(io.Discard, s)
		}
	})
}

// TestCertificates has certificates with one fault each, and every level of verification.
func TestCertificates(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	for _, c := range []struct {
		name, verify, server string
		cert                 tls.Certificate
		want, warning        string
	}{
		{"valid", "full", "www.example.org", ca.valid(), "up L6OK: TLS 1.3, certificate of www.example.org", ""},
		{"valid, wrong name", "full", "mail.example.org", ca.valid(), "down L6RSP: the certificate is for www.example.org, not for mail.example.org", ""},
		{"wrong name, chain only", "chain", "mail.example.org", ca.valid(), "up L6OK: TLS", ""},
		{"other authority", "chain", "", other.valid(), "down L6RSP: the certificate of www.example.org: certificate signed by unknown authority", ""},
		{"other authority, dates only", "dates", "", other.valid(), "up L6OK: TLS", ""},
		{"expired", "dates", "", ca.sign(-200*time.Hour, -100*time.Hour), "down L6RSP: the certificate expired 4 days ago, on 20", ""},
		{"expired a while ago", "chain", "", ca.sign(-200*time.Hour, -90*time.Minute), "down L6RSP: the certificate expired 1h30m0s ago, on 20", ""},
		{"expired, none", "none", "", ca.sign(-200*time.Hour, -100*time.Hour), "up L6OK: TLS", "the certificate expired 4 days ago"},
		{"not yet valid", "dates", "", ca.sign(time.Hour, 100*time.Hour), "down L6RSP: the certificate is not valid before 20", ""},
		{"expires soon", "full", "www.example.org", ca.sign(-time.Hour, 80*time.Hour), "up L6OK: TLS", "the certificate expires in 3 days, on 20"},
		{"default is none", "", "", other.sign(-200*time.Hour, -100*time.Hour), "up L6OK: TLS", "the certificate expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{c.cert}})
			o := TLSClient{Verify: c.verify, ServerName: c.server}
			if c.verify == "chain" || c.verify == "full" {
				o.CAFile = ca.file
			}
			r := ask(t, must(NewTLS(TLSOptions{TLS: o})), target)
			wants(t, r, c.want)
			if !strings.Contains(r.Warning, c.warning) || c.warning == "" && r.Warning != "" {
				t.Errorf("warning %q, want %q", r.Warning, c.warning)
			}
		})
	}
}

func TestTLSProtocols(t *testing.T) {
	ca := newAuthority(t)
	cert := ca.valid()
	target := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"imap"}, MaxVersion: tls.VersionTLS12})
	wants(t, ask(t, must(NewTLS(TLSOptions{Protocols: []string{"imap"}})), target), "up L6OK: TLS 1.2")
	wants(t, ask(t, must(NewTLS(TLSOptions{Protocols: []string{"h2"}})), target), "down L6RSP: TLS handshake: remote error: tls: no application protocol")
	wants(t, ask(t, must(NewTLS(TLSOptions{TLS: TLSClient{MinVersion: "1.3"}})), target), "down L6RSP: TLS handshake: remote error: tls: protocol version not supported")

	silent := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}})
	wants(t, ask(t, must(NewTLS(TLSOptions{Protocols: []string{"h2"}})), silent), `down L6RSP: the server took none of the protocols ["h2"]`)
}

// TestServerName has a server that chooses its certificate by the name that is sent.
func TestServerName(t *testing.T) {
	ca := newAuthority(t)
	cert := ca.valid()
	names := make(chan string, 2)
	target := serveTLS(t, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		names <- h.ServerName
		return &cert, nil
	}})
	for _, name := range []string{"www.example.org", ""} {
		wants(t, ask(t, must(NewTLS(TLSOptions{TLS: TLSClient{ServerName: name}})), target), "up L6OK: TLS 1.3")
		if got := <-names; got != name {
			t.Errorf("the name sent is %q, want %q", got, name)
		}
	}
}

// TestClientCertificate has a server that wants one; with TLS 1.3 it says so after the handshake.
func TestClientCertificate(t *testing.T) {
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.valid()}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	target := serveTLS(t, config)
	wants(t, ask(t, must(NewTLS(TLSOptions{})), target), "down L6RSP: TLS handshake: remote error: tls: ")
	certFile, keyFile := ca.files(ca.valid())
	wants(t, ask(t, must(NewTLS(TLSOptions{TLS: TLSClient{CertFile: certFile, KeyFile: keyFile}})), target), "up L6OK: TLS 1.2")
}

func TestTLSMistakes(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    TLSClient
		want string
	}{
		{TLSClient{Verify: "all"}, `tls check: tls verify: unknown "all" (known: none, dates, chain, full)`},
		{TLSClient{Verify: "full"}, "tls check: tls verify: full needs a server name"},
		{TLSClient{MinVersion: "1.4"}, `tls check: tls minimal version: unknown "1.4" (known: 1.0, 1.1, 1.2, 1.3)`},
		{TLSClient{CAFile: empty}, "tls check: tls CA file: nothing is verified with it (verify is none; known: chain, full)"},
		{TLSClient{CAFile: empty, Verify: "chain"}, "has no certificate in PEM"},
		{TLSClient{CAFile: "/nonexistent", Verify: "chain"}, "tls check: tls CA file: open /nonexistent: no such file"},
		{TLSClient{CertFile: empty}, "tls check: tls certificate: "},
	} {
		_, err := NewTLS(TLSOptions{TLS: c.o})
		wantError(t, err, c.want)
	}
}

// wantError wants an error that contains a text.
func wantError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
