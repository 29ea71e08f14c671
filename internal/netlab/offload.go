// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"

	"xdplvs/internal/offload"
)

// What a veth pair must not do, to resemble a physical wire: see offload.LikeWire. (Linux 6.1 then refuses
// UDP_SEGMENT with EIO, as it does on a card without checksum offload; programs fall back to single
// datagrams.)
//
// In the other direction GRO merges what was received into such large frames. On a switch port they
// would be forwarded as one, whatever the next wire's MTU, and cut again by the sender above; so ports
// have no GRO. A host may merge what it receives, behind its XDP program, as it does with a physical
// card.

// groFeature is the name of generic receive offload.
const groFeature = "rx-gro"

// setWireOffloads turns off the interface's send offloads, and GRO on.
func (i *Iface) setWireOffloads() error {
	if err := i.Host.Do(func() error { return offload.LikeWire(i.Index) }); err != nil {
		return fmt.Errorf("set offloads of %s of %s: %w", i.Name, i.Host.name, err)
	}
	return nil
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
