// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// feedWatchdog tells the service manager that the director works, where it wants to hear that. A
// director that is stuck is ended and started again; the data plane forwards meanwhile.
func (d *daemon) feedWatchdog(ctx context.Context) error {
	limit, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read what the service manager wants: %w", err)
	}
	if limit == 0 {
		return nil
	}
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := d.stuck(ctx); err == nil {
			notify(d.log, systemd.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			d.log.Error("the director is stuck", "event", "stuck", "error", err)
		}
	}
}
