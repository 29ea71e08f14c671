// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/healthcheck"
	"xdplvs/internal/health"
	"xdplvs/internal/testkit"
)

// run starts a notifier with these targets.
func run(t *testing.T, targets ...Target) (*Notifier, *testkit.Log) {
	t.Helper()
	log := &testkit.Log{}
	n := New(log.Logger())
	n.Set(targets)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.Run(ctx) // it is the context's error
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Error("it does not end")
		}
	})
	return n, log
}

var (
	key   = director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	key6  = director.ServiceKey{Protocol: director.UDP, Addr: netip.MustParseAddr("2001:db8::1"), Port: 53}
	rs    = director.RealKey{Addr: netip.MustParseAddr("10.0.0.1"), Port: 8080}
	rs6   = director.RealKey{Addr: netip.MustParseAddr("fd00::1"), Port: 53}
	when  = time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	down  = health.Event{Time: when, Kind: health.RealDown, Service: key, ServiceName: "web", Real: rs, RealName: "web1", Evidence: "L4CON in 0ms: connection refused", Up: 2}
	lost  = health.Event{Time: when, Kind: health.QuorumLost, Service: key, ServiceName: "web", Up: 1.5}
	up6   = health.Event{Time: when, Kind: health.RealUp, Service: key6, Real: rs6}
	again = health.Event{Time: when, Kind: health.QuorumGained, Service: director.MarkKey(7, false)}
	mark  = health.Event{Time: when, Kind: health.RealDraining, Service: director.MarkKey(7, false), Real: rs}
	never = health.Event{Time: when, Kind: health.RealUnknown, Service: key, Real: rs}
)

// hook is a webhook that answers with these statuses, the last one for ever.
type hook struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	bodies   []string
	auth     string
}

func newHook(t *testing.T, statuses ...int) *hook {
	h := &hook{statuses: statuses}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		var b bytes.Buffer
		_, _ = b.ReadFrom(r.Body) // a broken body is not the wanted one
		h.bodies, h.auth = append(h.bodies, b.String()), r.Header.Get("Authorization")
		w.WriteHeader(h.statuses[0])
		if len(h.statuses) > 1 {
			h.statuses = h.statuses[1:]
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bodies)
}

// TestWebhook: events are posted, together if they come so, again if the webhook fails, and only those
// that are wanted.
func TestWebhook(t *testing.T) {
	h := newHook(t, 503, 204)
	n, log := run(t, Target{Webhook: &Webhook{URL: h.URL, Token: healthcheck.NewSecret("s3cret")}})
	for _, e := range []health.Event{down, never, lost} {
		n.Notify(e)
	}
	testkit.Eventually(t, "asked again", func() bool { return h.asked() == 2 })
	h.mu.Lock()
	defer h.mu.Unlock()
	var body struct{ Events []map[string]any }
	if err := json.Unmarshal([]byte(h.bodies[1]), &body); err != nil || len(body.Events) != 2 || h.auth != "Bearer s3cret" {
		t.Fatalf("%s with %q, %v", h.bodies[1], h.auth, err)
	}
	first, second := body.Events[0], body.Events[1]
	for _, c := range []struct {
		event       map[string]any
		field, want string
	}{
		{first, "event", "real_down"}, {first, "service", "web"}, {first, "virtual", "tcp 192.0.2.1:80"}, {first, "name", "web1"},
		{first, "real", "map[address:10.0.0.1 port:8080]"}, {first, "evidence", "L4CON in 0ms: connection refused"}, {first, "up", "2"},
		{first, "time", "2026-11-22T16:00:00Z"}, {second, "event", "quorum_lost"}, {second, "real", "<nil>"}, {second, "up", "1.5"},
	} {
		if got := fmt.Sprint(c.event[c.field]); got != c.want {
			t.Errorf("%s is %s, want %s", c.field, got, c.want)
		}
	}
	if log.String() != "" {
		t.Error(log)
	}
}

// TestWebhookFails: it is said so after three attempts, without what may be secret.
func TestWebhookFails(t *testing.T) {
	h := newHook(t, 500)
	n, log := run(t, Target{Webhook: &Webhook{URL: strings.Replace(h.URL, "http://", "http://u:hunter2@", 1) + "/x?token=hunter2", Token: healthcheck.NewSecret("hunter2")}})
	n.Notify(down)
	testkit.Eventually(t, "failed", func() bool { return strings.Contains(log.String(), "event=notify_failed") })
	if h.asked() != attempts || !strings.Contains(log.String(), "500 Internal") || strings.Contains(log.String(), "hunter2") {
		t.Errorf("%d attempts, log %s", h.asked(), log)
	}
}

// TestStuck: a target that takes nothing holds up nobody, and what it misses is counted.
func TestStuck(t *testing.T) {
	release := make(chan struct{})
	stuck := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer stuck.Close()
	h := newHook(t, 200)
	n, log := run(t, Target{Webhook: &Webhook{URL: stuck.URL}, Timeout: time.Hour}, Target{Webhook: &Webhook{URL: h.URL}, Events: []health.Kind{health.QuorumLost}})
	begin := time.Now()
	for range queued + 10*together {
		n.Notify(down)
	}
	n.Notify(lost)
	if took := time.Since(begin); took > 20*time.Second { // the stuck one has an hour
		t.Errorf("it took %v", took)
	}
	testkit.Eventually(t, "the other one is told", func() bool { return h.asked() == 1 })
	if got := strings.Count(log.String(), "event=notify_full"); got != 1 {
		t.Errorf("told %d times that it is full", got)
	}
	close(release)
	testkit.Eventually(t, "what was lost is counted", func() bool {
		n.Notify(down)
		return strings.Contains(log.String(), "event=notify_lost")
	})
}

// TestSet: a target that stays is not told twice, and one that goes is told what it was to be told.
func TestSet(t *testing.T) {
	h, other := newHook(t, 200), newHook(t, 200)
	target := func(h *hook) Target { return Target{Webhook: &Webhook{URL: h.URL}} }
	n, _ := run(t, target(h))
	n.Notify(down)
	n.Set([]Target{target(other)})
	n.Set([]Target{target(other)})
	n.Notify(lost)
	testkit.Eventually(t, "both are told", func() bool { return h.asked() == 1 && other.asked() == 1 })
	time.Sleep(300 * time.Millisecond)
	if h.asked() != 1 || other.asked() != 1 || strings.Contains(h.bodies[0], "quorum_lost") || strings.Contains(other.bodies[0], "real_down") {
		t.Errorf("the first was told %q, the second %q", h.bodies, other.bodies)
	}
}

// mailServer takes one mail, and gives what it was told.
func mailServer(t *testing.T) (addr string, said <-chan string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		c <- converse(conn)
	}()
	return l.Addr().String(), c
}

func converse(conn net.Conn) string {
	var said strings.Builder
	fmt.Fprint(conn, "220 mx ESMTP\r\n")
	lines := bufio.NewScanner(conn)
	inData := false
	for lines.Scan() {
		text := lines.Text()
		said.WriteString(text + "\n")
		switch {
		case inData && text != ".":
			continue
		case text == "DATA":
			inData = true
			fmt.Fprint(conn, "354 go on\r\n")
			continue
		case strings.HasPrefix(text, "EHLO"):
			fmt.Fprint(conn, "250-mx\r\n250 AUTH PLAIN\r\n")
			continue
		}
		inData = false
		code := map[bool]int{true: 235, false: 250}[strings.HasPrefix(text, "AUTH")]
		fmt.Fprintf(conn, "%d fine\r\n", code)
		if text == "QUIT" {
			break
		}
	}
	return said.String()
}

// TestMail: what comes together is one mail, with the first event in its subject.
func TestMail(t *testing.T) {
	addr, said := mailServer(t)
	n, log := run(t, Target{Mail: &Mail{Server: addr, From: "d@example.com", To: []string{"a@example.com", "b@example.com"}, User: "u", Password: healthcheck.NewSecret("p")}})
	n.Notify(down)
	n.Notify(lost)
	var text string
	select {
	case text = <-said:
	case <-time.After(20 * time.Second):
		t.Fatalf("no mail; %s", log)
	}
	for _, want := range []string{
		"AUTH PLAIN AHUAcA==", "MAIL FROM:<d@example.com>", "RCPT TO:<a@example.com>", "RCPT TO:<b@example.com>", "To: a@example.com, b@example.com",
		"Subject: [director] Real server web1 (10.0.0.1:8080) of service web: down, L4CON in 0ms: connection refused (and 1 more)",
		"2026-11-22T16:00:00Z  Service web has lost its quorum; weight 1.5 is up",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestCommand: it is told what happened, and killed with what it has started when its time is over.
func TestCommand(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	out := filepath.Join(dir, "out")
	n, log := run(t,
		Target{Command: &Command{Path: script("tell", `echo "$@ / $DIRECTOR_EVENT $DIRECTOR_SERVICE $DIRECTOR_VIRTUAL $DIRECTOR_REAL $DIRECTOR_REAL_NAME $DIRECTOR_EVIDENCE $DIRECTOR_UP" >> `+out), Args: []string{"a b"}}},
		Target{Command: &Command{Path: script("fail", "echo no such luck; exit 3")}, Events: []health.Kind{health.RealDown}},
		Target{Command: &Command{Path: script("hang", "sleep 1000 & wait")}, Timeout: 200 * time.Millisecond, Events: []health.Kind{health.RealDown}})
	n.Notify(down)
	n.Notify(lost)
	const want = "a b real_down web 10.0.0.1:8080 / real_down web tcp 192.0.2.1:80 10.0.0.1:8080 web1 L4CON in 0ms: connection refused 2\n" +
		"a b quorum_lost web / quorum_lost web tcp 192.0.2.1:80    1.5\n"
	testkit.Eventually(t, want, func() bool { text, _ := os.ReadFile(out); return string(text) == want })
	testkit.Eventually(t, "two failures", func() bool { return strings.Count(log.String(), "event=notify_failed") == 2 })
	for _, text := range []string{"exit status 3", "no such luck", "signal: killed"} {
		if !strings.Contains(log.String(), text) {
			t.Errorf("no %q in %s", text, log)
		}
	}
}

// TestFIFO: lines are keepalived's; what nobody reads is kept, and what is no FIFO is left alone.
func TestFIFO(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fifo")
	n, _ := run(t, Target{FIFO: path, Events: []health.Kind{health.RealUp, health.RealDown, health.RealDraining, health.RealUnknown, health.QuorumLost, health.QuorumGained}})
	for _, e := range []health.Event{down, lost, never, up6, again, mark} {
		n.Notify(e)
	}
	testkit.Eventually(t, "it is there", func() bool { _, err := os.Stat(path); return err == nil })
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for _, want := range []string{
		"RS [10.0.0.1]:tcp:8080 [192.0.2.1]:tcp:80 DOWN", "VS [192.0.2.1]:tcp:80 DOWN", "RS [fd00::1]:udp:53 [2001:db8::1]:udp:53 UP", "VS FWM 7 UP",
		"RS [10.0.0.1]:none:8080 FWM 7 DOWN",
	} {
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("got %q, want %q", lines.Text(), want)
		}
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, log := run(t, Target{FIFO: plain})
	n.Notify(down)
	testkit.Eventually(t, "refused", func() bool { return strings.Contains(log.String(), "is no FIFO") })
	if text, _ := os.ReadFile(plain); string(text) != "x" {
		t.Errorf("the file is %q now", text)
	}
}
