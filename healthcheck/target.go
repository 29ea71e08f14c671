// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	// Way, if there is one, decides how a probe reaches Address when it begins. It must be comparable.
	Way Way
}

// Way turns a target into the one that a probe asks this time.
type Way interface {
	// Take returns a target without a Way. The error is why the probe cannot be sent.
	Take(ctx context.Context, t Target) (Target, error)
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
	if t.Way != nil && !reflect.TypeOf(t.Way).Comparable() {
		return fmt.Errorf("target %s: way %T is not comparable", t.Address, t.Way)
	}
	return nil
}

// take is the target that a probe asks.
func (t Target) take(ctx context.Context) (Target, error) {
	if t.Way == nil {
		return t, nil
	}
	taken, err := t.Way.Take(ctx, t)
	if err != nil {
		return t, unsent("connect to %s: %v", t.Address, err)
	}
	return taken, nil
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
	// FirstPort, with a Source, is the lowest port to send from; 65535 is the highest. 0: the kernel's choice.
	FirstPort uint16
}

// DialContext is net.Dialer's.
func (s Sockets) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: false},
		KeepAlive:       -1,
	}
	if s.Mark != 0 || s.Interface != "" {
		d.Control = s.control
	}
	for try := 1; ; try++ {
		d.LocalAddr = s.local(network)
		c, err := d.DialContext(ctx, network, address)
		if s.FirstPort == 0 || try == portTries || !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return c, err
		}
	}
}

// portTries is how many ports are tried, should somebody have one already.
const portTries = 16

// port is one of those that may be sent from; 0: any.
func (s Sockets) port() uint16 {
	if s.FirstPort == 0 {
		return 0
	}
	return s.FirstPort + uint16(rand.IntN(1<<16-int(s.FirstPort)))
}

// local is the source as the network's kind of address.
func (s Sockets) local(network string) net.Addr {
	switch {
	case !s.Source.IsValid():
		return nil
	case strings.HasPrefix(network, "tcp"):
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.Source, s.port()))
	case strings.HasPrefix(network, "udp"):
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Source, s.port()))
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
		if err == nil && s.FirstPort != 0 { // ports of former probes may be in TIME_WAIT, to others
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
	}
	if err := c.Control(set); err != nil {
		return err
	}
	return err
}
