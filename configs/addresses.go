// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"net/netip"
)

// address is an IP address in its plain form.
func address() kind[netip.Addr] {
	return mapped(parsed("an IPv4 or IPv6 address", schema{"type": "string"}, parseAddress),
		func(c cursor, a netip.Addr) (netip.Addr, bool) { return a, plain(c, a) })
}

// parseAddress has notes on what people write instead of an address.
func parseAddress(text string) (a netip.Addr, note string, ok bool) {
	a, err := netip.ParseAddr(text)
	if err == nil {
		return a, "", true
	}
	if _, err := netip.ParsePrefix(text); err == nil {
		note = "without a prefix length"
	} else if ap, err := netip.ParseAddrPort(text); err == nil {
		note = fmt.Sprintf("the port has its own key, port: %d", ap.Port())
	}
	return a, note, false
}

func parseEndpoint(text string) (ap netip.AddrPort, note string, ok bool) {
	ap, err := netip.ParseAddrPort(text)
	return ap, "", err == nil && ap.Port() != 0
}

// virtual is an address with a port; port 0 is every port, as in ipvsadm.
func virtual() kind[netip.AddrPort] {
	const what = `an address with a port such as 192.0.2.10:80 or "[2001:db8::10]:80"`
	return plainEndpoint(parsed(what, schema{"type": "string"}, func(text string) (netip.AddrPort, string, bool) {
		ap, err := netip.ParseAddrPort(text)
		return ap, "", err == nil
	}))
}

// maybeEndpoint is an address with or without a port; without, the port is 0.
func maybeEndpoint() kind[netip.AddrPort] {
	const what = `an address such as 10.0.0.1, 10.0.0.1:80 or "[2001:db8::1]:80"`
	return plainEndpoint(parsed(what, schema{"type": "string"}, func(text string) (netip.AddrPort, string, bool) {
		if a, err := netip.ParseAddr(text); err == nil {
			return netip.AddrPortFrom(a, 0), "", true
		}
		return parseEndpoint(text)
	}))
}

func plainEndpoint(k kind[netip.AddrPort]) kind[netip.AddrPort] {
	return mapped(k, func(c cursor, ap netip.AddrPort) (netip.AddrPort, bool) { return ap, plain(c, ap.Addr()) })
}

// plain refuses the forms in which one address would look like another.
func plain(c cursor, a netip.Addr) bool {
	switch {
	case a.Is4In6():
		c.failf("%s is an IPv4-mapped address, write %s", clip(a.String()), a.Unmap().WithZone(""))
	case a.Zone() != "":
		c.failf("%s has a zone, write %s", quote(a.String()), a.WithZone(""))
	default:
		return true
	}
	return false
}

// notUnicast says what an address is that no virtual service and no distant host
// can have; it is empty for the others.
func notUnicast(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "the unspecified address"
	case a.IsMulticast():
		return "a multicast address"
	case a.IsLoopback():
		return "a loopback address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	}
	return ""
}
