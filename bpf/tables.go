// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"unsafe"
)

// The rows of the tables, as the C sources define them (abi.h).
type (
	Settings     = directorRuntimeSettings
	DefenseState = directorDefenseState
	Service      = directorService
	Guard        = directorGuard
	PrefixBucket = directorPrefixBucket
	PrefixTree   = directorPrefixTree
	BudgetBucket = directorBudgetBucket
	SampleRing   = directorSampleRing
	TraceRow     = directorTraceFilter
	ServiceKey   = directorServiceKey
	Bucket       = directorServiceBucket
	Plan         = directorPlan
	Real         = directorReal
	RealTunnel   = directorTunnel
	Source       = directorSource
	SourcePool   = directorSourcePool
	RealCounts   = directorRealCounts
	RealTraffic  = directorRealStats
	Counters     = directorCounters
	Conn         = directorConn
	Conn4        = directorConn4
	Conn6        = directorConn6
	ConnKey      = directorConnKey
	MarkBucket   = directorMarkBucket
	MarkShape    = directorMarkShape
	MarkSet      = directorMarkSet

	Destination    = directorDestination
	DestinationKey = directorDestinationKey
)

// Flags and values of the rows.
const (
	RealUsable     = uint32(directorRealFlagREAL_USABLE)
	RealNextHop    = uint32(directorRealFlagREAL_NEXT_HOP)
	RealOverloaded = uint32(directorRealFlagREAL_OVERLOADED)
	RealRemoved    = uint32(directorRealFlagREAL_REMOVED)
	RealDown       = uint32(directorRealFlagREAL_DOWN)
	RealLocal      = uint32(directorRealFlagREAL_LOCAL)

	ServiceSloppy       = uint32(directorServiceFlagSERVICE_SLOPPY)
	ServiceOnePacket    = uint32(directorServiceFlagSERVICE_ONE_PACKET)
	ServiceRemoved      = uint32(directorServiceFlagSERVICE_REMOVED)
	ServiceReuse        = uint32(directorServiceFlagSERVICE_REUSE)
	ServiceReuseFin     = uint32(directorServiceFlagSERVICE_REUSE_FIN)
	ServiceExpireNodest = uint32(directorServiceFlagSERVICE_EXPIRE_NODEST)

	StaleReschedule = uint8(directorStaleActionSTALE_RESCHEDULE)
	StaleDrop       = uint8(directorStaleActionSTALE_DROP)
	StaleReset      = uint8(directorStaleActionSTALE_RESET)

	ServiceExpireQuiescent = uint32(directorServiceFlagSERVICE_EXPIRE_QUIESCENT)
	ServiceKeepDown        = uint32(directorServiceFlagSERVICE_KEEP_DOWN)
	ServiceSorry           = uint32(directorServiceFlagSERVICE_SORRY)
	ServiceNoQuorum        = uint32(directorServiceFlagSERVICE_NO_QUORUM)
	ServiceSIP             = uint32(directorServiceFlagSERVICE_SIP)
	ServiceCookies         = uint32(directorServiceFlagSERVICE_COOKIES)
	ServiceProofs          = uint32(directorServiceFlagSERVICE_PROOFS)

	ServiceHashPort = uint32(directorServiceFlagSERVICE_HASH_PORT)
	ServiceFallback = uint32(directorServiceFlagSERVICE_FALLBACK)

	PlanSequence = uint32(directorPlanKindPLAN_SEQUENCE)
	PlanDH       = uint32(directorPlanKindPLAN_DH)
	PlanSH       = uint32(directorPlanKindPLAN_SH)
	PlanMH       = uint32(directorPlanKindPLAN_MH)
	PlanFlow     = uint32(directorPlanKindPLAN_FLOW)
	PlanLBLC     = uint32(directorPlanKindPLAN_LBLC)
	PlanLBLCR    = uint32(directorPlanKindPLAN_LBLCR)

	// The slots before the base of lblc's and lblcr's plans.
	RosterExpiration = int(directorRosterROSTER_EXPIRATION)
	RosterCount      = int(directorRosterROSTER_COUNT)
	RosterFirst      = int(directorRosterROSTER_FIRST)
	RosterSlots      = int(directorRosterROSTER_SLOTS)

	MarksNone  = uint32(directorMarkingMARKS_NONE)
	MarksKnown = uint32(directorMarkingMARKS_KNOWN)
	MarksAny   = uint32(directorMarkingMARKS_ANY)

	DefendRate   = uint32(directorDefendingDEFEND_RATE)
	ClosedDrop   = uint32(directorClosedPortsCLOSED_DROP)
	ClosedReset  = uint32(directorClosedPortsCLOSED_RESET)
	DefendGuard  = uint32(directorDefendingDEFEND_GUARD)
	DefendSample = uint32(directorDefendingDEFEND_SAMPLE)

	// NoReal marks an empty plan slot.
	NoReal = uint32(directorLimitNO_REAL)
	// SetPlaces is how many places of a connection table lie side by side, as one set.
	SetPlaces = int(directorLimitCONN_WAYS)
	// PacketsCounted is up to how many packets of a connection are counted.
	PacketsCounted = int(directorLimitPACKETS_COUNTED)
	// Sources is how many addresses full-NAT knows; number 0 is none.
	Sources = int(directorLimitSOURCES)
	// Pools is how many pools of them there may be; number 0 is none, too.
	Pools = int(directorLimitPOOLS)
	// MaxTraces is how many traces there may be at a time.
	MaxTraces = int(directorLimitTRACES)
	// TraceBytes is how much of a frame a trace may want.
	TraceBytes = int(directorLimitTRACE_BYTES)
	// TxPorts is how many interfaces a director can transmit on.
	TxPorts = int(directorLimitTX_PORTS)
	// PlanAlign is what the base of a plan is a multiple of, in slots.
	PlanAlign = uint32(directorLimitPLAN_CHUNK)
)

// Tables are the rows that the data plane works from. On a loaded data plane
// they are the kernel's own memory: what is stored here is what the next packet
// sees. Who stores, stores in an order in which every step is valid, and words
// that packets read at the same time with sync/atomic.
type Tables struct {
	Settings   *Settings
	Defense    *DefenseState
	Filter     []uint64
	Services   []Service
	Keys       []Bucket
	Plans      []uint32 // real server ids
	Reals      []Real
	Sources    []Source     // by number; that of 0 is not used
	Pools      []SourcePool // likewise
	Counts     []RealCounts
	Traffic    []RealTraffic // of real server r on CPU c: [r*CPUs+c]
	Conns4     []Conn4
	Conns6     []Conn6
	Splices4   []uint64 // what is translated of the connection in the same place
	MarkShapes []MarkShape
	MarkRules  []MarkBucket
	Guards     []Guard // of everybody, then of service s: [s+1]
	Prefixes   []PrefixBucket
	Trees      []PrefixTree
	Budgets    []BudgetBucket
	Samples    []SampleRing // of each CPU
	Traces     []TraceRow
	CPUs       int

	Destinations int // that lblc and lblcr can remember; they are no rows
	Overflow     int // connections that find no place and can be stored; no rows either
}

// Sizes are how many rows the tables have.
type Sizes struct {
	Conns4   uint32 // places, a power of two, at least a set
	Conns6   uint32
	Overflow uint32 // connections that found no place; at least 1
	// Destinations that lblc and lblcr remember, over all services; 0: one, for
	// those who have no such service.
	Destinations uint32
	Services     uint32
	Reals        uint32
	Plans        uint32 // slots over all services
	Marks        uint32 // entries of marking rules; 0: none
	Prefixes     uint32 // entries of prefix lists; 0: few
	CPUs         int    // possible CPUs; 0: this machine's
}

func (s Sizes) keyBuckets() uint32 {
	// At most half full, the keys of addresses included, so that a key finds room in one of its two buckets.
	n := uint32(1)
	for n < s.Services {
		n <<= 1
	}
	return n
}

// markBuckets are those of both sets, at most half full.
func (s Sizes) markBuckets() uint32 {
	n := uint32(1)
	for int(n)*markWays < 2*int(s.Marks) {
		n <<= 1
	}
	return markSets * n
}

func (s Sizes) planChunks() uint32 { return (s.Plans + PlanAlign - 1) / PlanAlign }

func (s Sizes) validate() error {
	if bad := func(n uint32) bool { return n < ways || n&(n-1) != 0 }; bad(s.Conns4) || bad(s.Conns6) {
		return errors.New("size of a connection table is no power of two")
	}
	if s.Overflow == 0 || s.Services == 0 || s.Reals == 0 || s.Plans == 0 || s.CPUs == 0 {
		return errors.New("size of a table is 0")
	}
	return nil
}

const ways = uint32(directorLimitCONN_WAYS)

// NewMemoryTables returns tables in ordinary memory, for tests without a kernel.
func NewMemoryTables(s Sizes) (*Tables, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	return &Tables{
		Settings:   new(Settings),
		Defense:    new(DefenseState),
		Filter:     make([]uint64, directorLimitFILTER_WORDS),
		Services:   make([]Service, s.Services),
		Keys:       make([]Bucket, s.keyBuckets()),
		Plans:      make([]uint32, s.planChunks()*PlanAlign),
		Reals:      make([]Real, s.Reals),
		Sources:    make([]Source, Sources),
		Pools:      make([]SourcePool, Pools),
		Counts:     make([]RealCounts, s.Reals),
		Traffic:    make([]RealTraffic, int(s.Reals)*s.CPUs),
		Conns4:     make([]Conn4, s.Conns4),
		Conns6:     make([]Conn6, s.Conns6),
		Splices4:   make([]uint64, s.Conns4),
		MarkShapes: make([]MarkShape, markSets*2*markShapes),
		MarkRules:  make([]MarkBucket, s.markBuckets()),
		Guards:     make([]Guard, s.Services+1),
		Prefixes:   make([]PrefixBucket, s.prefixBuckets()),
		Trees:      make([]PrefixTree, prefixTrees),
		Budgets:    make([]BudgetBucket, budgetBuckets),
		Samples:    make([]SampleRing, s.CPUs),
		Traces:     make([]TraceRow, MaxTraces),
		CPUs:       s.CPUs,

		Destinations: int(s.Destinations),
		Overflow:     int(s.Overflow),
	}, nil
}

// Bytes is how much memory the tables take in the kernel.
func (t *Tables) Bytes() uint64 {
	return size(t.Filter) + size(t.Services) + size(t.Keys) + size(t.Plans) + size(t.Reals) + size(t.Sources) + size(t.Pools) +
		size(t.Counts) + size(t.Traffic) + size(t.Conns4) + size(t.Conns6) + size(t.Splices4) + size(t.MarkShapes) + size(t.MarkRules) +
		size(t.Guards) + size(t.Prefixes) + size(t.Trees) + size(t.Budgets) + size(t.Samples)
}

func size[T any](rows []T) uint64 {
	var zero T
	return uint64(len(rows)) * uint64(unsafe.Sizeof(zero))
}

// StateUDP is the state of every UDP connection; those of TCP have IPVS's numbers.
const StateUDP = uint8(directorConnStateUDP_NORMAL)
