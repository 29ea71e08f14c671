// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"

	"xdplvs/bpf"
)

// Protocols of the keys by which the data plane knows a virtual address itself.
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// vipKey is the key of a virtual address: echo requests to it are answered, and
// ICMP errors and fragments that are sent to it are looked at.
func vipKey(a netip.Addr) bpf.Key {
	if a.Is4() {
		return bpf.Key{Addr: a, Protocol: protocolICMP}
	}
	return bpf.Key{Addr: a, Protocol: protocolICMPv6}
}

func isVIPKey(k bpf.Key) bool { return k.Protocol == protocolICMP || k.Protocol == protocolICMPv6 }

// dropVIPs forgets the virtual addresses that no service stands on any more, also
// none that ends. New ones are known since reserveKeys.
func (d *Director) dropVIPs() {
	wanted := make(map[bpf.Key]bool, len(d.vips))
	for _, services := range []map[ServiceKey]*service{d.services, d.ending} {
		for _, s := range services {
			for _, a := range s.want.Addresses(nil) {
				wanted[vipKey(a)] = true
			}
		}
	}
	for k := range d.vips {
		if !wanted[k] {
			d.keys.Delete(k)
			delete(d.vips, k)
		}
	}
}
