// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// sendAnnouncement sends a gratuitous ARP request or an unsolicited neighbour advertisement.
func sendAnnouncement(ifindex int, hw string, a netip.Addr) error {
	from, err := net.ParseMAC(hw)
	if err != nil {
		return err
	}
	protocol, frame := ethernet.EtherTypeARP, []byte(nil)
	if a.Is4() {
		frame = arpPacket(arp.OperationRequest, mac(from), a, mac{}, a)
	} else {
		protocol = ethernet.EtherTypeIPv6
		frame = advertisement(mac(from), a, netip.MustParseAddr("ff02::1"), mac(from), false, true)
	}
	conn, err := packet.Listen(&net.Interface{Index: ifindex}, packet.Raw, int(protocol), nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.WriteTo(frame, &packet.Addr{HardwareAddr: ethernet.Broadcast})
	return err
}

// arpPacket builds a frame with an ARP packet, to the target's hardware address or everybody.
func arpPacket(op arp.Operation, hw mac, sender netip.Addr, targetHW mac, target netip.Addr) []byte {
	p, err := arp.NewPacket(op, hw[:], sender, targetHW[:], target)
	if err != nil {
		panic(err)
	}
	payload, _ := p.MarshalBinary()
	f := ethernet.Frame{Destination: ethernet.Broadcast, Source: hw[:], EtherType: ethernet.EtherTypeARP, Payload: payload}
	if targetHW != (mac{}) {
		f.Destination = targetHW[:]
	}
	b, _ := f.MarshalBinary()
	return b
}

// advertisement builds a frame with a neighbour advertisement; a zero offer is left out.
func advertisement(hw mac, target, dst netip.Addr, offer mac, solicited, override bool) []byte {
	adv := &ndp.NeighborAdvertisement{TargetAddress: target, Solicited: solicited, Override: override}
	if offer != (mac{}) {
		adv.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: offer[:]}}
	}
	msg, err := ndp.MarshalMessageChecksum(adv, target, dst)
	if err != nil {
		panic(err)
	}
	f := ethernet.Frame{
		Destination: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, Source: hw[:], EtherType: ethernet.EtherTypeIPv6,
		Payload: append(ipv6Header(target, dst, len(msg)), msg...),
	}
	b, _ := f.MarshalBinary()
	return b
}

// countFiles counts this process's open files.
func countFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list) - 1 // the directory itself
}

// countSockets counts this process's packet sockets, in whatever namespace.
func countSockets(t *testing.T) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		name, _ := os.Readlink("/proc/self/fd/" + f.Name())
		if !strings.HasPrefix(name, "socket:") {
			continue
		}
		var fd int
		for _, c := range f.Name() {
			fd = fd*10 + int(c-'0')
		}
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_PACKET {
			n++
		}
	}
	return n
}
