// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// website answers what its paths say.
func website(t testing.TB, ca *authority, with func(*httptest.Server)) Target {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s host=%s proto=%s x=%s", r.Method, r.URL.Path, r.URL.RawQuery, r.Host, r.Proto, r.Header.Get("X-Check"))
	})
	mux.HandleFunc("/503", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(103)
		fmt.Fprint(w, "hinted")
	})
	mux.HandleFunc("/private", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "joe" || password != "s3cret!" {
			w.WriteHeader(401)
		}
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("0123456789", 200_000)) })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "short")
	})
	server := httptest.NewUnstartedServer(mux)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetHTTP2(true)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.valid()}}
	with(server)
	t.Cleanup(server.Close)
	return Target{Address: netip.MustParseAddrPort(server.Listener.Addr().String())}
}

func TestHTTP(t *testing.T) {
	ca := newAuthority(t)
	target := website(t, ca, (*httptest.Server).Start)
	address := target.Address.String()
	body := "GET / a=b host=" + address + " proto=HTTP/1.1 x="
	for _, c := range []struct {
		name string
		o    HTTPOptions
		want string
	}{
		{"default", HTTPOptions{}, "up L7OK/200: /"},
		{"status", HTTPOptions{URLs: []HTTPURL{{Path: "/503"}}}, "down L7STS/503: 503 Service Unavailable for /503, want 200-299"},
		{"status wanted", HTTPOptions{URLs: []HTTPURL{{Path: "/503", Status: "200, 500-503"}}}, "up L7OK/503: /503"},
		{"redirection", HTTPOptions{URLs: []HTTPURL{{Path: "/moved"}}}, `down L7STS/302: 302 Found for /moved, want 200-299, leads to "/elsewhere"`},
		{"informational responses", HTTPOptions{URLs: []HTTPURL{{Path: "/hints", Body: Pattern{Text: "hinted"}}}}, "up L7OK/200: /hints"},
		{"query and body", HTTPOptions{URLs: []HTTPURL{{Path: "/?a=b", Body: Pattern{Text: body}}}}, "up L7OK/200: /?a=b"},
		{"method, host, header", HTTPOptions{Method: "OPTIONS", Host: "www.example.org", Header: map[string]Secret{"x-check": NewSecret("yes")},
			URLs: []HTTPURL{{Body: Pattern{Regex: `^OPTIONS .* host=www\.example\.org .* x=yes$`}}}}, "up L7OK/200: /"},
		{"header repeated", HTTPOptions{Host: "h", Header: map[string]Secret{"X-Check": NewSecret("Bearer 123")}, URLs: []HTTPURL{{Body: Pattern{Text: "no"}}}},
			`down L7RSP: the body of /, "GET /  host=h proto=HTTP/1.1 x=(secret)"`},
		{"host of a URL", HTTPOptions{Host: "a.example", URLs: []HTTPURL{{Host: "b.example", Body: Pattern{Text: "host=b.example"}}}}, "up L7OK/200: /"},
		{"head", HTTPOptions{Method: "HEAD", URLs: []HTTPURL{{Path: "/large"}}}, "up L7OK/200: /large"},
		{"body", HTTPOptions{URLs: []HTTPURL{{Body: Pattern{Text: "welcome"}}}}, `down L7RSP: the body of /, "GET /  host=` + address},
		{"body must not", HTTPOptions{URLs: []HTTPURL{{Body: Pattern{Regex: "GET|PUT", Not: true}}}}, "contains /GET|PUT/"},
		{"body must not, does not", HTTPOptions{URLs: []HTTPURL{{Body: Pattern{Regex: "PUT", Not: true}}}}, "up L7OK/200: /"},
		{"md5", HTTPOptions{URLs: []HTTPURL{{Path: "/?a=b", Digest: fmt.Sprintf("md5:%x", md5.Sum([]byte(body)))}}}, "up L7OK/200: /?a=b"},
		{"sha256", HTTPOptions{URLs: []HTTPURL{{Path: "/?a=b", Digest: fmt.Sprintf("SHA256:%X", sha256.Sum256([]byte(body)))}}}, "up L7OK/200: /?a=b"},
		{"digest", HTTPOptions{URLs: []HTTPURL{{Path: "/503", Status: "503", Digest: "md5:" + strings.Repeat("0", 32)}}},
			"down L7RSP: the body of /503 has the digest md5:d41d8cd98f00b204e9800998ecf8427e"},
		{"large body, beginning", HTTPOptions{URLs: []HTTPURL{{Path: "/large", Body: Pattern{Regex: "^0123"}}}}, "up L7OK/200: /large"},
		{"large body, digest", HTTPOptions{URLs: []HTTPURL{{Path: "/large", Digest: "md5:" + strings.Repeat("0", 32)}}}, "down L7RSP: the body of /large has more than 262144 bytes"},
		{"cut body", HTTPOptions{URLs: []HTTPURL{{Path: "/cut", Body: Pattern{Text: "short"}}}}, "down L7RSP: response: the server closed the connection"},
		{"login", HTTPOptions{User: "joe", Password: NewSecret("s3cret!"), URLs: []HTTPURL{{Path: "/private"}}}, "up L7OK/200: /private"},
		{"no login", HTTPOptions{URLs: []HTTPURL{{Path: "/private"}}}, "down L7STS/401: 401 Unauthorized for /private, want 200-299"},
		{"several", HTTPOptions{URLs: []HTTPURL{{Path: "/"}, {Path: "/large"}, {Path: "/hints"}}}, "up L7OK/200: 3 URLs"},
		{"the second of several", HTTPOptions{URLs: []HTTPURL{{Path: "/"}, {Path: "/503"}, {Path: "/hints"}}}, "down L7STS/503: 503 Service Unavailable for /503"},
		{"TLS to a plain server", HTTPOptions{TLS: &TLSClient{}}, `down L6RSP: TLS handshake: the server does not speak TLS, it says "HTTP/"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ask(t, must(NewHTTP(c.o)), target)
			if !strings.HasPrefix(c.want, "up") && !strings.HasPrefix(c.want, "down") {
				c.want = "down L7RSP: " + c.want
			}
			wants(t, r, c.want)
		})
	}
}

// TestHTTPS has the versions of HTTP over TLS, and without.
func TestHTTPS(t *testing.T) {
	ca := newAuthority(t)
	trust := &TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}
	secure := website(t, ca, (*httptest.Server).StartTLS)
	secure2 := website(t, ca, func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() })
	plain2 := website(t, ca, func(s *httptest.Server) {
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
	})
	proto := func(v string) []HTTPURL {
		return []HTTPURL{{Body: Pattern{Text: "proto=" + v + " "}}, {Path: "/hints"}}
	}
	for _, c := range []struct {
		name   string
		target Target
		o      HTTPOptions
		want   string
	}{
		{"1.1", secure2, HTTPOptions{TLS: trust, URLs: proto("HTTP/1.1")}, "up L7OK/200: 2 URLs"},
		{"auto, 2 offered", secure2, HTTPOptions{TLS: trust, Version: "auto", URLs: proto("HTTP/2.0")}, "up L7OK/200: 2 URLs"},
		{"auto, 2 not offered", secure, HTTPOptions{TLS: trust, Version: "auto", URLs: proto("HTTP/1.1")}, "up L7OK/200: 2 URLs"},
		{"2", secure2, HTTPOptions{TLS: trust, Version: "2", URLs: proto("HTTP/2.0")}, "up L7OK/200: 2 URLs"},
		{"2 not offered", secure, HTTPOptions{TLS: trust, Version: "2"}, "down L6RSP: "},
		{"2, status", secure2, HTTPOptions{TLS: trust, Version: "2", URLs: []HTTPURL{{Path: "/503"}}}, "down L7STS/503: 503 Service Unavailable for /503"},
		{"2, cut", secure2, HTTPOptions{TLS: trust, Version: "2", URLs: []HTTPURL{{Path: "/cut", Body: Pattern{Text: "x"}}}}, "down L7RSP: response: the server closed the connection"},
		{"2 without TLS", plain2, HTTPOptions{Version: "2", URLs: proto("HTTP/2.0")}, "up L7OK/200: 2 URLs"},
		{"2 without TLS to 1.1", website(t, ca, (*httptest.Server).Start), HTTPOptions{Version: "2"}, `down L7RSP: the server does not speak HTTP/2, it says "HTTP/1.1`},
		{"wrong certificate", secure, HTTPOptions{TLS: &TLSClient{Verify: "full", ServerName: "x.example", CAFile: ca.file}}, "down L6RSP: the certificate is for www.example.org, not for x.example"},
		{"plain to TLS", secure, HTTPOptions{}, "down L7STS/400: 400 Bad Request for /"},
	} {
		t.Run(c.name, func(t *testing.T) { wants(t, ask(t, must(NewHTTP(c.o)), c.target), c.want) })
	}
}

// TestHTTPHeaders has responses whose heads do not end.
func TestHTTPHeaders(t *testing.T) {
	endless := func(status string) Target {
		return serve(t, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 "+status+"\r\n")
			pour(c, bytes.Repeat([]byte("X-More: yes\r\n"), 400), 1<<30)
		})
	}
	wants(t, ask(t, must(NewHTTP(HTTPOptions{})), endless("200 OK")), "down L7RSP: response: the server said more than 1 MiB")
	again := serve(t, func(c net.Conn) { pour(c, []byte("HTTP/1.1 103 Early Hints\r\n\r\n"), 1<<20) })
	wants(t, ask(t, must(NewHTTP(HTTPOptions{})), again), "down L7RSP: response: more than 8 informational ones")
}

func TestHTTPMistakes(t *testing.T) {
	for _, c := range []struct {
		o    HTTPOptions
		want string
	}{
		{HTTPOptions{Version: "3"}, `http check: version: unknown "3" (known: 1.1, 2, auto)`},
		{HTTPOptions{Version: "auto"}, "http check: version: auto needs TLS"},
		{HTTPOptions{Method: "GET /"}, `http check: method: "GET /" is no method`},
		{HTTPOptions{Header: map[string]Secret{"a b": NewSecret("c")}}, `http check: header: "a b" is none, or has no proper value`},
		{HTTPOptions{Header: map[string]Secret{"Host": NewSecret("c")}}, "http check: header: the host has a field of its own"},
		{HTTPOptions{MaxBody: 1 << 30}, "http check: max body: 1073741824 is not between 1 and 1048576"},
		{HTTPOptions{URLs: []HTTPURL{{}, {Path: "x"}}}, `http check: urls[1] path: "x" is no path with a slash in front`},
		{HTTPOptions{URLs: []HTTPURL{{Status: "2xx"}}}, `http check: urls[0] status: "2xx" is no status between 100 and 999, as 200 or 200-299`},
		{HTTPOptions{URLs: []HTTPURL{{Status: "300-200"}}}, `"300-200" is no status`},
		{HTTPOptions{URLs: []HTTPURL{{Status: " "}}}, "names no status"},
		{HTTPOptions{URLs: []HTTPURL{{Digest: "crc:1"}}}, `http check: urls[0] digest: unknown "crc" (known: md5:HEX, sha256:HEX)`},
		{HTTPOptions{URLs: []HTTPURL{{Digest: "md5:12"}}}, "md5 has 32 hexadecimal digits"},
		{HTTPOptions{URLs: []HTTPURL{{Body: Pattern{Not: true}}}}, "http check: urls[0] body: not needs a text or a regex"},
	} {
		_, err := NewHTTP(c.o)
		wantError(t, err, c.want)
	}
}
