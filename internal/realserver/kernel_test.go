// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestPortRequest: the attributes of the message that opens a port, as Linux 6.1 was seen to take it. An IP protocol in it,
// even 0, is refused.
func TestPortRequest(t *testing.T) {
	for port, want := range map[Port]string{
		{Number: 6080}: "06000100" + "17c00000" + "05000200" + "02000000" + "05000400" + "02000000",
		{7000, true}:   "06000100" + "1b580000" + "05000200" + "0a000000" + "05000400" + "02000000",
	} {
		var got bytes.Buffer
		for _, data := range port.request() {
			got.Write(data.Serialize())
		}
		if text := hex.EncodeToString(got.Bytes()); text != want {
			t.Errorf("%s: message %s, want %s", port, text, want)
		}
	}
}

// TestTunnelLinks: each kind becomes a device of that kind, which takes packets for the own address
// from anybody, and of any family where the kind leaves that open.
func TestTunnelLinks(t *testing.T) {
	for _, c := range []struct{ kind, local string }{
		{"ipip", "10.0.0.11"}, {"sit", "10.0.0.11"}, {"gre", "10.0.0.11"}, {"ip6gre", "fd00::11"}, {"ip6tnl", "fd00::11"},
	} {
		link := Tunnel{Name: "dir-" + c.kind, Kind: c.kind, Local: addrs(c.local)[0]}.link()
		local, remote, proto := "", "", uint8(0)
		switch l := link.(type) {
		case *netlink.Iptun:
			local, remote, proto = l.Local.String(), l.Remote.String(), l.Proto
		case *netlink.Sittun:
			local, remote, proto = l.Local.String(), l.Remote.String(), l.Proto
		case *netlink.Ip6tnl:
			local, remote, proto = l.Local.String(), l.Remote.String(), l.Proto
		case *netlink.Gretun:
			local, remote = l.Local.String(), l.Remote.String()
		}
		if link.Type() != c.kind || link.Attrs().Name != "dir-"+c.kind || local != c.local || remote != "<nil>" || proto != 0 {
			t.Errorf("%s is %s, local %s, remote %s, protocol %d", c.kind, link.Type(), local, remote, proto)
		}
	}
}
