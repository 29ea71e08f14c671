// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// BenchmarkCheck is what a check costs, with the server's part.
func BenchmarkCheck(b *testing.B) {
	ca := newAuthority(b)
	config := &tls.Config{Certificates: []tls.Certificate{ca.valid()}}
	respond := func(c net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Path: %s\r\n\r\nok", r.URL.Path)
		}
	}
	mail := func(c net.Conn) {
		r := bufio.NewReader(c)
		fmt.Fprint(c, "220 ready\r\n")
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(c, map[bool]string{true: "250 hello\r\n", false: "221 bye\r\n"}[strings.HasPrefix(line, "EHLO")])
		}
	}
	for _, c := range []struct {
		name    string
		checker Checker
		target  Target
	}{
		{"tcp", must(NewTCP(TCPOptions{})), serve(b, func(net.Conn) {})},
		{"http", must(NewHTTP(HTTPOptions{})), serve(b, respond)},
		{"https", must(NewHTTP(HTTPOptions{TLS: &TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}})),
			serve(b, func(c net.Conn) { respond(tls.Server(c, config)) })},
		{"smtp", must(NewSMTP(SMTPOptions{})), serve(b, mail)},
		{"udp", must(NewUDP(UDPOptions{Reply: true})), serveUDP(b, func(r []byte) [][]byte { return [][]byte{r} })},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := c.checker.Check(b.Context(), c.target); r.Verdict != Up {
					b.Fatal(r)
				}
			}
		})
	}
}

// BenchmarkManager is what a result costs beside the check itself, with 10,000 checks.
func BenchmarkManager(b *testing.B) {
	m := NewManager(Options{})
	r := newRunner(b.Context(), m)
	checks := make(map[string]Check)
	for i := range 10_000 {
		checks[fmt.Sprint(i)] = Check{Target: target(i), Checker: fixed{name: "up"}}
	}
	r.replace(checks)
	var all []*shared
	for _, s := range r.probes {
		s.cancel = func() {}
		all = append(all, s)
	}
	up := good(L7OK, "fine")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s := all[i%len(all)]
		r.agenda.Drop(s)
		s.running, s.begun = true, time.Now()
		r.watch.Set(s, s.begun)
		r.running++
		r.finish(outcome{s, up})
	}
}
