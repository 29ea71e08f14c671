// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel's interface is that of Documentation/networking/ethtool-netlink.rst. (The older one by
// ioctl has the kernel write to an address that Go's stacks may have moved away from.)
const (
	ethtoolVersion = 1
	genlHeader     = 4 // bytes: struct genlmsghdr
)

// Active lists the features of a device that are on, by the kernel's names, as "rx-gro". The device
// is one of the calling thread's network namespace.
func Active(index int) (map[string]bool, error) {
	answers, err := ask(unix.ETHTOOL_MSG_FEATURES_GET, 0, header(unix.ETHTOOL_A_FEATURES_HEADER, index, 0))
	if err != nil {
		return nil, fmt.Errorf("read features of link %d: %w", index, err)
	}
	on := map[string]bool{}
	for _, answer := range answers {
		bits := answer[min(genlHeader, len(answer)):]
		for _, kind := range []uint16{unix.ETHTOOL_A_FEATURES_ACTIVE, unix.ETHTOOL_A_BITSET_BITS} {
			if bits, err = within(bits, kind); err != nil {
				return nil, fmt.Errorf("read features of link %d: %w", index, err)
			}
		}
		if err := addNames(on, bits); err != nil {
			return nil, fmt.Errorf("read features of link %d: %w", index, err)
		}
	}
	return on, nil
}

// Change turns features on and off. Those that the driver cannot change stay, without an error.
func Change(index int, want map[string]bool) error {
	bits := nl.NewRtAttr(unix.ETHTOOL_A_BITSET_BITS|unix.NLA_F_NESTED, nil)
	for name, on := range want {
		bit := bits.AddRtAttr(unix.ETHTOOL_A_BITSET_BITS_BIT|unix.NLA_F_NESTED, nil)
		bit.AddRtAttr(unix.ETHTOOL_A_BITSET_BIT_NAME, nl.ZeroTerminated(name))
		if on {
			bit.AddRtAttr(unix.ETHTOOL_A_BITSET_BIT_VALUE, nil)
		}
	}
	wanted := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_WANTED|unix.NLA_F_NESTED, nil)
	wanted.AddChild(bits)
	_, err := ask(unix.ETHTOOL_MSG_FEATURES_SET, unix.NLM_F_ACK,
		header(unix.ETHTOOL_A_FEATURES_HEADER, index, unix.ETHTOOL_FLAG_OMIT_REPLY), wanted)
	if err != nil {
		return fmt.Errorf("change features of link %d: %w", index, err)
	}
	return nil
}

// header says which device it is about.
func header(kind, index, flags int) *nl.RtAttr {
	h := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
	h.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_INDEX, nl.Uint32Attr(uint32(index)))
	h.AddRtAttr(unix.ETHTOOL_A_HEADER_FLAGS, nl.Uint32Attr(uint32(flags)))
	return h
}

// ask sends a request of the ethtool family on a socket of its own.
func ask(command uint8, flags int, attrs ...*nl.RtAttr) ([][]byte, error) {
	family, err := netlink.GenlFamilyGet(unix.ETHTOOL_GENL_NAME)
	if err != nil {
		return nil, fmt.Errorf("find netlink family %s: %w", unix.ETHTOOL_GENL_NAME, err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), flags)
	req.AddData(&nl.Genlmsg{Command: command, Version: ethtoolVersion})
	for _, attr := range attrs {
		req.AddData(attr)
	}
	return req.Execute(unix.NETLINK_GENERIC, 0)
}

// within is what the attribute of a kind holds; nil if there is none.
func within(b []byte, kind uint16) ([]byte, error) {
	attrs, err := nl.ParseRouteAttr(b)
	for _, a := range attrs {
		if kindOf(a) == kind {
			return a.Value, err
		}
	}
	return nil, err
}

func kindOf(a syscall.NetlinkRouteAttr) uint16 { return a.Attr.Type & nl.NLA_TYPE_MASK }

// addNames adds the names of the bits of a bitset without mask: they are set.
func addNames(names map[string]bool, bits []byte) error {
	list, err := nl.ParseRouteAttr(bits)
	for _, bit := range list {
		name, err := within(bit.Value, unix.ETHTOOL_A_BITSET_BIT_NAME)
		if err != nil {
			return err
		}
		names[nl.BytesToString(name)] = true
	}
	return err
}
