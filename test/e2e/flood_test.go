// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/netlab"
)

// long tells that the tests of this file take the time that a release deserves.
func long() bool { return os.Getenv("DIRECTOR_LONG") != "" }

const (
	// floodBurst is how many SYNs are sent at a time: some 30 ms of work. All that happens to one, from
	// the sender to the real server, happens in the sender's thread, before the next 64 are sent.
	floodBurst = 8192
	// floodShare is how much of a core a flood may use, unless it is told otherwise.
	floodShare = 0.4
)

// flooder is a host that sends SYNs from sources that nobody has. Their checksums are wrong, which
// a director does not look at: so a real server drops what it gets, and it is the director alone that
// the flood is for. All sources are of networks that no host has a route to; nothing is answered.
type flooder struct {
	bench    *bpf.Bench
	from, to *netlab.Iface
	share    float64 // of a core that a flood may use; 1: all that it can
}

func (f *farm) flooder() *flooder {
	f.t.Helper()
	bench := get(bpf.NewBench(nil, bpf.TargetDrop))(f.t)
	f.t.Cleanup(func() { bench.Close() })
	return &flooder{bench: bench, from: f.connect(f.host("flooder"), f.sw, "eth0"), to: f.directorEnd, share: floodShare}
}

// send sends SYNs for a virtual address, and returns the processor time that they took.
func (fl *flooder) send(vip netip.Addr, flows bpf.Flows, n uint32) (used time.Duration, err error) {
	err = fl.from.Host.Do(func() error {
		before, err := threadTime()
		if err != nil {
			return err
		}
		if err := fl.bench.Send(fl.from.Index, synFrame(fl.from.MAC, fl.to.MAC, vip), flows, n); err != nil {
			return err
		}
		after, err := threadTime()
		used = after - before
		return err
	})
	return used, err
}

// threadTime is the processor time that this thread has used.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}

// synFrame is a SYN for webPort. What makes the flow, port and a part of the source address, is drawn
// by who sends it: IPv4's is then in 10.128.0.0/16.
func synFrame(from, to net.HardwareAddr, vip netip.Addr) []byte {
	tcp := binary.BigEndian.AppendUint16([]byte{0, 0}, webPort)
	tcp = append(tcp, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 0x02, 0xff, 0xff, 0, 0, 0, 0)
	data := append(append([]byte{}, to...), from...)
	if vip.Is4() {
		data = binary.BigEndian.AppendUint16(data, typeIPv4)
		data = append(data, ipv4Header(netip.AddrFrom4([4]byte{10, 128}), vip, len(tcp))...)
		data[etherLen+9] = unix.IPPROTO_TCP
	} else {
		data = binary.BigEndian.AppendUint16(data, typeIPv6)
		data = append(data, ipv6Header(netip.MustParseAddr("2001:db8:bad::"), vip, len(tcp))...)
		data[etherLen+6] = unix.IPPROTO_TCP
	}
	return append(data, tcp...)
}

// flood sends SYNs of random sources for a time, and rests so that its share is kept. It returns how
// many it sent, and what part of a core they took.
func (fl *flooder) flood(vip netip.Addr, duration time.Duration) (sent int, share float64, err error) {
	start := time.Now()
	var all time.Duration
	for time.Since(start) < duration {
		begin := time.Now()
		used, err := fl.send(vip, bpf.Flows{Count: 1 << 31}, floodBurst)
		if err != nil {
			return sent, 0, err
		}
		sent, all = sent+floodBurst, all+used
		time.Sleep(time.Until(begin.Add(time.Duration(float64(used) / fl.share))))
	}
	return sent, float64(all) / float64(time.Since(start)), nil
}

// crowd are clients of a service, each with a connection that stays.
type crowd struct {
	f       *farm
	vip     netip.Addr
	talks   []*talk
	clients sync.WaitGroup
	ending  chan struct{}

	mu        sync.Mutex
	exchanges int     // over the connections that stay
	opened    int     // new connections that were served soon
	lost      []error // connections that stay which did not
	refused   []error // new connections which were not served
}

// talk is a connection over which a client asks again and again who serves it.
type talk struct {
	conn   net.Conn
	in     *bufio.Reader
	server string
}

const (
	talkPause  = 100 * time.Millisecond // between two exchanges over a connection
	talksToNew = 5                      // exchanges from one new connection of the client to the next
)

// soon is within what time a new connection has to be served.
var soon = 3 * time.Second * slowness()

// crowd makes the clients, and waits until each has its connection. They are silent until begin.
func (f *farm) crowd(vip netip.Addr, n int) *crowd {
	f.t.Helper()
	c := &crowd{f: f, vip: vip, ending: make(chan struct{})}
	for range n {
		k, err := c.connect()
		must(f.t, err)
		f.t.Cleanup(func() { k.conn.Close() })
		c.talks = append(c.talks, k)
	}
	f.t.Cleanup(c.end)
	return c
}

// connect opens a connection and asks once.
func (c *crowd) connect() (*talk, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := c.f.client.DialContext(ctx, "tcp", netip.AddrPortFrom(c.vip, webPort).String())
	if err != nil {
		return nil, err
	}
	k := &talk{conn: conn, in: bufio.NewReader(conn)}
	if k.server, err = k.ask(); err != nil {
		conn.Close()
		return nil, err
	}
	return k, nil
}

// ask asks for the server's name.
func (k *talk) ask() (string, error) {
	if err := k.conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(k.conn, "GET / HTTP/1.1\r\nHost: flood\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(k.in, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	name, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(name)), err
}

// begin makes the clients talk until end.
func (c *crowd) begin() {
	for i, k := range c.talks {
		c.clients.Go(func() {
			for n := i; c.rest() && c.exchange(k); n++ {
				if n%talksToNew == 0 {
					c.open()
				}
			}
		})
	}
}

// rest tells whether the crowd goes on.
func (c *crowd) rest() bool {
	select {
	case <-c.ending:
		return false
	case <-time.After(talkPause):
		return true
	}
}

// exchange asks over the connection that stays; false: it is lost, or was moved.
func (c *crowd) exchange(k *talk) bool {
	name, err := k.ask()
	if err == nil && name != k.server {
		err = fmt.Errorf("%s answers a connection of %s", name, k.server)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.lost = append(c.lost, fmt.Errorf("connection of %v: %w", k.conn.LocalAddr(), err))
		return false
	}
	c.exchanges++
	return true
}

// open makes a new connection, asks once and closes it.
func (c *crowd) open() {
	start := time.Now()
	k, err := c.connect()
	if took := time.Since(start); err == nil {
		k.conn.Close()
		if took > soon {
			err = fmt.Errorf("a new connection was served after %v", took.Round(time.Millisecond))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.refused = append(c.refused, err)
		return
	}
	c.opened++
}

// end makes the clients silent. Their connections stay.
func (c *crowd) end() {
	c.mu.Lock()
	select {
	case <-c.ending:
	default:
		close(c.ending)
	}
	c.mu.Unlock()
	c.clients.Wait()
}

// check fails the test unless all connections that should stay did, and nearly all new ones were served.
func (c *crowd) check(t *testing.T) {
	t.Helper()
	c.end()
	if len(c.lost) > 0 {
		t.Errorf("%d of %d established connections are lost or moved, first: %v", len(c.lost), len(c.talks), c.lost[0])
	}
	if all := c.opened + len(c.refused); len(c.refused)*100 > all {
		t.Errorf("%d of %d new connections failed, more than 1 %%, first: %v", len(c.refused), all, c.refused[0])
	}
	if c.opened < len(c.talks) {
		t.Errorf("%d clients made %d new connections only: nothing was tested", len(c.talks), c.opened)
	}
}

// mustBeListed fails unless the director has each established connection, with the real server that serves it.
func (c *crowd) mustBeListed(t *testing.T) {
	t.Helper()
	reals := map[string]string{}
	for _, conn := range c.f.on(t).connections("state", "established", "service", ofFamily("web", c.vip)) {
		reals[conn.Client.String()] = conn.Real.Addr().String()
	}
	for _, k := range c.talks {
		want := ""
		for i, r := range c.f.reals {
			if r.Name() == k.server {
				want = c.f.addrOf(i, c.vip).String()
			}
		}
		if got := reals[k.conn.LocalAddr().String()]; got != want {
			t.Errorf("connection of %v is listed as established with real server %q, want %q", k.conn.LocalAddr(), got, want)
		}
	}
}

// A flood of SYNs turns the table over many times. It costs half-open connections only.
func TestFlood(t *testing.T) {
	f := newFarm(t, 4)
	// Closed connections are gone soon: they would fill the table, for which nothing half-open could go.
	f.writeConfig(f.config("eth0", both("web", "tcp", webPort, "rr", 1, 1, 1, 1)...) + "timeouts: {tcpfin: 2s}\n")
	f.start()
	f.eachWave(f.flooder(), (*farm).flooded)
	f.awaitClosed()
	f.mustRecount(f.snapshot())
}

// eachWave has a flood for each family against the service that a crowd uses; the long form takes the longest that is promised.
func (f *farm) eachWave(flooder *flooder, flooded func(*farm, *flooder, *crowd, time.Duration)) {
	f.t.Helper()
	duration := 6 * time.Second
	if long() {
		duration = 30 * time.Second
	}
	for _, wave := range []struct {
		name     string
		vip      netip.Addr
		clients  int
		duration time.Duration
	}{{"v4", vip4, 200, duration}, {"v6", vip6, 50, duration / 3}} {
		// The connections stay until the end, to be counted.
		crowd := f.crowd(wave.vip, wave.clients)
		f.t.Run(wave.name, func(t *testing.T) { flooded(f.on(t), flooder, crowd, wave.duration) })
	}
}

// wave is what a flood was, and what came of it.
type wave struct {
	sent          int
	share         float64 // of a core
	before, after *director.Snapshot
}

// count is how many packets had a verdict meanwhile.
func (w wave) count(verdict string) int {
	return int(w.after.Verdicts[verdict] - w.before.Verdicts[verdict])
}

// log says how it was.
func (w wave) log(t *testing.T, c *crowd, verdicts ...string) {
	t.Helper()
	text := fmt.Sprintf("%d SYNs sent, with %.0f %% of a core; %d exchanges, %d new connections served soon, %d not", w.sent, 100*w.share,
		c.exchanges, c.opened, len(c.refused))
	for _, v := range verdicts {
		text += fmt.Sprintf("; %s %d", v, w.count(v))
	}
	t.Log(text)
}

// flood floods the service while the crowd uses it, which may notice hardly anything.
func (c *crowd) flood(t *testing.T, flooder *flooder, duration time.Duration) (w wave) {
	t.Helper()
	f := c.f.on(t)
	w.before = f.snapshot()
	c.begin()
	var err error
	w.sent, w.share, err = flooder.flood(c.vip, duration)
	must(t, err)
	c.check(t)
	c.mustBeListed(t)
	w.after = f.snapshot()
	return w
}

// flooded floods the service that the crowd uses, and checks what that did.
func (f *farm) flooded(flooder *flooder, crowd *crowd, duration time.Duration) {
	t := f.t
	w := crowd.flood(t, flooder, duration)
	table, stored := int(w.after.TableSize), w.count("tx_new")
	held := f.countConnections(crowd.vip)
	w.log(t, crowd, "tx_new", "tx_untracked")
	t.Logf("%d connections in %d places", held, table)
	if held*100 < table*97 {
		t.Errorf("%d connections in a table of %d places: it was never full", held, table)
	}
	// All that left but the clients' own were half-open: no established one is missing, and a SYN of
	// the flood is never followed by another packet, nor does it expire in this time.
	if gone := stored - held - crowd.opened - len(crowd.refused); gone < 2*table {
		t.Errorf("%d half-open connections made room in a table of %d places: it was not turned over", gone, table)
	}
}

// countConnections are those of a virtual address's service.
func (f *farm) countConnections(vip netip.Addr) int {
	f.t.Helper()
	return get(strconv.Atoi(strings.TrimSpace(f.output("connections", "count", "service", ofFamily("web", vip)))))(f.t)
}

// awaitClosed waits until no closed connection is counted any more: all that is left are established
// and half-open.
func (f *farm) awaitClosed() {
	f.t.Helper()
	eventually(f.t, 4*patience, func() error {
		for _, s := range f.snapshot().Services {
			for _, r := range s.Reals {
				if r.Inactive > 0 {
					return fmt.Errorf("%s has %d inactive connections of %s", s.Name, r.Inactive, r.Key)
				}
			}
		}
		return nil
	})
}

// A listing of many connections takes little time and memory, of the daemon and of the command.
func TestManyConnections(t *testing.T) {
	conns, places := 100_000, "256k"
	if long() {
		conns, places = 1_000_000, "2M"
	}
	f := newFarm(t, 2)
	text := f.config("eth0", both("web", "tcp", webPort, "rr", 1, 1)...)
	f.writeConfig(strings.Replace(text, "connections4: 16k", "connections4: "+places, 1))
	d := f.start()
	f.fill(f.flooder(), conns)
	have := get(strconv.Atoi(strings.TrimSpace(f.output("connections", "count"))))(t)
	for _, format := range []struct {
		args   []string
		header int // lines
	}{{[]string{"connections"}, 2}, {[]string{"connections", "-o", "json"}, 0}} {
		t.Run(strings.Join(format.args, " "), func(t *testing.T) {
			l := f.on(t).list(d, format.args...)
			t.Logf("%d connections: %d bytes in %v, the command took %d MB, the daemon %d MB more than before",
				have, l.bytes, l.took.Round(time.Millisecond), l.command>>20, l.daemon>>20)
			if l.lines != have+format.header {
				t.Errorf("%d lines, want %d connections and %d of header", l.lines, have, format.header)
			}
			l.check(t, have)
		})
	}
}

// fill makes connections by SYNs, one after the other.
func (f *farm) fill(flooder *flooder, conns int) {
	f.t.Helper()
	for {
		stored := int(f.snapshot().Verdicts["tx_new"])
		if stored >= conns {
			return
		}
		_, err := flooder.send(vip4, bpf.Flows{Count: 1 << 31, Counting: true}, uint32(min(conns-stored, 2*floodBurst)))
		must(f.t, err)
	}
}

// listing is what a listing into a file took.
type listing struct {
	took            time.Duration
	lines, bytes    int
	command, daemon int // bytes of memory: the most that the command had, and that the daemon had more
}

// check compares with what a million connections may take. A race detector takes more.
func (l listing) check(t *testing.T, conns int) {
	t.Helper()
	if raceEnabled {
		return
	}
	const start = 300 * time.Millisecond // of the program, on a busy machine
	if limit := start + 3*time.Second*time.Duration(conns)/1_000_000; l.took > limit {
		t.Errorf("%d connections took %v, want %v at most", conns, l.took, limit)
	}
	if l.command > 200<<20 || l.daemon > 200<<20 {
		t.Errorf("command had %d bytes, daemon %d more than before, want 200 MB at most", l.command, l.daemon)
	}
}

// list runs a command into a file.
func (f *farm) list(d *daemon, args ...string) (l listing) {
	f.t.Helper()
	out := get(os.Create(filepath.Join(f.dir, "list")))(f.t)
	defer out.Close()
	daemon := d.cmd.Process.Pid
	// From now on the most that the daemon has is counted anew (proc_pid_clear_refs(5)).
	must(f.t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", daemon), []byte("5"), 0))
	before := get(memory(daemon, "VmRSS"))(f.t)
	cmd := f.director.Command(context.Background(), program, append([]string{"-s", f.socket()}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, os.Stderr, environment()
	start := time.Now()
	must(f.t, f.director.Start(cmd))
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.command = peak(cmd.Process.Pid)
	}()
	must(f.t, cmd.Wait())
	l.took = time.Since(start)
	<-done
	l.daemon = get(memory(daemon, "VmHWM"))(f.t) - before
	text := get(os.ReadFile(out.Name()))(f.t)
	l.bytes, l.lines = len(text), bytes.Count(text, []byte("\n"))
	return l
}

// peak is the most memory that a process has had when it was last seen. What the kernel tells of an
// ended one (getrusage) includes that of the process that started it.
func peak(pid int) (most int) {
	for {
		now, err := memory(pid, "VmHWM")
		if err != nil {
			return most
		}
		most = now
		time.Sleep(5 * time.Millisecond)
	}
}

// memory is a line of a process's status, in bytes; an ended one has none.
func memory(pid int, key string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("status of process %d has no %s", pid, key)
}
