// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"xdplvs/internal/testkit"
)

// TestReload: the service manager is told when it begins and how it ends.
func TestReload(t *testing.T) {
	m := newManager(t)
	h := newHalf(t, weighing(1))
	h.write(weighing(7))
	if err := h.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.weight() != 7 {
		t.Errorf("weight %d is in force", h.weight())
	}
	if status := m.expectReload(); status != "reloaded" {
		t.Errorf("status %q", status)
	}
	expectText(t, "log", h.log.String(), "event=reloaded")
}

// TestReloadRefused: whatever is wrong, the old configuration stays in force, and
// the caller, the log and the service manager are told why and where.
func TestReloadRefused(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		why    []string
	}{
		"unknown key":      {"interfaces: [eth0]\nservises: []\n", []string{"director.yaml:2:1: ", "servises"}},
		"unknown value":    {strings.Replace(weighing(1), "reals:", "scheduler: best\n    reals:", 1), []string{"director.yaml:4:16: ", "best"}},
		"twice":            {"interfaces: [eth0]\nservices:\n  - virtual: 192.0.2.1:80\n  - virtual: 192.0.2.1:80\n", []string{"director.yaml:4:5: ", "already in line 3"}},
		"no YAML":          {"interfaces: [eth0\n", []string{"director.yaml:"}},
		"limits":           {weighing(2) + "limits: {services: 5}\n", []string{"director.yaml: ", "limits", "restart"}},
		"state directory":  {weighing(2) + "state_dir: /sys/fs/bpf/elsewhere\n", []string{"director.yaml: ", "state_dir", "restart"}},
		"socket":           {weighing(2) + "socket: /run/elsewhere.sock\n", []string{"director.yaml: ", "socket", "restart"}},
		"more than limits": {weighing(2) + "  - {virtual: 192.0.2.2:80, scheduler: mh}\n" + "limits: {plan_slots: 4k}\n", []string{"limits"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t)
			h := newHalf(t, weighing(1))
			before := h.snapshot().Generation
			h.write(c.config)
			err := h.reload(t.Context())
			if err == nil {
				t.Fatal("it was not refused")
			}
			expectText(t, "error", err.Error(), c.why...)
			expectText(t, "status", m.expectReload(), append(c.why, "reload refused: ")...)
			if after := h.snapshot(); after.Generation != before || h.weight() != 1 {
				t.Errorf("generation %d (before %d), weight %d", after.Generation, before, h.weight())
			}
			h.write(weighing(3))
			if err := h.reload(t.Context()); err != nil || h.weight() != 3 {
				t.Errorf("after that a good one: %v, weight %d", err, h.weight())
			}
		})
	}
}

// TestReloadWithoutFile: a file that is gone is no reason to stop.
func TestReloadWithoutFile(t *testing.T) {
	h := newHalf(t, weighing(1))
	if err := os.Remove(h.file); err != nil {
		t.Fatal(err)
	}
	err := h.reload(t.Context())
	if err == nil || h.weight() != 1 {
		t.Errorf("error %v, weight %d", err, h.weight())
	}
}

// TestSocketOfTheCommandLine: then the file's does not matter.
func TestSocketOfTheCommandLine(t *testing.T) {
	h := newHalf(t, weighing(1))
	h.opts.Socket = "/run/other.sock"
	h.write(weighing(2) + "socket: /run/elsewhere.sock\n")
	if err := h.reload(t.Context()); err != nil || h.weight() != 2 {
		t.Errorf("error %v, weight %d", err, h.weight())
	}
}

// TestReloadStorm: signals and requests by the dozen, while the file changes. In
// the end the last file is in force, and nobody waits.
func TestReloadStorm(t *testing.T) {
	h := newHalf(t, weighing(1))
	ctx, cancel := context.WithCancel(t.Context())
	hangups := make(chan os.Signal, 1)
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := h.serveSignals(ctx, hangups); err != nil {
			t.Error(err)
		}
	})
	const last = 60
	for weight := range last + 1 {
		h.write(weighing(weight))
		for range 3 {
			select { // as signal.Notify does
			case hangups <- syscall.SIGHUP:
			default:
			}
		}
		if weight%4 == 0 {
			parts.Go(func() {
				if err := h.reload(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			})
		}
	}
	testkit.Eventually(t, "the last file is in force", func() bool { return h.weight() == last })
	for len(hangups) > 0 { // what is still under way changes nothing any more
		h.snapshot()
	}
	if err := h.reload(ctx); err != nil || h.weight() != last {
		t.Errorf("error %v, weight %d", err, h.weight())
	}
	cancel()
	parts.Wait()
	if strings.Contains(h.log.String(), "refused") {
		t.Errorf("log:\n%s", h.log)
	}
}

// TestRefusedSignal: a signal's refusal is in the log.
func TestRefusedSignal(t *testing.T) {
	h := newHalf(t, weighing(1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hangups := make(chan os.Signal, 1)
	done := make(chan error)
	go func() { done <- h.serveSignals(ctx, hangups) }()
	h.write("interfaces: []\n")
	hangups <- syscall.SIGHUP
	testkit.Eventually(t, "the refusal is logged", func() bool {
		return strings.Contains(h.log.String(), "event=reload_refused") && strings.Contains(h.log.String(), "director.yaml:1:")
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestReloadAfterTheEnd: a request that comes when the director has stopped is an
// error and changes nothing.
func TestReloadAfterTheEnd(t *testing.T) {
	h := newHalf(t, weighing(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.reload(ctx); err == nil {
		t.Error("no error")
	}
}

// TestCheck counts what is in a file.
func TestCheck(t *testing.T) {
	h := newHalf(t, weighing(1))
	text, err := Check(h.file)
	if err != nil || text != "1 service, 1 real server" {
		t.Errorf("%q, %v", text, err)
	}
	h.write("interfaces: [eth0]\n")
	if text, err = Check(h.file); err != nil || text != "0 services, 0 real servers" {
		t.Errorf("%q, %v", text, err)
	}
	h.write("interfaces: [eth0]\nmarks:\n  - {mark: 1, destination_port: 80}\n  - {mark: 2, source: 192.0.2.1}\n")
	want := "0 services, 0 real servers\n" + h.file + ":4:5: marks[1]: some of its packets get mark 1, by the rule in line 3, which comes first"
	if text, err = Check(h.file); err != nil || text != want {
		t.Errorf("%q, %v, want %q", text, err, want)
	}
	h.write("interfaces: eth0 eth1\n")
	if _, err = Check(h.file); err == nil || !strings.Contains(err.Error(), fmt.Sprint(h.file, ":1:")) {
		t.Errorf("error %v", err)
	}
}
