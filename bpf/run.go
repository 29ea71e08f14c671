// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Result is what the program made of a frame.
type Result struct {
	Action uint32 // XDP_PASS, XDP_TX, ...: linux/bpf.h
	Frame  []byte // as it would leave
}

// ActionNames are the actions of XDP programs (uapi/linux/bpf.h), as users see them.
var ActionNames = map[uint32]string{0: "abort", 1: "drop", 2: "pass", 3: "transmit", 4: "redirect"}

// headroom is how much larger than it came a frame can leave: an ICMP error's
// headers, or two tags.
const headroom = 256

// Run gives one frame to the program as if it had come in by an interface of
// this network namespace, with all its effects but the transmission. The frame
// must have 14 bytes at least. Source: Documentation/bpf/bpf_prog_run.rst.
func (d *DataPlane) Run(frame []byte, ingress int) (Result, error) {
	context := struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{
		DataEnd: uint32(len(frame)), Ingress: uint32(ingress),
	}
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+headroom), Context: context}
	action, err := d.objects.Programs[directorProgDirector].Run(opts)
	if err != nil {
		return Result{}, fmt.Errorf("run data plane: %w", err)
	}
	return Result{action, opts.DataOut}, nil
}
