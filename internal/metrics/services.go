// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"slices"
	"strings"

	"xdplvs/director"
)

// Services and real servers are told apart by their keys; the service's name is a label beside, since
// it is what people look for. A real server's name, which may come and go, is in real_info only.
var (
	serviceLabels = []string{"service", "protocol", "virtual"}
	realLabels    = append(slices.Clone(serviceLabels), "real")
)

// traffic are the five counters that a service, a real server and all together have.
type traffic struct {
	conns, inPackets, outPackets, inBytes, outBytes family
}

func newTraffic(prefix, of string, labels ...string) traffic {
	return traffic{
		conns:      counter(prefix+"connections_total", "Connections of "+of+".", labels...),
		inPackets:  counter(prefix+"incoming_packets_total", "Packets from clients of "+of+".", labels...),
		outPackets: counter(prefix+"outgoing_packets_total", "Packets to clients of "+of+" that passed the director, as with nat.", labels...),
		inBytes:    counter(prefix+"incoming_bytes_total", "Bytes of IP packets from clients of "+of+".", labels...),
		outBytes:   counter(prefix+"outgoing_bytes_total", "Bytes of IP packets to clients of "+of+" that passed the director.", labels...),
	}
}

func (t *traffic) put(s sink, c director.Counters, labels ...string) {
	s.count(t.conns, c.Conns, labels...)
	s.count(t.inPackets, c.InPkts, labels...)
	s.count(t.outPackets, c.OutPkts, labels...)
	s.count(t.inBytes, c.InBytes, labels...)
	s.count(t.outBytes, c.OutBytes, labels...)
}

var (
	totalTraffic   = newTraffic("", "all services, removed ones included")
	serviceTraffic = newTraffic("service_", "the service", serviceLabels...)
	realTraffic    = newTraffic("real_", "the real server", realLabels...)

	serviceInfo      = gauge("service_info", "What the service is; always 1.", append(slices.Clone(serviceLabels), "scheduler")...)
	serviceReals     = gauge("service_real_servers", "Real servers of the service.", serviceLabels...)
	serviceUsable    = gauge("service_usable_real_servers", "Real servers of the service that get new connections.", serviceLabels...)
	serviceActive    = gauge("service_active_connections", "Connections of the service that IPVS calls active.", serviceLabels...)
	serviceInactive  = gauge("service_inactive_connections", "Connections of the service that IPVS calls inactive.", serviceLabels...)
	serviceNoReal    = counter("service_no_real_packets_total", "Packets that found no usable real server.", serviceLabels...)
	serviceQuorum    = gauge("service_quorum", "Whether enough real servers are well; without it sorry servers get the new connections.", serviceLabels...)
	serviceSorry     = gauge("service_sorry_in_use", "Whether sorry servers get the new connections.", serviceLabels...)
	serviceUntracked = counter("service_untracked_connections_total", "Connections that found no place in the table.", serviceLabels...)

	realInfo       = gauge("real_info", "What the real server is; always 1.", append(slices.Clone(realLabels), "name", "method")...)
	realActive     = gauge("real_active_connections", "Connections that IPVS calls active.", realLabels...)
	realInactive   = gauge("real_inactive_connections", "Connections that IPVS calls inactive.", realLabels...)
	realTemplates  = gauge("real_templates", "Clients that persistence sends to the real server.", realLabels...)
	realWeight     = gauge("real_weight", "Weight as configured; 0: quiesced.", realLabels...)
	realEffective  = gauge("real_effective_weight", "Weight less what a slow start holds back.", realLabels...)
	realReachable  = gauge("real_reachable", "Whether the next hop to the real server is known.", realLabels...)
	realHealth     = gauge("real_health_ratio", "Share of its weight that its health checks let it have; none of one that is not checked.", realLabels...)
	realOverloaded = gauge("real_overloaded", "Whether it reached its upper threshold.", realLabels...)
	realUpper      = gauge("real_upper_threshold_connections", "Upper threshold; 0: none.", realLabels...)
	realPlanned    = gauge("real_planned_share_ratio", "Share of the service's new connections by its plans, of the last 30 to 60 s.", realLabels...)
	realMeasured   = gauge("real_measured_share_ratio", "Share of the service's new connections as they were made, of the last 30 to 60 s.", realLabels...)
	realPortsUsed  = gauge("real_local_ports_used", "Local ports that connections by fullnat have towards the real server.", realLabels...)
	realPorts      = gauge("real_local_ports", "Local ports for connections by fullnat towards the real server.", realLabels...)

	omitted = gauge("omitted", "Services, or real servers, without series because there are too many.", "kind")
)

// services puts as many as the limits allow, in the order of the listing.
func (e *Exporter) services(s sink, list []director.ServiceState) {
	reals, leftServices, leftReals := 0, 0, 0
	for i := range list {
		if i >= e.limits.Services || reals+len(list[i].Reals)+len(list[i].Sorry) > e.limits.RealServers {
			leftServices++
			leftReals += len(list[i].Reals) + len(list[i].Sorry)
			continue
		}
		reals += len(list[i].Reals) + len(list[i].Sorry)
		putService(s, &list[i])
	}
	s.put(omitted, float64(leftServices), "service")
	s.put(omitted, float64(leftReals), "real_server")
}

// keyLabels are service, protocol and virtual.
func keyLabels(state *director.ServiceState) []string {
	k := state.Key
	protocol, virtual, _ := strings.Cut(k.String(), " ")
	if k.Mark != 0 {
		protocol, virtual = "fwmark", strings.TrimPrefix(k.String(), "fwmark ")
	}
	return []string{cmp.Or(state.Name, k.String()), protocol, virtual}
}

func putService(s sink, state *director.ServiceState) {
	labels := keyLabels(state)
	var active, inactive, usable uint64
	for i := range state.Reals {
		r := &state.Reals[i]
		active += uint64(r.Active)
		inactive += uint64(r.Inactive)
		if r.Excluded() == "" {
			usable++
		}
		putReal(s, r, append(slices.Clip(labels), r.Key.String()))
	}
	for i := range state.Sorry {
		r := &state.Sorry[i]
		putReal(s, r, append(slices.Clip(labels), r.Key.String()))
	}
	scheduler := strings.Join(strings.Fields(state.Scheduler+" "+state.Flags), ",")
	s.put(serviceInfo, 1, append(slices.Clip(labels), scheduler)...)
	serviceTraffic.put(s, state.Counters, labels...)
	s.count(serviceReals, uint64(len(state.Reals)), labels...)
	s.count(serviceUsable, usable, labels...)
	s.count(serviceActive, active, labels...)
	s.count(serviceInactive, inactive, labels...)
	s.count(serviceNoReal, state.NoReal, labels...)
	s.truth(serviceQuorum, !state.QuorumLost, labels...)
	s.truth(serviceSorry, state.SorryInUse, labels...)
	s.count(serviceUntracked, state.Untracked, labels...)
}

func putReal(s sink, r *director.RealState, labels []string) {
	s.put(realInfo, 1, append(slices.Clip(labels), r.Name, r.Method.String())...)
	realTraffic.put(s, r.Counters, labels...)
	s.count(realActive, uint64(r.Active), labels...)
	s.count(realInactive, uint64(r.Inactive), labels...)
	s.count(realTemplates, uint64(r.Templates), labels...)
	s.count(realWeight, uint64(r.Weight), labels...)
	s.count(realEffective, uint64(r.EffectiveWeight), labels...)
	s.truth(realReachable, r.Reachable, labels...)
	if r.Health != nil {
		s.put(realHealth, float64(r.Health.Factor)/100, labels...)
	}
	s.truth(realOverloaded, r.Overloaded, labels...)
	s.count(realUpper, uint64(r.Upper), labels...)
	s.put(realPlanned, r.PlannedShare, labels...)
	s.put(realMeasured, r.MeasuredShare, labels...)
	if r.Ports != nil {
		s.count(realPortsUsed, r.Ports.Used, labels...)
		s.count(realPorts, r.Ports.Available, labels...)
	}
}
