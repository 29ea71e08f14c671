// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
)

// groFeature is generic receive offload: the kernel merges the segments of a TCP stream before it hands them on.
const groFeature = "rx-gro"

// onOthers are the kinds of devices that get their frames from the device that they are on.
var onOthers = []string{"vlan", "macvlan", "macvtap", "ipvlan"}

// Merging names the devices that merge segments (GRO) before the device gets them, in the calling thread's network
// namespace. A program in generic mode sees those merged there, too long for any wire. On its own device the
// kernel does not merge for such a program (netif_elide_gro, include/linux/netdevice.h), on those below it does.
func Merging(index int) (names []string, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	for _, l := range receiving(all, index) {
		if l.Index == index {
			continue
		}
		on, err := Active(l.Index)
		if err != nil {
			return nil, err
		}
		if on[groFeature] {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// receiving are the devices at the bottom: those that the frames of a device come from, or itself.
func receiving(all []netlink.Link, index int) (list []*netlink.LinkAttrs) {
	var self netlink.Link
	on := []int{}
	for _, l := range all {
		if a := l.Attrs(); a.Index == index {
			self = l
			if slices.Contains(onOthers, l.Type()) && a.ParentIndex != index && a.NetNsID < 0 {
				on = append(on, a.ParentIndex)
			}
		} else if a.MasterIndex == index {
			on = append(on, a.Index)
		}
	}
	for _, below := range on {
		list = append(list, receiving(all, below)...)
	}
	if len(on) == 0 && self != nil {
		list = append(list, self.Attrs())
	}
	return list
}
