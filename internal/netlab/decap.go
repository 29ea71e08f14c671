// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplvs/internal/offload"
)

// Decapsulator is the real server's end of tunnels: it takes packets out of ipip, GUE and GRE, over
// IPv4 and IPv6, and hands them to the host's kernel through a TUN device, as the kernel's own tunnel
// devices would, which not every kernel has. The kernel has put fragments together before, and
// looked at UDP's checksums; GRE's are looked at here. The host's interfaces lose GRO.
type Decapsulator struct {
	tun   *os.File
	ends  []tunnelEnd
	wrong atomic.Uint64

	closing sync.Once
	serving sync.WaitGroup
}

// tunnelEnd is a socket that outer packets of one kind arrive at.
type tunnelEnd struct {
	kind string
	conn net.PacketConn
	open func(payload []byte) (inner []byte, ok bool)
	got  *atomic.Uint64
}

// Kinds of tunnel for Received, each with the outer family: "ipip4" is ipip over IPv4.
var tunnelKinds = []struct {
	kind     string
	networks []string
	open     func([]byte) ([]byte, bool)
}{
	{"ipip4", []string{"ip4:4", "ip4:41"}, openIPIP},
	{"ipip6", []string{"ip6:4", "ip6:41"}, openIPIP},
	{"gre4", []string{"ip4:47"}, openGRE},
	{"gre6", []string{"ip6:47"}, openGRE},
	{"gue4", []string{"udp4"}, openGUE},
	{"gue6", []string{"udp6"}, openGUE},
}

// tunName is the device that packets come out of.
const tunName = "decap0"

// Decapsulate takes packets out of tunnels, GUE at a UDP port, until Close of the lab.
func (h *Host) Decapsulate(guePort uint16) (*Decapsulator, error) {
	d := &Decapsulator{}
	err := h.openTUN(d)
	if err == nil {
		err = h.lab.track(d)
	}
	if err == nil {
		err = h.Do(stopGRO)
	}
	for _, k := range tunnelKinds {
		got := new(atomic.Uint64)
		for _, network := range k.networks {
			if err == nil {
				err = h.openEnd(d, tunnelEnd{kind: k.kind, open: k.open, got: got}, network, guePort)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("decapsulate on %s: %w", h.name, err)
	}
	return d, nil
}

// openTUN makes the device and takes it up.
func (h *Host) openTUN(d *Decapsulator) error {
	err := h.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		d.tun = os.NewFile(uintptr(fd), tunName)
		request, err := unix.NewIfreq(tunName)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make TUN device: %w", err), d.tun.Close())
	}
	return h.onLink(tunName, func(nl *netlink.Handle, link netlink.Link) error { return nl.LinkSetUp(link) })
}

// stopGRO turns GRO off on the interfaces of the calling thread's namespace. It looks into ipip, and what it merges there
// has its transport's checksum left to the kernel, which raw sockets do not learn.
func stopGRO() error {
	links, err := net.Interfaces()
	for _, link := range links {
		if err == nil && link.Flags&(net.FlagLoopback|net.FlagPointToPoint) == 0 {
			err = offload.Change(link.Index, map[string]bool{groFeature: false})
		}
	}
	if err != nil {
		return fmt.Errorf("turn off GRO: %w", err)
	}
	return nil
}

// openEnd opens a socket and serves it.
func (h *Host) openEnd(d *Decapsulator, e tunnelEnd, network string, port uint16) (err error) {
	addr := map[byte]string{'4': "0.0.0.0", '6': "::"}[e.kind[len(e.kind)-1]]
	if network[:2] != "ip" {
		addr = net.JoinHostPort(addr, fmt.Sprint(port))
	}
	if e.conn, err = h.listenPacket(network, addr, tunnelSocket); err != nil {
		return err
	}
	d.ends = append(d.ends, e)
	d.serving.Go(func() { d.serve(e) })
	return nil
}

// tunnelBuffer holds what arrives while the decapsulator's goroutine waits for a processor.
const tunnelBuffer = 16 << 20

// tunnelSocket: datagrams over IPv6 may come without a checksum, as tunnels' do (RFC 6935).
func tunnelSocket(network, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, tunnelBuffer)
		if network == "udp6" && set == nil {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1)
		}
	})
	return errors.Join(err, set)
}

// serve hands packets on until the socket is closed.
func (d *Decapsulator) serve(e tunnelEnd) {
	payload := make([]byte, 1<<16)
	for {
		n, _, err := e.conn.ReadFrom(payload)
		if isNetClosed(err) {
			return
		}
		if err != nil {
			continue // an ICMP error for something else
		}
		inner, ok := e.open(payload[:n])
		if !ok {
			d.wrong.Add(1)
			continue
		}
		e.got.Add(1)
		d.tun.Write(inner) // what the kernel does not take is a lost packet
	}
}

// Received returns how many packets came out of tunnels of a kind, as "gue6".
func (d *Decapsulator) Received(kind string) uint64 {
	for _, e := range d.ends {
		if e.kind == kind {
			return e.got.Load()
		}
	}
	return 0
}

// Wrong returns how many packets were none of a tunnel, or had a wrong checksum.
func (d *Decapsulator) Wrong() uint64 { return d.wrong.Load() }

// Close closes the sockets and the device, which vanishes.
func (d *Decapsulator) Close() error {
	var errs []error
	d.closing.Do(func() {
		for _, e := range d.ends {
			if err := e.conn.Close(); !isNetClosed(err) {
				errs = append(errs, err)
			}
		}
		errs = append(errs, d.tun.Close())
		d.serving.Wait()
	})
	return errors.Join(errs...)
}

func openIPIP(payload []byte) ([]byte, bool) { return payload, ipVersion(payload) != 0 }

// openGUE: variant 0, no control message, no options; the type is that of the packet inside.
func openGUE(payload []byte) ([]byte, bool) {
	if len(payload) < 4 || payload[0] != 0 || payload[2] != 0 || payload[3] != 0 {
		return nil, false
	}
	inner := payload[4:]
	version, known := map[byte]byte{4: 4, 41: 6}[payload[1]]
	return inner, known && ipVersion(inner) == version
}

// openGRE: RFC 2784, with or without checksum.
func openGRE(payload []byte) ([]byte, bool) {
	if len(payload) < 4 {
		return nil, false
	}
	header := 4
	switch binary.BigEndian.Uint16(payload) {
	case 0:
	case 0x8000:
		header = 8
		if onesSum(payload) != 0xffff {
			return nil, false
		}
	default:
		return nil, false
	}
	inner := payload[min(header, len(payload)):]
	version, known := map[uint16]byte{0x0800: 4, 0x86dd: 6}[binary.BigEndian.Uint16(payload[2:])]
	return inner, known && ipVersion(inner) == version
}

// ipVersion is 4, 6, or 0 for what is no IP packet.
func ipVersion(b []byte) byte {
	if len(b) < 20 || b[0]>>4 != 4 && b[0]>>4 != 6 {
		return 0
	}
	return b[0] >> 4
}

// onesSum is the ones' complement sum of 16-bit words (RFC 1071).
func onesSum(b []byte) uint16 {
	var sum uint32
	for i := range b {
		sum += uint32(b[i]) << (8 * (1 - i%2))
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
