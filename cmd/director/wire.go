// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"xdplvs/director"
	"xdplvs/internal/cli"
	"xdplvs/internal/daemon"
)

func runDaemon(ctx context.Context, opts cli.DaemonOptions) error {
	return daemon.Run(ctx, daemon.Options{
		ConfigFile: opts.ConfigFile,
		Socket:     opts.Socket,
		Version:    opts.Version,
		Log:        opts.Log,
		Detach:     opts.Detach,
	})
}

func checkConfig(file string) (string, error) { return daemon.Check(file) }

func readServices(file string) ([]director.Service, error) { return daemon.Services(file) }
