// SPDX-License-Identifier: Apache-2.0

package arpnd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/ethernet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// frameSize is how much of a frame is read, in bytes: ARP takes 60, an advertisement some 90.
	frameSize = 512
	// frameBuffer is the size, in bytes, of a socket's buffer: a thousand answers that come at once.
	frameBuffer = 1 << 20
	// readPause keeps a reader from spinning on a socket that keeps failing.
	readPause = 50 * time.Millisecond
)

// Traffic is what a socket hears.
type Traffic struct {
	etherType ethernet.EtherType
	filter    []unix.SockFilter
}

// What sockets can hear.
var (
	ARP = Traffic{etherType: ethernet.EtherTypeARP}
	// Advertisements are IPv6's neighbour advertisements.
	Advertisements = Traffic{ethernet.EtherTypeIPv6, icmp6Filter(typeAdvert, typeAdvert)}
	// Discovery are those and neighbour solicitations.
	Discovery = Traffic{ethernet.EtherTypeIPv6, icmp6Filter(typeAdvert, typeSolicit)}
)

// icmp6Filter is a socket filter that lets two types of ICMPv6 messages pass.
func icmp6Filter(one, other uint32) (filter []unix.SockFilter) {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: etherSize + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: etherSize + ipv6Size, Size: 1}, // ICMPv6 type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: one, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: other, SkipTrue: 1},
		bpf.RetConstant{Val: frameSize},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic(fmt.Sprintf("assemble socket filter: %v", err))
	}
	for _, i := range raw {
		filter = append(filter, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	return filter
}

// A Socket is a packet socket on one interface (packet(7)). Its methods may be called from any
// goroutine, but Follow from one only.
type Socket struct {
	file   *os.File
	raw    syscall.RawConn
	closed chan struct{}
}

// Open opens a socket for some traffic on the interface of an index, in the network namespace of the
// calling thread. It takes CAP_NET_RAW.
func Open(link int, t Traffic) (*Socket, error) {
	file, err := packetSocket(link, t)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Socket{file: file, raw: raw, closed: make(chan struct{})}, nil
}

func packetSocket(link int, t Traffic) (*os.File, error) {
	// Without a protocol until bind, lest frames that the filter has not seen come in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "packet socket")
	// Needs CAP_NET_ADMIN; without it the default has to do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, frameBuffer)
	if len(t.filter) > 0 {
		program := unix.SockFprog{Len: uint16(len(t.filter)), Filter: &t.filter[0]}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(uint16(t.etherType)), Ifindex: link})
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// networkOrder gives a number whose bytes in memory are in network order.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Follow reads frames until the socket is closed. Errors of reading pass: ENETDOWN says that the link
// went down, and when it comes up the socket goes on. The frame is valid during the call only.
func (s *Socket) Follow(heard func(frame []byte)) {
	frame := make([]byte, frameSize)
	for {
		n, open, err := s.receive(frame)
		switch {
		case !open:
			return
		case err != nil:
			select {
			case <-s.closed:
			case <-time.After(readPause):
			}
		default:
			heard(frame[:n])
		}
	}
}

// receive waits for a frame, or until the socket is closed.
func (s *Socket) receive(frame []byte) (n int, open bool, err error) {
	open = s.raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), frame)
		return !errors.Is(err, unix.EAGAIN)
	}) == nil
	return max(n, 0), open, err
}

// Send sends a frame without waiting, were it for room in a queue that may be stuck.
func (s *Socket) Send(frame []byte) error {
	var sent error
	err := s.raw.Write(func(fd uintptr) bool {
		_, sent = unix.Write(int(fd), frame)
		return true
	})
	if err := errors.Join(err, sent); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// Close closes the socket; Follow returns.
func (s *Socket) Close() {
	close(s.closed)
	s.file.Close()
}
