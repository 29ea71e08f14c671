// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"strings"

	"xdplvs/internal/offload"
)

// What a veth pair must not do, to resemble a physical wire.
//
// It promises its sender checksums, segmentation and VLAN tags, but hands over memory as it is: an
// XDP program on the other end would see unfinished checksums, frames of up to 64 KiB and no tags.
// Without the promise the sender does that work itself. (Linux 6.1 then refuses UDP_SEGMENT with EIO,
// as it does on a card without checksum offload; programs fall back to single datagrams.)
//
// In the other direction GRO merges what was received into such large frames. On a switch port they
// would be forwarded as one, whatever the next wire's MTU, and cut again by the sender above; so ports
// have no GRO. A host may merge what it receives, behind its XDP program, as it does with a physical
// card.

// groFeature is the name of generic receive offload.
const groFeature = "rx-gro"

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

// setWireOffloads turns off the interface's send offloads, and GRO on.
func (i *Iface) setWireOffloads() error {
	return i.changeFeatures(func(now map[string]bool) map[string]bool {
		want := map[string]bool{groFeature: true}
		for name, on := range now {
			if on && isSendOffload(name) {
				want[name] = false
			}
		}
		return want
	})
}

// changeFeatures turns offloads on and off, by the kernel's names: choose gets what is on now and
// returns what to change. What the kernel cannot change stays, without an error.
func (i *Iface) changeFeatures(choose func(now map[string]bool) map[string]bool) error {
	err := i.Host.Do(func() error {
		now, err := offload.Active(i.Index)
		if err != nil {
			return err
		}
		return offload.Change(i.Index, choose(now))
	})
	if err != nil {
		return fmt.Errorf("set offloads of %s of %s: %w", i.Name, i.Host.name, err)
	}
	return nil
}
