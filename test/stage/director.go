// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"xdplvs/internal/netlab"
)

// Where things lie. Their names begin with the lab's prefix: /run/netns/PREFIX.…, /run/PREFIX.…, /sys/fs/bpf/PREFIX-….
const (
	NamespaceDir = "/run/netns"
	FilesDir     = "/run"
	PinsDir      = "/sys/fs/bpf"
)

// How long a director may take.
const (
	readyWithin = time.Minute
	stopWithin  = 10 * time.Second
)

// Director is a director in a namespace. Its directories are named after that: a later run knows by it whether
// anybody still needs them.
type Director struct {
	Host   *netlab.Host
	Binary string
	Fail   context.CancelCauseFunc // called when it ends unasked
	Files  string                  // directory of configuration, socket and log
	Pins   string                  // its state_dir

	daemon *daemon
}

// daemon is a process of the director.
type daemon struct {
	cmd      *exec.Cmd
	stopping atomic.Bool
	ended    chan struct{} // closed when it has ended; err is set before
	err      error
}

// NewDirector says where everything will be; nothing is made yet.
func NewDirector(host *netlab.Host, binary string, fail context.CancelCauseFunc) *Director {
	name := host.NSName()
	return &Director{Host: host, Binary: binary, Fail: fail, Files: filepath.Join(FilesDir, name),
		// A bpffs takes no dots. The names have no dashes of their own.
		Pins: filepath.Join(PinsDir, strings.ReplaceAll(name, ".", "-"))}
}

// Config is the path of the configuration.
func (d *Director) Config() string { return filepath.Join(d.Files, "director.yaml") }

// Socket is the path of the API's socket.
func (d *Director) Socket() string { return filepath.Join(d.Files, "director.sock") }

// Log is the path of the log.
func (d *Director) Log() string { return filepath.Join(d.Files, "director.log") }

// PID is the daemon's process.
func (d *Director) PID() int { return d.daemon.cmd.Process.Pid }

// Configure writes the configuration, and before the first time makes the directory, through which others may pass.
func (d *Director) Configure(text string) error {
	if err := os.Mkdir(d.Files, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.WriteFile(d.Config(), []byte(text), 0o600)
}

// Start runs director run in its namespace and returns when it is ready.
func (d *Director) Start(ctx context.Context) error {
	log, err := os.OpenFile(d.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open director's log: %w", err)
	}
	defer log.Close() // the director has it
	p := &daemon{ended: make(chan struct{})}
	// Not killed by the end of ctx: Stop does that, in order. Nor by ours, as that is the end of the thread that
	// started it: it is found by its namespace.
	p.cmd = d.Host.Command(context.Background(), d.Binary, "run", "-c", d.Config(), "--log-format", "text")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which then stops it
	if err := d.Host.Start(p.cmd); err != nil {
		return err
	}
	d.daemon = p
	go p.wait(d.Fail)
	return d.waitReady(ctx)
}

// wait waits for the end, which is a failure if nobody asked for it.
func (p *daemon) wait(fail context.CancelCauseFunc) {
	p.err = p.cmd.Wait()
	close(p.ended)
	if !p.stopping.Load() {
		fail(fmt.Errorf("the director ended (%v)", p.cmd.ProcessState))
	}
}

// waitReady waits until the log says so.
func (d *Director) waitReady(ctx context.Context) error {
	for deadline := time.Now().Add(readyWithin); ; {
		text, err := os.ReadFile(d.Log())
		if err != nil {
			return fmt.Errorf("read director's log: %w", err)
		}
		if strings.Contains(string(text), "event=ready") {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the director is not ready after %v", readyWithin)
		}
		if err := Sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// Sleep returns early, with an error, when ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop ends the daemon as an administrator would, and harder if that does not help. A second call does nothing.
func (d *Director) Stop() error {
	p := d.daemon
	if p == nil || p.stopping.Swap(true) {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return nil // unasked, which was told
	}
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("the director ended badly: %w", p.err)
		}
		return nil
	case <-time.After(stopWithin):
	}
	p.cmd.Process.Kill()
	<-p.ended
	return fmt.Errorf("the director did not end within %v of SIGTERM and was killed", stopWithin)
}

// Remove stops the daemon and removes what it has, and goes on after an error.
func (d *Director) Remove() error {
	return errors.Join(d.Stop(), os.RemoveAll(d.Pins), os.RemoveAll(d.Files))
}

// Ask runs a command of the director and returns what it prints.
func (d *Director) Ask(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, d.Binary, append([]string{"-s", d.Socket()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("director %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// logTail is how many lines of the log a failure shows.
const logTail = 15

// ShowLog prints the end of the log, if there is one.
func (d *Director) ShowLog(w io.Writer) {
	text, err := os.ReadFile(d.Log())
	if err != nil || len(text) == 0 {
		return
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	fmt.Fprintf(w, "\nThe end of the director's log:\n    %s\n",
		strings.Join(lines[max(0, len(lines)-logTail):], "    "))
}

// RemoveStale removes what those with this prefix left behind that were killed (SIGKILL).
func RemoveStale(prefix string) error {
	errs := []error{netlab.CleanStale(prefix)}
	files, _ := filepath.Glob(filepath.Join(FilesDir, prefix+".*")) // fails on a bad pattern only
	pins, _ := filepath.Glob(filepath.Join(PinsDir, prefix+"-*"))
	for _, path := range append(files, pins...) {
		nsName := strings.ReplaceAll(filepath.Base(path), "-", ".")
		if _, err := os.Stat(filepath.Join(NamespaceDir, nsName)); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what a former %s left: %w", prefix, err)
	}
	return nil
}
