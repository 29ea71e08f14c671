// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strconv"

	"xdplvs/director"
)

var (
	sourceConns  = gauge("source_connections", "Connections by fullnat that come from the address.", "source")
	sourceUsed   = gauge("source_used", "Whether new connections by fullnat come from the address.", "source")
	verdictCount = counter("verdict_packets_total", "Packets by the reason they left for.", "verdict")

	addressHeld   = gauge("virtual_address_held", "Whether the director has the virtual address; not of those that are somebody else's.", "address", "interface", "mode")
	addressRival  = gauge("virtual_address_rival", "Whether another host answers for the virtual address.", "address", "interface", "mode")
	announcements = counter("virtual_address_announcements_total", "Announcements of the virtual address.", "address", "interface", "mode")
	repaired      = counter("virtual_address_repairs_total", "How often somebody had taken the virtual address away.", "address", "interface", "mode")

	interfaceAttached = gauge("interface_attached", "Whether the program is attached for the interface.", "interface", "device", "mode")
)

func putInterfaces(s sink, list []director.InterfaceState) {
	for i := range list {
		n := &list[i]
		s.truth(interfaceAttached, n.Error == "" && n.Device != "", n.Name, n.Device, n.Mode.String())
	}
}

func putSources(s sink, list []director.SourceState) {
	for _, state := range list {
		s.count(sourceConns, state.Conns, state.Addr.String())
		s.truth(sourceUsed, state.Unused == "", state.Addr.String())
	}
}

func putAddresses(s sink, list []director.AddressState) {
	for i := range list {
		a := &list[i]
		if a.Mode == director.AddressNone {
			continue
		}
		labels := []string{a.Addr.String(), a.Interface, a.Mode.String()}
		s.truth(addressHeld, a.Status == director.AddressHeld, labels...)
		s.truth(addressRival, a.Rival != nil, labels...)
		s.count(announcements, a.Announcements, labels...)
		s.count(repaired, a.Repaired, labels...)
	}
}

var (
	tablePlaces  = gauge("table_places", "Places of the table.", "table")
	tableUsed    = gauge("table_used_places", "Places of the table that are in use; of connection tables as the last sweep left them.", "table")
	tableEntries = gauge("table_entries", "Entries of a connection table by IPVS's state; TEMPLATE is persistence's, WAY_BACK leads replies.", "table", "state")

	sweepPasses   = counter("sweep_passes_total", "Passes of the sweep over the connection tables.")
	sweepFreed    = counter("sweep_freed_entries_total", "Entries that the sweep freed.")
	sweepRepaired = counter("sweep_repaired_counts_total", "Counts of connections that had drifted and were repaired.")
	sweepBusy     = counter("sweep_busy_seconds_total", "Time that the sweep worked.")
	sweepLast     = gauge("sweep_last_pass_timestamp_seconds", "When the sweep finished its last pass.")
)

func putTables(s sink, list []director.TableState) {
	for _, t := range list {
		s.count(tablePlaces, t.Places, t.Name)
		s.count(tableUsed, t.Used, t.Name)
		for state, n := range t.Entries {
			s.count(tableEntries, n, t.Name, state)
		}
	}
}

func putSweep(s sink, state director.SweepState) {
	s.count(sweepPasses, state.Passes)
	s.count(sweepFreed, state.Freed)
	s.count(sweepRepaired, state.Repaired)
	s.put(sweepBusy, state.Busy.Seconds())
	s.moment(sweepLast, state.Last)
}

var driftRepaired = counter("drift_repairs_total", "Entries, programs and pins that somebody had changed and the director put back.", "what")

// putDrift shows every kind from the beginning, so that a first repair is an increase.
func putDrift(s sink, list []director.Drift) {
	times := map[string]uint64{}
	for i := range list {
		times[list[i].What] = list[i].Times
	}
	for _, what := range director.DriftKinds {
		s.count(driftRepaired, times[what], what)
	}
}

var (
	buildInfo   = gauge("build_info", "What the daemon was made from; always 1.", "version", "revision", "goversion")
	programInfo = gauge("program_info", "The XDP program as the kernel has it; always 1.", "name", "tag", "id")
	tableBytes  = gauge("table_memory_bytes", "Memory of the tables in the kernel.")
	ready       = gauge("ready", "Whether the configuration is in force on every interface.")
	snapshotOK  = gauge("snapshot_available", "Whether the state could be read; without it most metrics are absent.")
	generation  = gauge("config_generation", "Generation of the desired state, counted from 1 at the daemon's start.")
	reloads     = counter("config_reloads_total", "Reloads of the configuration.", "result")
	upToDate    = gauge("config_last_reload_successful", "Whether the newest attempt to read the configuration went well.")
	loaded      = gauge("config_last_reload_success_timestamp_seconds", "When the configuration in force was read.")
)

func putStatus(s sink, status Status) {
	s.put(programInfo, 1, status.Program.Name, status.Program.Tag, strconv.FormatUint(uint64(status.Program.ID), 10))
	s.count(tableBytes, status.Tables)
	s.truth(ready, status.Ready)
	s.count(reloads, status.Reloads, "applied")
	s.count(reloads, status.Refused, "refused")
	s.truth(upToDate, status.UpToDate)
	s.moment(loaded, status.Loaded)
}
