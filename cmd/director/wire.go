// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"xdplvs/director"
	"xdplvs/internal/cli"
	"xdplvs/internal/daemon"
	"xdplvs/internal/doctor"
)

func runDaemon(ctx context.Context, opts cli.DaemonOptions) error {
	return daemon.Run(ctx, daemon.Options{
		ConfigFile: opts.ConfigFile,
		Socket:     opts.Socket,
		Version:    opts.Version,
		Revision:   opts.Revision,
		Log:        opts.Log,
		Detach:     opts.Detach,
	})
}

func checkConfig(file string) (string, error) { return daemon.Check(file) }

func readServices(file string) ([]director.Service, error) { return daemon.Services(file) }

func examine(ctx context.Context, file string, timeout time.Duration) (*doctor.Report, error) {
	return daemon.Doctor(ctx, file, timeout)
}

func stopDaemon(ctx context.Context, opts cli.StopOptions) (string, error) {
	return daemon.Stop(ctx, daemon.StopOptions{ConfigFile: opts.ConfigFile, Socket: opts.Socket, Detach: opts.Detach, Log: opts.Log})
}
