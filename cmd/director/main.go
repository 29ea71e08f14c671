// SPDX-License-Identifier: Apache-2.0

// Command director is a layer-4 director (LVS) on XDP: the daemon and the
// commands that ask it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"xdplvs/internal/cli"
	"xdplvs/internal/daemon"
)

func main() {
	// A second signal, when the first has asked for an end, ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	env := cli.Env{
		Stdin:            os.Stdin,
		Stdout:           os.Stdout,
		Stderr:           os.Stderr,
		StdoutIsTerminal: isTerminal(os.Stdout),
		StderrIsTerminal: isTerminal(os.Stderr),
		LookupEnv:        os.LookupEnv,
		Daemon:           ignoreClosedLog(runDaemon),
		Stop:             stopDaemon,
		Check:            checkConfig,
		Doctor:           examine,
		Services:         readServices,
		Import:           daemon.Import,
		ImportFormats:    daemon.ImportFormats(),
	}
	if cli.IsIPVSADM(os.Args[0]) {
		os.Exit(cli.RunIPVSADM(ctx, env, os.Args[0], os.Args[1:]))
	}
	os.Exit(cli.Run(ctx, env, os.Args[1:]))
}

// ignoreClosedLog keeps a daemon alive whose log nobody reads any more: Go ends
// a program that writes to a broken pipe on standard error. Listings want that.
func ignoreClosedLog(run func(context.Context, cli.DaemonOptions) error) func(context.Context, cli.DaemonOptions) error {
	return func(ctx context.Context, opts cli.DaemonOptions) error {
		signal.Ignore(syscall.SIGPIPE)
		return run(ctx, opts)
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
