// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestSwitch(t *testing.T) {
	p := newPair(t)
	must(t, ping(p.a, "10.0.0.2"))
	must(t, ping(p.a, "fd00::2"))
	if p.aEnd.Peer.Host != p.sw.Host() || p.aEnd.Peer.Name != "a-eth0" || p.aEnd.Peer.Peer != p.aEnd {
		t.Errorf("the other end of a's wire is %+v", p.aEnd.Peer)
	}
	out := need(p.a.Run(context.Background(), "ip", "-o", "link", "show", "eth0"))(t)
	if !strings.Contains(string(out), p.aEnd.MAC.String()) || !strings.HasPrefix(string(out), fmt.Sprintf("%d:", p.aEnd.Index)) {
		t.Errorf("a's interface is not index %d, %v: %s", p.aEnd.Index, p.aEnd.MAC, out)
	}
}

func TestSwitchPortNames(t *testing.T) {
	l := newLab(t)
	sw := need(l.Switch("sw"))(t)
	h := need(l.Host("a-host-with-a-long-name"))(t)
	for i, want := range []string{"port1", "port2"} {
		end := need(h.Connect(sw, fmt.Sprintf("eth%d", i)))(t)
		if end.Peer.Name != want {
			t.Errorf("the port is %q, want %q", end.Peer.Name, want)
		}
	}
}

// TestTwoSwitches forwards between two networks.
func TestTwoSwitches(t *testing.T) {
	l := newLab(t)
	left, right := need(l.Switch("left"))(t), need(l.Switch("right"))(t)
	a, router, b := need(l.Host("a"))(t), need(l.Host("router"))(t), need(l.Host("b"))(t)
	need(a.Connect(left, "eth0", prefixes("10.1.0.1/24", "fd01::1/64")...))(t)
	need(router.Connect(left, "eth0", prefixes("10.1.0.254/24", "fd01::254/64")...))(t)
	need(router.Connect(right, "eth1", prefixes("10.2.0.254/24", "fd02::254/64")...))(t)
	need(b.Connect(right, "eth0", prefixes("10.2.0.1/24", "fd02::1/64")...))(t)
	must(t, router.Sysctl("net.ipv4.ip_forward", "1"))
	must(t, router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	for _, route := range []struct {
		h        *Host
		dst, via string
	}{
		{a, "0.0.0.0/0", "10.1.0.254"}, {a, "::/0", "fd01::254"},
		{b, "10.1.0.0/24", "10.2.0.254"}, {b, "fd01::/64", "fd02::254"},
	} {
		dst, via := netip.MustParsePrefix(route.dst), netip.MustParseAddr(route.via)
		must(t, route.h.AddRoute(dst, via, "eth0"))
		must(t, route.h.AddRoute(dst, via, "eth0")) // again
	}
	need(b.ServeHTTP("b", addrPort("10.2.0.1:80"), addrPort("[fd02::1]:80")))(t)
	client := a.HTTPClient(time.Minute)
	transfer(t, client, "http://10.2.0.1", 1e6)
	transfer(t, client, "http://[fd02::1]", 1e6)
	for _, dst := range []string{"0.0.0.0/0", "::/0"} {
		via := map[bool]string{true: "10.1.0.254", false: "fd01::254"}[dst == "0.0.0.0/0"]
		must(t, a.DelRoute(netip.MustParsePrefix(dst), netip.MustParseAddr(via), "eth0"))
	}
	if ping(a, "10.2.0.1") == nil || ping(a, "fd02::1") == nil {
		t.Error("b is reached without a route")
	}
}

func TestLink(t *testing.T) {
	l := newLab(t)
	a, b := need(l.Host("a"))(t), need(l.Host("b"))(t)
	aEnd, bEnd, err := Link(a, "left", prefixes("10.0.0.1/30", "fd00::1/64"), b, "right", prefixes("10.0.0.2/30", "fd00::2/64"))
	must(t, err)
	if aEnd.Host != a || bEnd.Host != b || aEnd.Peer != bEnd || bEnd.Name != "right" {
		t.Errorf("ends %+v, %+v", aEnd, bEnd)
	}
	must(t, ping(a, "10.0.0.2"))
	must(t, ping(b, "fd00::1"))
	// A route without a router.
	must(t, b.AddAddr("lo", prefixes("192.0.2.1/32")[0]))
	must(t, a.AddRoute(prefixes("192.0.2.0/24")[0], netip.Addr{}, "left"))
	must(t, ping(a, "192.0.2.1"))
}

func TestLinkOfTwoLabs(t *testing.T) {
	a, b := need(newLab(t).Host("a"))(t), need(newLab(t).Host("b"))(t)
	if _, _, err := Link(a, "eth0", nil, b, "eth0", nil); err == nil {
		t.Error("accepted")
	}
}

func TestSetUp(t *testing.T) {
	p := newPair(t)
	must(t, p.aEnd.SetUp(false))
	if ping(p.b, "-W", "1", "10.0.0.1") == nil {
		t.Error("an interface that is down answers")
	}
	must(t, p.aEnd.SetUp(true))
	must(t, ping(p.b, "10.0.0.1"))
	must(t, ping(p.b, "fd00::1"))
}

func TestSetMTU(t *testing.T) {
	p := newPair(t)
	for _, mtu := range []int{9000, 1400} {
		must(t, p.aEnd.SetMTU(mtu))
		must(t, p.bEnd.SetMTU(mtu))
		whole := []string{"-M", "do", "-s", fmt.Sprint(mtu - 28), "10.0.0.2"} // 28: IPv4 and ICMP headers
		must(t, ping(p.a, whole...))
		whole[3] = fmt.Sprint(mtu - 27)
		if ping(p.a, whole...) == nil {
			t.Errorf("a packet of %d bytes passes an MTU of %d", mtu+1, mtu)
		}
	}
}

// packetSocket opens a socket that sees frames on the interface; ethertype ETH_P_ALL includes those
// it sends.
func packetSocket(t *testing.T, i *Iface, ethertype uint16) int {
	t.Helper()
	var fd int
	must(t, i.Host.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000}))
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20))
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	big := [2]byte{byte(ethertype >> 8), byte(ethertype)}
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(big[:]), Ifindex: i.Index}))
	return fd
}

// onlyLonger makes a packet socket take frames of more than n bytes only, so that it can watch a
// gigabyte pass.
func onlyLonger(t *testing.T, fd int, n uint32) {
	t.Helper()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: n, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 256},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	must(t, unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}))
}

// sentFrames counts what the interface behind a packet socket sent: frames, and those among them with
// unfinished checksums (TP_STATUS_CSUMNOTREADY of packet(7)).
func sentFrames(t *testing.T, fd int) (frames, unfinished int) {
	t.Helper()
	control := make([]byte, 256)
	for {
		_, controlLen, _, from, err := unix.Recvmsg(fd, nil, control, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if err == unix.EAGAIN {
			return frames, unfinished
		}
		must(t, err)
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		frames++
		for _, m := range need(unix.ParseSocketControlMessage(control[:controlLen]))(t) {
			if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA &&
				(*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0])).Status&unix.TP_STATUS_CSUMNOTREADY != 0 {
				unfinished++
			}
		}
	}
}

// directPair is a client, a director that forwards to 10.0.0.100 with XDP_TX, and a real server.
type directPair struct {
	client, real *Host
	wires        []*Iface // every end of every wire
}

var directVIP = netip.MustParseAddr("10.0.0.100")

func newDirectPair(t *testing.T) directPair {
	p := newPair(t)
	director := need(p.lab.Host("director"))(t)
	directorEnd := need(director.Connect(p.sw, "eth0", prefixes("10.0.0.3/24")...))(t)
	must(t, p.b.RealServerDR(directVIP))
	must(t, p.a.SetNeigh("eth0", directVIP, directorEnd.MAC))
	attachXDP(t, directorEnd, directProgram(directVIP, p.bEnd.MAC))
	return directPair{client: p.a, real: p.b, wires: []*Iface{
		p.aEnd, p.aEnd.Peer, p.bEnd, p.bEnd.Peer, directorEnd, directorEnd.Peer}}
}

// TestFramesFitTheWire transfers through an XDP program and finds no frame that is longer than the
// MTU, on any wire in any direction.
func TestFramesFitTheWire(t *testing.T) {
	p := newDirectPair(t)
	need(p.real.ServeHTTP("real", netip.AddrPortFrom(directVIP, 80)))(t)
	watch := map[*Iface]int{}
	for _, end := range p.wires {
		watch[end] = packetSocket(t, end, unix.ETH_P_ALL)
		onlyLonger(t, watch[end], 1514)
	}
	transfer(t, p.client.HTTPClient(5*time.Minute), "http://10.0.0.100", transferBytes())
	sendUDPSegments(t, p.client)
	for end, fd := range watch {
		if frames, _ := sentFrames(t, fd); frames > 0 {
			t.Errorf("%s of %s sent %d frames of more than 1514 bytes", end.Name, end.Host.Name(), frames)
		}
	}
}

// sendUDPSegments sends datagrams in one large buffer and leaves cutting it to the kernel (udp(7),
// UDP_SEGMENT), as QUIC servers do.
func sendUDPSegments(t *testing.T, h *Host) {
	t.Helper()
	conn := need(h.DialContext(context.Background(), "udp", "10.0.0.100:9"))(t)
	defer conn.Close()
	raw := need(conn.(syscall.Conn).SyscallConn())(t)
	var set error
	must(t, raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000)
	}))
	must(t, set)
	_, err := conn.Write(make([]byte, 40_000))
	if errors.Is(err, unix.EIO) {
		t.Log("this kernel wants checksum offload for UDP_SEGMENT, which wires do not have")
		return
	}
	must(t, err)
}

// TestChecksumsAreFinished looks at the frames of a short transfer.
func TestChecksumsAreFinished(t *testing.T) {
	p := newDirectPair(t)
	need(p.real.ServeHTTP("real", netip.AddrPortFrom(directVIP, 80)))(t)
	watch := map[*Iface]int{}
	for _, end := range p.wires {
		watch[end] = packetSocket(t, end, unix.ETH_P_ALL)
	}
	transfer(t, p.client.HTTPClient(time.Minute), "http://10.0.0.100", 1e6)
	seen := 0
	for end, fd := range watch {
		frames, unfinished := sentFrames(t, fd)
		seen += frames
		if unfinished > 0 {
			t.Errorf("%s of %s sent %d of %d frames with an unfinished checksum", end.Name, end.Host.Name(), unfinished, frames)
		}
	}
	if seen < 2000 {
		t.Errorf("saw only %d frames", seen)
	}
}

// bounces sends frames of bounceType one after the other, with a VLAN tag if vlan is not 0, and counts
// those that come back whole.
func bounces(t *testing.T, from *Iface, to net.HardwareAddr, n int, vlan uint16) int {
	t.Helper()
	fd := packetSocket(t, from, bounceType)
	payload := make([]byte, 1480)
	got := make([]byte, 2000)
	for i := range n {
		payload[0] = byte(i)
		must(t, unix.Send(fd, ethernet(to, from.MAC, vlan, payload), 0))
		// A packet socket gets what arrives without its tag.
		want := ethernet(from.MAC, to, 0, payload)
		size, err := unix.Read(fd, got)
		if err != nil || !bytes.Equal(got[:size], want) {
			return i
		}
	}
	return n
}

// ethernet returns a frame of bounceType.
func ethernet(dst, src net.HardwareAddr, vlan uint16, payload []byte) []byte {
	frame := slices.Concat(dst, src)
	if vlan != 0 {
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_8021Q)
		frame = binary.BigEndian.AppendUint16(frame, vlan)
	}
	return append(binary.BigEndian.AppendUint16(frame, bounceType), payload...)
}

// TestXDPTxThroughSwitch sends with XDP_TX out of a host into a switch port.
func TestXDPTxThroughSwitch(t *testing.T) {
	p := newPair(t)
	attachXDP(t, p.bEnd, bounceProgram(bounceType))
	if n := bounces(t, p.aEnd, p.bEnd.MAC, 100, 0); n != 100 {
		t.Errorf("frame %d did not come back", n)
	}
}

// TestXDPTxThroughLink does so over a direct wire. That hardly anything comes back without AcceptXDP
// is what AcceptXDP is for: if a kernel no longer needs it, the log says so.
func TestXDPTxThroughLink(t *testing.T) {
	for _, accept := range []bool{false, true} {
		l := newLab(t)
		a, b := need(l.Host("a"))(t), need(l.Host("b"))(t)
		aEnd, bEnd, err := Link(a, "eth0", nil, b, "eth0", nil)
		must(t, err)
		if accept {
			must(t, aEnd.AcceptXDP())
		}
		attachXDP(t, bEnd, bounceProgram(bounceType))
		n := bounces(t, aEnd, bEnd.MAC, 100, 0)
		t.Logf("AcceptXDP %v: %d of 100 frames came back before one did not", accept, n)
		if accept && n != 100 {
			t.Errorf("frame %d did not come back", n)
		}
	}
}

// TestXDPSeesVLANTags bounces frames only if the tag is inside them, where XDP looks for it. The
// switch port takes it out of the frame and must put it back.
func TestXDPSeesVLANTags(t *testing.T) {
	p := newPair(t)
	attachXDP(t, p.bEnd, bounceProgram(unix.ETH_P_8021Q))
	if n := bounces(t, p.aEnd, p.bEnd.MAC, 10, 5); n != 10 {
		t.Errorf("frame %d did not come back", n)
	}
}
