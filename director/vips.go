// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
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

// applyVIPs makes the virtual addresses known that services stand on, those that
// end included, and no others.
func (d *Director) applyVIPs() error {
	wanted := map[bpf.Key]bool{}
	var errs []error
	for _, services := range []map[ServiceKey]*service{d.services, d.ending} {
		for key := range services {
			wanted[vipKey(key.Addr)] = true
		}
	}
	for k := range wanted {
		if !d.vips[k] {
			if err := d.keys.Set(k, 0); err != nil { // packets ask only whether there is one
				errs = append(errs, err)
				continue
			}
			d.vips[k] = true
		}
	}
	for k := range d.vips {
		if !wanted[k] {
			d.keys.Delete(k)
			delete(d.vips, k)
		}
	}
	return errors.Join(errs...)
}
