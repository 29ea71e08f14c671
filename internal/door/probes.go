// SPDX-License-Identifier: Apache-2.0

package door

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// The route into the pair is for sockets that are bound to it. IPv4 would do without: it takes everybody for a
// neighbour there.
var probesDoor = kind{near: ProbeNear, far: ProbeFar, table: ProbeTable, mtu: 1500, settings: acceptAnswers,
	match: func(r *netlink.Rule, _ uint32) { r.OifName = ProbeNear }}

// acceptAnswers lets the answers of virtual addresses come out of the near end, though this host may have
// these addresses itself and routes to them do not lead there.
func acceptAnswers(near netlink.Link) error {
	if err := takeAnySource(near, ProbeFar, map[int]uint32{confAcceptLocal: 1}); err != nil {
		return fmt.Errorf("let %s take answers: %w", ProbeNear, err)
	}
	return nil
}
