// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"xdplvs/director"
)

func TestSnapshot(t *testing.T) {
	want := bigSnapshot(3, 2)
	want.Verdicts = map[string]uint64{"tx": 12}
	path, _ := start(t, &fakeBackend{snapshot: want}, ServerOptions{})
	got, err := newClient(t, path).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestNoSnapshotYet(t *testing.T) {
	path, _ := start(t, &fakeBackend{}, ServerOptions{})
	_, err := newClient(t, path).Snapshot(t.Context())
	wantStatus(t, err, http.StatusServiceUnavailable)
	wantError(t, err, "the daemon is still starting")
}

func TestVersion(t *testing.T) {
	path, _ := start(t, &fakeBackend{}, ServerOptions{})
	if got, err := newClient(t, path).Version(t.Context()); got != "v1.2.3" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestReload(t *testing.T) {
	var answer error
	b := &fakeBackend{reload: func(context.Context) error { return answer }}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	if err := client.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	answer = errors.Join(errors.New("lvs.yaml:3:5: services[0].port: 0"), errors.New("lvs.yaml:7:1: unknown key"))
	err := client.Reload(t.Context())
	wantStatus(t, err, http.StatusUnprocessableEntity)
	if err.Error() != answer.Error() {
		t.Errorf("error %q", err)
	}
}

func TestConnections(t *testing.T) {
	path, _ := start(t, &fakeBackend{conns: 1000}, ServerOptions{})
	client := newClient(t, path)
	n := 0
	err := client.Connections().List(t.Context(), "", func(c *director.Conn) error {
		if want := fakeConn(n); *c != want {
			t.Fatalf("connection %d: %+v, want %+v", n, c, want)
		}
		n++
		return nil
	})
	if n != 1000 || err != nil {
		t.Errorf("%d connections, %v", n, err)
	}
}

func TestNoConnections(t *testing.T) {
	path, _ := start(t, &fakeBackend{}, ServerOptions{})
	if err := newClient(t, path).Connections().List(t.Context(), "", func(*director.Conn) error { return errors.New("one") }); err != nil {
		t.Error(err)
	}
}

func TestFilteredConnections(t *testing.T) {
	path, _ := start(t, &fakeBackend{conns: 1000}, ServerOptions{})
	client := newClient(t, path)
	n := 0
	err := client.Connections().List(t.Context(), "state syn_recv and dst 192.0.2.1", func(c *director.Conn) error {
		n++
		return nil
	})
	if n != 250 || err != nil {
		t.Errorf("%d connections, %v", n, err)
	}
	if n, err := client.Connections().Count(t.Context(), "src 2001:db8::/32"); n != 250 || err != nil {
		t.Errorf("counted %d, %v", n, err)
	}
	if n, err := client.Connections().Count(t.Context(), ""); n != 1000 || err != nil {
		t.Errorf("counted %d, %v", n, err)
	}
	_, err = client.Connections().Count(t.Context(), "stat udp")
	wantStatus(t, err, http.StatusBadRequest)
	wantError(t, err, `filter: column 1: unknown word "stat"`)
}

func TestDeleteConnections(t *testing.T) {
	b := &fakeBackend{conns: 1000}
	path, stop := start(t, b, ServerOptions{})
	client := newClient(t, path)
	if n, err := client.Connections().Delete(t.Context(), "src 2001:db8::/32"); n != 250 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	if n, err := client.Connections().DeleteAll(t.Context()); n != 1000 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	_, err := client.Connections().Delete(t.Context(), "")
	wantStatus(t, err, http.StatusBadRequest)
	stop()
	b.connErr = errors.New("free overflow connection: broken")
	path, _ = start(t, b, ServerOptions{})
	_, err = newClient(t, path).Connections().Delete(t.Context(), "state udp")
	wantStatus(t, err, http.StatusInternalServerError)
	wantError(t, err, "free overflow connection: broken (250 connections are deleted)")
}

func TestTimeouts(t *testing.T) {
	path, _ := start(t, &fakeBackend{timeouts: director.DefaultTimeouts}, ServerOptions{})
	client := newClient(t, path)
	got, err := client.Timeouts(t.Context())
	if got != director.DefaultTimeouts || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	var change director.Timeouts
	for name, d := range map[string]time.Duration{"udp": 1500 * time.Millisecond, "sctp_closed": time.Hour} {
		if err := change.Set(name, d); err != nil {
			t.Fatal(err)
		}
	}
	got, err = client.SetTimeouts(t.Context(), change)
	if err != nil || got.Get("udp") != 1500*time.Millisecond || got.Get("sctp_closed") != time.Hour || got.Get("tcp") != 15*time.Minute {
		t.Errorf("%v, %v", got, err)
	}
	change.Set("tcp", time.Millisecond)
	_, err = client.SetTimeouts(t.Context(), change)
	wantStatus(t, err, http.StatusBadRequest)
}

// TestHealth: what is asked and ordered comes to the daemon as it is, and back.
func TestHealth(t *testing.T) {
	b := &fakeBackend{health: director.HealthList{Services: []director.ServiceHealth{{Name: "web"}}}, history: []director.HealthHistory{{Service: "web"}}}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	if list, err := client.Health(t.Context()); err != nil || len(list.Services) != 1 || list.Services[0].Name != "web" {
		t.Errorf("%+v, %v", list, err)
	}
	if history, err := client.HealthHistory(t.Context(), "web1", "web"); err != nil || len(history) != 1 {
		t.Errorf("%+v, %v", history, err)
	}
	order := director.HealthOrder{Real: "web1", Service: "web", Condition: "drain"}
	if n, err := client.OrderHealth(t.Context(), order); err != nil || n != 2 || b.order != order {
		t.Errorf("%d, %v, ordered %+v", n, err, b.order)
	}
	_, err := client.HealthHistory(t.Context(), "nobody", "")
	wantStatus(t, err, http.StatusNotFound)
}

// TestConnectionsError: an error before the first byte is the answer, a later
// one the last line; neither looks like a complete list.
func TestConnectionsError(t *testing.T) {
	for name, conns := range map[string]int{"at once": 0, "in the stream": 10_000} {
		t.Run(name, func(t *testing.T) {
			path, _ := start(t, &fakeBackend{conns: conns, connErr: errors.New("read table: broken")}, ServerOptions{})
			n := 0
			err := newClient(t, path).Connections().List(t.Context(), "", func(*director.Conn) error { n++; return nil })
			wantError(t, err, "read table: broken")
			if n != conns {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestReaderStops: a reader that has enough ends the backend's walk.
func TestReaderStops(t *testing.T) {
	const many = 1 << 30
	path, stop := start(t, &fakeBackend{conns: many}, ServerOptions{})
	enough := errors.New("enough")
	err := newClient(t, path).Connections().List(t.Context(), "", func(*director.Conn) error { return enough })
	if err != enough {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = newClient(t, path).Connections().List(ctx, "", func(*director.Conn) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	stop()
}

// TestShutdownWhileStreaming: the reader learns that the list is not whole,
// whether it reads or stands still, and nothing is left behind.
func TestShutdownWhileStreaming(t *testing.T) {
	for name, grace := range map[string]time.Duration{"reading": 10 * time.Second, "standing still": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			stalled := name == "standing still"
			path, stop := start(t, &fakeBackend{conns: 1 << 30}, ServerOptions{Grace: grace})
			begun, proceed := make(chan struct{}), make(chan struct{})
			result := make(chan error, 1)
			go func() {
				n := 0
				result <- newClient(t, path).Connections().List(context.Background(), "", func(*director.Conn) error {
					if n++; n == 1 {
						close(begun)
						if stalled {
							<-proceed
						}
					}
					return nil
				})
			}()
			<-begun
			stop() // does not wait for the reader
			close(proceed)
			if err := <-result; err == nil {
				t.Error("the reader believes that it has all")
			} else if !stalled {
				wantError(t, err, "read connections: the daemon stops")
			}
		})
	}
}

// TestStalledReader: one who takes nothing is cut off.
func TestStalledReader(t *testing.T) {
	path, _ := start(t, &fakeBackend{conns: 1 << 30}, ServerOptions{StallTimeout: 50 * time.Millisecond})
	first := true
	err := newClient(t, path).Connections().List(t.Context(), "", func(*director.Conn) error {
		if first {
			time.Sleep(300 * time.Millisecond)
			first = false
		}
		return nil
	})
	wantError(t, err, "read connections: unexpected EOF")
}

func TestConcurrentClients(t *testing.T) {
	b := &fakeBackend{conns: 1000, snapshot: bigSnapshot(10, 10), reload: func(context.Context) error { return nil }}
	path, _ := start(t, b, ServerOptions{})
	var group sync.WaitGroup
	var seen atomic.Int64
	for range 20 {
		client := newClient(t, path)
		group.Go(func() {
			for range 3 {
				_, err1 := client.Snapshot(t.Context())
				err2 := client.Connections().List(t.Context(), "", func(*director.Conn) error { seen.Add(1); return nil })
				err3 := client.Reload(t.Context())
				if err := errors.Join(err1, err2, err3); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if seen.Load() != 20*3*1000 {
		t.Errorf("%d connections", seen.Load())
	}
}

// TestTooManyConnections: beyond the limit there is a clear answer, and room
// again when somebody leaves.
func TestTooManyConnections(t *testing.T) {
	path, _ := start(t, &fakeBackend{}, ServerOptions{MaxConns: 2})
	var held []net.Conn
	for range 2 {
		held = append(held, holdConn(t, path))
	}
	_, err := newClient(t, path).Version(t.Context())
	wantStatus(t, err, http.StatusServiceUnavailable)
	wantError(t, err, "2 connections to the daemon are open, which is the limit")
	for _, c := range held {
		c.Close()
	}
	for range 100 {
		if _, err = newClient(t, path).Version(t.Context()); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("no room again: %v", err)
}

// holdConn opens a connection and waits until the server has answered on it.
func holdConn(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	io.WriteString(c, "GET /v1/version HTTP/1.1\r\nHost: director\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return c
}

// TestRaw: what a client of another make sees.
func TestRaw(t *testing.T) {
	b := &fakeBackend{conns: 2, snapshot: bigSnapshot(1, 1), timeouts: director.DefaultTimeouts, reload: func(context.Context) error { return nil }}
	b.addresses = director.AddressList{Time: time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC), Addresses: []director.AddressState{
		{Addr: virtual4, Mode: director.AddressAnswer, Interface: "eth0", Status: director.AddressWaiting, Reason: "interface is down"},
	}}
	path, _ := start(t, b, ServerOptions{})
	long := strings.Repeat("x", 64<<10)
	for name, test := range map[string]struct {
		method, path, body string
		status             int
		text               string
	}{
		"addresses":         {"GET", "/v1/addresses", "", 200, `{"time":"2026-11-22T16:00:00Z","addresses":[{"address":"192.0.2.1","mode":"answer","interface":"eth0","status":"waiting","reason":"interface is down"}]}`},
		"marks":             {"GET", "/v1/marks", "", 200, `{"time":"0001-01-01T00:00:00Z","rules":null}`},
		"explain":           {"GET", "/v1/marks/explain?protocol=tcp&source=10.0.0.1:1&destination=10.0.0.2:2&dscp=46&mark=0x10", "", 200, `{"mark":7,"rule":3,"text":"{mark: 7}","service":"web"}`},
		"explain nothing":   {"GET", "/v1/marks/explain?protocol=icmp", "", 400, `{"error":"unknown protocol \"icmp\" (known: tcp, udp, sctp)"}`},
		"explain dscp":      {"GET", "/v1/marks/explain?protocol=tcp&source=10.0.0.1:1&destination=10.0.0.2:2&dscp=x", "", 400, `{"error":"parameter dscp: \"x\" is no number of 8 bits"}`},
		"version":           {"GET", "/v1/version", "", 200, `{"version":"v1.2.3"}`},
		"count":             {"GET", "/v1/connections/count", "", 200, `{"count":2}`},
		"reload":            {"POST", "/v1/reload", "", 200, `{}`},
		"unknown path":      {"GET", "/v1/snap", "", 404, `{"error":"unknown path \"/v1/snap\" (known: /v1/snapshot, /v1/connections, /v1/connections/count, /v1/persistence, /v1/persistence/count, /v1/timeouts, /v1/defense, /v1/defense/report, /v1/addresses, /v1/health, /v1/health/history, /v1/health/order, /v1/marks, /v1/marks/explain, /v1/explain, /v1/trace, /v1/replay, /v1/version, /v1/openapi.json, /v1/reload, /v1/config, /v1/changes, /v1/plan, /v1/apply, /v1/confirm, /v1/rollback, /v1/watch, /v1/stop, /v1/zero)"}`},
		"root":              {"GET", "/", "", 404, `{"error":"unknown path \"/\" (known: `},
		"wrong method":      {"GET", "/v1/reload", "", 405, `{"error":"/v1/reload wants POST, not GET"}`},
		"two methods":       {"PUT", "/v1/connections", "", 405, `{"error":"/v1/connections wants GET or DELETE, not PUT"}`},
		"delete":            {"DELETE", "/v1/connections?filter=state+udp", "", 200, `{"deleted":0}`},
		"delete all":        {"DELETE", "/v1/connections?all=true", "", 200, `{"deleted":2}`},
		"delete what":       {"DELETE", "/v1/connections", "", 400, `{"error":"no filter says which connections to delete; all=true deletes all"}`},
		"delete blank":      {"DELETE", "/v1/connections?filter=++", "", 400, `{"error":"no filter says which connections to delete; all=true deletes all"}`},
		"delete half":       {"DELETE", "/v1/connections?filter=state", "", 400, `{"error":"filter: column 1: \"state\" needs`},
		"delete both":       {"DELETE", "/v1/connections?filter=state+udp&all=true", "", 400, `{"error":"a filter and all=true contradict each other"}`},
		"delete all, no":    {"DELETE", "/v1/connections?all=false", "", 400, `{"error":"parameter all is true or absent, not \"false\""}`},
		"timeouts":          {"GET", "/v1/timeouts", "", 200, `{"tcp":"15m","tcpfin":"2m","udp":"5m","tcp_none":"2s",`},
		"defense":           {"PATCH", "/v1/defense", `{"drop_packet": 3, "am_droprate": "4"}`, 200, `{"drop_entry":0,"drop_packet":3,"secure_tcp":0,"syn_cookies":0,"am_droprate":4,`},
		"defense, report":   {"GET", "/v1/defense/report", "", 200, `{"since":"0001-01-01T00:00:00Z","total":{"admitted":0},"hitters":null,"prefix4":0`},
		"defense, shown":    {"GET", "/v1/defense", "", 200, `{"drop_entry":0,`},
		"defense, mode":     {"PATCH", "/v1/defense", `{"drop_packet": 4}`, 400, `{"error":"read body: drop_packet: unknown mode \"4\" (known: off, auto, always, or 0 to 3 as IPVS's sysctls have them)"}`},
		"defense, name":     {"PATCH", "/v1/defense", `{"droprate": 4}`, 400, `{"error":"read body: unknown setting \"droprate\" (known: drop_entry, drop_packet, secure_tcp, syn_cookies, am_droprate, amemthresh, occupancy, half_open)"}`},
		"timeouts, no name": {"PATCH", "/v1/timeouts", `{"tpc": 1}`, 400, `{"error":"read body: timeout tpc: unknown timeout \"tpc\" (known: tcp, tcpfin, udp, tcp_none,`},
		"timeouts, zero":    {"PATCH", "/v1/timeouts", `{"udp": 0}`, 400, `{"error":"read body: timeout udp: expected a duration such as 15m or 1h30m, or seconds, from 1s to 596h31m23.647s, found \"0\""}`},
		"timeouts, text":    {"PATCH", "/v1/timeouts", `tcp=5`, 400, `{"error":"read body: invalid character`},
		"timeouts, nothing": {"PATCH", "/v1/timeouts", ``, 400, `{"error":"read body: unexpected end of JSON input"}`},
		"timeouts, long":    {"PATCH", "/v1/timeouts", `"` + long + `"`, 413, `{"error":"body is longer than 16384 bytes"}`},
		"health":            {"GET", "/v1/health", "", 200, `{"time":"0001-01-01T00:00:00Z","services":null}`},
		"history":           {"GET", "/v1/health/history?real=web1", "", 200, `null`},
		"history, nobody's": {"GET", "/v1/health/history?real=x&service=y", "", 404, `{"error":"no real server \"x\" in \"y\""}`},
		"order":             {"POST", "/v1/health/order", `{"real":"web1","condition":"down"}`, 200, `{"ordered":2}`},
		"order, nobody's":   {"POST", "/v1/health/order", `{"real":"x"}`, 422, `{"error":"no real server \"x\" in \"\""}`},
		"order, nothing":    {"POST", "/v1/health/order", ``, 400, `{"error":"read body: unexpected end of JSON input"}`},
		"unknown parameter": {"GET", "/v1/snapshot?filter=x", "", 400, `{"error":"unknown parameter \"filter\""}`},
		"bad filter":        {"GET", "/v1/connections?filter=sport", "", 400, `{"error":"filter: column 1: \"sport\" needs`},
		"body":              {"POST", "/v1/reload", "{}", 413, `{"error":"/v1/reload takes no body"}`},
		"long body":         {"POST", "/v1/reload", long, 413, `{"error":"/v1/reload takes no body"}`},
		"long path":         {"GET", "/v1/" + long, "", 431, "431 Request Header Fields Too Large"},
	} {
		t.Run(name, func(t *testing.T) {
			status, header, text := ask(t, path, test.method, test.path, test.body)
			if status != test.status || !strings.HasPrefix(text, test.text) {
				t.Errorf("%d %s, want %d %s", status, text, test.status, test.text)
			}
			if status != 431 && (header.Get("Content-Type") != "application/json" || !json.Valid([]byte(text))) {
				t.Errorf("%v %s is no JSON", header, text)
			}
			if status == 405 && header.Get("Allow") == "" {
				t.Error("no Allow header")
			}
		})
	}
	_, header, text := ask(t, path, "GET", "/v1/connections", "")
	if header.Get("Content-Type") != "application/x-ndjson" || strings.Count(text, "\n") != 2 {
		t.Errorf("%v %s", header, text)
	}
}

func ask(t *testing.T, path, method, where, body string) (int, http.Header, string) {
	t.Helper()
	client := newClient(t, path).http
	req, err := http.NewRequest(method, "http://director"+where, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(text)
}

// TestConnectErrors: the path and the system's reason, nothing of net/http.
func TestConnectErrors(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, _ := net.Listen("unix", dead)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for path, want := range map[string]struct {
		text string
		is   error
	}{
		filepath.Join(dir, "none.sock"): {"no such file or directory", fs.ErrNotExist},
		dead:                            {"connection refused", nil},
	} {
		_, err := newClient(t, path).Snapshot(t.Context())
		var connect *ConnectError
		if !errors.As(err, &connect) || connect.Path != path || err.Error() != "connect to "+path+": "+want.text {
			t.Errorf("error %v", err)
		}
		if want.is != nil && !errors.Is(err, want.is) {
			t.Errorf("%v is not %v", err, want.is)
		}
	}
}

// TestForeignServer: something else that listens on the socket is named as such.
func TestForeignServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	go server.Serve(l)
	defer server.Close()
	_, err = newClient(t, path).Snapshot(t.Context())
	wantError(t, err, "the daemon answered 404 Not Found")
}

func TestCanceledContext(t *testing.T) {
	path, _ := start(t, &fakeBackend{}, ServerOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newClient(t, path).Version(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	wantError(t, err, "ask /v1/version: context canceled")
}

// TestListenerFails: Serve says so and leaves nothing behind.
func TestListenerFails(t *testing.T) {
	before := runtime.NumGoroutine()
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := Listen(path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- NewServer(discard(), &fakeBackend{}, ServerOptions{}).Serve(context.Background(), l)
	}()
	holdConn(t, path)
	l.Close()
	wantError(t, <-done, "serve api: ")
	wantGoroutines(t, before)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket: %v", err)
	}
}

// TestServeWithEndedContext closes the listener and returns.
func TestServeWithEndedContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := Listen(path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewServer(discard(), &fakeBackend{}, ServerOptions{}).Serve(ctx, l); err != nil {
		t.Error(err)
	}
	wantFiles(t, filepath.Dir(path), "d.sock.lock")
}

// TestMillionConnections streams a million through server and client in a few
// MiB: what both sides hold at once must not depend on the number.
func TestMillionConnections(t *testing.T) {
	count := 1_000_000
	if testing.Short() || raceDetector {
		count = 50_000
	}
	path, _ := start(t, &fakeBackend{conns: count}, ServerOptions{})
	client := newClient(t, path)
	runtime.GC()
	base := heap()
	var peak uint64
	n := 0
	begin := time.Now()
	err := client.Connections().List(t.Context(), "", func(c *director.Conn) error {
		if n++; n%20_000 == 0 {
			peak = max(peak, heap())
		}
		return nil
	})
	took := time.Since(begin)
	if n != count || err != nil {
		t.Fatalf("%d connections, %v", n, err)
	}
	grown := (max(peak, base) - base) >> 10
	t.Logf("%d connections in %v, heap grew by %d KiB at most", n, took.Round(time.Millisecond), grown)
	if grown > 32<<10 {
		t.Errorf("heap grew by %d KiB", grown)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
