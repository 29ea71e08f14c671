// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// How long the director may take.
const (
	readyWithin = 20 * time.Second
	stopWithin  = 10 * time.Second
)

// daemon is a director that runs.
type daemon struct {
	cmd      *exec.Cmd
	stopping atomic.Bool
	ended    chan struct{} // closed when it has ended; err is set before
	err      error
}

// startDirector runs director run in its namespace and returns when it is ready.
func (s *stage) startDirector(ctx context.Context) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open director's log: %w", err)
	}
	defer log.Close() // the director has it
	d := &daemon{ended: make(chan struct{})}
	// Not killed by the end of ctx: stop does that, in order.
	d.cmd = s.director.Command(context.Background(), s.binary, "run", "-c", s.config(), "--log-format", "text")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // Ctrl-C is for the demo, which then stops it
		Pdeathsig: syscall.SIGKILL,
	}
	if err := s.director.Start(d.cmd); err != nil {
		return err
	}
	s.daemon = d
	go d.wait(s.fail)
	return s.waitReady(ctx)
}

// wait waits for the end, which is a failure if nobody asked for it.
func (d *daemon) wait(fail context.CancelCauseFunc) {
	d.err = d.cmd.Wait()
	close(d.ended)
	if !d.stopping.Load() {
		fail(fmt.Errorf("the director ended (%v)", d.cmd.ProcessState))
	}
}

// waitReady waits until the log says so.
func (s *stage) waitReady(ctx context.Context) error {
	for deadline := time.Now().Add(readyWithin); ; {
		text, err := os.ReadFile(s.log())
		if err != nil {
			return fmt.Errorf("read director's log: %w", err)
		}
		if strings.Contains(string(text), "event=ready") {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the director is not ready after %v", readyWithin)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// sleep returns early, with an error, when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the director as an administrator would, and harder if that does not help. A second call
// does nothing.
func (d *daemon) stop() error {
	if d.stopping.Swap(true) {
		return nil
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return nil // unasked, which was told
	}
	select {
	case <-d.ended:
		if d.err != nil {
			return fmt.Errorf("the director ended badly: %w", d.err)
		}
		return nil
	case <-time.After(stopWithin):
	}
	d.cmd.Process.Kill()
	<-d.ended
	return fmt.Errorf("the director did not end within %v of SIGTERM and was killed", stopWithin)
}

// ask runs a command of the director and returns what it prints.
func (s *stage) ask(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, s.binary, append([]string{"-s", s.socket()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("director %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
