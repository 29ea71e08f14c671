// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ExternalOptions are those of a check by a command.
type ExternalOptions struct {
	// Command is an absolute path. There is no shell.
	Command string
	// Args are the command's arguments, in which {address} and {port} stand for the real server's.
	Args []string
	// Convention is how the command is called and what its exit status says:
	//
	//   - ldirectord: the arguments are Virtual's address (or mark) and port and the real server's address
	//     and port, with Args behind; 0 is up, all else down.
	//   - keepalived: only Args; 0 is up, all else down.
	//   - keepalived-dynamic, as misc_dynamic: only Args; 0 is up, 1 down, 2 to 255 up with the exit status
	//     less 2 as weight, which Weight makes a share of.
	//
	// "": keepalived.
	Convention string
	// Virtual is the virtual service's address and port, or its firewall mark and port 0.
	VirtualAddress string
	VirtualPort    uint16
	// Weight is the real server's configured weight: a dynamic weight is a share of it, at most all. 0: a
	// dynamic weight is a percentage itself.
	Weight int
	// User and Group run the command. User "": the director's, or nobody if that is root. Group "":
	// the user's.
	User, Group string
	// Env are further variables of the environment, NAME=value. There are always PATH, and
	// CHECK_ADDRESS, CHECK_PORT, CHECK_VIRTUAL_ADDRESS, CHECK_VIRTUAL_PORT.
	Env []string
}

type externalChecker struct {
	identity
	ExternalOptions
	credential *syscall.Credential // nil: the director's own
}

const (
	conventionLdirectord = "ldirectord"
	conventionKeepalived = "keepalived"
	conventionDynamic    = "keepalived-dynamic"
)

// NewExternal is a checker that runs a command.
func NewExternal(o ExternalOptions) (Checker, error) {
	m := mistakes{kind: "external"}
	c := &externalChecker{identity: identify("external", o), ExternalOptions: o}
	c.Convention = orElse(o.Convention, conventionKeepalived)
	m.known("convention", c.Convention, conventionLdirectord, conventionKeepalived, conventionDynamic)
	if c.Convention == conventionLdirectord && o.VirtualAddress == "" {
		m.add("virtual address", "missing: it is an argument of the command")
	}
	if o.Weight < 0 || o.Weight != 0 && c.Convention != conventionDynamic {
		m.add("weight", "%d is only for %s, and not negative", o.Weight, conventionDynamic)
	}
	m.try("command", executable(o.Command))
	for i, e := range o.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			m.add(fmt.Sprintf("env[%d]", i), "%q is not NAME=value", e)
		}
	}
	var err error
	c.credential, err = credential(o.User, o.Group)
	m.try("user", err)
	return c, m.err()
}

// executable tells whether a path can be run at all.
func executable(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is no absolute path", path)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: %w", path, fs.ErrPermission)
	}
	return nil
}

// credential is who runs a command.
func credential(userName, groupName string) (*syscall.Credential, error) {
	switch {
	case userName == "" && groupName != "":
		return nil, errors.New("missing beside a group")
	case userName == "" && os.Geteuid() != 0:
		return nil, nil
	case userName == "":
		userName = "nobody"
	}
	u, err := user.Lookup(userName)
	if err != nil {
		return nil, err
	}
	gid := u.Gid
	if groupName != "" {
		g, err := user.LookupGroup(groupName)
		if err != nil {
			return nil, err
		}
		gid = g.Gid
	}
	ids := [2]uint32{}
	for i, text := range []string{u.Uid, gid} {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no number of a user or group", text)
		}
		ids[i] = uint32(n)
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: []uint32{ids[1]}}, nil
}

// Check is Checker's.
func (c *externalChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.enter(layer7, c.Command)
		output := &head{room: 4096}
		cmd := c.command(t, output)
		if err := cmd.Start(); err != nil {
			return Result{}, unsent("%s: %s", c.Command, startError(err))
		}
		timedOut := supervise(p.ctx, cmd)
		text := output.firstLine()
		switch {
		case timedOut && errors.Is(context.Cause(p.ctx), context.Canceled):
			return Result{}, p.ctx.Err()
		case timedOut:
			return Result{}, fail(PROCTOUT, 0, "%s did not end in time, and was killed%s", c.Command, text)
		}
		return c.judge(cmd.ProcessState, text)
	})
}

// startError leaves out what the caller knows.
func startError(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

func (c *externalChecker) command(t Target, output *head) *exec.Cmd {
	real := t.real()
	var args []string
	if c.Convention == conventionLdirectord {
		args = []string{c.VirtualAddress, strconv.Itoa(int(c.VirtualPort)), "{address}", "{port}"}
	}
	args = append(args, c.Args...)
	for i, a := range args {
		args[i] = t.expand(a)
	}
	cmd := exec.Command(c.Command, args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"CHECK_ADDRESS=" + real.Addr().String(), fmt.Sprintf("CHECK_PORT=%d", real.Port()),
		"CHECK_VIRTUAL_ADDRESS=" + c.VirtualAddress, fmt.Sprintf("CHECK_VIRTUAL_PORT=%d", c.VirtualPort),
	}, c.Env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.WaitDelay = 100 * time.Millisecond // for those who keep the output open
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.credential}
	return cmd
}

// supervise waits for a command, and kills what is left of its process group when it has ended or
// its time is over.
func supervise(ctx context.Context, cmd *exec.Cmd) (timedOut bool) {
	group := -cmd.Process.Pid
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		// Not reaped as yet: until then the number of the group cannot be anybody else's.
		for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	select {
	case <-exited:
	case <-ctx.Done():
		timedOut = true
	}
	syscall.Kill(group, syscall.SIGKILL)
	<-exited
	cmd.Wait() // its error is the exit status, which ProcessState has, or output that is kept open
	return timedOut
}

// judge reads the exit status.
func (c *externalChecker) judge(state *os.ProcessState, text string) (Result, error) {
	status := state.ExitCode()
	switch {
	case status < 0:
		return Result{}, &failure{Result{Verdict: Unknown, Code: PROCERR, Text: fmt.Sprintf("%s: %s%s", c.Command, state, text)}}
	case status == 0:
		return good(PROCOK, "exit status 0%s", text), nil
	case status == 1 || c.Convention != conventionDynamic:
		return Result{}, fail(PROCERR, status, "exit status %d%s", status, text)
	}
	r := good(PROCOK, "exit status %d%s", status, text)
	r.Status, r.Factor = status, min(100, status-2)
	if c.Weight > 0 {
		r.Factor = min(100, (status-2)*100/c.Weight)
	}
	return r, nil
}

// head keeps the beginning of what is written to it.
type head struct {
	bytes.Buffer
	room int
}

// Write never fails: who writes too much goes on.
func (h *head) Write(b []byte) (int, error) {
	kept := b[:min(len(b), h.room)]
	h.room -= len(kept)
	h.Buffer.Write(kept)
	return len(b), nil
}

// firstLine is what a command said, as a continuation of a text.
func (h *head) firstLine() string {
	line, _, _ := strings.Cut(strings.TrimSpace(h.String()), "\n")
	if line == "" {
		return ""
	}
	return ": " + line
}
