// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"path/filepath"

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

		Client: func(c health.Client) health.ClientWay { return clientWay{d, c} },
		Quorum: d.tellQuorum,
		Notify: d.tellHealth,
	})
}

// tellQuorum lets sorry servers serve, or not. A service that is just being removed is nobody's.
func (d *daemon) tellQuorum(service director.ServiceKey, quorum bool) {
	if err := d.director.SetQuorum(context.Background(), service, quorum); err != nil {
		d.log.Debug("quorum was not told", "event", "quorum_failed", "service", service.String(), "error", err)
	}
}

// setHealth is for a document whose services are in force.
func (d *daemon) setHealth(doc *document) error {
	d.notifier.Set(doc.config.Notify)
	return d.health.Set(doc.health)
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
