// SPDX-License-Identifier: Apache-2.0

package configs

import "net/netip"

// Metrics says where and how much is exported for Prometheus.
type Metrics struct {
	Listen      netip.AddrPort // TCP, for anybody; invalid: the socket only
	Services    uint32         // that have series at most; 0: as the exporter thinks
	RealServers uint32         // likewise, over all services
}

// metrics is Metrics as written.
type metrics struct {
	listen                setting[netip.AddrPort]
	services, realServers setting[uint32]
}

var metricsObject = object[metrics]{
	what: "a mapping with listen",
	fields: []field[metrics]{
		key("listen", listenAddress(), func(m *metrics) *setting[netip.AddrPort] { return &m.listen },
			"Address and port where anybody gets /metrics, /healthz and /readyz, and nothing else; the socket only if absent."),
		key("services", count(1, 1<<24), func(m *metrics) *setting[uint32] { return &m.services },
			"How many services have metrics of their own; 10000 if absent."),
		key("real_servers", count(1, 1<<24), func(m *metrics) *setting[uint32] { return &m.realServers },
			"How many real servers have metrics of their own, over all services; 10000 if absent."),
	},
}

// listenAddress is where a server listens; the unspecified address is every one of the host's.
func listenAddress() kind[netip.AddrPort] {
	const what = `an address with a port such as 127.0.0.1:9500 or "[::]:9500"`
	return plainEndpoint(parsed(what, schema{"type": "string"}, parseEndpoint))
}

func (b *builder) metrics(m metrics) {
	b.config.Metrics = Metrics{m.listen.value, m.services.value, m.realServers.value}
}
