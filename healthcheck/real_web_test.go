// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"crypto/md5"
	"fmt"
	"path/filepath"
	"testing"
)

// TestNginx has a web server with TLS, HTTP/2, virtual hosts and a login.
func TestNginx(t *testing.T) {
	t.Parallel()
	nginx := program(t, "nginx-light", "/usr/sbin/nginx")
	dir, ca := directory(t), newAuthority(t)
	keyPair(t, ca, dir)
	plain, secure := freePort(t), freePort(t)
	write(t, filepath.Join(dir, "index.html"), "welcome to nginx")
	write(t, filepath.Join(dir, "passwords"), "joe:{PLAIN}s3cret!\n")
	config := write(t, filepath.Join(dir, "nginx.conf"), `
daemon off; worker_processes 1; pid $dir/pid; error_log stderr;
events { worker_connections 64; }
http {
	access_log off; client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/fastcgi;
	uwsgi_temp_path $dir/uwsgi; scgi_temp_path $dir/scgi;
	server {
		listen 127.0.0.1:$plain; listen 127.0.0.1:$secure ssl http2; root $dir; server_name www.example.org;
		ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem;
		location = /busy { return 503; }
		location = /private { auth_basic x; auth_basic_user_file $dir/passwords; try_files /index.html =404; }
		location = /moved { return 301 /elsewhere; }
	}
	server { listen 127.0.0.1:$plain; server_name other.example.org; return 200 "the other"; }
}`, "$dir", dir, "$plain", portText(plain), "$secure", portText(secure))
	d := runDaemon(t, nobody(), plain, nginx, "-p", dir, "-e", "stderr", "-c", config)
	trust := &TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}
	private := []HTTPURL{{Path: "/private"}}
	welcome := HTTPURL{Path: "/index.html", Body: Pattern{Text: "welcome to nginx"}, Digest: fmt.Sprintf("md5:%x", md5.Sum([]byte("welcome to nginx")))}
	runReal(t, d, []realCheck{
		{"body", must(NewHTTP(HTTPOptions{URLs: []HTTPURL{welcome}})), plain, "up L7OK/200: /index.html"},
		{"host", must(NewHTTP(HTTPOptions{Host: "other.example.org", URLs: []HTTPURL{{Body: Pattern{Text: "the other"}}}})), plain, "up L7OK/200"},
		{"busy", must(NewHTTP(HTTPOptions{URLs: []HTTPURL{{Path: "/busy"}}})), plain, "down L7STS/503: 503 Service Temporarily Unavailable for /busy"},
		{"moved", must(NewHTTP(HTTPOptions{URLs: []HTTPURL{{Path: "/moved"}}})), plain, "down L7STS/301: 301 Moved Permanently for /moved, want 200-299, leads to"},
		{"login", must(NewHTTP(HTTPOptions{User: "joe", Password: NewSecret("s3cret!"), URLs: private})), plain, "up L7OK/200: /private"},
		{"wrong login", must(NewHTTP(HTTPOptions{User: "joe", Password: NewSecret("wrong"), URLs: private})), plain, "down L7STS/401: 401 Unauthorized for /private"},
		{"https", must(NewHTTP(HTTPOptions{TLS: trust})), secure, "up L7OK/200: /"},
		{"HTTP/2", must(NewHTTP(HTTPOptions{TLS: trust, Version: "2", URLs: []HTTPURL{{Body: Pattern{Text: "welcome"}}}})), secure, "up L7OK/200: /"},
		{"HTTP/2, busy", must(NewHTTP(HTTPOptions{TLS: trust, Version: "auto", URLs: []HTTPURL{{Path: "/busy"}}})), secure, "down L7STS/503: 503 Service Unavailable for /busy"},
		{"plain to TLS", must(NewHTTP(HTTPOptions{})), secure, "down L7STS/400: 400 Bad Request for /"},
		{"TLS to plain", must(NewHTTP(HTTPOptions{TLS: trust})), plain, "down L6RSP: TLS handshake: the server does not speak TLS"},
		{"handshake", must(NewTLS(TLSOptions{TLS: *trust, Protocols: []string{"h2"}})), secure, "up L6OK: TLS 1.2, certificate of www.example.org"},
	})
	// Killed: nobody listens any more.
	d.stop()
	wants(t, ask(t, must(NewHTTP(HTTPOptions{})), plain), "down L4CON: connect to "+plain.Address.String()+": connection refused")
}
