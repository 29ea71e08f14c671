// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"xdplvs/internal/arpnd"
)

// sendAnnouncement sends a gratuitous ARP request or an unsolicited neighbour advertisement.
func sendAnnouncement(ifindex int, hw string, a netip.Addr) error {
	from, err := net.ParseMAC(hw)
	if err != nil {
		return err
	}
	frames, err := arpnd.Announcement(a, mac(from))
	if err != nil {
		return err
	}
	socket, err := arpnd.Open(ifindex, arpnd.ARP)
	if err != nil {
		return err
	}
	defer socket.Close()
	return socket.Send(frames[0])
}

// TestWireHears: what others tell of their addresses is news, what we say ourselves and what is only
// planned is not.
func TestWireHears(t *testing.T) {
	frame := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	asks := func(from netip.Addr, at mac) []byte {
		return frame(arpnd.Question{From: from, MAC: at, Target: ip9}.Frame())
	}
	in := newInbox()
	w := &wire{link: link{index: 7, mac: own}, heard: func(s sighting) { in.put(func(n *news) { n.addSighting(s) }) }}
	for _, b := range [][]byte{asks(ip1, own), asks(netip.IPv4Unspecified(), macA), nil, asks(ip1, macA)} {
		w.hear(b)
	}
	want := sighting{key: neighKey{7, ip1}, mac: macA, override: true}
	if got := in.take().sightings; len(got) != 1 || got[0] != want {
		t.Errorf("heard %+v, want %+v", got, want)
	}
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
