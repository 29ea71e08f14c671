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

// Process is a server that runs in the foreground, until Stop.
type Process struct {
	*exec.Cmd
	Log  *Log
	once sync.Once
}

// Start starts a program as somebody (nil: ourselves) with its own process group. How it is started is start's
// decision: (*exec.Cmd).Start, or a host's of internal/netlab.
func Start(start func(*exec.Cmd) error, who *syscall.Credential, name string, args ...string) (*Process, error) {
	p := &Process{Cmd: exec.Command(name, args...), Log: &Log{}}
	p.Dir = "/"
	p.Stdout, p.Stderr = p.Log, p.Log
	p.WaitDelay = time.Second
	p.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := start(p.Cmd); err != nil {
		return nil, err
	}
	return p, nil
}

// Signal sends a signal to the program and all that it has started.
func (p *Process) Signal(s syscall.Signal) error { return syscall.Kill(-p.Process.Pid, s) }

// Stop ends the program and all that it has started. A second call does nothing.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

// Kill is kill -9 for all of it.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

func (p *Process) end(first syscall.Signal) {
	p.once.Do(func() {
		p.Signal(first) // fails if it has ended
		kill := time.AfterFunc(5*time.Second, func() { p.Signal(syscall.SIGKILL) })
		p.Wait()
		kill.Stop()
		p.Signal(syscall.SIGKILL) // those that outlived it
	})
}
