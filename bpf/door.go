// SPDX-License-Identifier: Apache-2.0

package bpf

import "sync/atomic"

// DoorProgram is the file descriptor of the program for the egress of the door's near end
// (see door.h), of type BPF_PROG_TYPE_SCHED_CLS. It is closed with the data plane.
func (d *DataPlane) DoorProgram() int { return d.objects.Programs[directorProgMarkDoor].FD() }

// SetDoor says which interface packets with the firewall's marks come in by; 0: none.
func (t *Tables) SetDoor(index int) {
	atomic.StoreUint32(&t.Settings.Door, uint32(index))
}
