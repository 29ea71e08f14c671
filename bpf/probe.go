// SPDX-License-Identifier: Apache-2.0

package bpf

import "sync/atomic"

// Ports that health checks as a client's come from (see probe.h): answers are known by them.
const (
	ProbePortFirst = uint16(directorLimitPROBE_PORT_FIRST)
	ProbePortLast  = uint16(65535)
)

// SetProbe says which interface health checks as a client's come in by; 0: none.
func (t *Tables) SetProbe(index int) {
	atomic.StoreUint32(&t.Settings.Probe, uint32(index))
}
