// SPDX-License-Identifier: Apache-2.0

package director

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Way is how packets of clients reach a real server, for health checks that go the same way.
type Way struct {
	Row    uint32 // of the real server, in the data plane
	Method Method
	Link   int // index of the interface that they leave by
	// Unseen is why answers to the director itself would not be seen; empty: they are.
	Unseen string
}

// ErrNoWayYet is returned for a real server that is not in force yet, or whose next hop is being resolved.
var ErrNoWayYet = errors.New("the way there is not known yet")

// Way tells how packets reach a real server of a service. Every error says why none can be sent there now.
func (d *Director) Way(ctx context.Context, key HealthKey) (Way, error) {
	var way Way
	var err error
	if e := d.do(ctx, func() { way, err = d.way(key) }); e != nil {
		return Way{}, e
	}
	return way, err
}

func (d *Director) way(key HealthKey) (Way, error) {
	s := d.services[key.Service]
	if s == nil || d.tables.Settings.Probe == 0 {
		return Way{}, ErrNoWayYet
	}
	r := s.find(key.Real)
	if r == nil || r.hop.Pending {
		return Way{}, ErrNoWayYet
	}
	if !r.hop.Resolved { // whoever is sent there gets lost
		return Way{Row: r.id, Method: r.want.Method}, nil
	}
	return Way{Row: r.id, Method: r.want.Method, Link: r.hop.Link, Unseen: d.unseen(r.hop)}, nil
}

// unseen says why answers that come back as requests leave do not meet the program; empty: they do.
func (d *Director) unseen(hop NextHop) string {
	if hop.Local {
		return "the real server is this host itself"
	}
	if find(d.interfaces, hop.Link) >= 0 {
		return ""
	}
	name := fmt.Sprint(hop.Link)
	if i, err := net.InterfaceByIndex(hop.Link); err == nil {
		name = i.Name
	}
	return fmt.Sprintf("answers come in by %s, which is none of the interfaces", name)
}
