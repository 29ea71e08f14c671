// SPDX-License-Identifier: Apache-2.0

package door

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Inspect tells what is missing of the door for these marks, and changes nothing. A program at the near
// end is looked for by name only. An error says why it could not look, or that the name is taken.
func Inspect(want Marks) (missing []string, err error) {
	h := host{&marksDoor}
	near, err := h.nearEnd()
	if err != nil {
		return nil, err
	}
	if near == nil {
		missing = append(missing, "interfaces "+Near+" and "+Far)
	} else if lacks := h.lacking(near); lacks != "" {
		missing = append(missing, lacks)
	}
	for _, v6 := range []bool{false, true} {
		marks := want.V4
		if v6 {
			marks = want.V6
		}
		if len(marks) == 0 {
			continue
		}
		lacks, err := routesLack(near, marks, v6)
		if err != nil {
			return nil, err
		}
		missing = append(missing, lacks...)
	}
	return missing, nil
}

// routesLack is what is missing of a family's route and rules.
func routesLack(near netlink.Link, marks []uint32, v6 bool) (missing []string, err error) {
	number, name := family(v6)
	rows, err := netlink.RouteListFiltered(number, &netlink.Route{Table: Table}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, unix.ENOENT) { // there is no such table
		return nil, fmt.Errorf("list %s routes: %w", name, err)
	}
	if near == nil || !slices.ContainsFunc(rows, func(r netlink.Route) bool { return r.LinkIndex == near.Attrs().Index }) {
		missing = append(missing, fmt.Sprintf("%s route into %s", name, Near))
	}
	rules, err := netlink.RuleListFiltered(number, &netlink.Rule{Table: Table}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list %s rules: %w", name, err)
	}
	for _, mark := range marks {
		if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Mark == mark }) {
			missing = append(missing, fmt.Sprintf("%s rule of mark %d", name, mark))
		}
	}
	return missing, nil
}
