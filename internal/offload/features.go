// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"xdplvs/internal/genl"
)

// The kernel's interface is that of Documentation/networking/ethtool-netlink.rst. (The older one by
// ioctl has the kernel write to an address that Go's stacks may have moved away from.)
const ethtoolVersion = 1

// Active lists the features of a device that are on, by the kernel's names, as "rx-gro". The device
// is one of the calling thread's network namespace.
func Active(index int) (map[string]bool, error) {
	answers, err := ask(unix.ETHTOOL_MSG_FEATURES_GET, 0, header(unix.ETHTOOL_A_FEATURES_HEADER, index, 0))
	if err != nil {
		return nil, fmt.Errorf("read features of link %d: %w", index, err)
	}
	on := map[string]bool{}
	for _, bits := range answers {
		for _, kind := range []uint16{unix.ETHTOOL_A_FEATURES_ACTIVE, unix.ETHTOOL_A_BITSET_BITS} {
			if bits, err = genl.Within(bits, kind); err != nil {
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

// Queues are how many queues for packets that come in a device has, and may have.
func Queues(index int) (now, most int, err error) {
	answers, err := ask(unix.ETHTOOL_MSG_CHANNELS_GET, 0, header(unix.ETHTOOL_A_CHANNELS_HEADER, index, 0))
	if err != nil {
		return 0, 0, fmt.Errorf("read queues of link %d: %w", index, err)
	}
	counts := map[uint16]int{}
	for _, answer := range answers {
		for kind := uint16(unix.ETHTOOL_A_CHANNELS_RX_MAX); kind <= unix.ETHTOOL_A_CHANNELS_COMBINED_COUNT; kind++ {
			if n, err := genl.Within(answer, kind); err == nil && len(n) >= 4 {
				counts[kind] = int(binary.NativeEndian.Uint32(n))
			}
		}
	}
	return counts[unix.ETHTOOL_A_CHANNELS_RX_COUNT] + counts[unix.ETHTOOL_A_CHANNELS_COMBINED_COUNT],
		max(counts[unix.ETHTOOL_A_CHANNELS_RX_MAX], counts[unix.ETHTOOL_A_CHANNELS_COMBINED_MAX]), nil
}

// header says which device it is about.
func header(kind, index, flags int) *nl.RtAttr {
	h := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
	h.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_INDEX, nl.Uint32Attr(uint32(index)))
	h.AddRtAttr(unix.ETHTOOL_A_HEADER_FLAGS, nl.Uint32Attr(uint32(flags)))
	return h
}

// ask sends a request of the ethtool family.
func ask(command uint8, flags int, attrs ...*nl.RtAttr) ([][]byte, error) {
	family, err := genl.Find(unix.ETHTOOL_GENL_NAME)
	if err != nil {
		return nil, err
	}
	return family.Ask(command, ethtoolVersion, flags, attrs...)
}

// addNames adds the names of the bits of a bitset without mask: they are set.
func addNames(names map[string]bool, bits []byte) error {
	list, err := nl.ParseRouteAttr(bits)
	for _, bit := range list {
		name, err := genl.Within(bit.Value, unix.ETHTOOL_A_BITSET_BIT_NAME)
		if err != nil {
			return err
		}
		names[nl.BytesToString(name)] = true
	}
	return err
}
