// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A route is the kernel's answer to a query. Comparable.
type route struct {
	kind    uint8 // RTN_UNICAST, RTN_LOCAL, ...; 0 when there is no route: errno says why
	link    int   // ifindex of the way out
	gateway netip.Addr
	source  netip.Addr
	mtu     int  // bytes, 0: none of its own
	encap   bool // the kernel would encapsulate (lightweight tunnel)
	errno   unix.Errno
}

// own tells whether the packets of the route are for this host.
func (r route) own() bool { return r.kind == unix.RTN_LOCAL || r.kind == unix.RTN_ANYCAST }

// next gives the neighbour that the route's packets are handed to, on the way to dst.
func (r route) next(dst netip.Addr) neighKey {
	if r.gateway.IsValid() {
		return neighKey{r.link, r.gateway}
	}
	return neighKey{r.link, dst}
}

// fault says why nothing can be sent to dst by the route; empty when it can.
func (r route) fault(dst netip.Addr) string {
	switch {
	case r.errno != 0:
		return errnoFault(r.errno, dst)
	case r.kind == unix.RTN_UNICAST && r.link == 0:
		return fmt.Sprintf("route to %s has no interface", dst)
	case r.encap:
		return fmt.Sprintf("route to %s encapsulates", dst)
	}
	return kindFault(r.kind, dst)
}

// errnoFault reads a failed look-up. IPv4 has an error for each kind of route without a way out
// (fib_props in net/ipv4/fib_semantics.c); IPv6 has them for some kernels only, see kindFault.
func errnoFault(errno unix.Errno, dst netip.Addr) string {
	switch {
	case errors.Is(errno, unix.ENETUNREACH):
		return fmt.Sprintf("no route to %s", dst)
	case errors.Is(errno, unix.EHOSTUNREACH):
		return kindFault(unix.RTN_UNREACHABLE, dst)
	case errors.Is(errno, unix.EINVAL):
		return kindFault(unix.RTN_BLACKHOLE, dst)
	case errors.Is(errno, unix.EACCES):
		return kindFault(unix.RTN_PROHIBIT, dst)
	}
	return fmt.Sprintf("look up route to %s: %v", dst, errno)
}

// kindFault says what is wrong with sending by a route of the kind.
func kindFault(kind uint8, dst netip.Addr) string {
	switch kind {
	case unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_ANYCAST:
		return ""
	case unix.RTN_BLACKHOLE:
		return fmt.Sprintf("blackhole route to %s", dst)
	case unix.RTN_UNREACHABLE:
		return fmt.Sprintf("unreachable route to %s", dst)
	case unix.RTN_PROHIBIT:
		return fmt.Sprintf("prohibit route to %s", dst)
	case unix.RTN_BROADCAST:
		return fmt.Sprintf("%s is a broadcast address", dst)
	case unix.RTN_MULTICAST:
		return fmt.Sprintf("%s is a multicast address", dst)
	}
	return fmt.Sprintf("route to %s is of kind %d", dst, kind)
}
