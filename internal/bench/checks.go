// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/netlab"
)

// A farm that is checked 5,000 times a minute, half of it by HTTP and half by TCP.
const (
	checkedReals    = 100
	checkedInterval = 1200 * time.Millisecond
	checksPerMinute = float64(checkedReals) * float64(time.Minute) / float64(checkedInterval)
	checkedVIP      = "10.0.200.1"
)

// checkedWays are the ways of the probes; way begins what the director says of it.
var checkedWays = []struct{ name, key, way, what string }{
	{"direct", "checks_direct_cpu_percent", "", "of one core, for 5,000 checks a minute that ask real servers directly"},
	{"service", "checks_service_cpu_percent", "via " + checkedVIP, "the same, as a client's: via the service, by dr"},
}

// Checks measures what checking costs: the processor time of a running director, less that of one beside it with the
// same services and no checks. What the kernel does for the probes is in it, where it does that for the sender.
func Checks(opts Options) ([]Gauge, error) {
	lab, err := netlab.New("checks")
	if err != nil {
		return nil, err
	}
	defer lab.Close()
	farm, err := newCheckedFarm(lab)
	if err != nil {
		return nil, err
	}
	defer farm.close()
	idle, err := farm.start("idle", "")
	if err != nil {
		return nil, err
	}
	var gauges []Gauge
	for _, w := range checkedWays {
		checking, err := farm.start(w.name, "via: "+w.name)
		if err != nil {
			return nil, err
		}
		shares, err := checking.shares(opts, idle, w.way)
		if err = errors.Join(err, checking.stop()); err != nil {
			return nil, fmt.Errorf("checks, %s: %w", w.name, err)
		}
		gauges = append(gauges, gauged(opts, Gauge{Key: w.key, Unit: "%", Limit: 5, What: w.what}, shares))
	}
	return gauges, nil
}

// checkedFarm is one host that is all the real servers, and the directors that check them.
type checkedFarm struct {
	lab       *netlab.Lab
	sw        *netlab.Switch
	program   string
	dir       string // of the directors' files
	directors []*checkingDirector
}

func newCheckedFarm(lab *netlab.Lab) (*checkedFarm, error) {
	sw, err := lab.Switch("sw")
	if err != nil {
		return nil, err
	}
	host, err := lab.Host("farm")
	if err != nil {
		return nil, err
	}
	var own []netip.Prefix
	for i := range checkedReals {
		own = append(own, netip.PrefixFrom(checkedReal(i), 16))
	}
	if _, err := host.Connect(sw, "eth0", own...); err != nil {
		return nil, err
	}
	if err := host.RealServerDR(netip.MustParseAddr(checkedVIP)); err != nil {
		return nil, err
	}
	if err := serveChecks(host); err != nil {
		return nil, err
	}
	f := &checkedFarm{lab: lab, sw: sw}
	if f.dir, err = os.MkdirTemp("", "bench-checks"); err != nil {
		return nil, err
	}
	return f, f.build()
}

func checkedReal(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1, byte(i + 1)}) }

// serveChecks answers on both ports of all addresses.
func serveChecks(host *netlab.Host) error {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "all is well") })
	for _, port := range []string{"80", "81"} {
		l, err := host.Listen("tcp4", "0.0.0.0:"+port)
		if err != nil {
			return err
		}
		go http.Serve(l, answer) // until the process ends
	}
	return nil
}

// build makes the director that is measured: the checked-out one.
func (f *checkedFarm) build() error {
	f.program = filepath.Join(f.dir, "director")
	cmd := exec.Command("go", "build", "-o", f.program, "./cmd/director")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the director: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (f *checkedFarm) close() error {
	var errs []error
	for _, d := range f.directors {
		errs = append(errs, d.stop())
	}
	return errors.Join(append(errs, os.RemoveAll(f.dir))...)
}

// config is the text of a configuration whose services' checks go some way; none: they have no checks.
func (f *checkedFarm) config(d *checkingDirector, way string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "interfaces: [eth0]\nsocket: %s\nstate_dir: %s\n", d.socket, d.pins)
	b.WriteString("limits: {connections4: 16k, connections6: 16k, services: 16, real_servers: 256, plan_slots: 64k}\nservices:\n")
	for port, how := range map[int]string{80: "http: {path: /, body: {regex: all is (well|fine)}}", 81: "tcp: {}"} {
		fmt.Fprintf(&b, "  - {virtual: '%s:%d', method: dr, ", checkedVIP, port)
		if way != "" {
			fmt.Fprintf(&b, "check: {%s, interval: %s, timeout: 1s, %s}, ", how, checkedInterval, way)
		}
		var reals []string
		for i := port % 2; i < checkedReals; i += 2 {
			reals = append(reals, checkedReal(i).String())
		}
		fmt.Fprintf(&b, "reals: [%s]}\n", strings.Join(reals, ", "))
	}
	return b.String()
}

// checkingDirector is a director that runs.
type checkingDirector struct {
	socket, pins string
	cmd          *exec.Cmd
	out          bytes.Buffer
	client       *api.Client
}

// start runs a director until it serves.
func (f *checkedFarm) start(name, way string) (*checkingDirector, error) {
	host, err := f.lab.Host(name)
	if err != nil {
		return nil, err
	}
	if _, err := host.Connect(f.sw, "eth0", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(len(f.directors) + 1)}), 16)); err != nil {
		return nil, err
	}
	files := filepath.Join(f.dir, name)
	if err := os.Mkdir(files, 0o700); err != nil {
		return nil, err
	}
	d := &checkingDirector{socket: filepath.Join(files, "director.sock"),
		pins: filepath.Join("/sys/fs/bpf", strings.ReplaceAll(host.NSName(), ".", "-"))}
	file := filepath.Join(files, "director.yaml")
	if err := os.WriteFile(file, []byte(f.config(d, way)), 0o600); err != nil {
		return nil, err
	}
	d.cmd = host.Command(context.Background(), f.program, "run", "-c", file)
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	if err := host.Start(d.cmd); err != nil {
		return nil, err
	}
	d.client = api.Dial(d.socket)
	f.directors = append(f.directors, d)
	return d, d.await()
}

// await returns when the director answers, with what it said if it does not.
func (d *checkingDirector) await() error {
	var err error
	for range 300 {
		if _, err = d.client.Version(context.Background()); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.Join(err, d.stop(), errors.New(d.out.String()))
}

// stop ends the director as an administrator does; a second call does nothing.
func (d *checkingDirector) stop() error {
	if d.cmd.ProcessState != nil {
		return nil
	}
	d.client.Close()
	err := d.cmd.Process.Signal(syscall.SIGTERM)
	return errors.Join(err, d.cmd.Wait(), os.RemoveAll(d.pins))
}

// shares are the percent of a core that the checks take.
func (d *checkingDirector) shares(opts Options, idle *checkingDirector, way string) (percent []float64, err error) {
	time.Sleep(3 * checkedInterval) // everybody has been asked, and is up
	before, err := d.made(way)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	for range opts.Windows {
		share, err := moreTime(processClock(d.cmd.Process.Pid), processClock(idle.cmd.Process.Pid), opts.Window)
		if err != nil {
			return nil, err
		}
		percent = append(percent, share)
	}
	after, err := d.made(way)
	if err != nil {
		return nil, err
	}
	const off = 0.1
	if rate := float64(after-before) / time.Since(begin).Minutes(); rate < (1-off)*checksPerMinute || rate > (1+off)*checksPerMinute {
		return nil, fmt.Errorf("%.0f checks a minute were made, not %.0f", rate, checksPerMinute)
	}
	return percent, nil
}

// made is how many checks there were, all of which must have gone that way and say up.
func (d *checkingDirector) made(way string) (total uint64, err error) {
	list, err := d.client.Health(context.Background())
	if err != nil {
		return 0, err
	}
	for _, s := range list.Services {
		for _, r := range s.Reals {
			for _, c := range r.Checks {
				if c.Condition != director.Up || c.Failures > 0 || !strings.HasPrefix(c.Way, way) {
					return 0, fmt.Errorf("the check of %s %s is %s: %s", r.Key, c.Way, c.Condition, c.Last)
				}
				total += c.Checks
			}
		}
	}
	return total, nil
}
