// SPDX-License-Identifier: Apache-2.0

// Package ipvsadm is the command line of ipvsadm 1.31: what it takes, what it prints and how it ends,
// byte for byte, on a director. What the director does otherwise than IPVS docs/ipvsadm.md lists.
package ipvsadm

import (
	"bufio"
	"context"
	_ "embed" // the help text
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"xdplvs/director"
)

// Director is whom the commands are for.
type Director interface {
	Snapshot(context.Context) (*director.Snapshot, error)
	// Edit makes all edits or none. An error that is an Unreachable is nobody's answer.
	Edit(context.Context, ...director.Edit) error
	Zero(ctx context.Context, service string) error
	Timeouts(context.Context) (director.Timeouts, error)
	SetTimeouts(context.Context, director.Timeouts) (director.Timeouts, error)
	// Entries calls yield for each connection and each template.
	Entries(ctx context.Context, yield func(*director.Conn) error) error
	// Fault is why an edit was refused; "": the error is another one.
	Fault(error) director.EditFault
	// Unreachable tells that an error means that there is no director.
	Unreachable(error) bool
}

// Env is what ipvsadm uses of the world.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Director       Director
	Names          Names
	Program        string // as it was called
}

// version is ipvsadm's, and IPVS's.
const (
	versionLine = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)"
	ipvsVersion = "1.2.1"
)

//go:embed help.txt
var helpText string

// Run runs ipvsadm and returns its exit code.
func Run(ctx context.Context, env Env, args []string) int {
	r := &runner{Env: env, out: bufio.NewWriter(env.Stdout)}
	c, err := parse(env.Program, args, env.Names)
	code := 0
	if err == nil && c.command == cmdRestore {
		code, err = r.restore(ctx)
	} else if err == nil {
		err = r.run(ctx, c)
	}
	if err != nil {
		code = r.complain(err)
	}
	if err := r.out.Flush(); err != nil && code == 0 {
		return 1
	}
	return code
}

type runner struct {
	Env
	out     *bufio.Writer
	waiting []*call // edits of restore that are still to be made
}

// complain prints an error and returns the exit code.
func (r *runner) complain(err error) int {
	_ = r.out.Flush() // what was printed before comes before; the error is found again at the end
	if r.Director.Unreachable(err) {
		fmt.Fprintf(r.Stderr, "Can't initialize ipvs: %v\nAre you sure that IP Virtual Server is built in the kernel or as module?\n", err)
		return 2
	}
	fmt.Fprintln(r.Stderr, err)
	var f *failure
	if errors.As(err, &f) {
		return f.code
	}
	return 255
}

// run does what a command line says.
func (r *runner) run(ctx context.Context, c *call) error {
	switch c.command {
	case cmdHelp:
		fmt.Fprint(r.out, versionLine, "\n", strings.ReplaceAll(helpText, "ipvsadm -", r.Program+" -"))
		return nil
	case cmdVersion:
		fmt.Fprintln(r.out, versionLine)
		return nil
	case cmdList:
		return r.list(ctx, c)
	case cmdSave:
		return r.save(ctx, c)
	case cmdZero:
		return r.zero(ctx, c)
	case cmdSet:
		return r.set(ctx, c)
	case cmdStartDaemon:
		return &failure{255, "Connection synchronization is not this director's: there is no sync daemon to start"}
	case cmdStopDaemon:
		return &failure{255, "No daemon is running"}
	default:
		return r.edit(ctx, c)
	}
}

// edit makes the edit that a command is.
func (r *runner) edit(ctx context.Context, c *call) error {
	edit, err := c.edit()
	if err != nil {
		return err
	}
	return r.explain(c, r.Director.Edit(ctx, edit))
}

// texts are what IPVS's library says of the faults.
var texts = map[command]map[director.EditFault]string{
	cmdAdd:          {director.FaultServiceExists: "Service already exists"},
	cmdEdit:         {director.FaultNoService: "No such service"},
	cmdDelete:       {director.FaultNoService: "No such service"},
	cmdZero:         {director.FaultNoService: "No such service"},
	cmdAddServer:    {director.FaultNoService: "Service not defined", director.FaultRealExists: "Destination already exists"},
	cmdEditServer:   {director.FaultNoService: "Service not defined", director.FaultNoReal: "No such destination"},
	cmdDeleteServer: {director.FaultNoService: "Service not defined", director.FaultNoReal: "No such destination"},
}

const (
	notUnicast = "Invalid operation.  Possibly wrong module version, address not unicast, ..."
	outOfRange = "Numerical result out of range"
	noEngine   = "Scheduler or persistence engine not found"
)

// explain finds the text for an error. What only the director refuses it explains itself.
func (r *runner) explain(c *call, err error) error {
	if err == nil || r.Director.Unreachable(err) {
		return err
	}
	if text := texts[c.command][r.Director.Fault(err)]; text != "" {
		return &failure{255, text}
	}
	server := c.command == cmdAddServer || c.command == cmdEditServer
	switch {
	case server && c.lower > c.upper:
		return &failure{255, outOfRange}
	case server && (c.real.Addr.IsUnspecified() || c.real.Addr.IsMulticast()):
		return &failure{255, notUnicast}
	default:
		return &failure{255, err.Error()}
	}
}

func (r *runner) zero(ctx context.Context, c *call) error {
	name := ""
	if c.given[optService] {
		name = c.key.String()
	}
	return r.explain(c, r.Director.Zero(ctx, name))
}

func (r *runner) set(ctx context.Context, c *call) error {
	var change director.Timeouts
	for i, name := range []string{"tcp", "tcpfin", "udp"} {
		if err := change.Set(name, time.Duration(c.timeouts[i])*time.Second); err != nil {
			return err
		}
	}
	if change == (director.Timeouts{}) {
		return nil // all stay as they are
	}
	_, err := r.Director.SetTimeouts(ctx, change)
	return err
}

// restore reads command lines. Edits wait for each other: a table is made in one step, if it can be.
func (r *runner) restore(ctx context.Context) (code int, err error) {
	lines := bufio.NewScanner(r.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) > 0 && words[0] == "ipvsadm" {
			words = words[1:]
		}
		if len(words) == 0 {
			continue
		}
		if code, err = r.line(ctx, words); err != nil {
			return code, err
		}
	}
	if err := lines.Err(); err != nil {
		return 255, fmt.Errorf("read rules: %w", err)
	}
	if len(r.waiting) > 0 {
		code = r.flush(ctx)
	}
	return code, nil
}

// line does one line; its code is that of the last command that was done. The error ends ipvsadm.
func (r *runner) line(ctx context.Context, words []string) (code int, err error) {
	c, err := parse(r.Program, words, r.Names)
	if err == nil && c.command == cmdRestore {
		err = tryHelp(r.Program)
	}
	if err != nil {
		r.flush(ctx)
		return 0, err
	}
	if c.edits() {
		r.waiting = append(r.waiting, c)
		return 0, nil
	}
	r.flush(ctx)
	if err := r.run(ctx, c); err != nil {
		if c.command == cmdList { // it ends the program there, too
			return 0, err
		}
		return r.complain(err), nil
	}
	return 0, nil
}

// flush makes the edits that wait: at once, or, where one cannot be, one by one, as ipvsadm does.
func (r *runner) flush(ctx context.Context) (code int) {
	waiting := r.waiting
	r.waiting = nil
	var all []director.Edit
	for _, c := range waiting {
		if edit, err := c.edit(); err == nil {
			all = append(all, edit)
		}
	}
	if len(all) > 0 && len(all) == len(waiting) && r.Director.Edit(ctx, all...) == nil {
		return 0
	}
	for _, c := range waiting {
		code = 0
		if err := r.edit(ctx, c); err != nil {
			code = r.complain(err)
		}
	}
	return code
}
