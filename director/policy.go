// SPDX-License-Identifier: Apache-2.0

package director

import (
	"sync/atomic"

	"xdplvs/bpf"
)

// Fate is what becomes of the connections of a real server that is removed, or lost.
type Fate uint8

// The fates.
const (
	FateKeep       Fate = iota // they go on as long as they can
	FateReschedule             // the next packet that may begin a connection gets another real server
	FateReset                  // TCP segments are answered with a reset, other packets are dropped
	FateDrop                   // packets are dropped; should the real server come back, they go on (IPVS)
)

var fateNames = names[Fate]{{FateKeep, "keep"}, {FateReschedule, "reschedule"}, {FateReset, "reset"}, {FateDrop, "drop"}}

// String returns the name that configuration uses.
func (f Fate) String() string { return fateNames.format(f) }

// MarshalText implements encoding.TextMarshaler.
func (f Fate) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known fates.
func (f *Fate) UnmarshalText(text []byte) (err error) {
	*f, err = fateNames.parse("fate", text)
	return err
}

// Reuse is which connections a SYN of the same addresses and ports ends, so that
// it is scheduled as new: IPVS's conn_reuse_mode.
type Reuse uint8

// What is reused.
const (
	ReuseClosing Reuse = iota // what ReuseClosed is, and FIN_WAIT where replies are not seen: modes 2 and 3
	ReuseClosed               // TIME_WAIT and CLOSE: mode 1
	ReuseNever                // mode 0
)

// ReuseOfMode is what conn_reuse_mode, 0 to 3, means in IPVS.
func ReuseOfMode(mode uint32) Reuse {
	switch {
	case mode&2 != 0:
		return ReuseClosing
	case mode != 0:
		return ReuseClosed
	default:
		return ReuseNever
	}
}

// flags are the service's in the data plane.
func (r Reuse) flags() uint32 {
	switch r {
	case ReuseClosing:
		return bpf.ServiceReuse | bpf.ServiceReuseFin
	case ReuseClosed:
		return bpf.ServiceReuse
	default:
		return 0
	}
}

// ConnPolicy is how a service treats connections that are no ordinary ones.
type ConnPolicy struct {
	OnRemove     Fate // of the connections of a removed real server
	OnDown       Fate // of those whose real server's next hop is lost; not FateDrop
	Reuse        Reuse
	ExpireNodest bool // a SYN on a connection of a quiesced real server is scheduled as new
	Sloppy       bool // segments other than SYN begin connections, too: sloppy_tcp, sloppy_sctp
}

// DefaultConnPolicy is the policy of a service that says nothing. A UDP flow
// loses nothing by another real server; a TCP connection loses everything.
func DefaultConnPolicy(p Protocol) ConnPolicy {
	if p == UDP {
		return ConnPolicy{OnRemove: FateReschedule, OnDown: FateReschedule}
	}
	return ConnPolicy{}
}

// IPVSConnPolicy is what IPVS does with its sysctls as they are by default, or
// with expire_nodest_conn.
func IPVSConnPolicy(expireNodest bool) ConnPolicy {
	p := ConnPolicy{OnRemove: FateDrop, Reuse: ReuseClosed, ExpireNodest: expireNodest}
	if expireNodest {
		p.OnRemove = FateReschedule
	}
	return p
}

// away marks the generation of a removed real server whose connections wait for
// it. Without the mark it is theirs again, so taking it off is all that coming
// back needs, however often it is done and whatever interrupts it.
const away = uint32(1) << 31

// holding is the generation of the connections that a real server has, or will have again.
func (r *real) holding() uint32 { return atomic.LoadUint32(&r.row.Generation) &^ away }

// nextGeneration is one that no connection has.
func nextGeneration(generation uint32) uint32 { return (generation + 1) &^ away }

var staleActions = map[Fate]uint8{
	FateReschedule: bpf.StaleReschedule,
	FateReset:      bpf.StaleReset,
	FateDrop:       bpf.StaleDrop,
}

// abandon leaves a real server's connections to their fate. The row says what
// their packets get before they become stale.
func (d *Director) abandon(r *real, f Fate) {
	if f == FateKeep {
		return
	}
	r.row.Stale = staleActions[f]
	if f == FateDrop {
		r.setGeneration(r.holding() | away)
		return
	}
	r.setGeneration(nextGeneration(r.holding()))
	d.strand(r)
}

// comeHome gives a real server the connections that wait for it.
func (r *real) comeHome() { r.setGeneration(r.holding()) }

func (r *real) setGeneration(generation uint32) {
	r.kept.generation = generation
	atomic.StoreUint32(&r.row.Generation, generation)
}
