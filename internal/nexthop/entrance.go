// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An Entrance is where XDP sees the frames that come in by a link: which device's program. Comparable.
type Entrance struct {
	// Native is the device for a program in the driver. Frames of a VLAN device are seen there with their
	// tags, on the device that it is on; those of a bond's slave on the bond, which hands programs on to all
	// its slaves.
	Native Device
	// Generic is the device for a program in the network stack. A VLAN device is its own: there
	// its frames come without tags, whether the card or the kernel has taken them off.
	Generic Device
	// Blind says that a program on Generic meets frames of VLANs whose tags it cannot see: a bond or a bridge
	// gets them from its ports without, and has VLAN devices.
	Blind bool
	// Why tells what the link is when it is not Native itself, as "eth0.100 is VLAN 100 of eth0".
	Why string
}

// A Device is a link by index and name.
type Device struct {
	Index int
	Name  string
}

func (l link) device() Device { return Device{l.index, l.name} }

// FindEntrance asks the kernel, in the calling thread's network namespace, for the Entrance of the named
// link. An error says what is wrong with it, or which links there are.
func FindEntrance(name string) (Entrance, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Entrance{}, fmt.Errorf("open netlink socket: %w", err)
	}
	defer handle.Close()
	row, err := handle.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return Entrance{}, fmt.Errorf("no such interface (there are %s)", linkNames(handle))
	}
	if err != nil {
		return Entrance{}, fmt.Errorf("read link %s: %w", name, err)
	}
	l := linkFrom(row)
	links, err := readAround(handle, l)
	if err != nil {
		return Entrance{}, err
	}
	e, err := links.entrance(l)
	if err == nil && links[e.Generic.Index].joins() {
		all, err := (&tables{handle: handle}).links()
		if err != nil {
			return e, fmt.Errorf("read links: %w", err)
		}
		e.Blind = all.carriesVLANs(e.Generic.Index)
	}
	return e, err
}

func (t linkTable) carriesVLANs(index int) bool {
	for _, l := range t {
		if l.vlan && !l.foreign && l.parent == index {
			return true
		}
	}
	return false
}

func linkNames(handle *netlink.Handle) string {
	rows, err := dump(handle.LinkList)
	if err != nil {
		return "none that can be listed: " + err.Error()
	}
	names := make([]string, len(rows))
	for i, row := range rows {
		names[i] = row.Attrs().Name
	}
	return strings.Join(names, ", ")
}

// readAround reads what the link is on or belongs to, as far as that goes.
func readAround(handle *netlink.Handle, l link) (linkTable, error) {
	t := linkTable{l.index: l}
	for todo := []link{l}; len(todo) > 0; todo = todo[1:] {
		next := []int{todo[0].master}
		if todo[0].vlan && !todo[0].foreign {
			next = append(next, todo[0].parent)
		}
		for _, index := range next {
			if _, known := t[index]; known || index == 0 {
				continue
			}
			row, err := handle.LinkByIndex(index)
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				continue // it has just gone
			}
			if err != nil {
				return nil, fmt.Errorf("read link %d: %w", index, err)
			}
			t[index] = linkFrom(row)
			todo = append(todo, t[index])
		}
	}
	return t, nil
}

// entrance finds the link's. The table has what it is on.
func (t linkTable) entrance(l link) (e Entrance, err error) {
	var why []string
	l = t.joined(l, &why)
	e.Generic = l.device()
	for tags := 0; l.vlan; tags++ {
		parent, fault := t.parentOf(l)
		if tags == maxTags {
			fault = fmt.Sprintf("device %s has more than %d VLAN tags", e.Generic.Name, maxTags)
		}
		if fault != "" {
			return e, errors.New(fault)
		}
		why = append(why, fmt.Sprintf("%s is VLAN %d of %s", l.name, l.tag.id, parent.name))
		l = t.joined(parent, &why)
	}
	e.Native, e.Why = l.device(), strings.Join(why, ", ")
	return e, nil
}

// joins tells whether the frames of the ports that the link has are its own.
func (l link) joins() bool { return l.kind == "bond" || l.kind == "team" || l.kind == "bridge" }

// joined finds the device that the link's frames are those of: a bond's, a team's or a bridge's when it
// is one of their ports, and says so.
func (t linkTable) joined(l link, why *[]string) link {
	for {
		master, ok := t[l.master]
		if !ok || !master.joins() {
			return l
		}
		*why = append(*why, fmt.Sprintf("%s belongs to the %s %s", l.name, master.kind, master.name))
		l = master
	}
}
