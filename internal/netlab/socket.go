// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func isNetClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

// Listen listens on an IP address and port in the namespace; network is "tcp", "tcp4" or "tcp6".
// The listener may be used from any goroutine and is closed by Close of the lab at the latest.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	// Multipath TCP, Go's default for listeners, is no ordinary real server.
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	var listener net.Listener
	err := h.withLiteral(addr, func() (err error) {
		listener, err = config.Listen(context.Background(), network, addr)
		return err
	})
	if err == nil {
		err = h.lab.track(listener)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", h.name, err)
	}
	return listener, nil
}

// ListenPacket opens a datagram socket on an IP address and port ("udp", "udp4", "udp6") or an IP
// address ("ip4:icmp") in the namespace. Close of the lab closes it at the latest.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	return h.listenPacket(network, addr, nil)
}

// listenPacket is ListenPacket with a function that configures the socket before it is bound.
func (h *Host) listenPacket(network, addr string, control func(network, address string, c syscall.RawConn) error) (net.PacketConn, error) {
	config := net.ListenConfig{Control: control}
	var conn net.PacketConn
	err := h.withLiteral(addr, func() (err error) {
		conn, err = config.ListenPacket(context.Background(), network, addr)
		return err
	})
	if err == nil {
		err = h.lab.track(conn)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", h.name, err)
	}
	return conn, nil
}

// DialContext connects from the namespace to an IP address and port. The connection may be used from
// any goroutine and belongs to the caller. While it is being made it occupies an OS thread.
func (h *Host) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return h.DialFrom(ctx, network, netip.AddrPort{}, addr)
}

// DialFrom is DialContext from a local address: the zero AddrPort lets the kernel choose both, port
// 0 the port.
func (h *Host) DialFrom(ctx context.Context, network string, local netip.AddrPort, addr string) (net.Conn, error) {
	dialer, err := dialerFrom(network, local)
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.name, err)
	}
	var conn net.Conn
	err = h.withLiteral(addr, func() (err error) {
		conn, err = dialer.DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.name, err)
	}
	return conn, nil
}

// dialerFrom returns a dialer bound to local, unless that is the zero AddrPort.
func dialerFrom(network string, local netip.AddrPort) (*net.Dialer, error) {
	dialer := &net.Dialer{}
	switch {
	case !local.Addr().IsValid():
	case strings.HasPrefix(network, "tcp"):
		dialer.LocalAddr = net.TCPAddrFromAddrPort(local)
	case strings.HasPrefix(network, "udp"):
		dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
	default:
		return nil, fmt.Errorf("local address %v for network %q (known: tcp, udp)", local, network)
	}
	return dialer, nil
}

// withLiteral runs fn in the namespace if addr is an IP address with or without port. A name would
// be resolved on other goroutines, outside the namespace.
func (h *Host) withLiteral(addr string, fn func() error) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr // raw IP sockets have no port
	}
	ip, err := netip.ParseAddr(host)
	if host != "" && err != nil {
		return fmt.Errorf("address %q is not numeric: %w", addr, err)
	}
	// Package net remembers the interfaces of the namespace that it last asked.
	if _, err := strconv.Atoi(ip.Zone()); ip.Zone() != "" && err != nil {
		return fmt.Errorf("address %q: zone is no interface index", addr)
	}
	return h.Do(fn)
}

// HTTPClient returns a client in the namespace that makes a new connection for each request, so that
// each one is scheduled. It follows no redirects and knows no proxy. The timeout covers a whole
// request, its body included; 0 is none.
func (h *Host) HTTPClient(timeout time.Duration) *http.Client {
	return h.HTTPClientFrom(timeout, netip.Addr{})
}

// HTTPClientFrom is HTTPClient with a source address, unless that is the zero Addr.
func (h *Host) HTTPClientFrom(timeout time.Duration, source netip.Addr) *http.Client {
	transport := &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return h.DialFrom(ctx, network, netip.AddrPortFrom(source, 0), addr)
		},
	}
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: noRedirect}
}
