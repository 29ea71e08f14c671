// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/internal/health"
)

// Command runs a program for each event, with the event's kind, the service and, of a real server's,
// its ADDRESS:PORT behind the arguments. The environment has more, see environment.
type Command struct {
	Path string // absolute; there is no shell
	Args []string
}

func (c *Command) name() string        { return "command " + c.Path }
func (*Command) gather() time.Duration { return 0 }

func (c *Command) send(ctx context.Context, events []health.Event) error {
	var errs []error
	for i := range events {
		errs = append(errs, c.run(ctx, &events[i]))
	}
	return errors.Join(errs...)
}

// longestSaid is how much of what a command says is told when it fails, in bytes.
const longestSaid = 200

// run kills the command and what it has started when its time is over.
func (c *Command) run(ctx context.Context, e *health.Event) error {
	args := append([]string{}, c.Args...)
	args = append(args, string(e.Kind), serviceName(e))
	if isReal(e) {
		args = append(args, e.Real.String())
	}
	cmd := exec.CommandContext(ctx, c.Path, args...)
	cmd.Dir, cmd.Env = "/", environment(e)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 100 * time.Millisecond
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	said := strings.TrimSpace(string(out[:min(len(out), longestSaid)]))
	if said != "" {
		return fmt.Errorf("%s: %w: %q", e.Kind, err, said)
	}
	return fmt.Errorf("%s: %w", e.Kind, err)
}

func environment(e *health.Event) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"DIRECTOR_EVENT=" + string(e.Kind), "DIRECTOR_SERVICE=" + serviceName(e), "DIRECTOR_VIRTUAL=" + e.Service.String(),
		fmt.Sprintf("DIRECTOR_UP=%g", e.Up),
	}
	if isReal(e) {
		env = append(env, "DIRECTOR_REAL="+e.Real.String(), "DIRECTOR_REAL_NAME="+e.RealName, "DIRECTOR_EVIDENCE="+e.Evidence)
	}
	if e.Sorry {
		env = append(env, "DIRECTOR_SORRY=true")
	}
	return env
}

// fifo gets keepalived's lines. It is made if there is none, and held open for reading, too: so there
// is always a reader, and what nobody has read yet stays.
type fifo struct {
	path string
	fd   int // + 1; 0: not open
}

func (f *fifo) name() string        { return "fifo " + f.path }
func (*fifo) gather() time.Duration { return 0 }

func (f *fifo) send(_ context.Context, events []health.Event) error {
	if err := f.open(); err != nil {
		return err
	}
	for i := range events {
		text := fifoLine(&events[i])
		if text == "" {
			continue
		}
		// A line is shorter than PIPE_BUF, so it is written whole or not at all (pipe(7)).
		if _, err := unix.Write(f.fd-1, []byte(text)); err != nil {
			return fmt.Errorf("write to %s: %w", f.path, err)
		}
	}
	return nil
}

func (f *fifo) open() error {
	if f.fd > 0 {
		return nil
	}
	if err := unix.Mkfifo(f.path, 0o640); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make %s: %w", f.path, err)
	}
	fd, err := unix.Open(f.path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", f.path, err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(fd)
		return fmt.Errorf("%s is no FIFO", f.path)
	}
	f.fd = fd + 1
	return nil
}

// Close implements io.Closer.
func (f *fifo) Close() error {
	if f.fd == 0 {
		return nil
	}
	return unix.Close(f.fd - 1)
}
