// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api/connfilter"
)

// fakeBackend makes up its answers.
type fakeBackend struct {
	snapshot  *director.Snapshot
	conns     int   // how many connections there are
	connErr   error // after them
	templates []director.Conn
	reload    func(context.Context) error

	addresses director.AddressList
	health    director.HealthList
	history   []director.HealthHistory
	order     director.HealthOrder
	marks     director.MarkList
	asked     director.MarkQuestion

	explanation director.Explanation
	explainErr  error

	traced      []director.Traced
	tracedBytes int // that were asked for
	traceErr    error
	replayed    string // by which interface
	replayErr   error
	traceGoesOn bool // until nobody reads it

	timeouts    director.Timeouts
	timeoutsErr error

	edits      []director.Edit
	editErr    error
	changes    director.Changes
	zeroed     []string
	defense    director.DefenseState
	defenseErr error
	report     director.DefenseReport
	preview    director.Preview
	applied    []string
	stopped    []bool // of each Stop, detach
}

func (b *fakeBackend) Snapshot() *director.Snapshot    { return b.snapshot }
func (b *fakeBackend) Addresses() director.AddressList { return b.addresses }
func (b *fakeBackend) Explain(_ context.Context, q director.Question) (*director.Explanation, error) {
	e := b.explanation
	e.Question = q
	return &e, b.explainErr
}

func (b *fakeBackend) Trace(ctx context.Context, filter *connfilter.Packets, bytes int, yield func([]director.Traced, uint64) error) error {
	b.tracedBytes = bytes
	if b.traceErr != nil {
		return b.traceErr
	}
	if err := yield(nil, 0); err != nil {
		return err
	}
	var batch []director.Traced
	for i := range b.traced {
		if filter.Match(&b.traced[i]) {
			batch = append(batch, b.traced[i])
		}
	}
	if err := yield(batch, 3); err != nil {
		return err
	}
	if !b.traceGoesOn {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// Replay has one packet for each byte of the capture, then an error if there is one.
func (b *fakeBackend) Replay(_ context.Context, capture io.Reader, in string, yield func(*director.TraceLine) error) error {
	b.replayed = in
	for number := uint64(1); ; number++ {
		if _, err := io.ReadFull(capture, make([]byte, 1)); err != nil {
			return b.replayErr
		}
		p := director.Traced{Number: number, Verdict: "tx_forward", Length: 1}
		if err := yield(&director.TraceLine{Packet: &p}); err != nil {
			return err
		}
	}
}

func (b *fakeBackend) Version() string                  { return "v1.2.3" }
func (b *fakeBackend) Stop(detach bool)                 { b.stopped = append(b.stopped, detach) }
func (b *fakeBackend) Reload(ctx context.Context) error { return b.reload(ctx) }

func (b *fakeBackend) Health() director.HealthList { return b.health }

func (b *fakeBackend) HealthHistory(real, service string) ([]director.HealthHistory, error) {
	if real != "web1" {
		return nil, fmt.Errorf("no real server %q in %q", real, service)
	}
	return b.history, nil
}

func (b *fakeBackend) OrderHealth(o director.HealthOrder) (int, error) {
	if o.Real != "web1" {
		return 0, fmt.Errorf("no real server %q in %q", o.Real, o.Service)
	}
	b.order = o
	return 2, nil
}

func (b *fakeBackend) Marks(context.Context) (director.MarkList, error) { return b.marks, nil }

func (b *fakeBackend) ExplainMark(_ context.Context, q director.MarkQuestion) (director.MarkAnswer, error) {
	b.asked = q
	return director.MarkAnswer{Mark: 7, Rule: 3, Text: "{mark: 7}", Service: "web"}, nil
}

func (b *fakeBackend) Connections(ctx context.Context, yield func(*director.Conn) error) error {
	for i := range b.conns {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := fakeConn(i)
		if err := yield(&c); err != nil {
			return err
		}
	}
	return b.connErr
}

func (b *fakeBackend) Templates(ctx context.Context, yield func(*director.Conn) error) error {
	for i := range b.templates {
		if err := yield(&b.templates[i]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (b *fakeBackend) DeleteTemplates(ctx context.Context, match func(*director.Conn) bool) (n uint64, err error) {
	err = b.Templates(ctx, func(c *director.Conn) error {
		if match(c) {
			n++
		}
		return nil
	})
	return n, err
}

func (b *fakeBackend) DeleteConnections(ctx context.Context, match func(*director.Conn) bool) (n uint64, err error) {
	err = b.Connections(ctx, func(c *director.Conn) error {
		if match(c) {
			n++
		}
		return nil
	})
	return n, err
}

func (b *fakeBackend) Timeouts(context.Context) (director.Timeouts, error) {
	return b.timeouts, b.timeoutsErr
}

func (b *fakeBackend) SetTimeouts(_ context.Context, change director.Timeouts) (director.Timeouts, error) {
	for i, timeout := range change {
		b.timeouts[i] = cmp.Or(timeout, b.timeouts[i])
	}
	return b.timeouts, b.timeoutsErr
}

var (
	virtual4, virtual6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	real6              = netip.MustParseAddr("fd00::1")
)

var states = []string{"ESTABLISHED", "SYN_RECV", "FIN_WAIT", "UDP"}

// fakeConn is the i-th connection; every fourth is IPv6.
func fakeConn(i int) director.Conn {
	client, virtual, real := netip.Addr{}, virtual4, real6
	if i%4 == 3 {
		a := [16]byte{0x20, 1, 0x0d, 0xb8}
		binary.BigEndian.PutUint64(a[8:], uint64(i))
		client, virtual = netip.AddrFrom16(a), virtual6
	} else {
		client, real = netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
	}
	return director.Conn{
		Protocol: director.TCP,
		Client:   netip.AddrPortFrom(client, uint16(i)|1024),
		Virtual:  netip.AddrPortFrom(virtual, 443),
		Real:     netip.AddrPortFrom(real, 8443),
		State:    states[i%len(states)],
		Expires:  time.Duration(i) * time.Millisecond,
		Service:  "web",
	}
}

// start serves b on a socket of its own until stop, or the test's end. The test
// fails if Serve does or if a goroutine outlives the test.
func start(t testing.TB, b Backend, opts ServerOptions) (path string, stop func()) {
	t.Helper()
	before := runtime.NumGoroutine()
	path = filepath.Join(t.TempDir(), "run", "d.sock")
	l, err := Listen(path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return path, serve(t, l, b, opts, before)
}

func serve(t testing.TB, l net.Listener, b Backend, opts ServerOptions, before int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(discard(), b, opts).Serve(ctx, l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("Serve does not end\n%s", stacks())
		}
	}
	t.Cleanup(func() { stop(); wantGoroutines(t, before) })
	return stop
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// wantGoroutines waits for the number to fall to want.
func wantGoroutines(t testing.TB, want int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, want %d\n%s", runtime.NumGoroutine(), want, stacks())
}

func newClient(t testing.TB, path string) *Client {
	c := Dial(path)
	t.Cleanup(c.Close)
	return c
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

func wantStatus(t *testing.T, err error, want int) {
	t.Helper()
	var answer *Error
	if !errors.As(err, &answer) || answer.Status != want {
		t.Errorf("error %v, want status %d", err, want)
	}
}

func (b *fakeBackend) Config() ([]byte, error)   { return []byte("interfaces: [eth0]\n"), b.editErr }
func (b *fakeBackend) Changes() director.Changes { return b.changes }

func (b *fakeBackend) Edit(_ context.Context, edits []director.Edit) error {
	if b.editErr == nil {
		b.edits = append(b.edits, edits...)
	}
	return b.editErr
}

func (b *fakeBackend) DiscardChanges(context.Context) error {
	if b.editErr == nil {
		b.changes = director.Changes{}
	}
	return b.editErr
}

func (b *fakeBackend) Zero(_ context.Context, service string) error {
	b.zeroed = append(b.zeroed, service)
	return b.editErr
}

func (b *fakeBackend) Defense(context.Context) (director.DefenseState, error) {
	return b.defense, b.defenseErr
}

func (b *fakeBackend) SetDefense(_ context.Context, change director.DefenseChange) (director.DefenseState, error) {
	for name, text := range change {
		if err := b.defense.Set(name, text); err != nil {
			return b.defense, err
		}
	}
	return b.defense, b.defenseErr
}

func (b *fakeBackend) DefenseReport(context.Context) (director.DefenseReport, error) {
	return b.report, b.defenseErr
}

func (b *fakeBackend) Preview(_ context.Context, file string, text []byte) (director.Preview, error) {
	b.applied = append(b.applied, "plan "+file+" "+string(text))
	return b.preview, b.editErr
}

func (b *fakeBackend) Apply(_ context.Context, file string, text []byte, confirm time.Duration) error {
	b.applied = append(b.applied, fmt.Sprintf("apply %s %s %s", file, text, confirm))
	return b.editErr
}

func (b *fakeBackend) Confirm(context.Context) error {
	b.applied = append(b.applied, "confirm")
	return b.editErr
}

func (b *fakeBackend) Rollback(context.Context) error {
	b.applied = append(b.applied, "rollback")
	return b.editErr
}
