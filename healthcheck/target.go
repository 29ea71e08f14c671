// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Checker asks a target one thing.
//
// Check must return soon after ctx ends. It may be called by several goroutines at once. Checkers
// with the same identity ask the same: their probes are shared.
type Checker interface {
	Check(ctx context.Context, target Target) Result
	// Identity begins with the kind of the checker and holds no secrets.
	Identity() string
}

// Dialer opens the sockets of a probe; *net.Dialer and Sockets are such. The networks asked for are
// tcp, udp, and the raw ip4:icmp, ip6:ipv6-icmp, ip4:tcp and ip6:tcp, whose connections must also
// be net.PacketConn. A Dialer must be comparable (a pointer, or a struct without slices and maps), as
// probes over equal ones are shared.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Target is whom a probe asks. It is comparable.
type Target struct {
	// Address is where probes connect to. Those without ports ignore the port.
	Address netip.AddrPort
	// Real is the real server itself, when probes reach it under another address, such as a virtual
	// one. The zero value: Address. Commands and files are named after it.
	Real netip.AddrPort
	// Dialer sends probes by another way than the host's own traffic. nil: Sockets{}.
	Dialer Dialer
}

// real is the real server behind the target.
func (t Target) real() netip.AddrPort {
	if t.Real.IsValid() {
		return t.Real
	}
	return t.Address
}

func (t Target) dialer() Dialer {
	if t.Dialer == nil {
		return Sockets{}
	}
	return t.Dialer
}

// validate refuses targets that no probe can reach or share.
func (t Target) validate() error {
	if !t.Address.Addr().IsValid() {
		return errors.New("target: address missing")
	}
	if t.Dialer != nil && !reflect.TypeOf(t.Dialer).Comparable() {
		return fmt.Errorf("target %s: dialer %T is not comparable", t.Address, t.Dialer)
	}
	return nil
}

// expand replaces {address} and {port} by those of the real server.
func (t Target) expand(text string) string {
	real := t.real()
	return strings.NewReplacer("{address}", real.Addr().String(), "{port}", strconv.Itoa(int(real.Port()))).Replace(text)
}

// Sockets is a Dialer with the socket options that choose another way out. The zero value is the way
// of the host's own traffic.
type Sockets struct {
	Mark      uint32     // SO_MARK; needs CAP_NET_ADMIN
	Interface string     // SO_BINDTODEVICE
	Source    netip.Addr // to send from
}

// DialContext is net.Dialer's.
func (s Sockets) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: false},
		KeepAlive:       -1,
		LocalAddr:       s.local(network),
	}
	if s.Mark != 0 || s.Interface != "" {
		d.Control = s.control
	}
	return d.DialContext(ctx, network, address)
}

// local is the source as the network's kind of address.
func (s Sockets) local(network string) net.Addr {
	switch {
	case !s.Source.IsValid():
		return nil
	case strings.HasPrefix(network, "tcp"):
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.Source, 0))
	case strings.HasPrefix(network, "udp"):
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Source, 0))
	default:
		return &net.IPAddr{IP: s.Source.AsSlice(), Zone: s.Source.Zone()}
	}
}

// control sets options before the socket is bound.
func (s Sockets) control(_, _ string, c syscall.RawConn) error {
	var err error
	set := func(fd uintptr) {
		if s.Mark != 0 {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(s.Mark))
		}
		if err == nil && s.Interface != "" {
			err = unix.BindToDevice(int(fd), s.Interface)
		}
	}
	if err := c.Control(set); err != nil {
		return err
	}
	return err
}
