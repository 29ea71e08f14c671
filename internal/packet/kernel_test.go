// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplvs/internal/netlab"
	"xdplvs/internal/packet"
)

// wire is a raw socket on one end of a veth pair; the kernel is at the other.
type wire struct {
	fd           int
	client, host packet.MAC
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWire(t *testing.T) *wire {
	t.Helper()
	lab, err := netlab.New("packettest")
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs root to make network namespaces")
	}
	must(t, err)
	t.Cleanup(func() { must(t, lab.Close()) })
	client, err := lab.Host("client")
	must(t, err)
	host, err := lab.Host("host")
	must(t, err)
	addrs := []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}
	near, far, err := netlab.Link(client, "eth0", nil, host, "eth0", addrs)
	must(t, err)
	w := &wire{client: packet.MAC(near.MAC), host: packet.MAC(far.MAC)}
	// Nobody at our end answers for our addresses.
	nl, err := host.Netlink()
	must(t, err)
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		must(t, nl.NeighSet(&netlink.Neigh{
			LinkIndex:    far.Index,
			State:        netlink.NUD_PERMANENT,
			IP:           net.ParseIP(addr),
			HardwareAddr: near.MAC,
		}))
	}
	must(t, client.Do(func() (err error) {
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { must(t, unix.Close(w.fd)) })
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	must(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: near.Index}))
	timeout := unix.NsecToTimeval(int64(20 * time.Millisecond))
	must(t, unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	return w
}

// answer sends frames and tells whether a wanted packet comes back; header is
// the length of what stands in front of its IP payload.
func (w *wire) answer(t *testing.T, wait time.Duration, header int, wanted func(b []byte) bool, frames ...[]byte) bool {
	t.Helper()
	for _, f := range frames {
		must(t, unix.Sendto(w.fd, f, 0, nil))
	}
	b := make([]byte, 2048)
	deadline := time.Now().Add(wait)
	for time.Now().Before(deadline) {
		n, err := unix.Read(w.fd, b)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		must(t, err)
		if n > header+8 && slices.Equal(b[:6], w.client[:]) && wanted(b[header:n]) {
			return true
		}
	}
	return false
}

// The kernel answers a packet only when its lengths and checksums are right.
func TestKernelAnswers(t *testing.T) {
	w := newWire(t)
	for _, family := range []struct {
		name        string
		header      int
		network     packet.Layer
		echo        packet.ICMP
		reply       byte
		unreachable byte
	}{
		{"IPv4", 34, packet.IPv4{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2")},
			packet.ICMP{Type: 8, Rest: 0x9c400001}, 0, 3},
		{"IPv6", 54, packet.IPv6{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2")},
			packet.ICMP{Type: 128, Rest: 0x9c400001}, 129, 1},
	} {
		data := packet.Data(make([]byte, 75)) // odd
		for i := range data {
			data[i] = byte(i * 7)
		}
		badEcho := family.echo
		badEcho.Checksum = new(uint16(0xbad))
		isReply := func(b []byte) bool { return b[0] == family.reply && b[4] == 0x9c && b[5] == 0x40 }
		isReset := func(b []byte) bool { return b[0] == 0 && b[1] == 9 && len(b) >= 20 && b[13]&packet.RST != 0 }
		isUnreachable := func(b []byte) bool { return b[0] == family.unreachable }
		for _, test := range []struct {
			name   string
			wanted func([]byte) bool
			layers []packet.Layer
			none   bool
		}{
			{"echo", isReply, []packet.Layer{family.echo, data}, false},
			{"echo with a wrong checksum", isReply, []packet.Layer{badEcho, data}, true},
			{"TCP", isReset, []packet.Layer{packet.TCP{SrcPort: 40000, DstPort: 9, Flags: packet.SYN, Options: []byte{2, 4, 5, 0xb4}}, data}, false},
			{"TCP with a wrong checksum", isReset, []packet.Layer{packet.TCP{SrcPort: 40000, DstPort: 9, Flags: packet.SYN, Checksum: new(uint16(0xbad))}}, true},
			{"UDP", isUnreachable, []packet.Layer{packet.UDP{SrcPort: 40000, DstPort: 9}, data}, false},
			{"UDP with a wrong checksum", isUnreachable, []packet.Layer{packet.UDP{SrcPort: 40000, DstPort: 9, Checksum: new(uint16(0xbad))}, data}, true},
		} {
			layers := append([]packet.Layer{packet.Ethernet{Dst: w.host, Src: w.client}, family.network}, test.layers...)
			for kind, frames := range map[string][][]byte{
				"whole":     {packet.Build(layers...)},
				"fragments": packet.Fragments(0x1234, 32, layers...),
			} {
				wait := 5 * time.Second
				if test.none {
					wait = 100 * time.Millisecond
				}
				if got := w.answer(t, wait, family.header, test.wanted, frames...); got == test.none {
					t.Errorf("%s, %s, %s: answered: %v", family.name, test.name, kind, got)
				}
			}
		}
	}
}
