// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// lookupBatch is how many requests go into one system call. The kernel answers them all before
	// sendto returns and drops what the receive buffer cannot hold.
	lookupBatch = 128
	// answerSize is the room, in bytes, that one answer is given: in the receive buffer, where its
	// page and the overhead count, and in ours, where it is a few hundred bytes.
	answerSize = 8 << 10
)

// A lookup asks the kernel for routes, many at a time. The netlink package asks for one at a time
// and cannot put more than one message into a datagram.
type lookup struct {
	fd    int
	seq   uint32
	batch int
	out   []byte
	in    []byte
}

// newLookup opens the socket in the network namespace of the thread.
func newLookup() (*lookup, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route socket: %w", err)
	}
	l := &lookup{fd: fd, in: make([]byte, answerSize)}
	if err := l.prepare(); err != nil {
		l.close()
		return nil, fmt.Errorf("prepare route socket: %w", err)
	}
	return l, nil
}

// prepare binds the socket and sizes its buffer and, by that, the batches.
func (l *lookup) prepare() error {
	if err := unix.Bind(l.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// Never to be reached, since answers are there when the request's call returns: but a director
	// must not hang for ever on a kernel that behaves otherwise.
	if err := unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	// An error's answer need not repeat the request; older kernels may refuse, without harm.
	_ = unix.SetsockoptInt(l.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	// Beyond net.core.rmem_max only with CAP_NET_ADMIN; without it batches are smaller.
	_ = unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, lookupBatch*answerSize)
	size, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	l.batch = max(1, min(lookupBatch, size/answerSize))
	return err
}

func (l *lookup) close() { unix.Close(l.fd) }

// routes asks for all queries. An error is one of the socket, not of a query.
func (l *lookup) routes(queries []query, answers []route) error {
	for len(queries) > 0 {
		n := min(l.batch, len(queries))
		if err := l.ask(queries[:n], answers[:n]); err != nil {
			return fmt.Errorf("look up routes: %w", err)
		}
		queries, answers = queries[n:], answers[n:]
	}
	return nil
}

// ask does one batch: every request gets exactly one answer, a route or an error.
func (l *lookup) ask(queries []query, answers []route) error {
	first := l.seq + 1
	l.out = l.out[:0]
	for _, q := range queries {
		l.seq++
		l.out = appendRequest(l.out, l.seq, q)
	}
	if err := unix.Sendto(l.fd, l.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for open := len(queries); open > 0; {
		n, err := l.receive()
		if errors.Is(err, unix.ENOBUFS) {
			l.batch = max(1, l.batch/2) // answers are larger than was thought
		}
		if err != nil {
			return err
		}
		got, err := take(l.in[:n], first, answers)
		if err != nil {
			return err
		}
		open -= got
	}
	return nil
}

// receive reads one datagram of the kernel's.
func (l *lookup) receive() (int, error) {
	for {
		n, from, err := unix.Recvfrom(l.fd, l.in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if sa, ok := from.(*unix.SockaddrNetlink); err == nil && (!ok || sa.Pid != 0) {
			continue // another process may send to this socket; only the kernel has port 0
		}
		return n, err
	}
}

// appendRequest appends one RTM_GETROUTE message.
func appendRequest(b []byte, seq uint32, q query) []byte {
	start, e := len(b), binary.NativeEndian
	b = append(b, make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg)...)
	rtmsg := b[start+unix.SizeofNlMsghdr:]
	rtmsg[0], rtmsg[1] = family(q.dst), uint8(q.dst.BitLen())
	b = appendAttr(b, unix.RTA_DST, q.dst.AsSlice())
	if q.link != 0 {
		b = appendAttr(b, unix.RTA_OIF, e.AppendUint32(nil, uint32(q.link)))
	}
	header := b[start:]
	e.PutUint32(header, uint32(len(header)))
	e.PutUint16(header[4:], unix.RTM_GETROUTE)
	e.PutUint16(header[6:], unix.NLM_F_REQUEST)
	e.PutUint32(header[8:], seq)
	return b
}

// family gives the address family of an address.
func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// take stores the answers of one datagram, numbered from first, and counts them. Answers with
// other numbers belong to a batch that was given up.
func take(b []byte, first uint32, answers []route) (int, error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return 0, fmt.Errorf("parse answer: %w", err)
	}
	taken := 0
	for _, m := range msgs {
		i := m.Header.Seq - first
		if uint64(i) >= uint64(len(answers)) {
			continue
		}
		if answers[i], err = answer(m); err != nil {
			return taken, err
		}
		taken++
	}
	return taken, nil
}

// answer reads one message.
func answer(m syscall.NetlinkMessage) (route, error) {
	if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		if transient(errno) {
			return route{}, errno
		}
		return route{errno: errno}, nil
	}
	return decodeRoute(m.Data)
}

// transient tells whether an error says something about the moment rather than the route.
func transient(errno unix.Errno) bool {
	switch errno {
	case 0, unix.ENOMEM, unix.ENOBUFS, unix.EAGAIN, unix.EBUSY, unix.EINTR:
		return true
	}
	return false
}
