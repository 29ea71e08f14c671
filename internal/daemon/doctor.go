// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"time"

	"xdplvs/configs"
	"xdplvs/internal/doctor"
)

// Doctor examines the machine: for a configuration, or, without a file, for itself.
func Doctor(ctx context.Context, file string, timeout time.Duration) (*doctor.Report, error) {
	if file == "" {
		return doctor.Examine(ctx, nil, timeout)
	}
	config, err := configs.Load(file)
	if err != nil {
		return nil, err
	}
	return doctor.Examine(ctx, &doctor.Config{
		Interfaces: config.Desired.Interfaces,
		Services:   config.Desired.Services,
		Addresses:  config.Addresses,
		StateDir:   config.StateDir,
		Sizes:      sizes(config.Limits),
	}, timeout)
}
