// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"xdplvs/bpf"
)

// PortRange is from First to Last, both included.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// String is 80, or 16384-32767.
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Count is how many ports those are.
func (r PortRange) Count() int { return int(r.Last) - int(r.First) + 1 }

// MarkRule gives packets a firewall mark, by which services can be known. Of several
// rules that match a packet the first counts. What a rule leaves out matches all.
type MarkRule struct {
	Mark        uint32
	Protocol    Protocol // 0: each that services have
	Source      netip.Prefix
	Dest        netip.Prefix
	SourcePorts []PortRange
	DestPorts   []PortRange
	Interface   string // name; one of Desired.Interfaces
	DSCP        *uint8
}

// String is the rule as the configuration has it, in one line of YAML.
func (r MarkRule) String() string {
	text := fmt.Sprintf("{mark: %d", r.Mark)
	add := func(has bool, key string, value any) {
		if has {
			text += fmt.Sprintf(", %s: %v", key, value)
		}
	}
	add(r.Protocol != 0, "protocol", r.Protocol)
	add(r.Source.IsValid(), "source", prefixText(r.Source))
	add(r.Dest.IsValid(), "destination", prefixText(r.Dest))
	add(len(r.SourcePorts) > 0, "source_port", portsText(r.SourcePorts))
	add(len(r.DestPorts) > 0, "destination_port", portsText(r.DestPorts))
	add(r.Interface != "", "interface", strconv.Quote(r.Interface))
	if r.DSCP != nil {
		add(true, "dscp", *r.DSCP)
	}
	return text + "}"
}

// prefixText leaves the length out of a single address. IPv6 has colons, which YAML wants in quotes.
func prefixText(p netip.Prefix) string {
	text := p.String()
	if p.IsSingleIP() {
		text = p.Addr().String()
	}
	if p.Addr().Is6() {
		return strconv.Quote(text)
	}
	return text
}

func portsText(ranges []PortRange) string {
	if len(ranges) == 1 {
		return ranges[0].String()
	}
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = r.String()
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// families are those of the packets that the rule can match: one where it names an address.
func (r *MarkRule) families() []bool {
	for _, p := range []netip.Prefix{r.Source, r.Dest} {
		if p.IsValid() {
			return []bool{p.Addr().Is6()}
		}
	}
	return []bool{false, true}
}

func (r *MarkRule) validate(interfaces []Interface) error {
	named := func(i Interface) bool { return i.Name == r.Interface }
	switch {
	case r.Mark == 0:
		return errors.New("mark 0 is that of packets without a mark")
	case r.Source.IsValid() && r.Dest.IsValid() && r.Source.Addr().Is4() != r.Dest.Addr().Is4():
		return fmt.Errorf("source %s and destination %s are of different families", r.Source, r.Dest)
	case r.Interface != "" && !slices.ContainsFunc(interfaces, named):
		return fmt.Errorf("interface %s is not one of the director's", r.Interface)
	case r.DSCP != nil && *r.DSCP > maxDSCP:
		return fmt.Errorf("dscp %d is above %d", *r.DSCP, maxDSCP)
	}
	for _, ports := range [][]PortRange{r.SourcePorts, r.DestPorts} {
		for _, p := range ports {
			if p.First > p.Last {
				return fmt.Errorf("port range %d-%d ends before it begins", p.First, p.Last)
			}
		}
	}
	return nil
}

// Covers reports whether every packet that o matches is one that r matches.
func (r *MarkRule) Covers(o *MarkRule) bool {
	return (r.Protocol == 0 || r.Protocol == o.Protocol) && (r.Interface == "" || r.Interface == o.Interface) &&
		(r.DSCP == nil || o.DSCP != nil && *r.DSCP == *o.DSCP) &&
		coversPrefix(r.Source, o.Source) && coversPrefix(r.Dest, o.Dest) && len(r.families()) >= len(o.families()) &&
		coversPorts(r.SourcePorts, o.SourcePorts) && coversPorts(r.DestPorts, o.DestPorts)
}

func coversPrefix(p, o netip.Prefix) bool {
	return !p.IsValid() || o.IsValid() && p.Bits() <= o.Bits() && p.Contains(o.Addr())
}

// coversPorts looks for one range that holds each of the other's.
func coversPorts(p, o []PortRange) bool {
	if len(p) == 0 {
		return true
	}
	for _, r := range o {
		if !slices.ContainsFunc(p, func(x PortRange) bool { return x.First <= r.First && r.Last <= x.Last }) {
			return false
		}
	}
	return len(o) > 0
}

// maxDSCP: six bits (RFC 2474).
const maxDSCP = 63

// markRows are the rule as the data plane has it, for each family.
func (d *Director) markRows(r *MarkRule) (rows []bpf.MarkRule, err error) {
	row := bpf.MarkRule{
		Source: r.Source, Dest: r.Dest,
		SourcePorts: portRows(r.SourcePorts), DestPorts: portRows(r.DestPorts),
		Protocol: uint8(r.Protocol), DSCP: -1, Mark: r.Mark,
	}
	if row.Interface, err = d.markInterface(r.Interface); err != nil {
		return nil, err
	}
	if r.DSCP != nil {
		row.DSCP = int(*r.DSCP)
	}
	for _, row.V6 = range r.families() {
		rows = append(rows, row)
	}
	return rows, nil
}

func portRows(ranges []PortRange) []bpf.PortRange {
	rows := make([]bpf.PortRange, len(ranges))
	for i, r := range ranges {
		rows[i] = bpf.PortRange(r)
	}
	return rows
}

// markInterface is the index of an interface that packets come in by; one that
// there is not at the moment matches none. Packets tell which device they came in
// by, so the interface must be one itself.
func (d *Director) markInterface(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	at, err := d.links(name)
	if err != nil {
		return bpf.NoInterface, nil
	}
	if at.Why != "" {
		return 0, fmt.Errorf("interface %s cannot be told by its packets (%s)", name, at.Why)
	}
	return uint32(at.Native.Index), nil
}

// marks prepares the wanted rules.
func (d *Director) prepareMarks(want *Desired) (*bpf.Marks, error) {
	var errs []error
	var rows []bpf.MarkRule
	for i := range want.Marks {
		if err := want.Marks[i].validate(want.Interfaces); err != nil {
			errs = append(errs, fmt.Errorf("marking rule %d: %w", i+1, err))
			continue
		}
		of, err := d.markRows(&want.Marks[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("marking rule %d: %w", i+1, err))
		}
		rows = append(rows, of...)
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return bpf.NewMarks(rows, d.tables)
}

// applyMarks puts prepared rules in force, unless they are already.
func (d *Director) applyMarks(c *change) {
	if !d.marked || !c.marks.Equal(d.marks) {
		d.keys.SetMarks(c.marks)
	}
	d.marks, d.marked = c.marks, true
	d.markRules = slices.Clone(c.want.Marks)
}

// followMarks puts rules in force again when an interface that they name has
// another index.
func (d *Director) followMarks() {
	if !slices.ContainsFunc(d.markRules, func(r MarkRule) bool { return r.Interface != "" }) {
		return
	}
	var rows []bpf.MarkRule
	for i := range d.markRules {
		of, err := d.markRows(&d.markRules[i])
		if err != nil { // it was a device, and is something else now
			d.log.Warn("marking rule is left as it was", "event", "mark_failed", "rule", i+1, "error", err)
			return
		}
		rows = append(rows, of...)
	}
	marks, err := bpf.NewMarks(rows, d.tables)
	if err != nil || marks.Equal(d.marks) { // there was room for as many
		return
	}
	d.keys.SetMarks(marks)
	d.marks = marks
	d.sealSets()
}
