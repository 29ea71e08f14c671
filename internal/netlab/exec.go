// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// runWaitDelay bounds how long Run reads on after its program ended or was killed.
const runWaitDelay = time.Second

// Command prepares a process. It runs in the namespace if it is started by Start of the same host;
// cmd.Start would run it outside. The end of ctx kills it.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

// Start starts a prepared process in the namespace. The caller waits for it with cmd.Wait; Close of
// the lab kills it if it still runs. Unlike under `ip netns exec`, /sys is that of the caller.
func (h *Host) Start(cmd *exec.Cmd) error {
	// The child is forked by the calling thread and inherits its namespace.
	if err := h.Do(cmd.Start); err != nil {
		return fmt.Errorf("start %q on %s: %w", strings.Join(cmd.Args, " "), h.name, err)
	}
	if h.lab.ended() { // perhaps after Close had looked for processes to kill
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("start %q on %s: %w", strings.Join(cmd.Args, " "), h.name, errClosed)
	}
	return nil
}

// Run runs a program in the namespace to its end and returns its standard output. A failure wraps
// *exec.ExitError and quotes what the program wrote to both outputs.
func (h *Host) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := h.Command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A grandchild that keeps the outputs open must not keep Wait from returning.
	cmd.WaitDelay = runWaitDelay
	if err := h.Start(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return stdout.Bytes(), fmt.Errorf("run %q on %s: %w: %s%s",
			strings.Join(cmd.Args, " "), h.name, err, stdout.Bytes(), bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
