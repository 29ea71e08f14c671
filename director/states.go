// SPDX-License-Identifier: Apache-2.0

package director

import (
	"time"

	"xdplvs/bpf"
)

// stateNames are IPVS's names of connection states, by the data plane's number.
var stateNames = map[uint8]string{
	0: "NONE", 1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT", 5: "TIME_WAIT",
	6: "CLOSE", 7: "CLOSE_WAIT", 8: "LAST_ACK", 9: "LISTEN", 10: "SYNACK",
	bpf.StateUDP: "UDP",
}

// defaultTimeouts are IPVS's, for states that have no setting of their own.
var defaultTimeouts = map[uint8]time.Duration{
	0:  2 * time.Second,   // NONE
	1:  900 * time.Second, // ESTABLISHED
	2:  120 * time.Second, // SYN_SENT
	3:  60 * time.Second,  // SYN_RECV
	4:  120 * time.Second, // FIN_WAIT
	5:  120 * time.Second, // TIME_WAIT
	6:  10 * time.Second,  // CLOSE
	7:  60 * time.Second,  // CLOSE_WAIT
	8:  30 * time.Second,  // LAST_ACK
	9:  120 * time.Second, // LISTEN
	10: 120 * time.Second, // SYNACK

	bpf.StateUDP: 300 * time.Second,
}

func (t Timeouts) byState() map[uint8]time.Duration {
	all := make(map[uint8]time.Duration, len(defaultTimeouts))
	for state, timeout := range defaultTimeouts {
		all[state] = timeout
	}
	all[1], all[4], all[bpf.StateUDP] = t.TCPEstablished, t.TCPFinWait, t.UDP
	return all
}
