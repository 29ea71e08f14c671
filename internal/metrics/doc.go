// SPDX-License-Identifier: Apache-2.0

// Package metrics exports the director's state in the form that Prometheus reads.
//
// Everything is read when it is asked for; nothing is counted here, so that a restart of the daemon
// takes nothing away from counters that the data plane keeps. Labels are what the configuration
// names, and no more: no label has a client in it. docs/metrics.md lists all metrics.
package metrics

import (
	"context"
	"time"

	"xdplvs/director"
)

// Source is where the state comes from. Its methods are called from several goroutines at once.
type Source interface {
	// Snapshot is the newest state; nil if there is none.
	Snapshot() *director.Snapshot
	Addresses() director.AddressList
	Defense(context.Context) (director.DefenseState, error)
	Status() Status
}

// Status is how the daemon does.
type Status struct {
	Ready    bool      // the configuration is in force, on every interface
	Reloads  uint64    // that were put in force
	Refused  uint64    // reloads that were refused
	Loaded   time.Time // when the configuration in force was read
	UpToDate bool      // the newest attempt to read it went well
	Tables   uint64    // bytes of memory that the tables take in the kernel
	Program  Program
}

// Program is the XDP program as the kernel has it.
type Program struct {
	Name string
	Tag  string // the kernel's hash of its instructions
	ID   uint32
}

// Build is what the daemon was made from; it is exported as labels.
type Build struct {
	Version   string
	Revision  string
	GoVersion string
}

// Limits bound how many series there are. Whole services are left out when there are more real
// servers, and director_omitted tells how many; totals and verdicts are always there.
type Limits struct {
	Services    int // that have series
	RealServers int // likewise, over all services
}

// DefaultLimits allow for some 200,000 series.
var DefaultLimits = Limits{Services: 10_000, RealServers: 10_000}
