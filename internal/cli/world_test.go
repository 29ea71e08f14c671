// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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
	"xdplvs/internal/api/connfilter"
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
	health    director.HealthList
	history   []director.HealthHistory
	order     director.HealthOrder
	marks     director.MarkList
	answer    director.MarkAnswer

	explanation director.Explanation
	explainErr  error

	traced      []director.Traced
	tracedBytes int // that were asked for
	traceLost   uint64
	traceErr    error
	replayed    string // by which interface
	capture     string // what was sent of it
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
}

func (b *fakeBackend) Explain(_ context.Context, q director.Question) (*director.Explanation, error) {
	e := b.explanation
	e.Question = q
	return &e, b.explainErr
}

// Trace has its packets, and news of two that are missing.
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
	if err := yield(batch, b.traceLost); err != nil {
		return err
	}
	if !b.traceGoesOn {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// Replay reads the capture, and has its packets, and one that is skipped.
func (b *fakeBackend) Replay(_ context.Context, capture io.Reader, in string, yield func(*director.TraceLine) error) error {
	b.replayed = in
	text, err := io.ReadAll(capture)
	if err != nil || b.replayErr != nil {
		return errors.Join(err, b.replayErr)
	}
	b.capture = string(text)
	for i := range b.traced {
		p := b.traced[i]
		p.Number = uint64(i + 1)
		if err := yield(&director.TraceLine{Packet: &p}); err != nil {
			return err
		}
	}
	return yield(&director.TraceLine{Skipped: &director.SkippedPacket{Number: 5, Why: "it is one that was sent"}})
}

func (b *fakeBackend) Version() string                 { return "v0.9.9" }
func (b *fakeBackend) Addresses() director.AddressList { return b.addresses }
func (b *fakeBackend) Reload(context.Context) error    { return b.reload }
func (b *fakeBackend) Stop(bool)                       {}

func (b *fakeBackend) Marks(context.Context) (director.MarkList, error) { return b.marks, nil }

// ExplainMark answers, but for what there cannot be.
func (b *fakeBackend) ExplainMark(_ context.Context, q director.MarkQuestion) (director.MarkAnswer, error) {
	if q.Interface == "eth9" {
		return director.MarkAnswer{}, errors.New("interface eth9: no such interface")
	}
	return b.answer, nil
}

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
		Import: func(_, file string) ([]byte, []string, error) {
			if file == "missing" {
				return nil, nil, errors.New("read configuration: open missing: no such file or directory")
			}
			return []byte("services:\n  - {virtual: 192.0.2.1:80}\n"), []string{file + ":3: not carried over: quorum 2: health checks are not carried over yet"}, nil
		},
		ImportFormats: []string{"keepalived", "ldirectord"},
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

func (b *fakeBackend) Config() ([]byte, error)   { return []byte("interfaces: [eth0]\n"), b.editErr }
func (b *fakeBackend) Changes() director.Changes { return b.changes }

func (b *fakeBackend) Edit(_ context.Context, edits []director.Edit) error {
	b.mu.Lock()
	defer b.mu.Unlock()
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

// made are the edits that were made, one a line.
func (b *fakeBackend) made() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text strings.Builder
	for _, e := range b.edits {
		set, _ := json.Marshal(e.Set) // what was JSON before
		fmt.Fprintf(&text, "%s %q %q %s\n", e.Op, e.Service, e.Real, set)
	}
	return text.String()
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
	if b.defense.Get("drop_packet") == "3" {
		b.defense.Rate = b.defense.DropRate
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
