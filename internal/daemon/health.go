// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"path/filepath"

	"xdplvs/configs"
	"xdplvs/director"
	"xdplvs/internal/health"
)

// newHealth makes the part that checks real servers. What it knows is kept beside the socket, as the
// state's directory in a bpffs holds no files.
func (d *daemon) newHealth() *health.Monitor {
	return health.New(health.Options{
		Log:   d.log,
		File:  filepath.Join(filepath.Dir(d.config.Socket), "health.json"),
		Apply: d.director.SetHealth,

		Notify: d.notifier.Notify,
	})
}

// setHealth is for a configuration whose services are in force.
func (d *daemon) setHealth(config *configs.Config) error {
	d.notifier.Set(config.Notify)
	return d.health.Set(config.Health)
}

// Health implements api.Backend.
func (b backend) Health() director.HealthList { return b.d.health.List() }

// HealthHistory implements api.Backend.
func (b backend) HealthHistory(real, service string) ([]director.HealthHistory, error) {
	return b.d.health.History(real, service)
}

// OrderHealth implements api.Backend.
func (b backend) OrderHealth(order director.HealthOrder) (int, error) { return b.d.health.Order(order) }

// feedSuspects carries signs of trouble from the data plane to the checks.
func (d *daemon) feedSuspects(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case keys := <-d.director.Suspects():
			d.health.Suspect(keys)
		}
	}
}
