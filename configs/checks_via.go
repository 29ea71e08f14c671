// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"xdplvs/director"
	hc "xdplvs/healthcheck"
	"xdplvs/internal/health"
)

// viaNames are the ways of probes that can be written.
var viaNames = map[string]health.Via{"service": health.ViaService, "direct": health.ViaDirect}

func viaKind() kind[health.Via] {
	return mapped(choice("way", func() []string { return sortedKeys(viaNames) }),
		func(_ cursor, text string) (health.Via, bool) { return viaNames[text], true })
}

// checkVia finds what contradicts the way that is written, whoever is asked.
func (d *definition) checkVia(c *check) {
	switch {
	case !c.via.ok || c.via.value == health.ViaDirect || d.make == nil:
	case !d.sends:
		c.via.at.failf("a check of this kind sends nothing that could go via the service")
	case c.sockets.Interface != "" || c.sockets.Mark != 0:
		c.via.at.failf("probes via the service go as clients' packets do: interface and mark have no say in it")
	}
}

// via is the way of a check's probes. By itself it is that of clients only where nothing says that somebody
// else is meant: another address or port, or another way.
func (b *healthBuilder) via(d *definition, real *director.RealServer) health.Via {
	plain := !d.address.IsValid() && d.port == 0 && d.dialer == nil && b.key.Mark == 0 && (b.key.Port != 0 || !d.needsPort)
	forwarded := real.Method == director.DirectRouting || real.Method == director.Tunnel
	switch {
	case d.via.given():
		return d.via.value
	case plain && forwarded && d.sends:
		return health.ViaServiceIfSeen
	default:
		return health.ViaDirect
	}
}

// goesVia finds what keeps probes that shall go via the service from that.
func (b *healthBuilder) goesVia(d *definition, real *director.RealServer, at cursor) bool {
	if d.via.value != health.ViaService {
		return true
	}
	sockets, _ := d.dialer.(hc.Sockets)
	family := b.key.Addr.Is4()
	switch {
	case b.key.Mark != 0 && !d.address.IsValid():
		at.failf("check %s goes via the service, and fwmark %d has no address that a client would ask: key address of the check says one", d.name, b.key.Mark)
	case d.address.IsValid() && d.address.Is4() != family:
		at.failf("check %s goes via the service: address %s is not of the service's family", d.name, d.address)
	case sockets.Source.IsValid() && sockets.Source.Is4() != family:
		at.failf("check %s goes via the service: source %s is not of the service's family", d.name, sockets.Source)
	case real.Method == director.Local:
		at.failf("check %s goes via the service: by method local nothing is forwarded", d.name)
	case d.echo && real.Method != director.DirectRouting && real.Method != director.Tunnel:
		at.failf("check %s goes via the service: by %s no echo requests are forwarded", d.name, real.Method)
	default:
		return true
	}
	return false
}
