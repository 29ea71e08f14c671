// SPDX-License-Identifier: Apache-2.0

package health

import (
	"net/netip"
	"slices"

	"xdplvs/director"
	"xdplvs/healthcheck"
)

// Service is a virtual service, as far as its health goes.
type Service struct {
	Key    director.ServiceKey
	Name   string
	Reals  []Real
	Sorry  []Real // its sorry servers, which neither its quorum nor MinUp knows of
	Quorum Quorum
	MinUp  int // so many real servers stay in use, even if they lag: see healthcheck.MinUp
}

// Real is a real server of a service, or a sorry server. Without checks it is up.
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
	Via Via
}

// Via is the way that probes go. By the service means that they are sent to Target.Address, a virtual one, and
// forwarded to Target.Real as clients' packets are.
type Via uint8

// The ways.
const (
	ViaDirect        Via = iota
	ViaService           // or no probe can be sent
	ViaServiceIfSeen     // directly where answers would not be seen
)

// Client says whose way a probe goes that comes as a client's.
type Client struct {
	Of      director.HealthKey
	Address netip.AddrPort // that it asks
	Source  netip.Addr     // that it comes from; invalid: as the route says
	Strict  bool           // it goes no other way
}

// ByService tells in which families probes go by services.
func ByService(services []Service) (v4, v6 bool) {
	for i := range services {
		for _, r := range slices.Concat(services[i].Reals, services[i].Sorry) {
			for _, c := range r.Checks {
				is4 := c.Target.Address.Addr().Is4()
				v4, v6 = v4 || c.Via != ViaDirect && is4, v6 || c.Via != ViaDirect && !is4
			}
		}
	}
	return v4, v6
}

// Quorum says when a service has lost too many of its real servers, as keepalived's quorum and
// hysteresis: it is lost when the weights of those that are up sum to less than Weight - Hysteresis,
// and regained at Weight + Hysteresis.
type Quorum struct {
	Weight     uint32 // 0: 1
	Hysteresis uint32 // below Weight
}
