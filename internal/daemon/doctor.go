// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"net/netip"
	"time"

	"xdplvs/configs"
	"xdplvs/director"
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
	owned := map[netip.Addr]director.AddressMode{}
	for _, a := range config.Addresses {
		if a.Mode != director.AddressNone {
			owned[a.Addr] = a.Mode
		}
	}
	return doctor.Examine(ctx, &doctor.Config{
		Interfaces: config.Desired.Interfaces,
		Services:   config.Desired.Services,
		Rules:      config.Desired.Marks,
		Owned:      owned,
		StateDir:   config.StateDir,
		Sizes:      sizes(config.Limits),
	}, timeout)
}
