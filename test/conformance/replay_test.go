// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net/netip"
	"slices"

	"xdplvs/director"
	"xdplvs/internal/packet"
)

// patterns are what the client of a connection sends: with direct routing the
// director sees no more. Whatever the method, a connection of fin or rst ends
// inactive and all others of TCP active (IPVS.md 4.1), so that recordings made
// with nat hold for dr too.
var patterns = map[string][]uint8{
	"syn":     {packet.SYN},
	"open":    {packet.SYN, packet.ACK},
	"fin":     {packet.SYN, packet.ACK, packet.FIN | packet.ACK, packet.ACK},
	"rst":     {packet.SYN, packet.ACK, packet.RST},
	"udp":     {0},
	"udp-ops": {0},
}

// foreseen reports whether connections of the pattern stay counted as they
// began: then a plan's further choices hold without its being made anew.
func foreseen(pattern string) bool { return pattern != "fin" && pattern != "rst" }

// undrivable is the reason why a scenario cannot be replayed, "" if it can.
func (s scenario) undrivable() string {
	if !slices.Contains(director.SchedulerNames(), s.Sched) {
		return "the scheduler " + s.Sched + " is not available yet"
	}
	if s.Fwmark != 0 && s.Sched != "dh" {
		return "services of a firewall mark are not available yet"
	}
	for _, st := range s.Steps {
		if reason := st.undrivable(); reason != "" {
			return reason
		}
	}
	return ""
}

func (st step) undrivable() string {
	switch st.Op {
	case "run":
		if slices.ContainsFunc(st.Choices, func(c int) bool { return c < refused }) {
			return "a connection was lost for reasons other than the scheduler"
		}
		if patterns[st.Pattern] == nil {
			return "unknown pattern " + st.Pattern
		}
		return ""
	case "cmd":
		if st.Err != "" {
			return "a command was refused: TestLives replays it"
		}
		return ""
	}
	return fmt.Sprintf("the step %q: TestLives replays it", st.Op)
}

// judge says what has to come of the connections.
type judge interface {
	// before is called when the next connection is about to begin.
	before(r *replay, pattern string)
	// after is told the choice made and the one recorded.
	after(got, recorded int) error
	// table is told the state after a run, and /proc/net/ip_vs as recorded.
	table(got, recorded []row) error
}

// exact wants what was recorded. settled says, each time, whether the director
// may bring itself up to date before a connection.
type exact struct{ settled func() bool }

func (e exact) before(r *replay, pattern string) {
	if e.settled() || !foreseen(pattern) {
		r.settle()
	}
}

func (exact) after(got, recorded int) error {
	if got != recorded {
		return fmt.Errorf("real server %d, want %d", got, recorded)
	}
	return nil
}

func (exact) table(got, recorded []row) error {
	if !slices.Equal(got, recorded) {
		return fmt.Errorf("table %v, want %v", got, recorded)
	}
	return nil
}

// replay is a scenario on its way through a node.
type replay struct {
	*node
	scenario
	// services differ in their keys only: one, or for dh one for each destination.
	services []director.Service
	judge    judge
	choices  int
}

// newReplay brings the scenario's service up, one command after another.
func newReplay(n *node, s scenario, j judge) (*replay, error) {
	r := &replay{node: n, scenario: s, judge: j}
	if err := r.createServices(); err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, len(s.Dests))
	for i, d := range s.Dests {
		addrs[i] = d.Addr.Addr()
	}
	n.reach(addrs...)
	if err := n.set(r.services...); err != nil {
		return nil, err
	}
	for _, d := range s.Dests {
		if d.Weight < 0 {
			continue
		}
		if err := r.change(func(service director.Service) (director.Service, error) {
			return editedReals(service, "-a", []string{"-r", d.Addr.String(), "-w", fmt.Sprint(d.Weight),
				"-x", fmt.Sprint(d.Upper), "-y", fmt.Sprint(d.Lower)})
		}); err != nil {
			return nil, err
		}
	}
	return r, n.allReachable()
}

// createServices: dh's choice depends on the destination alone, so the service of
// a firewall mark is replaced by one for each destination.
func (r *replay) createServices() error {
	service, err := r.service()
	if err != nil {
		return err
	}
	if r.Fwmark == 0 {
		r.services = []director.Service{service}
		return nil
	}
	seen := map[netip.AddrPort]bool{}
	for _, st := range r.Steps {
		for _, target := range st.Targets {
			if seen[target] {
				continue
			}
			seen[target] = true
			service.Key.Addr, service.Key.Port = target.Addr(), target.Port()
			r.services = append(r.services, service)
		}
	}
	return nil
}

// number is the place of a real server in the recording's list.
func (r *replay) number(key director.RealKey) int {
	return slices.IndexFunc(r.Dests, func(d dest) bool { return d.Addr == netip.AddrPortFrom(key.Addr, key.Port) })
}

// change is one ipvsadm command: one desired state.
func (r *replay) change(edit func(director.Service) (director.Service, error)) error {
	for i := range r.services {
		service, err := edit(r.services[i])
		if err != nil {
			return err
		}
		r.services[i] = service
	}
	return r.set(r.services...)
}

func (r *replay) play() error {
	for i, st := range r.Steps {
		if err := r.step(st); err != nil {
			return fmt.Errorf("step %d (%s): %w", i, st, err)
		}
	}
	return nil
}

func (r *replay) step(st step) error {
	if st.Op == "cmd" {
		return r.change(func(service director.Service) (director.Service, error) { return command(service, st.Cmd) })
	}
	for i, client := range st.Clients {
		f := flow{client, r.VIP}
		if st.Targets != nil {
			f.target = st.Targets[i]
		}
		r.judge.before(r, st.Pattern)
		got, err := r.connect(f, patterns[st.Pattern])
		if err == nil {
			r.choices++
			err = r.judge.after(got, st.Choices[i])
		}
		if err != nil {
			return fmt.Errorf("connection %d from %s: %w", i, client, err)
		}
	}
	got, err := r.table()
	if err != nil || st.Table == nil {
		return err
	}
	return r.judge.table(got, st.Table)
}

// connect sends what a client does; all of it has to reach the same real server.
func (r *replay) connect(f flow, segments []uint8) (int, error) {
	choice, err := r.send(f.frame(protocols[r.Proto], segments[0]))
	if err != nil || choice == refused {
		return choice, err
	}
	for i, flags := range segments[1:] {
		got, err := r.send(f.frame(protocols[r.Proto], flags))
		if err == nil && got != choice {
			err = fmt.Errorf("to real server %d, the connection's is %d", got, choice)
		}
		if err != nil {
			return 0, fmt.Errorf("segment %d: %w", i+1, err)
		}
	}
	return choice, nil
}

// table is the state in the form of /proc/net/ip_vs, all services added up.
func (r *replay) table() (sum []row, err error) {
	for i, s := range r.snapshot().Services {
		if s.Untracked != 0 {
			return nil, fmt.Errorf("%d connections of %s were not stored", s.Untracked, s.Key)
		}
		rows := rowsOf(s)
		if i == 0 {
			sum = rows
			continue
		}
		if len(rows) != len(sum) {
			return nil, fmt.Errorf("%d real servers in service %s, %d in another", len(rows), s.Key, len(sum))
		}
		for j := range rows {
			sum[j].Active += rows[j].Active
			sum[j].Inact += rows[j].Inact
		}
	}
	return sum, nil
}

func rowsOf(s director.ServiceState) (rows []row) {
	for _, r := range s.Reals {
		rows = append(rows, row{netip.AddrPortFrom(r.Key.Addr, r.Key.Port), r.Weight, r.Active, r.Inactive})
	}
	return rows
}
