// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/director"
)

func wantExit(t *testing.T, got, want int, stderr string) {
	t.Helper()
	if got != want {
		t.Errorf("exit %d, want %d: %s", got, want, stderr)
	}
}

// TestRunOptions: flags win over the environment, which wins over nothing.
func TestRunOptions(t *testing.T) {
	for name, test := range map[string]struct {
		vars       map[string]string
		args       string
		file, sock string
	}{
		"flags":           {nil, "run -c a.yaml -s /a.sock", "a.yaml", "/a.sock"},
		"long flags":      {nil, "run --config a.yaml --socket /a.sock", "a.yaml", "/a.sock"},
		"environment":     {map[string]string{envConfig: "b.yaml", envSocket: "/b.sock"}, "run", "b.yaml", "/b.sock"},
		"both":            {map[string]string{envConfig: "b.yaml", envSocket: "/b.sock"}, "run -c a.yaml -s /a.sock", "a.yaml", "/a.sock"},
		"file alone":      {nil, "run -c a.yaml", "a.yaml", ""},
		"socket as first": {nil, "-s /a.sock run -c a.yaml", "a.yaml", "/a.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.vars = test.vars
			var got DaemonOptions
			w.env.Daemon = func(_ context.Context, opts DaemonOptions) error { got = opts; return nil }
			code, _, stderr := w.run(t.Context(), strings.Fields(test.args)...)
			wantExit(t, code, exitOK, stderr)
			if got.ConfigFile != test.file || got.Socket != test.sock || got.Version != "v0.1.0" {
				t.Errorf("options %+v", got)
			}
		})
	}
}

// TestRunLog: the log goes to standard error, in the form and from the level asked for.
func TestRunLog(t *testing.T) {
	for name, test := range map[string]struct {
		args     string
		terminal bool
		want     string
	}{
		"auto without terminal": {"", false, `{"time":"","level":"INFO","msg":"up","event":"start"}`},
		"auto on terminal":      {"", true, `time= level=INFO msg=up event=start`},
		"json":                  {"--log-format json", true, `{"time":"","level":"INFO","msg":"up","event":"start"}`},
		"text":                  {"--log-format text", false, `time= level=INFO msg=up event=start`},
		"quiet":                 {"--log-level warn", false, ``},
		"debug":                 {"--log-level debug --log-format text", false, "time= level=DEBUG msg=detail\ntime= level=INFO msg=up event=start"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.env.StderrIsTerminal = test.terminal
			w.env.Daemon = func(_ context.Context, opts DaemonOptions) error {
				opts.Log.Debug("detail")
				opts.Log.Info("up", "event", "start")
				return nil
			}
			_, _, stderr := w.run(t.Context(), append([]string{"run", "-c", "f"}, strings.Fields(test.args)...)...)
			if got := withoutTimes(stderr); got != test.want {
				t.Errorf("log %s\nwant %s", got, test.want)
			}
		})
	}
}

// withoutTimes empties the time of each line.
func withoutTimes(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, "time="); ok {
			_, rest, _ = strings.Cut(rest, " ")
			lines[i] = "time= " + rest
		} else if rest, ok := strings.CutPrefix(line, `{"time":"`); ok {
			_, rest, _ = strings.Cut(rest, `"`)
			lines[i] = `{"time":""` + rest
		}
	}
	return strings.Join(lines, "\n")
}

// TestRunEnds: the daemon gets the context and its end is no failure.
func TestRunEnds(t *testing.T) {
	w := newWorld(t, nil)
	w.env.Daemon = func(ctx context.Context, _ DaemonOptions) error { <-ctx.Done(); return nil }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, _, stderr := w.run(ctx, "run", "-c", "f")
	wantExit(t, code, exitOK, stderr)
}

// failingWriter fails after some bytes.
type failingWriter struct {
	room int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.room {
		return w.room, w.err
	}
	w.room -= len(p)
	return len(p), nil
}

// TestLostOutput: a closed pipe is silent, a full disk is not; neither is a success.
func TestLostOutput(t *testing.T) {
	b := &fakeBackend{snapshot: farm(), conns: farmConns(), million: 100_000}
	for _, args := range []string{"list", "list -o json", "stats", "connections", "connections -o json", "connections count", "version", "--help", "completion bash", "list --watch"} {
		t.Run(args, func(t *testing.T) {
			w := newWorld(t, b)
			w.stdout = &failingWriter{0, syscall.EPIPE}
			code, _, stderr := w.run(t.Context(), strings.Fields(args)...)
			wantExit(t, code, exitFailure, stderr)
			if stderr != "" {
				t.Errorf("said %q", stderr)
			}
			w.stdout = &failingWriter{0, syscall.ENOSPC}
			code, _, stderr = w.run(t.Context(), strings.Fields(args)...)
			wantExit(t, code, exitFailure, stderr)
			if stderr != "director: write output: no space left on device\n" {
				t.Errorf("said %q", stderr)
			}
		})
	}
	w := newWorld(t, b)
	w.stdout = &failingWriter{100_000, syscall.EPIPE}
	if code, _, stderr := w.run(t.Context(), "connections"); code != exitFailure || stderr != "" {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

// TestPermissionDenied asks as nobody, in another process: the socket is for root.
func TestPermissionDenied(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	w := newWorld(t, &fakeBackend{snapshot: farm()})
	openDirs(t, w.socket)
	code, stderr := runAs(t, w.socket, 65534, "list")
	wantExit(t, code, exitFailure, stderr)
	if want := "director: connect to " + w.socket + ": permission denied (only root and the members of the socket's group may ask the daemon)\n"; !strings.HasPrefix(stderr, want) { // a covered program adds a line
		t.Errorf("said %q\nwant %q", stderr, want)
	}
	if err := os.Chmod(w.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	code, stderr = runAs(t, w.socket, 65534, "reload")
	wantExit(t, code, exitFailure, stderr)
	if want := "director: reload: uid 65534 may not read: that is for root\n"; !strings.HasPrefix(stderr, want) {
		t.Errorf("said %q\nwant %q", stderr, want)
	}
}

func openDirs(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// runAs runs a command in a process of this very program (its path is in a
// directory that others cannot enter, /proc/self/exe is not).
func runAs(t *testing.T, socket string, uid uint32, args string) (code int, stderr string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), "/proc/self/exe")
	child.Env = []string{childArgs + "=" + args + " -s " + socket}
	child.Dir = "/"
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var errs bytes.Buffer
	child.Stderr = &errs
	err := child.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return child.ProcessState.ExitCode(), errs.String()
}

// TestConnectionRefused: the socket of a daemon that was killed.
func TestConnectionRefused(t *testing.T) {
	w := newWorld(t, nil)
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	code, _, stderr := w.run(t.Context(), "list")
	wantExit(t, code, exitFailure, stderr)
	if !strings.Contains(stderr, ": connection refused (is the daemon running? start it with: director run -c FILE)\n") {
		t.Errorf("said %q", stderr)
	}
}

// pages cancels after some pages.
type pages struct {
	bytes.Buffer
	left   int
	cancel func()
	each   func(left int)
}

func (p *pages) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("IP Virtual Server")) {
		p.left--
		if p.each != nil {
			p.each(p.left)
		}
		if p.left == 0 {
			p.cancel()
		}
	}
	return p.Buffer.Write(b)
}

// TestWatch: page after page until interrupted, which is no failure; on a
// terminal the screen is cleared in between.
func TestWatch(t *testing.T) {
	for name, terminal := range map[string]bool{"pipe": false, "terminal": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, &fakeBackend{snapshot: farm()})
			w.env.StdoutIsTerminal = terminal
			ctx, cancel := context.WithCancel(t.Context())
			out := &pages{left: 3, cancel: cancel}
			w.stdout = out
			code, _, stderr := w.run(ctx, "list", "-w", "--interval", "1ms")
			wantExit(t, code, exitOK, stderr)
			if n := strings.Count(out.String(), "IP Virtual Server"); n != 3 {
				t.Errorf("%d pages", n)
			}
			if cleared := strings.Contains(out.String(), "\x1b[2J"); cleared != terminal {
				t.Errorf("cleared: %v", cleared)
			}
		})
	}
}

// TestWatchOutlivesDaemon: what goes wrong after the first page is said, and tried again.
func TestWatchOutlivesDaemon(t *testing.T) {
	b := &fakeBackend{snapshot: farm()}
	w := newWorld(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	out := &pages{left: 2, cancel: cancel}
	out.each = func(left int) {
		if left == 1 {
			b.set(nil)
			time.AfterFunc(50*time.Millisecond, func() { b.set(farm()) })
		}
	}
	w.stdout = out
	code, _, stderr := w.run(ctx, "stats", "--watch", "--interval", "5ms")
	wantExit(t, code, exitOK, stderr)
	if !strings.Contains(stderr, "director: the daemon is still starting\n") {
		t.Errorf("said %q", stderr)
	}
}

// TestWatchInterval: the pages come at the interval.
func TestWatchInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		var at []time.Duration
		a := newApp(Env{Stdout: io.Discard, Stderr: io.Discard})
		err := a.print(ctx, &repeat{on: true, interval: 2 * time.Second}, func(io.Writer) error {
			at = append(at, time.Since(begin))
			return nil
		})
		if got := fmt.Sprint(at); err != nil || got != "[0s 2s 4s]" {
			t.Errorf("pages at %s, %v", got, err)
		}
	})
}

func TestCompleteServices(t *testing.T) {
	w := newWorld(t, &fakeBackend{snapshot: farm()})
	_, stdout, _ := w.run(t.Context(), "__complete", "list", "")
	if want := "web6\nweb\ndns\n10.1.2.3:8080\n:4\n"; stdout != want {
		t.Errorf("offers %q, want %q", stdout, want)
	}
	_, stdout, _ = w.run(t.Context(), "__complete", "stats", "-o", "")
	if want := "text\nwide\njson\n:4\n"; stdout != want {
		t.Errorf("offers %q, want %q", stdout, want)
	}
	w.stop()
	code, stdout, stderr := w.run(t.Context(), "__complete", "list", "")
	wantExit(t, code, exitOK, stderr)
	if stdout != ":4\n" {
		t.Errorf("offers %q", stdout)
	}
}

// TestListJSONIsTheSnapshot: nothing is lost on the way.
func TestListJSONIsTheSnapshot(t *testing.T) {
	w := newWorld(t, &fakeBackend{snapshot: farm()})
	_, stdout, _ := w.run(t.Context(), "list", "-o", "json", "--nosort")
	want, _ := json.MarshalIndent(farm(), "", "  ")
	want = bytes.ReplaceAll(want, []byte(`"reals": null`), []byte(`"reals": []`))
	if stdout != string(want)+"\n" {
		t.Errorf("got %s\nwant %s", stdout, want)
	}
}

// TestAppendConn: the fast way prints what the format of ipvsadm says.
func TestAppendConn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	conns := recordedConns()
	for range 2000 {
		c := conns[random.IntN(len(conns))]
		c.Expires = time.Duration(random.Int64N(int64(200 * time.Hour)))
		seconds := int64(c.Expires / time.Second)
		want := fmt.Sprintf("%-3s %-6s %-11s %-18s %-18s %s", strings.ToUpper(c.Protocol.String()),
			fmt.Sprintf("%02d:%02d", seconds/60, seconds%60), c.State, c.Client, c.Virtual, c.Real)
		if got := string(appendConn(nil, &c)); got != want {
			t.Fatalf("got  %q\nwant %q", got, want)
		}
	}
	if got := string(appendConn(nil, &director.Conn{})); !strings.HasSuffix(got, " -                  -                  -") {
		t.Errorf("zero: %q", got)
	}
}

// peakWriter counts bytes and samples the heap.
type peakWriter struct {
	bytes int
	lines int
	peak  uint64
}

func (w *peakWriter) Write(p []byte) (int, error) {
	w.bytes += len(p)
	w.lines += bytes.Count(p, []byte("\n"))
	var m runtime.MemStats
	if w.lines%16 == 0 {
		runtime.ReadMemStats(&m)
		w.peak = max(w.peak, m.HeapAlloc)
	}
	return len(p), nil
}

// TestMillionConnections: a million through the daemon's socket and the
// command take seconds and a few MiB.
func TestMillionConnections(t *testing.T) {
	count := 1_000_000
	if testing.Short() || raceDetector {
		count = 50_000
	}
	w := newWorld(t, &fakeBackend{conns: farmConns(), million: count})
	for args, extra := range map[string]int{"connections": 2, "connections -o json": 0, "connections -o wide": 2} {
		t.Run(args, func(t *testing.T) {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			out := &peakWriter{peak: m.HeapAlloc}
			w.stdout = out
			begin := time.Now()
			code, _, stderr := w.run(t.Context(), strings.Fields(args)...)
			wantExit(t, code, exitOK, stderr)
			grown := (out.peak - m.HeapAlloc) >> 10
			t.Logf("%d connections, %d MB in %v, heap grew by %d KiB at most", count, out.bytes>>20, time.Since(begin).Round(time.Millisecond), grown)
			if out.lines != count+extra {
				t.Errorf("%d lines", out.lines)
			}
			if grown > 32<<10 {
				t.Errorf("heap grew by %d KiB", grown)
			}
		})
	}
}

// cancelWriter calls then after the first bytes.
type cancelWriter struct {
	once sync.Once
	then func()
}

func (w *cancelWriter) Write(p []byte) (int, error) {
	w.once.Do(w.then)
	return len(p), nil
}

// TestDaemonStopsWhileStreaming: the user learns that the list is not whole.
func TestDaemonStopsWhileStreaming(t *testing.T) {
	w := newWorld(t, &fakeBackend{conns: farmConns(), million: 1 << 30})
	w.stdout = &cancelWriter{then: func() { go w.stop() }}
	code, _, stderr := w.run(t.Context(), "connections")
	wantExit(t, code, exitFailure, stderr)
	if stderr != "director: read connections: the daemon stops\n" {
		t.Errorf("said %q", stderr)
	}
}

// TestInterrupted: ^C ends a listing, and it is no success.
func TestInterrupted(t *testing.T) {
	w := newWorld(t, &fakeBackend{conns: farmConns(), million: 1 << 30})
	ctx, cancel := context.WithCancel(t.Context())
	w.stdout = &cancelWriter{then: cancel}
	code, _, stderr := w.run(ctx, "connections", "-o", "json")
	wantExit(t, code, exitFailure, stderr)
	if stderr != "director: interrupted\n" {
		t.Errorf("said %q", stderr)
	}
}

// TestConcurrentCommands: many at once all get whole answers.
func TestConcurrentCommands(t *testing.T) {
	w := newWorld(t, &fakeBackend{snapshot: farm(), conns: farmConns(), million: 1000})
	var group sync.WaitGroup
	for i := range 30 {
		group.Go(func() {
			args, lines := []string{"connections"}, 1002
			if i%2 == 0 {
				args, lines = []string{"list"}, 13
			}
			code, stdout, stderr := w.run(t.Context(), args...)
			if n := strings.Count(stdout, "\n"); code != 0 || n != lines {
				t.Errorf("%v: exit %d, %d lines, %s", args, code, n, stderr)
			}
		})
	}
	group.Wait()
}
