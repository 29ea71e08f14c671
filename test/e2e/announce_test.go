// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// strangerMAC is nobody's.
const strangerMAC = "02:00:00:00:00:66"

// An address is asked for, from no address, before it is taken; then it is announced, in a burst and from time to
// time: a client that has believed in another host finds the director, and again when somebody misled it later.
func TestAddressAnnounced(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"answer", "interface"} {
		t.Run(mode, func(t *testing.T) {
			f := newNear(t, 1)
			taps := map[netip.Addr]*wire{}
			for _, a := range nears {
				taps[a] = tap(t, f.clientEnd)
			}
			f.mislead()
			f.own("eth0", "mode: "+mode) // a burst of 2, and then each second
			f.start()
			for _, a := range nears {
				for i, want := range []string{"asked for", "announced", "announced", "announced", "announced"} {
					var is string
					taps[a].await(t, patience, func(seen frame) bool {
						is = said(seen, a)
						return is == "announced" || is != "" && i == 0
					})
					if is != want {
						t.Errorf("%s was %s, and was to be %s", a, is, want)
					}
				}
			}
			f.mustFollow("started")
			f.mislead()
			f.mustFollow("misled later")
		})
	}
}

// said is what a frame that the client received is about an address: "" is nothing.
func said(seen frame, about netip.Addr) string {
	b, addr := seen.data, about.AsSlice()
	switch kind := binary.BigEndian.Uint16(b[12:]); {
	case seen.sent:
	case kind == unix.ETH_P_ARP && len(b) >= 42 && about.Is4() && string(b[38:42]) == string(addr): // RFC 826
		return map[string]string{"\x00\x00\x00\x00": "asked for", string(addr): "announced"}[string(b[28:32])]
	case kind == unix.ETH_P_IPV6 && len(b) >= 78 && about.Is6() && b[20] == unix.IPPROTO_ICMPV6 && string(b[62:78]) == string(addr): // RFC 4861
		from, to := netip.AddrFrom16([16]byte(b[22:38])), netip.AddrFrom16([16]byte(b[38:54]))
		switch {
		case b[54] == 135 && from.IsUnspecified():
			return "asked for"
		case b[54] == 136 && to == netip.IPv6LinkLocalAllNodes():
			return "announced"
		}
	}
	return ""
}

// mislead has the client believe that a stranger has the addresses.
func (f *farm) mislead() {
	f.t.Helper()
	for _, a := range nears {
		f.ip(f.client, fmt.Sprintf("neigh replace %s lladdr %s nud stale dev eth0", a, strangerMAC))
	}
}

// mustFollow fails unless the client, which asks nobody, learns in a while that the director has the addresses.
func (f *farm) mustFollow(when string) {
	f.t.Helper()
	for _, a := range nears {
		eventually(f.t, patience, func() error {
			if mac, err := f.client.Neigh("eth0", a); err != nil || mac.String() != f.directorEnd.MAC.String() {
				return fmt.Errorf("%s: the client believes that %v has %s (%v), the director is %s", when, mac, a, err, f.directorEnd.MAC)
			}
			return nil
		})
	}
}
