// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
	"xdplvs/internal/netlab"
)

// Proxied compares ways of whole TCP connections, which proxies can do, too: from a client through a
// director to a server, each in a namespace.
type Proxied struct {
	Machine string          `json:"machine"`
	Ways    []ProxiedFigure `json:"ways"`
}

// ProxiedFigure is what one way came to.
type ProxiedFigure struct {
	Key     string  `json:"key"`
	What    string  `json:"what"`
	PerSec  float64 `json:"connections_per_s,omitempty"` // a byte there and back in each
	Gbps    float64 `json:"gbit_per_s,omitempty"`        // of one connection, from the server
	Skipped string  `json:"skipped,omitempty"`
	rates   []float64
	flows   []float64
}

// ProxiedOptions say how long to measure.
type ProxiedOptions struct {
	Rounds  int
	Each    time.Duration // a measurement of one way
	Workers int           // that connect at a time
}

// Options of make bench-peers, and of its quick form.
var (
	ProxiedThorough = ProxiedOptions{Rounds: 7, Each: time.Second, Workers: 8}
	ProxiedQuick    = ProxiedOptions{Rounds: 3, Each: 300 * time.Millisecond, Workers: 8}
)

// road is client, director and server of one way.
type road struct {
	client, server    *netlab.Host
	near, far         *netlab.Iface // the director's
	nearPeer, farPeer *netlab.Iface // the client's and the server's
	target            netip.AddrPort
	dir               string // for files
	closed            []io.Closer
}

var proxiedWays = []struct {
	key, what string
	start     func(*road) error
}{
	{"forward", "the kernel forwards, no balancing", func(r *road) error { r.target = netip.AddrPortFrom(realOf(nat4), realPort); return nil }},
	{"director_nat", "this director, nat", (*road).startDirector},
	{"nft", "nftables DNAT", (*road).startNFT},
	{"haproxy", "HAProxy, TCP mode", (*road).startHAProxy},
	{"nginx", "nginx, stream", (*road).startNginx},
}

// CompareConnections measures all of them, in turn in every round.
func CompareConnections(opts ProxiedOptions) (*Proxied, error) {
	lab, err := netlab.New("proxied")
	if err != nil {
		return nil, err
	}
	defer lab.Close()
	p := &Proxied{Machine: machine()}
	var roads []*road
	for i, w := range proxiedWays {
		f := ProxiedFigure{Key: w.key, What: w.what}
		r, err := newRoad(lab, i)
		if err != nil {
			return nil, err
		}
		defer r.close()
		if err := w.start(r); err != nil {
			f.Skipped = err.Error()
		}
		p.Ways, roads = append(p.Ways, f), append(roads, r)
	}
	for range opts.Rounds {
		for i, r := range roads {
			if err := p.Ways[i].measure(r, opts); err != nil {
				return nil, err
			}
		}
	}
	for i := range p.Ways {
		p.Ways[i].settle()
	}
	return p, nil
}

func (f *ProxiedFigure) measure(r *road, opts ProxiedOptions) error {
	if f.Skipped != "" {
		return nil
	}
	rate, err := r.connect(opts)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Key, err)
	}
	gbps, err := r.transfer(opts.Each)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Key, err)
	}
	f.rates, f.flows = append(f.rates, rate), append(f.flows, gbps)
	return nil
}

func (f *ProxiedFigure) settle() {
	if len(f.rates) > 0 {
		f.PerSec, f.Gbps = median(f.rates), median(f.flows)
	}
}

// newRoad makes namespaces that reach each other through the director's.
func newRoad(lab *netlab.Lab, i int) (*road, error) {
	name := func(s string) string { return fmt.Sprintf("%s%d", s, i) }
	var hosts [3]*netlab.Host
	for n, s := range []string{"client", "director", "server"} {
		var err error
		if hosts[n], err = lab.Host(name(s)); err != nil {
			return nil, err
		}
	}
	r := &road{client: hosts[0], server: hosts[2], target: netip.AddrPortFrom(nat4, port)}
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	var err error
	if r.nearPeer, r.near, err = netlab.Link(hosts[0], "eth0", prefix("10.0.1.2/24"), hosts[1], "eth0", prefix("10.0.1.1/24")); err != nil {
		return nil, err
	}
	if r.far, r.farPeer, err = netlab.Link(hosts[1], "eth1", prefix("10.0.2.1/24"), hosts[2], "eth0", prefix("10.0.2.2/24")); err != nil {
		return nil, err
	}
	return r, errors.Join(r.route(), r.serve())
}

func (r *road) route() error {
	everywhere, server := netip.MustParsePrefix("0.0.0.0/0"), netip.PrefixFrom(realOf(nat4), 32)
	return errors.Join(
		r.client.AddRoute(everywhere, netip.MustParseAddr("10.0.1.1"), "eth0"),
		r.server.AddRoute(everywhere, netip.MustParseAddr("10.0.2.1"), "eth0"),
		r.server.AddAddr("eth0", server),
		r.near.Host.AddRoute(server, netip.MustParseAddr("10.0.2.2"), "eth1"),
		r.near.Host.Sysctl("net.ipv4.ip_forward", "1"),
	)
}

// serve answers in the server's namespace: a byte for a byte, or as many as can be sent.
func (r *road) serve() error {
	l, err := r.server.Listen("tcp4", netip.AddrPortFrom(realOf(nat4), realPort).String())
	if err != nil {
		return err
	}
	r.closed = append(r.closed, l)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return nil
}

// What a client asks for.
const (
	askEcho   = 'e'
	askStream = 's'
)

func answer(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 1<<18)
	if _, err := conn.Read(buffer[:1]); err != nil {
		return
	}
	if buffer[0] == askEcho {
		conn.Write(buffer[:1])
		conn.Read(buffer[:1]) // until the client is gone, who so has the port again
		return
	}
	for {
		if _, err := conn.Write(buffer); err != nil {
			return
		}
	}
}

// ask opens a connection that ends without TIME_WAIT.
func (r *road) ask(what byte) (net.Conn, error) {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	conn, err := r.client.DialContext(ctx, "tcp4", r.target.String())
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	conn.(*net.TCPConn).SetLinger(0)
	if _, err := conn.Write([]byte{what}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func (r *road) echo() error {
	conn, err := r.ask(askEcho)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

// connect is how many connections per second the workers make.
func (r *road) connect(opts ProxiedOptions) (float64, error) {
	if err := r.echo(); err != nil {
		return 0, err
	}
	var made atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	start := time.Now()
	for range opts.Workers {
		workers.Go(func() {
			for time.Since(start) < opts.Each && failed.Load() == nil {
				if err := r.echo(); err != nil {
					failed.Store(&err)
					return
				}
				made.Add(1)
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(made.Load()) / time.Since(start).Seconds(), nil
}

// transfer is how many Gbit per second one connection brings.
func (r *road) transfer(each time.Duration) (float64, error) {
	conn, err := r.ask(askStream)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	buffer, got := make([]byte, 1<<18), 0
	start := time.Now()
	for time.Since(start) < each {
		n, err := conn.Read(buffer)
		if err != nil {
			return 0, err
		}
		got += n
	}
	return float64(got) * 8 / time.Since(start).Seconds() / 1e9, nil
}

func (r *road) close() {
	for _, c := range slices.Backward(r.closed) {
		c.Close()
	}
	if r.dir != "" {
		os.RemoveAll(r.dir)
	}
}

// startDirector attaches the data plane to both interfaces.
func (r *road) startDirector() error {
	p, err := scenarioOf(byNATKey).plane()
	if err != nil {
		return err
	}
	r.closed = append(r.closed, closer(p.close))
	for i := range p.data.Tables.Reals[:p.reals] {
		row := &p.data.Tables.Reals[i]
		row.Ifindex = uint32(r.far.Index)
		copy(row.Mac[:6], r.farPeer.MAC)
		copy(row.Mac[6:], r.far.MAC)
	}
	// A device is looked up in the namespace of who names it.
	if err := r.far.Host.Do(func() error { return p.data.SetTxPort(0, r.far.Index) }); err != nil {
		return err
	}
	for _, i := range []*netlab.Iface{r.near, r.far} {
		if err := r.attach(p, i); err != nil {
			return err
		}
	}
	// That takes the links down and up again, which costs them their routes.
	return errors.Join(r.nearPeer.AcceptXDP(), r.farPeer.AcceptXDP(), r.route())
}

func (r *road) attach(p *plane, i *netlab.Iface) error {
	return i.Host.Do(func() error {
		a, err := p.data.Attach(i.Index, bpf.Native)
		if err == nil {
			r.closed = append(r.closed, closer(func() error { return p.data.Detach(a) }))
		}
		return err
	})
}

func (r *road) startNFT() error {
	rules := fmt.Sprintf("table ip lb { chain pre { type nat hook prerouting priority dstnat; ip daddr %s tcp dport %d dnat to %s:%d; }; }",
		nat4, port, realOf(nat4), realPort)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	_, err := r.near.Host.Run(ctx, "nft", rules)
	return err
}

// own makes the virtual address the director's, for proxies.
func (r *road) own() error { return r.near.Host.AddAddr("eth0", netip.PrefixFrom(nat4, 32)) }

func (r *road) startHAProxy() error {
	return r.startProxy("haproxy", fmt.Sprintf(`global
	maxconn 20000
	nbthread %d
defaults
	mode tcp
	timeout connect 5s
	timeout client 30s
	timeout server 30s
listen lb
	bind %s:%d
	server a %s:%d
`, runtime.NumCPU(), nat4, port, realOf(nat4), realPort), "-db", "-f")
}

func (r *road) startNginx() error {
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so" // Debian's libnginx-mod-stream
	if _, err := os.Stat(module); err != nil {
		return errors.New("nginx has no stream module (libnginx-mod-stream)")
	}
	return r.startProxy("nginx", fmt.Sprintf(`load_module %s;
daemon off;
worker_processes %d;
error_log stderr crit;
pid nginx.pid;
events { worker_connections 20000; }
stream { server { listen %s:%d; proxy_pass %s:%d; } }
`, module, runtime.NumCPU(), nat4, port, realOf(nat4), realPort), "-c")
}

// startProxy starts a program with a configuration in the director's namespace, and waits until it serves.
func (r *road) startProxy(name, config string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%s is not installed", name)
	}
	if err := r.own(); err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp("", "bench-"+name); err != nil {
		return err
	}
	file := filepath.Join(r.dir, "conf")
	config = strings.ReplaceAll(config, "pid nginx.pid", "pid "+filepath.Join(r.dir, "pid"))
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	cmd := r.near.Host.Command(context.Background(), path, append(args, file)...)
	if err := r.near.Host.Start(cmd); err != nil {
		return err
	}
	r.closed = append(r.closed, closer(func() error { cmd.Process.Signal(os.Interrupt); return cmd.Wait() }))
	for range 50 {
		if err = r.echo(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s does not serve: %w", name, err)
}

// Markdown is a table of the ways.
func (p *Proxied) Markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n\n| way | connections a second | Gbit/s of one connection |\n|---|---|---|\n", p.Machine)
	for _, f := range p.Ways {
		if f.Skipped != "" {
			fmt.Fprintf(&s, "| %s | skipped: %s | |\n", f.What, strings.ReplaceAll(f.Skipped, "\n", " "))
			continue
		}
		fmt.Fprintf(&s, "| %s | %.0f | %.1f |\n", f.What, f.PerSec, f.Gbps)
	}
	return s.String()
}

// SVG draws the connections per second.
func (p *Proxied) SVG() string {
	var bars []Bar
	for _, f := range p.Ways {
		if f.Skipped == "" {
			bars = append(bars, Bar{f.What, f.PerSec, strings.HasPrefix(f.Key, "director")})
		}
	}
	return BarsSVG("TCP connections a second, client and server on the same cores", "/s", bars)
}
