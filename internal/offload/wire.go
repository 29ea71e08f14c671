// SPDX-License-Identifier: Apache-2.0

package offload

import "strings"

// LikeWire makes a device of a veth pair, one of the calling thread's network namespace, behave like
// one with a wire.
//
// It promises its sender checksums, segmentation and VLAN tags, but hands over memory as it is: an
// XDP program on the other end would see unfinished checksums, frames of up to 64 KiB and no tags.
// Without the promise the sender does that work itself. With GRO it takes frames that XDP programs of
// other devices redirect into the pair (drivers/net/veth.c, veth_xdp_xmit).
func LikeWire(index int) error {
	now, err := Active(index)
	if err != nil {
		return err
	}
	want := map[string]bool{"rx-gro": true}
	for name, on := range now {
		if on && isSendOffload(name) {
			want[name] = false
		}
	}
	return Change(index, want)
}

// isSendOffload tells whether a feature, named as in `ethtool -k`, leaves work to the wire.
func isSendOffload(feature string) bool {
	if !strings.HasPrefix(feature, "tx-") {
		return false
	}
	for _, kind := range []string{"checksum", "segmentation", "gso", "vlan"} {
		if strings.Contains(feature, kind) {
			return true
		}
	}
	return false
}
