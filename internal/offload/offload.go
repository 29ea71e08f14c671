// SPDX-License-Identifier: Apache-2.0

// Package offload changes what network cards do to frames before XDP sees them.
package offload

import (
	"errors"
	"fmt"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	names, err := cards(index)
	if err != nil {
		return nil, err
	}
	eth, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("open ethtool socket: %w", err)
	}
	defer eth.Close()
	var errs []error
	for _, name := range names {
		did, err := keepTags(eth, name)
		if did {
			changed = append(changed, name)
		}
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// cards are the names of the devices that receive for the device: itself, or its slaves.
func cards(index int) (names []string, err error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("read link %d: %w", index, err)
	}
	if l.Type() != "bond" {
		return []string{l.Attrs().Name}, nil
	}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("read slaves of %s: %w", l.Attrs().Name, err)
	}
	for _, slave := range all {
		if slave.Attrs().MasterIndex == index {
			names = append(names, slave.Attrs().Name)
		}
	}
	return names, nil
}

// keepTags turns the features off that are on.
func keepTags(eth *ethtool.Ethtool, name string) (changed bool, err error) {
	on, err := strips(eth, name)
	if err != nil || len(on) == 0 {
		return false, err
	}
	off := map[string]bool{}
	for _, feature := range on {
		off[feature] = false
	}
	failed := eth.Change(name, off) // what it cannot change the kernel leaves, without an error
	left, err := strips(eth, name)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s takes VLAN tags off and cannot be told not to (ethtool -k: %s)", name, strings.Join(left, ", "))
	}
	return len(left) < len(on), errors.Join(err, failed)
}

// strips are the features that are on. A device that has none to tell strips nothing.
func strips(eth *ethtool.Ethtool, name string) (on []string, err error) {
	now, err := eth.Features(name)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read features of %s: %w", name, err)
	}
	for _, feature := range stripping {
		if now[feature] {
			on = append(on, feature)
		}
	}
	return on, nil
}
