// SPDX-License-Identifier: Apache-2.0

// Package door lets packets of this host in whose mark matters, which XDP cannot see: what is sent into
// the near end of a veth pair gets its mark written into the frame by a program; the director's XDP
// program is at the far end. There are two such doors, each with a pair of its own: one for packets that the
// firewall has marked, which rules of policy routing send there, and one for probes, whose sockets are
// bound to the near end.
//
// The pair, the rules and one routing table are the director's. Nothing else is touched: what is
// removed is known by its group, or by its table and protocol.
package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Names and numbers of what the director adds to the host.
const (
	Near     = "dir-marks" // packets with a mark are routed into it
	Far      = "dir-door"  // and come in to the XDP program here
	Table    = 8848        // of the route into the pair; the number is that of IPVS's port
	Priority = 1000        // of the rules: after the local table's, before the main table's

	ProbeNear  = "dir-probe" // the sockets of probes are bound to it
	ProbeFar   = "dir-probe-in"
	ProbeTable = Table + 1

	group    = 8848 // of the near end: by it the director knows its own
	protocol = 86   // of the rules and routes, as ip rule and ip route show it
)

// checkEvery is the time between two looks at whether all is still there.
const checkEvery = 2 * time.Second

// Marks are those that let packets in, by family, in order: of the services that take their packets from
// the firewall, or see Families.
type Marks struct{ V4, V6 []uint32 }

// Families are the Marks of the probes' door: it has one for each family, and lets in what is bound to it.
func Families(v4, v6 bool) (m Marks) {
	if v4 {
		m.V4 = []uint32{0}
	}
	if v6 {
		m.V6 = []uint32{0}
	}
	return m
}

// None reports whether there are none.
func (m Marks) None() bool { return len(m.V4)+len(m.V6) == 0 }

// State is how far the door is.
type State struct {
	Open       bool // there is one
	Marks      Marks
	Problem    string
	Repaired   int // times that something was put back
	RepairedAt time.Time
}

// Options are what a Manager works with.
type Options struct {
	Log *slog.Logger
	// Program is the file descriptor of the program for the near end.
	Program func() int
}

// Manager keeps the door as it is wanted. Its methods may be called from any goroutine.
type Manager struct {
	opts   Options
	kernel kernel
	what   string // comes in by it
	event  string // begins the events' names

	mu    sync.Mutex
	want  Marks
	state State
}

// New makes a Manager of the door for packets with the firewall's marks. It does nothing by itself.
func New(opts Options) *Manager {
	return &Manager{opts: opts, kernel: host{&marksDoor}, what: "packets with the firewall's marks", event: "door"}
}

// NewForProbes makes a Manager of the door for probes.
func NewForProbes(opts Options) *Manager {
	return &Manager{opts: opts, kernel: host{&probesDoor}, what: "probes as a client's", event: "probe_door"}
}

// Open makes the pair, if there are marks and it is not there, so that the XDP program can be
// attached. No packet comes to it before Set.
func (m *Manager) Open(want Marks) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if want.None() {
		return nil
	}
	if _, err := m.kernel.pair(m.opts.Program(), true); err != nil {
		return fmt.Errorf("make way for %s: %w", m.what, err)
	}
	return nil
}

// Set routes packets with these marks into the pair, and no others. Without marks, nothing is left of
// it, nor of what a former process has left.
func (m *Manager) Set(want Marks) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.want = want
	return m.settle()
}

// Withdraw undoes an Open that no Set followed.
func (m *Manager) Withdraw() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settle()
}

// Remove takes everything off.
func (m *Manager) Remove() error { return m.Set(Marks{}) }

// settle is called with the lock held.
func (m *Manager) settle() error {
	err := m.kernel.dropRules(m.want)
	switch {
	case err != nil:
	case m.want.None():
		err = m.kernel.dropPair()
	default:
		_, err = m.ensure()
	}
	m.state.Open, m.state.Marks = !m.want.None(), m.want
	if err != nil {
		return fmt.Errorf("route %s: %w", m.what, err)
	}
	m.state.Problem = ""
	return nil
}

// ensure adds what is missing, and tells what that was. The pair comes first, the rules last.
func (m *Manager) ensure() (missing []string, err error) {
	missing, err = m.kernel.pair(m.opts.Program(), false)
	for _, v6 := range []bool{false, true} {
		marks := m.want.V4
		if v6 {
			marks = m.want.V6
		}
		if err != nil || len(marks) == 0 {
			continue
		}
		var added []string
		added, err = m.kernel.routes(marks, v6)
		missing = append(missing, added...)
	}
	return missing, err
}

// State returns the state as it was at the last look.
func (m *Manager) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Run puts back what others remove, until ctx ends. The door stays.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			m.check()
		}
	}
}

// check says once what it had to put back, and once what it cannot.
func (m *Manager) check() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.want.None() {
		return
	}
	missing, err := m.ensure()
	if len(missing) > 0 {
		m.state.Repaired++
		m.state.RepairedAt = time.Now()
		m.opts.Log.Warn("somebody took away what brings "+m.what+" to the director: it is put back", "event", m.event+"_repaired",
			"what", strings.Join(missing, ", "))
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != m.state.Problem {
		m.opts.Log.Error(m.what+" do not come to the director", "event", m.event+"_failed", "error", problem)
	}
	m.state.Problem = problem
}

// MarksOf puts marks into order, each once.
func MarksOf(v4, v6 []uint32) Marks {
	slices.Sort(v4)
	slices.Sort(v6)
	return Marks{slices.Compact(v4), slices.Compact(v6)}
}

// errForeign is wrapped by the error for an interface of the name that is not the director's.
var errForeign = errors.New("is there already, and is not the director's")
