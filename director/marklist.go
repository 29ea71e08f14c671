// SPDX-License-Identifier: Apache-2.0

package director

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
)

// MarkList are the marking rules in force, and the way of packets that the firewall marks.
type MarkList struct {
	Time  time.Time   `json:"time"`
	Rules []MarkState `json:"rules"`
	Door  *DoorState  `json:"firewall,omitempty"`
}

// MarkState is a rule that marks packets.
type MarkState struct {
	Rule     string   `json:"rule"` // as the configuration has it
	Mark     uint32   `json:"mark"`
	Packets  uint64   `json:"packets"`            // that it marked, of no known connection, since the rules are in force
	Services []string `json:"services,omitempty"` // of the mark
}

// DoorState is how packets with the firewall's marks come to the director.
type DoorState struct {
	Interface  string    `json:"interface"` // that they are routed into
	Marks4     []uint32  `json:"ipv4"`
	Marks6     []uint32  `json:"ipv6"`
	Problem    string    `json:"problem,omitempty"`
	Repaired   int       `json:"repaired"` // times that others took something away, and it was put back
	RepairedAt time.Time `json:"repaired_at,omitzero"`
}

// MarkQuestion is a packet that begins a connection.
type MarkQuestion struct {
	Protocol     Protocol
	Source, Dest netip.AddrPort
	Interface    string // that it comes in by; empty: none that a rule names
	DSCP         uint8
	Mark         uint32 // that the firewall gave it; 0: none
}

// MarkAnswer is what becomes of it.
type MarkAnswer struct {
	Mark    uint32 `json:"mark"`           // 0: none
	Rule    int    `json:"rule,omitempty"` // number of the one that gave it, from 1; 0: none did
	Text    string `json:"text,omitempty"` // the rule as the configuration has it
	Service string `json:"service,omitempty"`
}

func (q *MarkQuestion) validate() error {
	switch {
	case !slices.Contains([]Protocol{TCP, UDP, SCTP}, q.Protocol):
		return fmt.Errorf("services are of tcp, udp or sctp")
	case !q.Source.IsValid() || !q.Dest.IsValid():
		return fmt.Errorf("source and destination are an address and a port each")
	case q.Source.Addr().Is4() != q.Dest.Addr().Is4():
		return fmt.Errorf("source %s and destination %s are of different families", q.Source, q.Dest)
	case q.DSCP > maxDSCP:
		return fmt.Errorf("dscp %d is above %d", q.DSCP, maxDSCP)
	}
	return nil
}

// Marks returns the rules in force.
func (d *Director) Marks(ctx context.Context) (list MarkList, err error) {
	err = d.do(ctx, func() { list = d.markList() })
	return list, err
}

func (d *Director) markList() MarkList {
	list := MarkList{Time: time.Now(), Rules: make([]MarkState, len(d.markRules))}
	rows := d.ruleOfRow()
	packets := d.tables.Marked(len(rows))
	for i, r := range d.markRules {
		list.Rules[i] = MarkState{Rule: r.String(), Mark: r.Mark, Services: d.servicesOf(r.Mark)}
	}
	for row, rule := range rows {
		list.Rules[rule].Packets += packets[row]
	}
	return list
}

// ruleOfRow tells which rule each row of the data plane is of.
func (d *Director) ruleOfRow() (rules []int) {
	for i := range d.markRules {
		for range d.markRules[i].families() {
			rules = append(rules, i)
		}
	}
	return rules
}

// servicesOf names the services of a mark, IPv4's first.
func (d *Director) servicesOf(mark uint32) (names []string) {
	for _, v6 := range []bool{false, true} {
		if s := d.services[MarkKey(mark, v6)]; s != nil {
			names = append(names, s.label())
		}
	}
	return names
}

// label is the service's name and what it is known by.
func (s *service) label() string {
	if s.want.Name == "" {
		return s.want.Key.String()
	}
	return s.want.Name + " (" + s.want.Key.String() + ")"
}

// ExplainMark asks the data plane which rule marks a packet, and which service takes it.
func (d *Director) ExplainMark(ctx context.Context, q MarkQuestion) (a MarkAnswer, err error) {
	if err := q.validate(); err != nil {
		return a, err
	}
	if e := d.do(ctx, func() { a, err = d.explainMark(&q) }); e != nil {
		return a, e
	}
	return a, err
}

func (d *Director) explainMark(q *MarkQuestion) (a MarkAnswer, err error) {
	row := bpf.MarkQuestion{Source: q.Source, Dest: q.Dest, Protocol: uint8(q.Protocol), DSCP: q.DSCP, Mark: q.Mark}
	if q.Interface != "" {
		at, err := d.links(q.Interface)
		if err != nil {
			return a, fmt.Errorf("interface %s: %w", q.Interface, err)
		}
		row.Interface = uint32(at.Native.Index)
	}
	answer, err := d.plane.ExplainMark(row)
	if err != nil {
		return a, err
	}
	a.Mark = answer.Mark
	if rules := d.ruleOfRow(); answer.Rule >= 0 && answer.Rule < len(rules) {
		a.Rule = rules[answer.Rule] + 1
		a.Text = d.markRules[a.Rule-1].String()
	}
	for _, s := range d.services {
		if int(s.id) == answer.Service && atomic.LoadUint32(&s.row.Flags)&bpf.ServiceRemoved == 0 {
			a.Service = s.label()
		}
	}
	return a, nil
}
