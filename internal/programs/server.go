// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// Server is a program whose configuration is written: what is to be started, and as whom (nil: ourselves).
type Server struct {
	Who  *syscall.Credential
	Path string
	Args []string
}

// to runs a command to its end, as somebody.
func to(ctx context.Context, who *syscall.Credential, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, output)
	}
	return nil
}
