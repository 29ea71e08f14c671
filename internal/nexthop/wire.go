// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
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

// A wire is the port on a real interface: a packet socket. The clients of the arp and ndp packages
// are not used, only their messages: those clients want an address on the interface when opened,
// which an unnumbered interface never has, and another one not yet.
type wire struct {
	file   *os.File
	raw    syscall.RawConn
	link   link
	build  func(question) ([]byte, error)
	read   func(frame []byte, own mac) (sighting, bool)
	hear   func(sighting) // gets what is read, from the reader's goroutine
	closed chan struct{}
	reader sync.WaitGroup
}

// onlyAdverts is a socket filter that lets neighbour advertisements pass.
var onlyAdverts = mustAssemble(
	bpf.LoadAbsolute{Off: etherSize + 6, Size: 1}, // next header
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
	bpf.LoadAbsolute{Off: etherSize + ipv6Size, Size: 1}, // ICMPv6 type
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeAdvert, SkipTrue: 1},
	bpf.RetConstant{Val: frameSize},
	bpf.RetConstant{Val: 0},
)

func mustAssemble(program ...bpf.Instruction) (filter []unix.SockFilter) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		panic(fmt.Sprintf("assemble socket filter: %v", err))
	}
	for _, i := range raw {
		filter = append(filter, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	return filter
}

func (t *tables) listen(l link, v6 bool, into *inbox) (port, error) {
	w, err := t.openWire(l, v6, func(s sighting) { into.put(func(n *news) { n.addSighting(s) }) })
	if err != nil { // not a nil wire in a port
		return nil, err
	}
	return w, nil
}

// openWire opens a socket whose reader tells hear what it reads, until close.
func (t *tables) openWire(l link, v6 bool, hear func(sighting)) (_ *wire, err error) {
	w := &wire{link: l, build: arpFrame, read: readARP, hear: hear, closed: make(chan struct{})}
	protocol, filter := ethernet.EtherTypeARP, []unix.SockFilter(nil)
	if v6 {
		w.build, w.read = ndFrame, readND
		protocol, filter = ethernet.EtherTypeIPv6, onlyAdverts
	}
	if err := t.ns.do(func() (err error) {
		w.file, err = packetSocket(l.index, uint16(protocol), filter)
		return err
	}); err != nil {
		return nil, err
	}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil, err
	}
	w.reader.Go(w.follow)
	return w, nil
}

// packetSocket opens a socket for the frames of one EtherType on a link (packet(7)).
func packetSocket(link int, protocol uint16, filter []unix.SockFilter) (*os.File, error) {
	// Without a protocol until bind, lest frames that the filter has not seen come in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "packet socket")
	// Needs CAP_NET_ADMIN; without it the default has to do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, frameBuffer)
	if len(filter) > 0 {
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: link})
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

// follow reads frames until the port is closed. Errors of reading pass: ENETDOWN says that the link
// went down, and when it comes up the socket goes on.
func (w *wire) follow() {
	frame := make([]byte, frameSize)
	for {
		n, open, err := w.receive(frame)
		switch {
		case !open:
			return
		case err != nil:
			select {
			case <-w.closed:
			case <-time.After(readPause):
			}
			continue
		}
		if s, ok := w.read(frame[:n], w.link.mac); ok {
			s.key.link = w.link.index
			w.hear(s)
		}
	}
}

// receive waits for a frame, or until the port is closed.
func (w *wire) receive(frame []byte) (n int, open bool, err error) {
	open = w.raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), frame)
		return !errors.Is(err, unix.EAGAIN)
	}) == nil
	return max(n, 0), open, err
}

// ask sends without waiting, were it for room in a queue that may be stuck.
func (w *wire) ask(q question) error {
	frame, err := w.build(q)
	if err != nil {
		return err
	}
	var sent error
	err = w.raw.Write(func(fd uintptr) bool {
		_, sent = unix.Write(int(fd), frame)
		return true
	})
	if err := errors.Join(err, sent); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

func (w *wire) close() {
	close(w.closed)
	w.file.Close()
	w.reader.Wait()
}
