// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// NoServer is the id in a plan slot when no server can be given.
const NoServer = ^uint32(0)

// Server is what a scheduler sees of a real server. Slices of Server are always
// in IPVS's list order: the last added first.
type Server struct {
	ID         uint32     // dense id, what plans are made of
	Addr       netip.Addr // with Port: the identity across removal and re-adding
	Port       uint16
	Weight     uint32 // effective weight, 0 = quiesced
	LastWeight uint32 // last weight that was not 0 (only mh looks at it)
	Active     uint32 // active connections
	Inactive   uint32 // all others, templates excluded
	Overloaded bool   // IPVS's OVERLOAD flag, kept by Threshold
	Upper      uint32 // upper threshold in connections, 0 = none; only looked at by Connect, and so by Forward
	Held       uint8  // how much of Weight a slow start holds back, in 256ths; see SlowStart
}

// Usable reports whether a scheduler may choose s: not quiesced, not overloaded.
func (s Server) Usable() bool { return s.Weight > 0 && !s.Overloaded }

// Connect counts one more connection on s, and marks s as overloaded when that
// makes it reach its upper threshold, which it then reports.
func (s *Server) Connect(c Counting) (full bool) { return s.connect(c, 1) }

// connect counts n connections at once. Counts stop at their largest value
// rather than starting again at 0, which would make a full server look idle.
func (s *Server) connect(c Counting, n uint64) (full bool) {
	switch c {
	case CountActive:
		s.Active = addSaturated(s.Active, n)
	case CountInactive:
		s.Inactive = addSaturated(s.Inactive, n)
	default:
		return false
	}
	full = s.Upper != 0 && !s.Overloaded && s.total() == uint64(s.Upper)
	s.Overloaded = s.Overloaded || full
	return full
}

func addSaturated(a uint32, n uint64) uint32 {
	return uint32(min(uint64(a)+min(n, 1<<32), 1<<32-1))
}

// total is IPVS's totalconns.
func (s Server) total() uint64 { return uint64(s.Active) + uint64(s.Inactive) }

// overhead is IPVS's load: an active connection weighs as much as 257 inactive
// ones. At most 2^41, while the kernel's int overflows beyond 8 million connections.
func (s Server) overhead() uint64 { return uint64(s.Active)*256 + s.total() }

// lastWeight is the share of mh's table that s has or had last.
func (s Server) lastWeight() int64 {
	if s.LastWeight != 0 {
		return int64(s.LastWeight)
	}
	return int64(s.Weight)
}

// addrPort is the identity by which IPVS knows a server that comes back.
func (s Server) addrPort() netip.AddrPort { return netip.AddrPortFrom(s.Addr, s.Port) }

func anyUsable(servers []Server) bool { return slices.ContainsFunc(servers, Server.Usable) }

// Kind tells how the data plane reads a plan.
type Kind uint8

// The kinds of plan.
const (
	Sequence Kind = iota // slots are taken in order, by a cursor
	Hash                 // slots are indexed by a hash of the packet
)

func (k Kind) String() string { return enumName(k, "sequence", "hash") }

// Counting is what a connection adds to its server at the moment it is scheduled.
type Counting uint8

// The ways of counting.
const (
	CountActive   Counting = iota // TCP: SYN_RECV is active
	CountInactive                 // UDP, and SCTP until it is established
	CountNothing                  // one-packet scheduling
)

func (c Counting) String() string { return enumName(c, "active", "inactive", "nothing") }

func enumName[T ~uint8](v T, names ...string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%T(%d)", v, uint8(v))
}

// Packet is the flow a scheduler may look at. Sequence schedulers other than
// lblc and lblcr look at none of it.
type Packet struct {
	Src, Dst netip.Addr
	SrcPort  uint16
	Now      time.Duration // monotonic, from any origin; lblc and lblcr age their entries by it
}

// Scheduler decides as the Linux kernel's scheduler of that name does.
// It is not safe for concurrent use.
type Scheduler interface {
	// Name is the name ipvsadm knows.
	Name() string
	// Kind is the kind of plan Forward makes of it.
	Kind() Kind
	// Edit tells that a server was added, removed or edited; servers is the whole
	// list after the change. Call it after each single change, first of all once
	// per server added (wrr's first pass depends on it), and not when only counts
	// or Overloaded moved. servers is not kept.
	Edit(servers []Server)
	// Pick chooses for one new connection and moves the scheduler's state. servers
	// is the list last given to Edit with today's counts. It returns an index in
	// servers, of a usable server, or -1. Where a slow start withholds a choice,
	// Forward and Advance ask once more, with that server overloaded.
	Pick(p Packet, servers []Server) int
	// Clone returns an independent copy of the state, to run forward without
	// moving the original.
	Clone() Scheduler
}

// Cyclic is a sequence scheduler without regard to counts: the same State and
// the same usable servers give the same choices from there on. Forward finds its
// cycle and so makes plans that stay right for ever.
type Cyclic interface {
	Scheduler
	// State is everything that Pick moves.
	State() [2]uint64
}

// Tabled is a hash scheduler: Pick takes the first usable server among the slots
// that Probe names.
type Tabled interface {
	Scheduler
	// Table is the hash plan, slot -> server id, NoServer where no server is.
	// servers is the list last given to Edit. Quiesced and overloaded servers keep
	// their slots: whoever reads the table has to look.
	Table(servers []Server) []uint32
	// Probe is the slot to try after attempt others (0 first) turned out unusable.
	// ok is false when the packet has to be refused instead.
	Probe(p Packet, attempt int) (slot int, ok bool)
}

// Based is a scheduler that first asks a memory of its own (lblc, lblcr): what
// the memory does not know is a sequence of Base, and that is what Forward plans.
type Based interface {
	Scheduler
	Base() Scheduler
}

// Options are the parameters of all schedulers; each takes what it knows.
type Options struct {
	// Flags of sh and mh. Flags of another scheduler are an error.
	Flags Flags
	// MHTableSize is mh's table size, a prime up to MaxTableSize; 0 means 4093, as
	// Debian builds it.
	MHTableSize int
	// Rand seeds twos, which draws two words from it; nil means seeded at random.
	Rand *rand.Rand
	// LBLCExpiration is the sysctl lblc_expiration; 0 means 24 hours.
	LBLCExpiration time.Duration
	// LBLCRExpiration is the sysctl lblcr_expiration; 0 means 24 hours.
	LBLCRExpiration time.Duration
}

type entry struct {
	flags  Flags // those it knows
	create func(Options) (Scheduler, error)
}

// registry is written by Register only, which a program does before it starts.
var registry = struct {
	sync.RWMutex
	entries map[string]entry
}{entries: map[string]entry{
	"rr":    {create: newRR},
	"wrr":   {create: newWRR},
	"lc":    {create: newLC},
	"wlc":   {create: newWLC},
	"lblc":  {create: newLBLC},
	"lblcr": {create: newLBLCR},
	"dh":    {create: newDH},
	"sh":    {create: newSH, flags: SHFallback | SHPort},
	"sed":   {create: newSED},
	"nq":    {create: newNQ},
	"fo":    {create: newFO},
	"ovf":   {create: newOVF},
	"mh":    {create: newMH, flags: MHFallback | MHPort},
	"twos":  {create: newTwos},
}}

// Register makes a scheduler of your own known under name, for [New] and [Names].
// It fails for a name that is taken. Call it before the program starts to work;
// a registered scheduler sees all flags.
func Register(name string, create func(Options) (Scheduler, error)) error {
	registry.Lock()
	defer registry.Unlock()
	if name == "" || create == nil {
		return fmt.Errorf("register scheduler %q: name and constructor are needed", name)
	}
	if _, taken := registry.entries[name]; taken {
		return fmt.Errorf("register scheduler %q: name is taken", name)
	}
	registry.entries[name] = entry{flags: ^Flags(0), create: create}
	return nil
}

// New returns the scheduler of that name, without servers: call Edit next. An
// unknown name is an error that lists the known ones, a flag that belongs to
// another scheduler is an error too.
func New(name string, opts Options) (Scheduler, error) {
	registry.RLock()
	e, ok := registry.entries[name]
	registry.RUnlock()
	if !ok {
		return nil, fmt.Errorf("unknown scheduler %q (known: %s)", name, strings.Join(Names(), ", "))
	}
	if alien := opts.Flags &^ e.flags; alien != 0 {
		return nil, fmt.Errorf("scheduler %s: no such flag: %s", name, alien)
	}
	return e.create(opts)
}

// Names returns the known names in alphabetical order.
func Names() []string {
	registry.RLock()
	defer registry.RUnlock()
	names := make([]string, 0, len(registry.entries))
	for name := range registry.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// CountAware reports whether the choices of the scheduler of that name depend on
// the servers' counts, so that its plan must be made anew when counts move.
// Unknown names count as aware: a needless plan costs less than a wrong one.
func CountAware(name string) bool {
	s, err := New(name, Options{})
	return err != nil || countAware(s)
}

func countAware(s Scheduler) bool {
	switch s := s.(type) {
	case *ranked:
		return s.uses != 0
	case Tabled, Cyclic:
		return false
	}
	return true
}
