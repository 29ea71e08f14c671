// SPDX-License-Identifier: Apache-2.0

// Package offload changes what network cards do to frames before XDP sees them.
package offload

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
)

// stripping are the features, as the kernel names them, by which a card takes VLAN tags off the
// frames that it receives and tells them beside: 802.1Q and 802.1ad. XDP sees frames only.
var stripping = []string{"rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"}

// KeepTags has a device of the calling thread's network namespace leave VLAN tags in the frames that it
// receives; of a bond, its slaves. It returns the names of those that it had to change. They stay so:
// nobody but the administrator knows who else relies on it, and it costs the kernel next to nothing.
//
// An error names the devices that take tags off all the same.
func KeepTags(index int) (changed []string, err error) {
	list, err := cards(index)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, card := range list {
		did, err := keepTags(card)
		if did {
			changed = append(changed, card.Name)
		}
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// cards are the devices that receive for the device: itself, or its slaves.
func cards(index int) (list []*netlink.LinkAttrs, err error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("read link %d: %w", index, err)
	}
	if l.Type() != "bond" {
		return []*netlink.LinkAttrs{l.Attrs()}, nil
	}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("read slaves of %s: %w", l.Attrs().Name, err)
	}
	for _, slave := range all {
		if slave.Attrs().MasterIndex == index {
			list = append(list, slave.Attrs())
		}
	}
	return list, nil
}

// keepTags turns the features off that are on.
func keepTags(card *netlink.LinkAttrs) (changed bool, err error) {
	on, err := strips(card.Index)
	if err != nil || len(on) == 0 {
		return false, err
	}
	off := map[string]bool{}
	for _, feature := range on {
		off[feature] = false
	}
	failed := Change(card.Index, off)
	left, err := strips(card.Index)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s takes VLAN tags off and cannot be told not to (ethtool -k: %s)", card.Name, strings.Join(left, ", "))
	}
	return len(left) < len(on), errors.Join(err, failed)
}

// strips are the features that are on.
func strips(index int) (on []string, err error) {
	now, err := Active(index)
	for _, feature := range stripping {
		if now[feature] {
			on = append(on, feature)
		}
	}
	return on, err
}
