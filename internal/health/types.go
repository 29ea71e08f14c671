// SPDX-License-Identifier: Apache-2.0

package health

import (
	"xdplvs/director"
	"xdplvs/healthcheck"
)

// Service is a virtual service, as far as its health goes.
type Service struct {
	Key    director.ServiceKey
	Name   string
	Reals  []Real
	Quorum Quorum
	MinUp  int // so many real servers stay in use, even if they lag: see healthcheck.MinUp
}

// Real is a real server of a service. Without checks it is up.
type Real struct {
	Key    director.RealKey
	Name   string
	Weight uint32 // as it is configured
	Checks []Check
}

// Check is one of a real server's checks: all of them must be up.
type Check struct {
	Name string // unique among the real server's
	healthcheck.Check
}

// Quorum says when a service has lost too many of its real servers, as keepalived's quorum and
// hysteresis: it is lost when the weights of those that are up sum to less than Weight - Hysteresis,
// and regained at Weight + Hysteresis.
type Quorum struct {
	Weight     uint32 // 0: 1
	Hysteresis uint32 // below Weight
}
