// SPDX-License-Identifier: Apache-2.0

// Package explain tells what would become of a packet, by giving it to the very program that packets meet,
// with a copy of the tables: so the answer is the program's own, and nothing that is in force changes.
package explain

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"xdplvs/bpf"
	"xdplvs/director"
)

// Explainer answers one question at a time: each takes the memory of the tables once more.
type Explainer struct {
	mu       sync.Mutex
	plane    *bpf.DataPlane
	director *director.Director
}

// New makes an explainer of a data plane that the director keeps.
func New(plane *bpf.DataPlane, d *director.Director) *Explainer {
	return &Explainer{plane: plane, director: d}
}

// QuestionError says what is wrong with a question.
type QuestionError struct{ Err error }

// Error is what is wrong.
func (e *QuestionError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *QuestionError) Unwrap() error { return e.Err }

// Explain answers a question; an error is *QuestionError if the question is at fault.
func (e *Explainer) Explain(ctx context.Context, q director.Question) (*director.Explanation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	state, err := e.director.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	a, err := newAnswer(ctx, e.director, state, q)
	if err != nil {
		return nil, &QuestionError{err}
	}
	if a.copy, err = e.copied(ctx); err != nil {
		return nil, err
	}
	err = a.find()
	return &a.Explanation, errors.Join(err, a.copy.Close())
}

// copied is the program with a copy of the tables.
func (e *Explainer) copied(ctx context.Context) (*bpf.Rehearsal, error) {
	r, err := e.plane.Rehearse()
	if err != nil {
		return nil, err
	}
	if err = r.CopyConns(); err == nil {
		err = e.director.Quietly(ctx, r.CopyRows)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// answer is an explanation in the making.
type answer struct {
	director.Explanation
	ctx     context.Context
	from    *director.Director
	state   *director.Snapshot
	copy    *bpf.Rehearsal
	ingress int
}

func newAnswer(ctx context.Context, d *director.Director, state *director.Snapshot, q director.Question) (*answer, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	a := &answer{Explanation: director.Explanation{Question: q}, ctx: ctx, from: d, state: state}
	in, err := entrance(state, q.Interface)
	if err != nil {
		return nil, err
	}
	a.Interface, a.ingress = in.Name, in.Index
	link, err := net.InterfaceByIndex(in.Index)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", in.Name, err)
	}
	a.FrameBefore, err = frame(&q, link.HardwareAddr)
	return a, err
}

// entrance is the interface of a name, or the first one, that packets come in by.
func entrance(state *director.Snapshot, name string) (*director.InterfaceState, error) {
	var known []string
	for i := range state.Interfaces {
		n := &state.Interfaces[i]
		if n.Index == 0 || n.Error != "" {
			continue
		}
		if name == "" || name == n.Name || name == n.Device {
			return n, nil
		}
		known = append(known, n.Name)
	}
	if name == "" {
		return nil, errors.New("the program is not attached to any interface")
	}
	return nil, fmt.Errorf("the program is not attached to interface %s (known: %s)", name, strings.Join(known, ", "))
}

// find lets the packet go its way, and looks at what that has changed.
func (a *answer) find() error {
	if err := a.setMark(); err != nil {
		return err
	}
	var before, after templates
	if err := a.look(&a.ConnBefore, &before); err != nil {
		return err
	}
	cursors := slices.Collect(a.cursors())
	tried, err := a.copy.Try(a.FrameBefore, a.ingress)
	if err != nil {
		return err
	}
	if err := a.look(&a.ConnAfter, &after); err != nil {
		return err
	}
	a.Verdict, a.FrameAfter = tried.Verdict, tried.Frame
	a.leave(&tried)
	a.tellService(&tried)
	if a.Service != nil {
		a.TemplateBefore, a.TemplateAfter = before[*a.Service], after[*a.Service]
	}
	for i, now := range slices.Collect(a.cursors()) {
		if now != cursors[i] {
			a.ChoicesBefore, a.ChoicesAfter = cursors[i], now
		}
	}
	return nil
}

// setMark gives the packet its firewall mark, by a rule for it alone.
func (a *answer) setMark() error {
	q := &a.Question
	if q.Mark == 0 {
		return nil
	}
	alone := func(p netip.AddrPort) (netip.Prefix, []bpf.PortRange) {
		return netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), []bpf.PortRange{{First: p.Port(), Last: p.Port()}}
	}
	rule := bpf.MarkRule{V6: q.Client.Addr().Is6(), Protocol: uint8(q.Protocol), DSCP: -1, Mark: q.Mark}
	rule.Source, rule.SourcePorts = alone(q.Client)
	rule.Dest, rule.DestPorts = alone(q.Virtual)
	marks, err := bpf.NewMarks([]bpf.MarkRule{rule}, a.copy.Tables)
	if err != nil {
		return fmt.Errorf("mark the packet: %w", err)
	}
	bpf.NewKeyTable(a.copy.Tables).SetMarks(marks)
	return nil
}

// templates are those of the client, by their services: whose packet it is, is known afterwards.
type templates map[director.ServiceKey]*director.Conn

// look finds what the copy has of the client.
func (a *answer) look(conn **director.Conn, found *templates) error {
	q := &a.Question
	err := a.from.EntriesIn(a.ctx, a.copy.Tables, false, func(c *director.Conn) error {
		if c.Protocol == q.Protocol && c.Client == q.Client && c.Virtual == q.Virtual {
			*conn = new(*c)
		}
		return nil
	})
	if err != nil {
		return err
	}
	*found = templates{}
	return a.from.EntriesIn(a.ctx, a.copy.Tables, true, func(c *director.Conn) error {
		if s := a.serviceOf(c); s != nil {
			(*found)[s.Key] = new(*c)
		}
		return nil
	})
}

// serviceOf is the service by which a template is for the packet; nil if it is not.
func (a *answer) serviceOf(c *director.Conn) *director.ServiceState {
	q := &a.Question
	if c.Client.Addr().Is4() != q.Client.Addr().Is4() {
		return nil
	}
	if c.Mark != 0 {
		return a.knows(a.service(director.MarkKey(c.Mark, q.Client.Addr().Is6())), c)
	}
	if port := c.Virtual.Port(); c.Virtual.Addr() != q.Virtual.Addr() || c.Protocol != q.Protocol || port != 0 && port != q.Virtual.Port() {
		return nil
	}
	return a.knows(a.byAddress(), c)
}

// knows gives the service back if the template's client, an address or a network's first, is the packet's.
func (a *answer) knows(s *director.ServiceState, c *director.Conn) *director.ServiceState {
	if s == nil || s.Persistence.Timeout == 0 {
		return nil
	}
	client := a.Question.Client.Addr()
	length := int(s.Persistence.Prefix)
	if length == 0 {
		length = client.BitLen()
	}
	network, err := client.Prefix(length)
	if err != nil || c.Client.Addr() != network.Addr() {
		return nil
	}
	return s
}

// cursors are the choices that packets have taken of all plans, by row of their services.
func (a *answer) cursors() func(func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for i := range a.copy.Tables.Services {
			s := &a.copy.Tables.Services[i]
			if !yield(s.Cursor[s.Current&1]) {
				return
			}
		}
	}
}

// leave tells how the packet leaves.
func (a *answer) leave(t *bpf.Rehearsed) {
	a.Action = bpf.ActionNames[t.Action]
	switch a.Action {
	case "transmit":
		a.Egress = a.Interface
	case "redirect":
		if t.Real == bpf.NoReal {
			return
		}
		if link, err := net.InterfaceByIndex(int(a.copy.Tables.Reals[t.Real].Ifindex)); err == nil {
			a.Egress = link.Name
		}
	}
}

// tellService adds the service and its real servers.
func (a *answer) tellService(t *bpf.Rehearsed) {
	s := a.served(t)
	if s == nil {
		return
	}
	a.Service, a.Name, a.Scheduler, a.Persistence = &s.Key, s.Name, strings.TrimSpace(s.Scheduler+" "+s.Flags), s.Persistence
	for i := range s.Reals {
		r := &s.Reals[i]
		a.Reals = append(a.Reals, director.Candidate{RealState: *r, Excluded: r.Excluded(), Chosen: a.isReal(t, r.Key)})
	}
}

// served is the service whose packet it was: that of the real server it went to, if it went to one.
func (a *answer) served(t *bpf.Rehearsed) *director.ServiceState {
	if t.Real == bpf.NoReal {
		return a.known()
	}
	tables := a.copy.Tables
	mark := bits.ReverseBytes32(tables.Services[tables.Reals[t.Real].Service].Mark)
	if mark == 0 {
		return a.byAddress()
	}
	return a.service(director.MarkKey(mark, a.Question.Virtual.Addr().Is6()))
}

func (a *answer) isReal(t *bpf.Rehearsed, key director.RealKey) bool {
	if t.Real == bpf.NoReal {
		return false
	}
	row := &a.copy.Tables.Reals[t.Real]
	return netip.AddrFrom16(row.Addr).Unmap() == key.Addr && bits.ReverseBytes16(row.Port) == key.Port
}

// known is the service of the packet by what it says of itself.
func (a *answer) known() *director.ServiceState {
	if s := a.byAddress(); s != nil || a.Question.Mark == 0 {
		return s
	}
	return a.service(director.MarkKey(a.Question.Mark, a.Question.Virtual.Addr().Is6()))
}

// byAddress is the service of the address and port, or of the address and all ports that no other has.
func (a *answer) byAddress() *director.ServiceState {
	q := &a.Question
	for _, port := range []uint16{q.Virtual.Port(), 0} {
		key := director.ServiceKey{Protocol: q.Protocol, Addr: q.Virtual.Addr(), Port: port}
		if s := a.service(key); s != nil {
			return s
		}
	}
	return nil
}

func (a *answer) service(key director.ServiceKey) *director.ServiceState {
	for i := range a.state.Services {
		if a.state.Services[i].Key == key {
			return &a.state.Services[i]
		}
	}
	return nil
}
