// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"xdplvs/internal/netlab"
)

// EtherTypes and lengths of headers, in bytes.
const (
	typeIPv4     = 0x0800
	typeIPv6     = 0x86dd
	typeCustomer = 0x8100 // a VLAN tag, 802.1Q
	typeService  = 0x88a8 // an outer one, 802.1ad

	etherLen = 14
	udpLen   = 8
)

// wire is a packet socket on a host's interface: it sends frames as they are, and sees those that
// come and go.
type wire struct {
	fd    int
	index int
}

// frame is what a wire saw. Its data have no VLAN tag: the kernel takes it off and tells it.
type frame struct {
	data   []byte
	sent   bool // by the host itself
	tagged bool
	tci    uint16
	tpid   uint16
}

// tap opens a packet socket; it is closed at the test's end.
func tap(t *testing.T, iface *netlab.Iface) *wire {
	t.Helper()
	w := &wire{index: iface.Index}
	must(t, iface.Host.Do(func() (err error) {
		// Bound to no protocol it hears nothing before bind.
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { unix.Close(w.fd) })
	must(t, errors.Join(
		unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: w.index}),
	))
	return w
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// send puts a frame on the wire.
func (w *wire) send(data []byte) error {
	return unix.Sendto(w.fd, data, 0, &unix.SockaddrLinklayer{Ifindex: w.index})
}

// next returns the next frame, or os.ErrDeadlineExceeded's cause, EAGAIN, after the wait.
func (w *wire) next(wait time.Duration) (frame, error) {
	timeout := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return frame{}, err
	}
	data, control := make([]byte, 1<<16), make([]byte, 256)
	n, controlLen, _, from, err := unix.Recvmsg(w.fd, data, control, 0)
	if err != nil {
		return frame{}, err
	}
	f := frame{data: data[:n], sent: from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING}
	return f, f.readTag(control[:controlLen])
}

// readTag takes the VLAN tag from struct tpacket_auxdata (packet(7)).
func (f *frame) readTag(control []byte) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 {
			status := binary.NativeEndian.Uint32(m.Data)
			f.tagged = status&unix.TP_STATUS_VLAN_VALID != 0
			f.tci, f.tpid = binary.NativeEndian.Uint16(m.Data[16:]), binary.NativeEndian.Uint16(m.Data[18:])
		}
	}
	return nil
}

// await returns the first frame that the function wants.
func (w *wire) await(t *testing.T, wait time.Duration, wanted func(frame) bool) frame {
	t.Helper()
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); {
		f, err := w.next(time.Until(deadline))
		if err == nil && wanted(f) {
			return f
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
	t.Fatalf("no such frame within %v", wait)
	return frame{}
}

// meter counts the packets that a host sends to an address and port, and their bytes of IP.
type meter struct {
	mu             sync.Mutex
	packets, bytes uint64
	done           chan struct{}
	counting       sync.WaitGroup
}

// meter counts what the client sends from now on to the virtual address's port.
func (f *farm) meter(vip netip.Addr, port uint16) *meter {
	f.t.Helper()
	w := tap(f.t, f.clientEnd)
	must(f.t, w.filter(vip))
	m := &meter{done: make(chan struct{})}
	m.counting.Go(func() {
		for {
			select {
			case <-m.done:
				return
			default:
			}
			if seen, err := w.next(50 * time.Millisecond); err == nil && seen.sent {
				m.count(seen.data[etherLen:], vip, port)
			}
		}
	})
	f.t.Cleanup(m.stop)
	return m
}

func (m *meter) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
	default:
		close(m.done)
		m.mu.Unlock()
		m.counting.Wait()
		m.mu.Lock()
	}
}

// filter drops frames that are not of the address's family (classic BPF): the download's other half
// would overrun the socket.
func (w *wire) filter(vip netip.Addr) error {
	etherType := uint32(typeIPv4)
	if vip.Is6() {
		etherType = typeIPv6
	}
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherType, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	raw := make([]unix.SockFilter, len(filter))
	for i, ins := range filter {
		raw[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	return unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]})
}

func (m *meter) count(ip []byte, vip netip.Addr, port uint16) {
	dst, transport, length := ip[16:20], ip[20:], int(binary.BigEndian.Uint16(ip[2:]))
	if vip.Is6() {
		dst, transport, length = ip[24:40], ip[40:], 40+int(binary.BigEndian.Uint16(ip[4:]))
	}
	if addr, _ := netip.AddrFromSlice(dst); addr != vip || binary.BigEndian.Uint16(transport[2:]) != port {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.packets++
	m.bytes += uint64(length)
}

func (m *meter) counted() (packets, bytes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.packets, m.bytes
}

// tag is a VLAN tag.
type tag struct{ tpid, tci uint16 }

// udpFrame is a datagram in a frame, with tags from outermost to innermost.
func udpFrame(from, to net.HardwareAddr, src, dst netip.AddrPort, payload []byte, tags ...tag) []byte {
	data := append(append([]byte{}, to...), from...)
	for _, t := range tags {
		data = binary.BigEndian.AppendUint16(data, t.tpid)
		data = binary.BigEndian.AppendUint16(data, t.tci)
	}
	udp := udpPacket(src, dst, payload)
	if src.Addr().Is4() {
		data = binary.BigEndian.AppendUint16(data, typeIPv4)
		return append(append(data, ipv4Header(src.Addr(), dst.Addr(), len(udp))...), udp...)
	}
	data = binary.BigEndian.AppendUint16(data, typeIPv6)
	return append(append(data, ipv6Header(src.Addr(), dst.Addr(), len(udp))...), udp...)
}

// hops is the TTL or hop limit of our packets.
const hops = 64

func ipv4Header(src, dst netip.Addr, payload int) []byte {
	h := []byte{0x45, 0, 0, 0, 0x12, 0x34, 0, 0, hops, unix.IPPROTO_UDP, 0, 0}
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+payload))
	binary.BigEndian.PutUint16(h[10:], ^sum16(0, h))
	return h
}

func ipv6Header(src, dst netip.Addr, payload int) []byte {
	h := []byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_UDP, hops}
	binary.BigEndian.PutUint16(h[4:], uint16(payload))
	return append(append(h, src.AsSlice()...), dst.AsSlice()...)
}

// udpPacket is header and payload, with a checksum over them and the addresses (RFC 768, RFC 8200 8.1).
func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	length := udpLen + len(payload)
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(length))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	sum := ^sum16(unix.IPPROTO_UDP+uint32(length), append(pseudo, udp...))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return udp
}

// sum16 is the one's complement sum (RFC 1071).
func sum16(sum uint32, data []byte) uint16 {
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data)%2 == 1 {
		sum += uint32(data[len(data)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
