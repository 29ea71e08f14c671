// SPDX-License-Identifier: Apache-2.0

// Package realserver knows what a host needs to be a real server, by each forwarding method: as a
// Plan, which is data; as scripts for the systems that configure a host's network (Render); and done
// to the running kernel (Apply).
//
// The rules behind it:
//
//   - dr: packets come in as the client sent them, to this host's MAC address. The host accepts them
//     because it has the virtual address, on lo. It must not answer ARP for it nor ask with it as
//     sender: arp_ignore=1 and arp_announce=2 (Documentation/networking/ip-sysctl.rst). Neighbour
//     solicitations are answered only for addresses of the interface that they come in by, so
//     IPv6 addresses on lo need no setting.
//   - tun: the same inside of a tunnel. The address is on the tunnel's device, which takes packets
//     for this host's own address from anybody. A client's packet comes in there, and its route
//     back leads elsewhere: rp_filter must not be strict. The kernel takes the higher of a device's
//     value and that of "all", and 2, loose, is above 1, strict. The answers carry the segment
//     size that clients may send, so what the tunnel's headers take is left out there (advmss of
//     the route back).
//   - nat: answers must go back through the director: it is the default route. In one network with
//     the clients, redirects would lead around it.
//
// No method needs ip_forward on a real server.
package realserver
