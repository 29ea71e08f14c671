// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/doctor"
	"xdplvs/internal/realserver"
)

var update = flag.Bool("update", false, "write the golden files")

// childArgs is the variable by which a test starts this program as another
// user: its words are the arguments of Run.
const childArgs = "CLI_TEST_CHILD_ARGS"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(childArgs); ok {
		os.Exit(Run(context.Background(), Env{Stdout: os.Stdout, Stderr: os.Stderr}, strings.Fields(args)))
	}
	os.Exit(m.Run())
}

// fakeBackend makes up its answers.
type fakeBackend struct {
	mu        sync.Mutex
	snapshot  *director.Snapshot // nil: still starting
	conns     []director.Conn
	million   int   // this many of conns, over and over
	connErr   error // after them
	templates []director.Conn
	reload    error

	addresses director.AddressList

	explanation director.Explanation
	explainErr  error

	timeouts    director.Timeouts
	timeoutsErr error
}

func (b *fakeBackend) Explain(_ context.Context, q director.Question) (*director.Explanation, error) {
	e := b.explanation
	e.Question = q
	return &e, b.explainErr
}

func (b *fakeBackend) Version() string                 { return "v0.9.9" }
func (b *fakeBackend) Addresses() director.AddressList { return b.addresses }
func (b *fakeBackend) Reload(context.Context) error    { return b.reload }

func (b *fakeBackend) Snapshot() *director.Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snapshot
}

func (b *fakeBackend) set(s *director.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.snapshot = s
}

func (b *fakeBackend) Connections(ctx context.Context, yield func(*director.Conn) error) error {
	for i := range max(len(b.conns), b.million) {
		c := b.conns[i%len(b.conns)]
		if err := errors.Join(ctx.Err(), yield(&c)); err != nil {
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

// world is a daemon, or none, and what a command sees of it.
type world struct {
	socket string
	stop   func()
	env    Env
	vars   map[string]string
	stdout io.Writer // instead of a buffer
}

// newWorld starts a daemon that offers b; without b there is none.
func newWorld(t testing.TB, b api.Backend) *world {
	t.Helper()
	w := &world{socket: filepath.Join(t.TempDir(), "d.sock"), stop: func() {}, vars: map[string]string{}}
	w.env = Env{
		LookupEnv: func(name string) (string, bool) { v, ok := w.vars[name]; return v, ok },
		BuildInfo: func() (*debug.BuildInfo, bool) { return testBuild(), true },
		Daemon:    func(context.Context, DaemonOptions) error { return errors.New("attach eth0: device is busy") },
		Check:     testCheck,
		Doctor:    testDoctor,
		Services:  testServices,
		ApplyReal: testApply,
	}
	w.vars[envSocket] = w.socket
	if b != nil {
		w.stop = serve(t, b, w.socket)
	}
	return w
}

func serve(t testing.TB, b api.Backend, socket string) (stop func()) {
	t.Helper()
	l, err := api.Listen(socket, api.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	go func() { done <- api.NewServer(log, b, api.ServerOptions{Grace: 10 * time.Second}).Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func testBuild() *debug.BuildInfo {
	return &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Path: "xdplvs", Version: "v0.1.0"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
		{Key: "vcs.time", Value: "2026-11-22T16:00:00Z"},
		{Key: "vcs.modified", Value: "true"},
	}}
}

func testCheck(file string) (string, error) {
	if file == "good.yaml" {
		return "3 services, 9 real servers", nil
	}
	return "", errors.Join(
		errors.New("bad.yaml:3:9: services[0].address: 192.0.2.300 is no address"),
		errors.New("bad.yaml:7:5: services[0].sheduler: unknown key (known: name, address, port, scheduler)"))
}

// testDoctor finds nothing wrong with a machine, but something with every configuration.
func testDoctor(_ context.Context, file string, timeout time.Duration) (*doctor.Report, error) {
	report := &doctor.Report{Findings: []doctor.Finding{
		{Level: doctor.OK, Check: "kernel", Text: fmt.Sprintf("Linux 6.1.0, with BTF, seen within %v", timeout)},
	}}
	if file == "" {
		return report, nil
	}
	if _, err := testCheck(file); err != nil {
		return nil, err
	}
	report.Failures, report.Warnings = 1, 1
	report.Findings = append(report.Findings,
		doctor.Finding{Level: doctor.Warning, Check: "xdp", Subject: "eth0", Text: "eth0 (tg3): generic mode", Advice: "another driver"},
		doctor.Finding{Level: doctor.Failure, Check: "capabilities", Text: "missing: CAP_BPF"})
	return report, nil
}

func testServices(file string) ([]director.Service, error) {
	if _, err := testCheck(file); err != nil {
		return nil, err
	}
	reals := []director.RealServer{
		{Key: director.RealKey{Addr: netip.MustParseAddr("10.0.0.1")}, Method: director.DirectRouting},
		{Key: director.RealKey{Addr: netip.MustParseAddr("10.0.0.2")}, Method: director.Local},
	}
	masq := reals[0]
	masq.Method = director.NAT
	return []director.Service{
		{Key: director.ServiceKey{Addr: netip.MustParseAddr("192.0.2.10")}, Reals: reals},
		{Key: director.ServiceKey{Addr: netip.MustParseAddr("192.0.2.11")}, Reals: []director.RealServer{masq}},
	}, nil
}

// testApply finds every second step done already, and cannot do the address 192.0.2.66.
func testApply(plan realserver.Plan, remove bool, tell func(realserver.Step)) error {
	for i, a := range plan.Addresses {
		tell(realserver.Step{What: fmt.Sprintf("set something, remove is %v", remove), Changed: i%2 == 1})
		if a.Addr == netip.MustParseAddr("192.0.2.66") {
			return fmt.Errorf("add %s to %s: %w", a.Prefix(), a.Device, os.ErrPermission)
		}
		tell(realserver.Step{What: fmt.Sprintf("change %s, remove is %v", a.Prefix(), remove), Changed: i%2 == 0})
	}
	return nil
}

// run runs a command and returns its exit code and outputs.
func (w *world) run(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	env := w.env
	env.Stdout, env.Stderr = &out, &errs
	if w.stdout != nil {
		env.Stdout = w.stdout
	}
	code = Run(ctx, env, args)
	return code, out.String(), errs.String()
}

// golden compares what a command does with testdata/golden/NAME.txt: the
// command, standard output, standard error, the exit code.
func (w *world) golden(t *testing.T, name string, args ...string) {
	t.Helper()
	code, stdout, stderr := w.run(t.Context(), args...)
	got := fmt.Sprintf("$ director %s\n%s", strings.Join(args, " "), stdout)
	if stderr != "" {
		got += "-- stderr --\n" + stderr
	}
	got += fmt.Sprintf("-- exit %d --\n", code)
	got = strings.ReplaceAll(got, w.socket, "SOCKET")
	wantFile(t, filepath.Join("testdata", "golden", name+".txt"), got)
}

func wantFile(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// service makes a service from tcp 192.0.2.1:80.
func service(protocol director.Protocol, address, scheduler string, reals ...director.RealState) director.ServiceState {
	a := netip.MustParseAddrPort(address)
	return director.ServiceState{Key: director.ServiceKey{Protocol: protocol, Addr: a.Addr(), Port: a.Port()}, Scheduler: scheduler, Reals: reals}
}

func real(address string, method director.Method, weight, active, inactive uint32) director.RealState {
	a := netip.MustParseAddrPort(address)
	return director.RealState{Key: director.RealKey{Addr: a.Addr(), Port: a.Port()}, Method: method,
		Weight: weight, EffectiveWeight: weight, Active: active, Inactive: inactive, Reachable: true}
}

func conn(protocol director.Protocol, expires time.Duration, state, client, virtual, real string) director.Conn {
	return director.Conn{Protocol: protocol, Expires: expires, State: state, Client: netip.MustParseAddrPort(client),
		Virtual: netip.MustParseAddrPort(virtual), Real: netip.MustParseAddrPort(real)}
}
