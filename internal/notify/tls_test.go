// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"xdplvs/healthcheck"
	"xdplvs/internal/health"
	"xdplvs/internal/netlab/pki"
)

// securedMailServer takes mails over TLS: from the first byte on, or after STARTTLS.
func securedMailServer(t *testing.T, config *tls.Config, security healthcheck.Security) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			secured := tls.Server(conn, config)
			if security == healthcheck.StartTLS {
				fmt.Fprint(conn, "220 mx ESMTP\r\n")
				commands := bufio.NewScanner(conn)
				for _, answer := range []string{"250-mx\r\n250 STARTTLS\r\n", "220 go on\r\n"} {
					commands.Scan()
					fmt.Fprint(conn, answer)
				}
			} else {
				fmt.Fprint(secured, "220 mx ESMTP\r\n")
			}
			converse(secured)
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// TestPrivateAuthority: servers whose certificates a private authority has signed are told only where that is known.
func TestPrivateAuthority(t *testing.T) {
	ca := pki.New(t, "ours")
	files := ca.Issue("server", pkix.Name{CommonName: "server"}, time.Hour, "127.0.0.1")
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	known, err := healthcheck.ReadCAs(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	hook := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	hook.TLS = config
	hook.StartTLS()
	defer hook.Close()
	mail := func(security healthcheck.Security, cas healthcheck.CAs) channel {
		return &Mail{Server: securedMailServer(t, config, security), From: "d@example.com", To: []string{"a@example.com"}, Security: security, CAs: cas}
	}
	for name, to := range map[string]func(healthcheck.CAs) channel{
		"webhook":        func(cas healthcheck.CAs) channel { return &Webhook{URL: hook.URL, CAs: cas} },
		"mail, tls":      func(cas healthcheck.CAs) channel { return mail(healthcheck.TLS, cas) },
		"mail, starttls": func(cas healthcheck.CAs) channel { return mail(healthcheck.StartTLS, cas) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := to(known).send(ctx, []health.Event{down}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := to("").send(ctx, []health.Event{down}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("%s: of an unknown authority: %v", name, err)
		}
		cancel()
	}
}
