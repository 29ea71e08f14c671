// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"xdplvs/internal/netlab"
	"xdplvs/internal/programs"
)

// siteName is the name of the site in its certificate.
const siteName = "www.example.org"

// webConfig is nginx's: the site by HTTP, HTTPS and HTTP/2, which says who answers, and takes and gives files.
const webConfig = `
daemon off; worker_processes 1; pid $dir/pid; error_log stderr;
events { worker_connections $connections; }
http {
	access_log off; client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/fastcgi;
	uwsgi_temp_path $dir/uwsgi; scgi_temp_path $dir/scgi;
	server {
		listen 80; listen [::]:80; listen 443 ssl http2; listen [::]:443 ssl http2;
		ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem;
		limit_rate $rate; limit_rate_after $free; client_max_body_size 0; keepalive_timeout 1h; keepalive_requests 1000000;
		add_header X-Real-Server $name always;
		location = / { return 200 "$name $remote_addr\n"; }
		location = /healthz { return 200 "ok\n"; }
		location /files/ { root $dir; dav_methods PUT; }
	}
}`

// web is nginx on a real server.
type web struct {
	*programs.Process
	real    *Real
	dir     string
	release func() // ends what fills it
}

// webConnections is how many nginx has, those that it listens with included.
const webConnections = 64

// configure writes nginx's configuration. A rate that a transfer gets behind its first MiB, in bytes, is with a unit; one
// without is for everything.
func (w *web) configure(rate string) error {
	free := "0"
	if strings.HasSuffix(rate, "m") {
		free = "1m"
	}
	return programs.Write(w.config(), webConfig, "$dir", w.dir, "$name", w.real.Name(), "$rate", rate, "$free", free, "$connections", strconv.Itoa(webConnections))
}

func (w *web) config() string { return filepath.Join(w.dir, "nginx.conf") }

// files is where it keeps what was uploaded.
func (w *web) file(name string) string { return filepath.Join(w.dir, "files", name) }

// startWeb starts nginx on a real server; the rate of a transfer is nginx's limit_rate.
func (s *Stage) startWeb(r *Real, rate string) (*web, error) {
	nginx, err := programs.Find("nginx-light", "/usr/sbin/nginx")
	if err != nil {
		return nil, err
	}
	w := &web{real: r, dir: filepath.Join(s.Dir, r.Name())}
	if err := os.MkdirAll(filepath.Join(w.dir, "files"), 0o755); err != nil {
		return nil, err
	}
	err = errors.Join(programs.Give(w.dir, 0o755), programs.Give(filepath.Join(w.dir, "files"), 0o755), programs.Certificate(w.dir, siteName),
		w.configure(rate),
		// It listens on 80 and 443, and is nobody.
		r.Sysctl("net.ipv4.ip_unprivileged_port_start", "0"))
	if err != nil {
		return nil, err
	}
	w.Process, err = s.Run(r.Host, programs.Nobody(), nginx, "-p", w.dir, "-e", "stderr", "-c", w.config())
	return w, err
}

// startWebs starts nginx on all real servers.
func (s *Stage) startWebs(rate string) (webs []*web, err error) {
	for _, r := range s.Reals {
		w, err := s.startWeb(r, rate)
		if err != nil {
			return nil, err
		}
		webs = append(webs, w)
	}
	return webs, nil
}

// curl runs curl on a host, which trusts every certificate.
func curl(ctx context.Context, h *netlab.Host, args ...string) (string, error) {
	out, err := h.Run(ctx, "curl", append([]string{"-gsSkf", "--max-time", fmt.Sprint(patience.Seconds())}, args...)...)
	return string(out), err
}

// url is that of a path of the site at an address.
func url(scheme string, vip netip.Addr, path string) string {
	host := vip.String()
	if vip.Is6() {
		host = "[" + host + "]"
	}
	return scheme + "://" + host + path
}

// whoAnswers asks for / from a source address, if it is valid, and gives the name of who answers and the client that it saw.
func whoAnswers(ctx context.Context, h *netlab.Host, url string, source netip.Addr) (name, client string, err error) {
	args := []string{url}
	if source.IsValid() {
		args = append(args, "--interface", source.String())
	}
	out, err := curl(ctx, h, args...)
	name, client, _ = strings.Cut(strings.TrimSpace(out), " ")
	return name, client, err
}
