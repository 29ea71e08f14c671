// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"xdplvs/internal/netlab"
)

// patience is how long a client waits for an answer. A lost SYN costs a second.
var patience = 5 * time.Second * slowness()

// fetch asks for / and returns the name of the real server that answered.
func (f *farm) fetch(vip netip.Addr, port uint16) (string, error) {
	client := f.client.HTTPClient(patience)
	defer client.CloseIdleConnections()
	resp, err := client.Get(url(vip, port, "/"))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

func url(vip netip.Addr, port uint16, path string) string {
	return "http://" + netip.AddrPortFrom(vip, port).String() + path
}

// dialUDP opens a socket of the client's for a service.
func (f *farm) dialUDP(vip netip.Addr, port uint16) (net.Conn, error) {
	return f.client.DialContext(context.Background(), "udp", netip.AddrPortFrom(vip, port).String())
}

// ask sends a datagram and returns the name of the real server that answered it.
func ask(conn net.Conn, question string, wait time.Duration) (string, error) {
	if _, err := io.WriteString(conn, question); err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	name, echo, _ := strings.Cut(string(buf[:n]), " ")
	if echo != question {
		return "", fmt.Errorf("asked %q, answered was %q", question, buf[:n])
	}
	return name, nil
}

// query asks from a new socket.
func (f *farm) query(vip netip.Addr, port uint16) (string, error) {
	return f.queryFor(vip, port, patience)
}

func (f *farm) queryFor(vip netip.Addr, port uint16, wait time.Duration) (string, error) {
	conn, err := f.dialUDP(vip, port)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return ask(conn, "who are you?", wait)
}

// asker is a way to make one new connection and learn who serves it: fetch or query.
type asker func(vip netip.Addr, port uint16) (string, error)

// spread counts who answers n questions, one after the other.
func (f *farm) spread(ask asker, vip netip.Addr, port uint16, n int) map[string]int {
	f.t.Helper()
	got := map[string]int{}
	for i := range n {
		name, err := ask(vip, port)
		if err != nil {
			f.t.Fatalf("question %d of %d to %s: %v", i+1, n, netip.AddrPortFrom(vip, port), err)
		}
		got[name]++
	}
	return got
}

// mustSpread fails unless n questions are answered as wanted: by each real server so many.
func (f *farm) mustSpread(ask asker, vip netip.Addr, port uint16, want map[string]int) {
	f.t.Helper()
	n := 0
	for _, k := range want {
		n += k
	}
	if got := f.spread(ask, vip, port, n); fmt.Sprint(got) != fmt.Sprint(want) {
		f.t.Errorf("%d questions to %s were spread %v, want %v", n, netip.AddrPortFrom(vip, port), got, want)
	}
}

// checksums are netlab.Checksum's, which takes seconds for large n.
var checksums sync.Map

func checksum(n int64) string {
	once, _ := checksums.LoadOrStore(n, sync.OnceValue(func() string { return netlab.Checksum(n) }))
	return once.(func() string)()
}

// download is a GET of /bytes/N that is read at the test's pace.
type download struct {
	server string
	client string // address and port, as the server saw it
	body   io.ReadCloser
	size   int64
	have   int64
	sum    hash.Hash
}

// download begins to get n bytes; it belongs to the test.
func (f *farm) download(vip netip.Addr, n int64) *download {
	f.t.Helper()
	d := get(beginDownload(f.client.HTTPClient(0), vip, n))(f.t)
	f.t.Cleanup(func() { d.body.Close() })
	return d
}

func beginDownload(client *http.Client, vip netip.Addr, n int64) (*download, error) {
	resp, err := client.Get(url(vip, webPort, "/bytes/"+strconv.FormatInt(n, 10)))
	if err != nil {
		return nil, err
	}
	return &download{server: resp.Header.Get("X-Real-Server"), client: resp.Header.Get("X-Client"),
		body: resp.Body, size: n, sum: sha256.New()}, nil
}

// read gets n bytes more. It gives up when that takes long, even for a busy machine: 1 MB/s.
func (d *download) read(n int64) error {
	late := time.AfterFunc(2*patience+time.Duration(n)*time.Microsecond, func() { d.body.Close() })
	defer late.Stop()
	got, err := io.CopyN(d.sum, d.body, n)
	d.have += got
	if err != nil {
		return fmt.Errorf("download from %s at byte %d of %d: %w", d.server, d.have, d.size, err)
	}
	return nil
}

// finish gets the rest and compares the whole.
func (d *download) finish() error {
	if err := d.read(d.size - d.have); err != nil {
		return err
	}
	if got := hex.EncodeToString(d.sum.Sum(nil)); got != checksum(d.size) {
		return fmt.Errorf("download of %d bytes from %s has checksum %s, want %s", d.size, d.server, got, checksum(d.size))
	}
	return nil
}

// downloads are begun until each of the servers has one.
func (f *farm) downloads(vip netip.Addr, size int64, servers ...string) map[string]*download {
	f.t.Helper()
	all := map[string]*download{}
	for range 10 * len(servers) {
		d := f.download(vip, size)
		if all[d.server] == nil && slices.Contains(servers, d.server) {
			all[d.server] = d
		} else {
			d.body.Close()
		}
		if len(all) == len(servers) {
			return all
		}
	}
	f.t.Fatalf("no download from each of %v: there are %d", servers, len(all))
	return nil
}

// getBytes is a whole download.
func getBytes(client *http.Client, vip netip.Addr, n int64) error {
	d, err := beginDownload(client, vip, n)
	if err != nil {
		return err
	}
	defer d.body.Close()
	return d.finish()
}

// putBytes sends n bytes to /sum and compares the checksum that comes back.
func putBytes(client *http.Client, vip netip.Addr, n int64) error {
	req, err := http.NewRequest(http.MethodPost, url(vip, webPort, "/sum"), netlab.Stream(n))
	if err != nil {
		return err
	}
	req.ContentLength = n
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(body)); got != checksum(n) {
		return fmt.Errorf("upload of %d bytes has checksum %s, want %s", n, got, checksum(n))
	}
	return nil
}

// load is clients that ask over and over, each question over a new connection.
type load struct {
	clients sync.WaitGroup
	ending  chan struct{}

	mu     sync.Mutex
	epoch  int
	served map[string]int // answers to questions of this epoch, by real server
	total  int            // questions answered
	errs   []error
}

// loadPause is how long each client of a load rests between two questions: it has a machine to share.
const loadPause = 10 * time.Millisecond

// load starts clients: as many for each of the questions, over IPv4 and over IPv6.
func (f *farm) load(clients int, services ...question) *load {
	l := &load{ending: make(chan struct{}), served: map[string]int{}}
	f.t.Cleanup(func() { l.end() })
	for _, s := range services {
		for _, family := range families {
			for range clients {
				l.clients.Go(func() { l.run(func() (string, error) { return s.ask(family.vip, s.port) }) })
			}
		}
	}
	return l
}

// question is a service and how to ask it.
type question struct {
	ask  asker
	port uint16
}

func (l *load) run(ask func() (string, error)) {
	for {
		select {
		case <-l.ending:
			return
		case <-time.After(loadPause):
		}
		epoch := l.now()
		name, err := ask()
		l.record(epoch, name, err)
	}
}

func (l *load) now() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

func (l *load) record(epoch int, name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.total++
	if epoch == l.epoch {
		l.served[name]++
	}
}

// mark begins an epoch: only answers to questions asked from now on count as served.
func (l *load) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
	l.served = map[string]int{}
}

// await waits until n questions of this epoch are answered and returns by whom.
func (l *load) await(t *testing.T, n int) map[string]int {
	t.Helper()
	var served map[string]int
	until(t, 6*patience, 6*patience, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		served = map[string]int{}
		sum := 0
		for name, k := range l.served {
			served[name] = k
			sum += k
		}
		if sum < n {
			return fmt.Errorf("%d answers (%v), waiting for %d; %d questions failed: %v", sum, served, n, len(l.errs), errors.Join(l.errs...))
		}
		return nil
	})
	return served
}

// end stops the clients and returns how many questions were answered, and the failures.
func (l *load) end() (total int, errs []error) {
	l.mu.Lock()
	select {
	case <-l.ending:
	default:
		close(l.ending)
	}
	l.mu.Unlock()
	l.clients.Wait()
	return l.total, l.errs
}

// mustEnd is end for a load of which no question may fail.
func (l *load) mustEnd(t *testing.T) int {
	t.Helper()
	total, errs := l.end()
	if len(errs) > 0 {
		t.Errorf("%d questions of %d failed, first: %v", len(errs), total+len(errs), errs[0])
	}
	return total
}

// netstat is a counter of the host's kernel, as TcpExt's TCPSynRetrans.
func netstat(t *testing.T, h *netlab.Host, group, name string) uint64 {
	t.Helper()
	for _, file := range []string{"netstat", "snmp"} {
		var text []byte
		must(t, h.Do(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/" + file)
			return err
		}))
		if n, ok := counterIn(text, group, name); ok {
			return n
		}
	}
	t.Fatalf("host %s has no counter %s %s", h.Name(), group, name)
	return 0
}

// counterIn reads pairs of lines, "GROUP: NAME NAME ..." and "GROUP: 1 2 ...".
func counterIn(text []byte, group, name string) (uint64, bool) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		names := strings.Fields(lines.Text())
		lines.Scan()
		values := strings.Fields(lines.Text())
		for i := range names {
			if names[0] == group+":" && names[i] == name && i < len(values) {
				n, err := strconv.ParseUint(values[i], 10, 64)
				return n, err == nil
			}
		}
	}
	return 0, false
}
