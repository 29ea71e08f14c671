// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/netlab"
	"xdplvs/internal/testkit"
)

// daemon is a director that runs.
type daemon struct {
	f    *farm
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{}
	err  error // of the process, when done is closed
}

type lockedBuffer struct{ testkit.Log }

// tail is the end of the log, as much as helps to see why a test failed.
func (l *lockedBuffer) tail() string {
	lines := slices.Collect(strings.Lines(l.String()))
	return strings.Join(lines[max(0, len(lines)-20):], "")
}

// start runs the director and waits until it is ready.
func (f *farm) start() *daemon {
	f.t.Helper()
	d := f.launch()
	d.waitLog("event=ready", 1)
	return d
}

// awaitHops waits until the director knows about each next hop whether it can be reached. A start
// does that, a reload does not.
func (f *farm) awaitHops() {
	f.t.Helper()
	eventually(f.t, patience, func() error {
		if out := f.output("list"); strings.Contains(out, "is being resolved") {
			return fmt.Errorf("list shows\n%s", out)
		}
		return nil
	})
}

// launch runs the director.
func (f *farm) launch() *daemon {
	f.t.Helper()
	return f.launchWith()
}

// launchWith runs the director with more variables in its environment.
func (f *farm) launchWith(env ...string) *daemon {
	f.t.Helper()
	return f.launchAs(nil, env)
}

// launchAs runs the director with more flags and variables.
func (f *farm) launchAs(flags, env []string) *daemon {
	f.t.Helper()
	return f.launchBy([]string{program}, flags, env)
}

// launchBy runs the director by a command that ends with the program's path.
func (f *farm) launchBy(command, flags, env []string) *daemon {
	f.t.Helper()
	d := &daemon{f: f, log: &lockedBuffer{}, done: make(chan struct{})}
	args := append(slices.Clone(command[1:]), "run", "-c", f.configFile(), "--log-format", "text")
	d.cmd = f.director.Command(context.Background(), command[0], append(args, flags...)...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.Env = append(environment(), env...)
	must(f.t, f.director.Start(d.cmd))
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	f.t.Cleanup(func() {
		d.kill()
		if strings.Contains(d.log.String(), "DATA RACE") {
			f.t.Errorf("director's log:\n%s", d.log)
		}
		if f.t.Failed() {
			f.t.Logf("director's log ends:\n%s", d.log.tail())
		}
	})
	return d
}

// environment is the tests' own, and keeps a program with race detector from sleeping before it ends.
func environment() []string { return append(os.Environ(), "GORACE=atexit_sleep_ms=0") }

// loadPatience is how long a director may take to load its program, of which the kernel has much to check.
var loadPatience = 12 * patience

// waitLog waits until the log has the text so many times.
func (d *daemon) waitLog(text string, times int) {
	d.f.t.Helper()
	until(d.f.t, loadPatience, loadPatience, func() error {
		if n := strings.Count(d.log.String(), text); n < times {
			d.mustRun(text)
			return fmt.Errorf("log has %q %d times, not %d:\n%s", text, n, times, d.log.tail())
		}
		return nil
	})
}

// mustRun fails when the director has ended.
func (d *daemon) mustRun(waitingFor string) {
	d.f.t.Helper()
	select {
	case <-d.done:
		d.f.t.Fatalf("director ended (%v) before it said %q:\n%s", d.err, waitingFor, d.log.tail())
	default:
	}
}

// hangup makes the director read its configuration again, and waits until it has said the word,
// "event=reloaded" or "event=reload_refused", once more.
func (d *daemon) hangup(word string) {
	d.f.t.Helper()
	before := strings.Count(d.log.String(), word)
	must(d.f.t, d.cmd.Process.Signal(syscall.SIGHUP))
	d.waitLog(word, before+1)
}

// stop ends the director as an administrator would and returns its exit code.
func (d *daemon) stop() int {
	d.f.t.Helper()
	must(d.f.t, d.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-d.done:
	case <-time.After(2 * patience):
		d.f.t.Fatalf("director did not stop within %v:\n%s", 2*patience, d.log)
	}
	return d.cmd.ProcessState.ExitCode()
}

// kill is kill -9.
func (d *daemon) kill() {
	d.cmd.Process.Kill() // fails if it has ended
	<-d.done
}

// result is what a command of the director printed.
type result struct {
	stdout, stderr string
	code           int
}

// run runs a command of the director on its machine.
func (f *farm) run(args ...string) result {
	f.t.Helper()
	return f.runWith(f.socket(), args...)
}

func (f *farm) runWith(socket string, args ...string) result {
	f.t.Helper()
	return runOn(f.t, f.director, append([]string{"-s", socket}, args...)...)
}

// runOn runs a command of the director on some host.
func runOn(t *testing.T, h *netlab.Host, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	defer cancel()
	cmd := h.Command(ctx, commands, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = environment()
	must(t, h.Start(cmd))
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// output runs a command that must succeed without a word on standard error, and returns what it prints.
func (f *farm) output(args ...string) string {
	f.t.Helper()
	r := f.run(args...)
	if r.code != 0 || r.stderr != "" {
		f.t.Fatalf("director %s: exit %d, stderr %q, stdout:\n%s", strings.Join(args, " "), r.code, r.stderr, r.stdout)
	}
	return r.stdout
}

// reload is director reload.
func (f *farm) reload() {
	f.t.Helper()
	if out := f.output("reload"); out != "reloaded\n" {
		f.t.Fatalf("director reload printed %q", out)
	}
}

// decode runs a command with -o json and decodes what it prints, without unknown keys.
func (f *farm) decode(v any, args ...string) {
	f.t.Helper()
	d := json.NewDecoder(strings.NewReader(f.output(append(args, "-o", "json")...)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		f.t.Fatalf("director %s -o json: %v", strings.Join(args, " "), err)
	}
}

// snapshot is what list -o json shows.
func (f *farm) snapshot() *director.Snapshot {
	f.t.Helper()
	var s director.Snapshot
	f.decode(&s, "list")
	return &s
}

// service is a service's state, by its name.
func (f *farm) service(name string) director.ServiceState {
	f.t.Helper()
	for _, s := range f.snapshot().Services {
		if s.Name == name {
			return s
		}
	}
	f.t.Fatalf("no service %s in the list", name)
	return director.ServiceState{}
}

// realState is a real server's state, by its name and that of its service.
func (f *farm) realState(service, name string) director.RealState {
	f.t.Helper()
	for _, r := range f.service(service).Reals {
		if r.Name == name {
			return r
		}
	}
	f.t.Fatalf("no real server %s in service %s", name, service)
	return director.RealState{}
}

// connections is what connections -o json shows.
func (f *farm) connections(filter ...string) []director.Conn {
	f.t.Helper()
	return f.entries(append([]string{"connections", "-o", "json"}, filter...)...)
}

// entries are the connections, or templates, that a command prints as JSON.
func (f *farm) entries(args ...string) (list []director.Conn) {
	f.t.Helper()
	d := json.NewDecoder(strings.NewReader(f.output(args...)))
	for d.More() {
		var c director.Conn
		must(f.t, d.Decode(&c))
		list = append(list, c)
	}
	return list
}

// ofFamily appends the digit that the names of services have.
func ofFamily(name string, vip netip.Addr) string {
	if vip.Is4() {
		return name + "4"
	}
	return name + "6"
}
