// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"xdplvs/bpf"
)

// Question is a packet of a client's that somebody wants explained.
type Question struct {
	Protocol  Protocol       `json:"protocol"`
	Client    netip.AddrPort `json:"client"`
	Virtual   netip.AddrPort `json:"virtual"`
	Mark      uint32         `json:"mark,omitempty"`      // as if a marking rule gave it this firewall mark
	Interface string         `json:"interface,omitempty"` // that it comes in by; empty: the first one
	Segment   string         `json:"segment,omitempty"`   // of TCP: syn, ack, fin or rst; empty: syn
}

// Validate tells what cannot be asked.
func (q *Question) Validate() error {
	var errs []error
	for _, end := range []struct {
		what string
		at   netip.AddrPort
	}{{"client", q.Client}, {"virtual address", q.Virtual}} {
		if fault := addressFault(end.at.Addr()); fault != "" {
			errs = append(errs, fmt.Errorf("%s %s: %s", end.what, end.at, fault))
		} else if end.at.Port() == 0 {
			errs = append(errs, fmt.Errorf("%s %s: port 0", end.what, end.at))
		}
	}
	if errs == nil && q.Client.Addr().Is4() != q.Virtual.Addr().Is4() {
		errs = append(errs, fmt.Errorf("client %s and virtual address %s are of different families", q.Client, q.Virtual))
	}
	if q.Segment != "" && q.Protocol != TCP {
		errs = append(errs, fmt.Errorf("only tcp has segments, not %s", q.Protocol))
	}
	return errors.Join(errs...)
}

// Explanation is what would become of a packet, and why.
type Explanation struct {
	Question  Question `json:"question"`
	Interface string   `json:"interface"` // that it comes in by
	Verdict   string   `json:"verdict"`
	Action    string   `json:"action"`           // pass, drop, transmit or redirect
	Egress    string   `json:"egress,omitempty"` // interface that it leaves by

	Service     *ServiceKey `json:"service,omitempty"` // nil: it is no service's
	Name        string      `json:"name,omitempty"`    // the service's
	Scheduler   string      `json:"scheduler,omitempty"`
	Persistence Persistence `json:"persistence,omitzero"`
	// Choices of the service's plan that packets had taken before, and after; equal where the plan was
	// not asked, or is one that a hash looks up.
	ChoicesBefore uint64 `json:"choices_before"`
	ChoicesAfter  uint64 `json:"choices_after"`

	Reals []Candidate `json:"reals,omitempty"` // the service's
	// What the tables have of the client and the virtual address, before and after.
	ConnBefore     *Conn `json:"connection_before,omitempty"`
	ConnAfter      *Conn `json:"connection_after,omitempty"`
	TemplateBefore *Conn `json:"template_before,omitempty"`
	TemplateAfter  *Conn `json:"template_after,omitempty"`

	FrameBefore []byte `json:"frame_before"`
	FrameAfter  []byte `json:"frame_after"`
}

// Candidate is a real server that a packet can go to, or why it cannot.
type Candidate struct {
	RealState
	Excluded string `json:"excluded,omitempty"` // from new connections, and why
	Chosen   bool   `json:"chosen,omitempty"`
}

// Excluded tells why the real server gets no new connections; empty if it does.
func (r *RealState) Excluded() string {
	switch {
	case !r.Reachable:
		return "cannot be reached: " + r.Unreachable
	case r.Health != nil && (r.Health.Condition != Up || r.Health.Factor == 0):
		return r.Health.Condition.String() + " by its checks: " + cmp.Or(r.Health.Evidence, "nothing is known yet")
	case r.Weight == 0:
		return "quiesced: its weight is 0"
	case r.Overloaded:
		return fmt.Sprintf("overloaded: it has reached its upper threshold of %d connections", r.Upper)
	case r.EffectiveWeight == 0:
		return "slow start holds all of its weight back"
	}
	return ""
}

// Quietly calls f while nobody but packets changes the tables.
func (d *Director) Quietly(ctx context.Context, f func() error) error {
	var err error
	if e := d.do(ctx, func() { err = f() }); e != nil {
		return e
	}
	return err
}

// EntriesIn calls yield for each connection, or template, in a copy of the tables, like Connections.
func (d *Director) EntriesIn(ctx context.Context, t *bpf.Tables, templates bool, yield func(*Conn) error) error {
	l, err := d.newLister(ctx, templates)
	if err != nil {
		return err
	}
	l.tables = t
	return l.inTables(ctx, yield)
}
