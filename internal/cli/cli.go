// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line of director: the tree of commands and what
// they print. Listings have the layout of ipvsadm 1.31.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage.
package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/api/connfilter"
	"xdplvs/internal/doctor"
	"xdplvs/internal/realserver"
)

// Env is what the commands use of the world.
type Env struct {
	Stdin            io.Reader
	Stdout, Stderr   io.Writer
	StdoutIsTerminal bool // colour, and a screen that --watch repaints
	StderrIsTerminal bool // --log-format auto

	LookupEnv func(string) (string, bool)             // nil: an empty environment
	BuildInfo func() (info *debug.BuildInfo, ok bool) // nil: debug.ReadBuildInfo

	// Daemon runs the director until ctx ends.
	Daemon func(ctx context.Context, opts DaemonOptions) error
	// Stop ends a daemon and says what was done.
	Stop func(ctx context.Context, opts StopOptions) (done string, err error)
	// Check reads a configuration and says what is in it, as
	// "3 services, 9 real servers", and what may not be meant in further lines; the
	// error has one line for each mistake.
	Check func(file string) (summary string, err error)
	// Doctor examines this machine, for a configuration or, without a file, for itself.
	Doctor func(ctx context.Context, file string, timeout time.Duration) (*doctor.Report, error)
	// Output runs a program and returns what it prints; nil: exec.Command.
	Output func(ctx context.Context, name string, args ...string) ([]byte, error)
	// Services are those of a configuration.
	Services func(file string) ([]director.Service, error)
	// Import reads the configuration of another director: what it is in ours, and a line FILE:LINE: TEXT:
	// REASON for each line that is not carried over.
	Import func(format, file string) (text []byte, notes []string, err error)
	// ImportFormats are those that Import knows.
	ImportFormats []string
	// ApplyReal makes this machine a real server; nil: realserver.Apply.
	ApplyReal func(plan realserver.Plan, remove bool, tell func(realserver.Step)) error
}

// DaemonOptions are the settings of director run.
type DaemonOptions struct {
	ConfigFile string
	Socket     string // "": as the configuration says
	Version    string // of this program, for api.Backend
	Revision   string // of its sources
	Log        *slog.Logger
	Detach     bool // take the data plane off at the end
}

// StopOptions are the settings of director stop.
type StopOptions struct {
	ConfigFile string // "": what the daemon wrote beside its socket says enough
	Socket     string // "": as the configuration says
	Detach     bool   // remove all that the director added to this host
	Log        *slog.Logger
}

// The environment variables. Flags win over them.
const (
	envConfig = "DIRECTOR_CONFIG"
	envSocket = "DIRECTOR_SOCKET"
	envAPI    = "DIRECTOR_API"
	envToken  = "DIRECTOR_TOKEN"
	envFile   = "DIRECTOR_TOKEN_FILE"
	envCA     = "DIRECTOR_CACERT"
	envCert   = "DIRECTOR_CERT"
	envKey    = "DIRECTOR_KEY"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// Run runs the command that args name (without the program's name) and returns
// the exit code. What goes wrong is on Stderr.
func Run(ctx context.Context, env Env, args []string) int {
	a := newApp(env)
	root := a.rootCommand()
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	return a.exitCode(command, err)
}

// exitCode says what went wrong, unless it was said, and makes it a number.
func (a *app) exitCode(command *cobra.Command, err error) int {
	var usage *usageError
	var code errCode
	switch {
	case errors.As(err, &code):
		return int(code)
	case errors.Is(a.out.err, syscall.EPIPE): // director connections | head
		return exitFailure
	case a.out.err != nil:
		a.printError(a.out.err)
		return exitFailure
	case err == nil:
		return exitOK
	case errors.Is(err, errPrinted):
		return exitFailure
	case errors.As(err, &usage), !a.started: // flags and arguments are checked before
		a.printError(err)
		fmt.Fprintf(a.Stderr, "Run '%s --help' for usage.\n", command.CommandPath())
		return exitUsage
	default:
		a.printError(err)
		return exitFailure
	}
}

var (
	errPrinted     = errors.New("already printed") // ends a command that has told the user what went wrong
	errInterrupted = errors.New("interrupted")     // what a context that ended means to the user
)

// app is one run of the program.
type app struct {
	Env
	out    *output
	style  style
	socket string // --socket, the environment's, or ""
	remote api.RemoteDaemon
	flags  *pflag.FlagSet // of all commands

	started bool // a command runs: its flags and arguments are right
}

func newApp(env Env) *app {
	if env.LookupEnv == nil {
		env.LookupEnv = func(string) (string, bool) { return "", false }
	}
	if env.BuildInfo == nil {
		env.BuildInfo = debug.ReadBuildInfo
	}
	return &app{Env: env, out: &output{w: env.Stdout}, style: styleFor(env)}
}

// getenv is the value of a variable, "" if it is not set.
func (a *app) getenv(name string) string {
	v, _ := a.LookupEnv(name)
	return v
}

// output is standard output. It remembers its first error, so that no command
// has to care and none ends well when its output was lost.
type output struct {
	w   io.Writer
	err error
}

// Write writes to standard output.
func (o *output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(p)
	if err != nil {
		o.err = fmt.Errorf("write output: %w", err)
	}
	return n, o.err
}

// usageError is the user's mistake in the command line.
type usageError struct{ err error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// Error is the mistake.
func (e *usageError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *usageError) Unwrap() error { return e.err }

// printError prints director: ERROR, with advice where there is some. Errors
// of several lines, as a configuration has them, stand for themselves.
func (a *app) printError(err error) {
	if errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	text := strings.TrimSuffix(err.Error(), "\n")
	if strings.Contains(text, "\n") {
		fmt.Fprintln(a.Stderr, text)
		return
	}
	fmt.Fprintf(a.Stderr, "director: %s%s\n", text, advice(err))
	var filter *connfilter.Error
	if errors.As(err, &filter) {
		fmt.Fprintln(a.Stderr, "  "+strings.ReplaceAll(filter.Pointer(), "\n", "\n  "))
	}
}

// advice is what to do when the daemon cannot be reached.
func advice(err error) string {
	var connect *api.ConnectError
	switch {
	case !errors.As(err, &connect):
		return ""
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return " (is the daemon running? start it with: director run -c FILE)"
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return " (give the CA's certificate with --cacert)"
	case errors.Is(err, os.ErrPermission):
		return " (only root and the members of the socket's group may ask the daemon)"
	default:
		return ""
	}
}
