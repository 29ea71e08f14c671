// SPDX-License-Identifier: Apache-2.0

package door

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplvs/internal/offload"
)

// A kernel is what the manager needs of the operating system; the tests have one of their own.
type kernel interface {
	// pair makes the pair, or what is missing of it, and tells what that was. again: all of it is set
	// up anew, as after another process.
	pair(program int, again bool) (missing []string, err error)
	// dropPair removes it; one that is not there is no error.
	dropPair() error
	// routes adds what is missing of the rules and the route of a family, and tells what that was.
	routes(marks []uint32, v6 bool) (missing []string, err error)
	// dropRules removes the director's rules that are not wanted.
	dropRules(want Marks) error
}

// host is the kernel that runs this process, in the network namespace of the calling thread.
type host struct{ *kind }

// kind is what tells the doors apart.
type kind struct {
	near, far string
	table     int
	mtu       int
	settings  func(near netlink.Link) error      // of the interfaces
	match     func(r *netlink.Rule, mark uint32) // says which packets the rule is for
}

var marksDoor = kind{near: Near, far: Far, table: Table, mtu: largestMTU,
	settings: letReplies,
	match: func(r *netlink.Rule, mark uint32) {
		mask := ^uint32(0)
		r.Mark, r.Mask = mark, &mask
	}}

// largestMTU is for packets of any size: the director looks at what fits the way to a real server itself.
const largestMTU = 65535

// nearEnd finds it; nil if there is none.
func (h host) nearEnd() (netlink.Link, error) {
	link, err := netlink.LinkByName(h.near)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", h.near, err)
	}
	if link.Attrs().Group != group || link.Type() != "veth" {
		return nil, fmt.Errorf("interface %s %w", h.near, errForeign)
	}
	return link, nil
}

func (h host) pair(program int, again bool) (missing []string, err error) {
	near, err := h.nearEnd()
	if err != nil {
		return nil, err
	}
	if near == nil {
		missing = append(missing, "interfaces "+h.near+" and "+h.far)
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Group = h.near, h.mtu, group
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: h.far}); err != nil {
			return nil, fmt.Errorf("add interfaces %s and %s: %w", h.near, h.far, err)
		}
		if near, err = h.nearEnd(); err != nil || near == nil {
			return nil, errors.Join(fmt.Errorf("find interface %s, which was added", h.near), err)
		}
	} else if lacks := h.lacking(near); lacks != "" {
		missing = append(missing, lacks)
	}
	if len(missing) > 0 || again {
		err = h.setUp(near, program)
	}
	return missing, err
}

// lacking is what of the pair is not as it should be.
func (h host) lacking(near netlink.Link) string {
	far, err := netlink.LinkByName(h.far)
	switch {
	case err != nil:
		return "interface " + h.far
	case near.Attrs().Flags&far.Attrs().Flags&net.FlagUp == 0:
		return "state up of " + h.near + " and " + h.far
	}
	filters, err := netlink.FilterList(near, netlink.HANDLE_MIN_EGRESS)
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, programName) {
			return ""
		}
	}
	if err != nil { // without the queueing discipline there are no filters to list
		return "queueing discipline clsact of " + h.near
	}
	return "program at the egress of " + h.near
}

// programName is how tc filter show names it.
const programName = "director_mark"

// setUp makes the pair what it should be, whatever it was. The far end is up last: then packets can pass.
func (h host) setUp(near netlink.Link, program int) error {
	far, err := netlink.LinkByName(h.far)
	if err != nil {
		return fmt.Errorf("find interface %s (remove %s, and it is made anew): %w", h.far, h.near, err)
	}
	if err := offload.LikeWire(near.Attrs().Index); err != nil {
		return err
	}
	if err := h.settings(near); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		// Nobody answers for the virtual addresses in there; the destination becomes the mark anyway.
		{"turn ARP off on " + h.near, func() error { return netlink.LinkSetARPOff(near) }},
		{"set MTU of " + h.far, func() error { return netlink.LinkSetMTU(far, h.mtu) }},
		{"put a program at the egress of " + h.near, func() error { return addProgram(near, program) }},
		{"take " + h.near + " up", func() error { return netlink.LinkSetUp(near) }},
		{"take " + h.far + " up", func() error { return netlink.LinkSetUp(far) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// addProgram attaches it by a filter, which is what Linux 6.1 has: it holds the program.
func addProgram(near netlink.Link, program int) error {
	index := near.Attrs().Index
	err := netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	return netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:           program,
		Name:         programName,
		DirectAction: true,
	})
}

func (h host) dropPair() error {
	near, err := h.nearEnd()
	if errors.Is(err, errForeign) {
		return nil
	}
	if near == nil || err != nil {
		return err
	}
	if err := netlink.LinkDel(near); err != nil {
		return fmt.Errorf("remove interfaces %s and %s: %w", h.near, h.far, err)
	}
	return nil
}

func family(v6 bool) (number int, name string) {
	if v6 {
		return unix.AF_INET6, "IPv6"
	}
	return unix.AF_INET, "IPv4"
}

func (h host) ruleOf(mark uint32, number int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Protocol = number, Priority, h.table, protocol
	h.match(r, mark)
	return r
}

// routes adds everything: what is there already the kernel says by itself.
func (h host) routes(marks []uint32, v6 bool) (missing []string, err error) {
	near, err := h.nearEnd()
	if err != nil || near == nil {
		return nil, err
	}
	number, name := family(v6)
	if v6 {
		if err := enableIPv6(h.near); err != nil {
			return nil, err
		}
	}
	zero := &net.IPNet{IP: make(net.IP, net.IPv4len), Mask: net.CIDRMask(0, 32)}
	if v6 {
		zero = &net.IPNet{IP: make(net.IP, net.IPv6len), Mask: net.CIDRMask(0, 128)}
	}
	add := func(what string, err error) error {
		switch {
		case err == nil:
			missing = append(missing, what)
		case !errors.Is(err, unix.EEXIST):
			return fmt.Errorf("add %s: %w", what, err)
		}
		return nil
	}
	scope := netlink.SCOPE_LINK
	if v6 {
		scope = netlink.SCOPE_UNIVERSE // IPv6 has no others
	}
	err = add(fmt.Sprintf("%s route into %s", name, h.near), netlink.RouteAdd(&netlink.Route{
		Family: number, LinkIndex: near.Attrs().Index, Dst: zero, Table: h.table, Protocol: protocol, Scope: scope}))
	for _, mark := range marks {
		if err == nil {
			err = add(fmt.Sprintf("%s rule of mark %d", name, mark), netlink.RuleAdd(h.ruleOf(mark, number)))
		}
	}
	return missing, err
}

func (h host) dropRules(want Marks) error {
	for _, v6 := range []bool{false, true} {
		number, name := family(v6)
		wanted := want.V4
		if v6 {
			wanted = want.V6
		}
		have, err := netlink.RuleListFiltered(number, &netlink.Rule{Table: h.table, Priority: Priority},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PRIORITY)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list %s rules: %w", name, err)
		}
		for _, r := range have {
			if r.Protocol != protocol || slices.Contains(wanted, r.Mark) {
				continue
			}
			if err := netlink.RuleDel(h.ruleOf(r.Mark, number)); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove %s rule of mark %d: %w", name, r.Mark, err)
			}
		}
	}
	return nil
}
