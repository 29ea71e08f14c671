// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoDevices is wrapped by the error for a device of a kind that this kernel does not have.
var ErrNoDevices = errors.New("this kernel has no devices of the kind")

// addDevice makes a device, takes it up and gives it addresses.
func (h *Host) addDevice(link netlink.Link, addrs []netip.Prefix) error {
	name := link.Attrs().Name
	err := h.use(func() error { return h.nl.LinkAdd(link) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w %s", ErrNoDevices, link.Type())
	}
	if err == nil {
		err = h.setUp(name, true)
	}
	for _, addr := range addrs {
		if err == nil {
			err = h.AddAddr(name, addr)
		}
	}
	return err
}

// AddVLAN adds a VLAN device on another one, and gives it addresses. service: its tag is an outer one,
// 802.1ad's.
func (h *Host) AddVLAN(parent, name string, id uint16, service bool, addrs ...netip.Prefix) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := h.onLink(parent, func(_ *netlink.Handle, link netlink.Link) error {
		attrs.ParentIndex = link.Attrs().Index
		return nil
	})
	vlan := &netlink.Vlan{LinkAttrs: attrs, VlanId: int(id), VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	if service {
		vlan.VlanProtocol = netlink.VLAN_PROTOCOL_8021AD
	}
	if err == nil {
		err = h.addDevice(vlan, addrs)
	}
	if err != nil {
		return fmt.Errorf("add VLAN device %s on %s of %s: %w", name, parent, h.name, err)
	}
	return nil
}

// AddBond joins interfaces to a bond, which has the mode as in "active-backup", and gives it addresses.
func (h *Host) AddBond(name, mode string, slaves []string, addrs ...netip.Prefix) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	bond := netlink.NewLinkBond(attrs)
	bond.Mode = netlink.StringToBondMode(mode)
	bond.Miimon = 20 // ms between two looks at the slaves' carriers
	err := h.addDevice(bond, addrs)
	for _, slave := range slaves {
		if err == nil {
			err = h.Enslave(slave, name)
		}
	}
	if err != nil {
		return fmt.Errorf("add bond %s of %s: %w", name, h.name, err)
	}
	return nil
}

// Enslave makes an interface a slave of a bond, or of none when that has no name.
func (h *Host) Enslave(slave, bond string) error {
	err := h.setUp(slave, false) // or the bond refuses it
	if err == nil {
		err = h.onLink(slave, func(nl *netlink.Handle, link netlink.Link) error {
			if bond == "" {
				return nl.LinkSetNoMaster(link)
			}
			master, err := nl.LinkByName(bond)
			if err != nil {
				return err
			}
			return nl.LinkSetMaster(link, master)
		})
	}
	if err == nil {
		err = h.setUp(slave, true)
	}
	if err != nil {
		return fmt.Errorf("enslave to %q: %w", bond, err)
	}
	return nil
}
