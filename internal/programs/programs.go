// SPDX-License-Identifier: Apache-2.0

// Package programs runs the programs that people have, from Debian's packages, for tests and for the demo: with
// configurations and directories of their own, as processes that end with their owner, never as services of the system.
package programs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrMissing is wrapped by the error for a program whose package is not installed.
var ErrMissing = errors.New("the package is not installed")

// Find gives the path of a program, by a pattern of it, the newest version of several.
func Find(debian, pattern string) (string, error) {
	if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
		return found[len(found)-1], nil
	}
	return "", fmt.Errorf("needs %s of Debian's package %s: %w", pattern, debian, ErrMissing)
}

// Nobody is who runs servers: nobody if we are root, else ourselves.
func Nobody() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: 65534, Gid: 65534}
}

// Directory makes one that belongs to nobody, in the directory for temporary files.
func Directory(prefix string) (string, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", err
	}
	return dir, Give(dir, 0o755)
}

// Give makes a file nobody's.
func Give(path string, mode os.FileMode) error {
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	if who := Nobody(); who != nil {
		return os.Chown(path, int(who.Uid), int(who.Gid))
	}
	return nil
}

// Write writes a file of nobody's; $name is replaced by the value behind the name.
func Write(path, text string, values ...string) error {
	text = strings.NewReplacer(values...).Replace(text)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	return Give(path, 0o644)
}

// Log is what a program prints.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write is io.Writer's.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// String is all that was printed so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Process is a program that runs in the foreground, until its end or Stop. What it has started ends with it.
type Process struct {
	Log  *Log
	Done chan struct{} // closed at its end
	Err  error         // how it ended, when Done is closed

	cmd    *exec.Cmd
	mu     sync.Mutex
	reaped bool // its number may be another's
}

// Start starts a program as somebody (nil: ourselves) with its own process group. How it is started is start's
// decision: (*exec.Cmd).Start, or a host's of internal/netlab.
func Start(start func(*exec.Cmd) error, who *syscall.Credential, name string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(name, args...), Log: &Log{}, Done: make(chan struct{})}
	p.cmd.Dir = "/"
	p.cmd.Stdout, p.cmd.Stderr = p.Log, p.Log
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true}
	if err := start(p.cmd); err != nil {
		return nil, err
	}
	go p.wait()
	return p, nil
}

// wait waits for the end. As long as the process is not reaped its number, and its group's, are nobody else's.
func (p *Process) wait() {
	defer close(p.Done)
	for unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	p.mu.Lock()
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // those that outlive it
	p.reaped = true
	p.mu.Unlock()
	p.Err = p.cmd.Wait()
}

// Signal sends a signal to the program and all that it has started; os.ErrProcessDone: it has ended.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.cmd.Process.Pid, s)
}

// SignalFirst sends a signal to the program alone.
func (p *Process) SignalFirst(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// String is the program's command line.
func (p *Process) String() string { return p.cmd.String() }

// Stop ends the program and all that it has started.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

// Kill is kill -9 for all of it.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

func (p *Process) end(first syscall.Signal) {
	p.Signal(first) // fails if it has ended
	p.Signal(syscall.SIGCONT)
	select {
	case <-p.Done:
	case <-time.After(5 * time.Second):
		p.Signal(syscall.SIGKILL)
		<-p.Done
	}
}
