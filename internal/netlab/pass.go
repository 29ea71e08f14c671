// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"io"

	"xdplvs/bpf"
)

// AcceptXDP prepares this end to receive what an XDP program at the peer sends with XDP_TX: frames
// that arrive at a veth interface without a program of its own wait in its ring, until something else
// wakes it (veth_xdp_flush looks for a program where it should look for NAPI; seen in Linux 6.18).
// So it attaches one that passes everything, in driver mode, and turns GRO off again, which that
// turns on. The program leaves with Close of the lab. Connect has done this to the switch port; after
// Link, call it on the end opposite to an XDP program. An interface has room for one program: EBUSY.
func (i *Iface) AcceptXDP() error {
	attached, err := i.attachPass()
	if err == nil {
		err = i.Host.lab.track(attached)
	}
	if err == nil {
		err = i.changeFeatures(func(map[string]bool) map[string]bool {
			return map[string]bool{groFeature: false}
		})
	}
	if err != nil {
		return fmt.Errorf("accept XDP frames on %s of %s: %w", i.Name, i.Host.name, err)
	}
	return nil
}

// attachPass attaches a program that returns XDP_PASS.
func (i *Iface) attachPass() (attached io.Closer, err error) {
	err = i.Host.Do(func() (err error) {
		attached, err = bpf.AttachPass(i.Index)
		return err
	})
	return attached, err
}
