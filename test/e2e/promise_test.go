// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keepers is clients that hold one connection each, over which they ask again and again, and ask
// over a new one each time, too.
type keepers struct {
	clients sync.WaitGroup
	ending  chan struct{}

	asked, began    atomic.Uint64 // questions answered over held connections, and over new ones
	changed, failed atomic.Uint64
	first           atomic.Pointer[error]
}

// keepersOf starts clients, half of them over IPv4, and waits until each holds its connection.
func (f *farm) keepersOf(clients int, pause time.Duration) *keepers {
	f.t.Helper()
	c := &keepers{ending: make(chan struct{})}
	f.t.Cleanup(func() { c.end() })
	for i := range clients {
		c.clients.Go(func() { c.run(f, families[i%2].vip, pause) })
	}
	eventually(f.t, 6*patience, func() error {
		if n, failed := c.asked.Load(), c.failed.Load(); n < uint64(clients) && failed == 0 {
			return fmt.Errorf("%d of %d clients have been answered", n, clients)
		}
		return nil
	})
	return c
}

func (c *keepers) run(f *farm, vip netip.Addr, pause time.Duration) {
	keeping := f.client.HTTPClient(patience)
	keeping.Transport.(*http.Transport).DisableKeepAlives = false
	defer keeping.CloseIdleConnections()
	var mine string
	for {
		who, err := whoAnswers(keeping, vip)
		switch {
		case err != nil:
			c.fail(fmt.Errorf("over a held connection: %w", err))
		case mine != "" && who != mine:
			c.changed.Add(1)
			err := fmt.Errorf("a connection %s became %s", mine, who)
			c.first.CompareAndSwap(nil, &err)
		}
		mine = who
		c.asked.Add(1)
		if _, err := f.fetch(vip, webPort); err != nil {
			c.fail(fmt.Errorf("over a new connection: %w", err))
		}
		c.began.Add(1)
		select {
		case <-c.ending:
			return
		case <-time.After(pause):
		}
	}
}

func (c *keepers) fail(err error) {
	c.failed.Add(1)
	c.first.CompareAndSwap(nil, &err)
}

// whoAnswers is the real server, and the client's end of the connection as that sees it: a client that had to connect
// again, which http does by itself, has another one.
func whoAnswers(client *http.Client, vip netip.Addr) (string, error) {
	resp, err := client.Get(url(vip, webPort, "/"))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	return resp.Header.Get("X-Client") + " to " + resp.Header.Get("X-Real-Server"), nil
}

// end stops the clients.
func (c *keepers) end() {
	select {
	case <-c.ending:
	default:
		close(c.ending)
	}
	c.clients.Wait()
}

// mustEnd fails if one question failed, or one connection changed.
func (c *keepers) mustEnd(t *testing.T) {
	t.Helper()
	c.end()
	t.Logf("%d questions over held connections, %d over new ones; %d failed, %d connections changed",
		c.asked.Load(), c.began.Load(), c.failed.Load(), c.changed.Load())
	if first := c.first.Load(); first != nil {
		t.Errorf("%d questions failed and %d connections changed, first: %v", c.failed.Load(), c.changed.Load(), *first)
	}
}

// TestNoFlowNotices: under a load of 200 clients the daemon is killed, restarted, upgraded, downgraded, and its configuration is
// changed again and again: no question fails, and no connection changes its server. The long form (make promises) has
// a thousand reloads, and upgrades from and to a program that lays its tables out otherwise.
func TestNoFlowNotices(t *testing.T) {
	t.Parallel()
	rounds, reloads, pause, other := 1, 20, time.Second, program
	if long() {
		rounds, reloads, pause = 10, 1000, 200*time.Millisecond
		other = anotherVersion(t)
	}
	f := newFarm(t, 3)
	config := f.config("eth0", standard("rr", 1, 1, 1)...)
	// Another size of one table stands for another version where there is none: what moves, moves the same way.
	resized := strings.Replace(config, "connections4: 16k", "connections4: 32k", 1)
	f.writeConfig(config)
	d := f.start()
	syns := netstat(t, f.client, "TcpExt", "TCPSynRetrans")
	clients := f.keepersOf(200, pause)
	for range rounds {
		d.kill()
		d = f.start()
		d.stop()
		d = f.start()
		for _, change := range []struct{ program, config string }{{other, resized}, {program, config}} {
			d.kill()
			f.writeConfig(change.config)
			d = f.launchBy([]string{change.program}, nil, nil)
			d.waitLog("event=ready", 1)
			mustHaveMoved(d)
		}
	}
	f.reloadOften(reloads)
	clients.mustEnd(t)
	if n := netstat(t, f.client, "TcpExt", "TCPSynRetrans") - syns; n > 0 {
		t.Errorf("%d SYNs were lost", n)
	}
}

func mustHaveMoved(d *daemon) {
	d.f.t.Helper()
	if log := d.log.String(); !strings.Contains(log, "event=tables_moved") || !strings.Contains(log, "without_room=0") || strings.Contains(log, "event=tables_replaced") {
		d.f.t.Errorf("tables were not moved:\n%s", d.log.tail())
	}
}

// reloadOften changes weights and a scheduler each time; the last configuration is the first.
func (f *farm) reloadOften(times int) {
	f.t.Helper()
	for i := range times {
		if i%2 == 0 {
			f.configure(standard("wrr", 1+i%5, 2, 1)...)
		} else {
			f.configure(standard("rr", 1, 1, 1)...)
		}
		f.reload()
	}
}

// anotherVersion builds a director that lays its tables out otherwise.
func anotherVersion(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("clang"); err != nil {
		t.Fatalf("the long form compiles another version of the BPF program: %v", err)
	}
	dir := t.TempDir()
	root := get(filepath.Abs("../.."))(t)
	for _, name := range []string{"go.mod", "go.sum", "bpf", "cmd", "configs", "contrib", "defense", "director", "docs", "healthcheck", "internal", "scheduler"} {
		mustRun(t, root, "cp", "-r", name, dir)
	}
	abi := filepath.Join(dir, "bpf", "abi.h")
	text := string(get(os.ReadFile(abi))(t))
	for _, lines := range [][2]string{
		{"\t__u32 real;	  /* id of the real server */\n", "\t__u32 generation; /* of the real server, when the connection was made */\n"},
		{"\t__u32 upper;	    /* threshold, connections; 0: none */\n", "\t__u32 lower;\n"},
		{"\t__u64 no_real;	    /* packets that found no usable real server; sorry servers may have taken them */\n",
			"\t__u64 untracked;    /* new connections that found no room */\n"},
		{"\tTX_FORWARD,		/* known connection */\n", "\tTX_REPLY,		/* nat: the server's packet of one, as the service's */\n"},
	} {
		if !strings.Contains(text, lines[0]+lines[1]) {
			t.Fatalf("abi.h has no %q, followed by %q", lines[0], lines[1])
		}
		text = strings.Replace(text, lines[0]+lines[1], lines[1]+lines[0], 1)
	}
	must(t, os.WriteFile(abi, []byte(text), 0o600))
	mustRun(t, dir, "go", "generate", "./bpf")
	mustRun(t, dir, "go", "build", "-o", "other-version", "./cmd/director")
	return filepath.Join(dir, "other-version")
}

func mustRun(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(errors.Join(fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err), errors.New(string(out))))
	}
}
