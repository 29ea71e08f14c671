// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"xdplvs/internal/netlab"
)

// TestBacklog is a server whose kernel does not answer, because nobody accepts connections.
func TestBacklog(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	bound, _ := syscall.Getsockname(fd)
	target := Target{Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(bound.(*syscall.SockaddrInet4).Port))}
	for range 4 { // until it is full
		c, err := (Sockets{}).DialContext(t.Context(), "tcp", target.Address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if askWithin(t, must(NewTCP(TCPOptions{})), target, 100*time.Millisecond).Verdict == Down {
			break
		}
	}
	wants(t, askWithin(t, must(NewTCP(TCPOptions{})), target, shortTime), "down L4TOUT: connect to "+target.Address.String()+": no answer in time")
	needRaw(t)
	wants(t, askWithin(t, must(NewTCP(TCPOptions{HalfOpen: true})), target, shortTime), "down L4TOUT: answer to SYN: no answer in time")
}

// network is a director, a router, and what lies behind it.
type network struct {
	t                *testing.T
	director, router *netlab.Host
	eth              *netlab.Iface
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	lab, err := netlab.New("hc")
	if errors.Is(err, os.ErrPermission) {
		t.Skip("network namespaces need root")
	}
	n := &network{t: t}
	n.must(err)
	t.Cleanup(func() { n.must(lab.Close()) })
	n.director, err = lab.Host("director")
	n.must(err)
	n.router, err = lab.Host("router")
	n.must(err)
	n.eth, _, err = netlab.Link(n.director, "eth0", prefixes("10.0.0.1/24", "fd00::1/64"), n.router, "eth0", prefixes("10.0.0.2/24", "fd00::2/64"))
	n.must(err)
	n.must(n.router.Sysctl("net.ipv4.ip_forward", "1"))
	n.must(n.router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	return n
}

func (n *network) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *network) ip(h *netlab.Host, command string) {
	n.t.Helper()
	_, err := h.Run(n.t.Context(), "ip", strings.Fields(command)...)
	n.must(err)
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// TestNetwork tells a dead server from a director that cannot send, in real networks.
func TestNetwork(t *testing.T) {
	n := newNetwork(t)
	listeners := []string{"10.0.0.2:80", "[fd00::2]:80"}
	for _, address := range listeners {
		l, err := n.router.Listen("tcp", address)
		n.must(err)
		t.Cleanup(func() { l.Close() })
	}
	for _, command := range []string{"route add 10.1.0.0/16 via 10.0.0.2", "-6 route add fd01::/16 via fd00::2", "route add unreachable 10.2.0.0/16", "-6 route add unreachable fd02::/16",
		"route add prohibit 10.3.0.0/16", "neigh add 10.0.0.66 lladdr 02:00:00:00:00:66 dev eth0", "-6 neigh add fd00::66 lladdr 02:00:00:00:00:66 dev eth0"} {
		n.ip(n.director, command)
	}
	for _, command := range []string{"route add unreachable 10.1.1.0/24", "-6 route add unreachable fd01:1::/32", "route add prohibit 10.1.2.0/24", "-6 route add prohibit fd01:2::/32"} {
		n.ip(n.router, command)
	}
	tcp, half, ping := must(NewTCP(TCPOptions{})), must(NewTCP(TCPOptions{HalfOpen: true})), must(NewICMP(ICMPOptions{}))
	udp, silent := must(NewUDP(UDPOptions{Reply: true})), must(NewUDP(UDPOptions{Wait: 10 * time.Second}))
	for _, c := range []struct {
		name    string
		address string
		checker Checker
		want    string
	}{
		{"works", "10.0.0.2:80", tcp, "up L4OK"},
		{"works, IPv6", "[fd00::2]:80", tcp, "up L4OK"},
		{"half-open", "10.0.0.2:80", half, "up L4OK: half-open"},
		{"half-open, IPv6", "[fd00::2]:80", half, "up L4OK: half-open"},
		{"half-open, refused", "[fd00::2]:81", half, "down L4CON: connect to [fd00::2]:81: connection refused"},
		{"ping", "10.0.0.2:0", ping, "up L4OK: echo reply"},
		{"ping, IPv6", "[fd00::2]:0", ping, "up L4OK: echo reply"},
		{"no such host", "10.0.0.9:80", tcp, "down L4CON: connect to 10.0.0.9:80: no route to host"},
		{"no such host, IPv6", "[fd00::9]:80", tcp, "down L4CON: connect to [fd00::9]:80: no route to host"},
		{"ping, no such host", "10.0.0.9:0", ping, "down L4CON: answer to echo request: no route to host"},
		{"ping, no such host, IPv6", "[fd00::9]:0", ping, "down L4CON: answer to echo request: no route to host"},
		{"no such host, UDP", "10.0.0.8:80", silent, "down L4CON: connect to 10.0.0.8:80: no route to host"},
		{"no such host, UDP, IPv6", "[fd00::8]:80", silent, "down L4CON: connect to [fd00::8]:80: no route to host"},
		{"router knows none", "10.1.1.1:80", tcp, "down L4CON: connect to 10.1.1.1:80: no route to host"},
		{"router knows none, IPv6", "[fd01:1::1]:80", tcp, "down L4CON"},
		{"router forbids", "10.1.2.1:80", tcp, "down L4CON: connect to 10.1.2.1:80: no route to host"},
		{"router forbids, IPv6", "[fd01:2::1]:80", tcp, "down L4CON: connect to [fd01:2::1]:80: permission denied"},
		{"router forbids, UDP", "10.1.2.1:80", udp, "down L4CON"},
		{"our own table says no", "10.2.0.1:80", tcp, "unknown SOCKERR: connect to 10.2.0.1:80: no route to host"},
		{"our own table says no, IPv6", "[fd02::1]:80", tcp, "unknown SOCKERR: connect to [fd02::1]:80: no route to host"},
		{"our own table forbids", "10.3.0.1:80", tcp, "unknown SOCKERR: connect to 10.3.0.1:80: permission denied"},
		{"no route", "10.9.0.1:80", tcp, "unknown SOCKERR: connect to 10.9.0.1:80: network is unreachable"},
		{"no route, ping", "10.9.0.1:0", ping, "unknown SOCKERR: connect to 10.9.0.1:0: network is unreachable"},
		{"no route, UDP", "10.9.0.1:80", udp, "unknown SOCKERR: connect to 10.9.0.1:80: network is unreachable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := Target{Address: netip.MustParseAddrPort(c.address), Dialer: n.director}
			wants(t, ask(t, c.checker, target), c.want)
		})
	}
	t.Run("silence", func(t *testing.T) { // frames that nobody takes
		for _, address := range []string{"10.0.0.66:80", "[fd00::66]:80"} {
			target := Target{Address: netip.MustParseAddrPort(address), Dialer: n.director}
			wants(t, askWithin(t, tcp, target, shortTime), "down L4TOUT: connect to "+address+": no answer in time")
			wants(t, askWithin(t, half, target, shortTime), "down L4TOUT: answer to SYN: no answer in time")
			wants(t, askWithin(t, ping, target, shortTime), "down L4TOUT: answer to echo request: no answer in time")
		}
	})
}

// TestLinkDown is a director that lost its network: its servers are not to blame.
func TestLinkDown(t *testing.T) {
	n := newNetwork(t)
	n.must(n.eth.SetUp(false))
	for _, address := range []string{"10.0.0.2:80", "[fd00::2]:80"} {
		target := Target{Address: netip.MustParseAddrPort(address), Dialer: n.director}
		wants(t, ask(t, must(NewTCP(TCPOptions{})), target), "unknown SOCKERR: connect to "+address+": network is unreachable")
	}
}
