// SPDX-License-Identifier: Apache-2.0

package configs

import "xdplvs/director"

// What this version of the director can do. This is the one place to extend when
// it learns more: messages, the schema and the checks follow.
var (
	// knownSchedulers are those that the data plane has plans for.
	knownSchedulers = director.SchedulerNames

	// availableMethods are the forwarding methods that the data plane performs,
	// out of those that package director has names for.
	availableMethods = []director.Method{director.DirectRouting, director.NAT, director.Tunnel, director.Local, director.FullNAT}

	// availableProtocols are those that the data plane tracks, likewise.
	availableProtocols = []director.Protocol{director.TCP, director.UDP, director.SCTP}
)
