// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// UDPServer is a UDP real server: it answers each datagram, from the address it was sent to.
type UDPServer struct {
	answer   func(payload []byte) []byte
	requests atomic.Uint64
	serving  sync.WaitGroup

	mu    sync.Mutex
	conns []*net.UDPConn
}

// ServeUDP answers each datagram with name, a blank and the datagram, cut to 65,507 bytes, on
// addresses in the namespace, until Close of the server or of the lab.
func (h *Host) ServeUDP(name string, addrs ...netip.AddrPort) (*UDPServer, error) {
	return h.serveUDP(func(payload []byte) []byte {
		return append([]byte(name+" "), payload...)
	}, addrs)
}

// ServeUDPEcho answers each datagram with the same datagram.
func (h *Host) ServeUDPEcho(addrs ...netip.AddrPort) (*UDPServer, error) {
	return h.serveUDP(func(payload []byte) []byte { return payload }, addrs)
}

func (h *Host) serveUDP(answer func([]byte) []byte, addrs []netip.AddrPort) (*UDPServer, error) {
	s := &UDPServer{answer: answer}
	if err := h.lab.track(s); err != nil {
		return nil, fmt.Errorf("serve UDP: %w", err)
	}
	for _, addr := range addrs {
		conn, err := h.listenPacket(networkOf("udp", addr), addr.String(), wantDestination)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("serve UDP: %w", err), s.Close())
		}
		s.start(conn.(*net.UDPConn))
	}
	return s, nil
}

// start serves one socket, on one goroutine.
func (s *UDPServer) start(conn *net.UDPConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, conn)
	s.serving.Go(func() { s.serve(conn) })
}

// Requests returns how many datagrams arrived so far.
func (s *UDPServer) Requests() uint64 { return s.requests.Load() }

// Close closes the sockets and returns when the server has stopped. It may be called again.
func (s *UDPServer) Close() error {
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	var errs []error
	for _, conn := range conns {
		if err := conn.Close(); !isNetClosed(err) {
			errs = append(errs, err)
		}
	}
	s.serving.Wait()
	return errors.Join(errs...)
}

// maxDatagram is the largest payload of UDP over IPv4, in bytes.
const maxDatagram = 65507

// serve answers until the socket is closed.
func (s *UDPServer) serve(conn *net.UDPConn) {
	payload, control := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, controlLen, _, from, err := conn.ReadMsgUDPAddrPort(payload, control)
		if isNetClosed(err) {
			return
		}
		if err != nil {
			continue // an ICMP error for an earlier answer
		}
		s.requests.Add(1)
		answer := s.answer(payload[:n])
		answer = answer[:min(len(answer), maxDatagram)]
		// An answer that cannot be sent is a lost datagram, which UDP's clients expect.
		conn.WriteMsgUDPAddrPort(answer, sourceFrom(control[:controlLen]), from)
	}
}

// wantDestination makes the kernel tell each datagram's destination address: a socket on 0.0.0.0 or
// [::] would otherwise answer from an address of the kernel's choice.
func wantDestination(network, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		if network == "udp4" {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	return errors.Join(err, set)
}

// sourceFrom turns the control message that tells a datagram's destination into the one that makes
// it the source of the answer. The interface is left to routing (ip(7), ipv6(7)).
func sourceFrom(control []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			// struct in_pktinfo: interface, local address, destination address; 4 bytes each.
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[8:12])})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16:
			return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		}
	}
	return nil
}
