// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const sshPort = 22

// Packets of no service are the kernel's: those for the director itself, on its own and on the
// virtual addresses, and those that it forwards to a host behind.
func TestPacketsOfNoService(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			f := newFarm(t, 2)
			f.addBehind()
			for _, family := range families {
				must(t, f.director.AddAddr("lo", netip.PrefixFrom(family.vip, family.vip.BitLen())))
			}
			get(f.director.ServeHTTP("director", everywhere(sshPort, webPort)...))(t)
			f.configureOn(fmt.Sprintf("{name: eth0, mode: %s}, {name: eth1, mode: %[1]s}", mode), standard("rr", 1, 1)...)
			f.start()
			for i, family := range families {
				own := []netip.Addr{director4, director6}[i]
				behind := []netip.Addr{behind4, behind6}[i]
				t.Run(family.name, func(t *testing.T) {
					f := f.on(t)
					f.mustSpread(f.fetch, own, sshPort, map[string]int{"director": 3})
					f.mustSpread(f.fetch, own, webPort, map[string]int{"director": 3})
					f.mustSpread(f.fetch, family.vip, sshPort, map[string]int{"director": 3})
					f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3, "rs2": 3})
					f.mustSpread(f.fetch, behind, webPort, map[string]int{"behind": 3})
					must(t, getBytes(f.client.HTTPClient(0), behind, 10_000_000))
					must(t, putBytes(f.client.HTTPClient(0), behind, 10_000_000))
					must(t, f.ping(own, 56))
					must(t, f.ping(behind, 56))
					must(t, f.ping(behind, 5000)) // in fragments
					f.mustEcho(behind, 5000)
				})
			}
		})
	}
}

var (
	behind4 = netip.MustParseAddr("10.3.0.1")
	behind6 = netip.MustParseAddr("fd03::1")
)

// addBehind makes the director a router to one more host, by a wire without a switch.
func (f *farm) addBehind() {
	f.t.Helper()
	behind := f.host("behind")
	f.wire(behind, "10.3.0.1/24", "fd03::1/64", "eth1", "10.3.0.2/24", "fd03::2/64")
	f.forwarding(f.director)
	f.defaultRoute(behind, "10.3.0.2", "fd03::2")
	must(f.t, f.client.AddRoute(netip.PrefixFrom(behind4, 24).Masked(), director4, "eth0"))
	must(f.t, f.client.AddRoute(netip.PrefixFrom(behind6, 64).Masked(), director6, "eth0"))
	get(behind.ServeHTTP("behind", everywhere(webPort)...))(f.t)
	get(behind.ServeUDPEcho(everywhere(dnsPort)...))(f.t)
}

// mustEcho fails unless a datagram comes back whole.
func (f *farm) mustEcho(addr netip.Addr, size int) {
	f.t.Helper()
	conn := get(f.client.DialContext(context.Background(), "udp", netip.AddrPortFrom(addr, dnsPort).String()))(f.t)
	defer conn.Close()
	sent := bytes.Repeat([]byte("0123456789"), size/10)
	get(conn.Write(sent))(f.t)
	must(f.t, conn.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	if n := get(conn.Read(buf))(f.t); !bytes.Equal(buf[:n], sent) {
		f.t.Errorf("echo of %d bytes has %d and is not what was sent", size, n)
	}
}

// ping sends an echo request of the client's and waits for the answer.
func (f *farm) ping(addr netip.Addr, size int) error {
	network, listen, protocol := "ip4:icmp", "0.0.0.0", 1
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if addr.Is6() {
		network, listen, protocol = "ip6:ipv6-icmp", "::", 58
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := f.client.ListenPacket(network, listen)
	if err != nil {
		return err
	}
	defer conn.Close()
	echo := &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: size, Data: bytes.Repeat([]byte{'p'}, size)}
	message, err := (&icmp.Message{Type: request, Body: echo}).Marshal(nil) // the kernel adds ICMPv6's checksum
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for deadline := time.Now().Add(patience); ; {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return errors.Join(fmt.Errorf("ping %s with %d bytes", addr, size), err)
		}
		m, err := icmp.ParseMessage(protocol, buf[:n])
		if got, ok := m.Body.(*icmp.Echo); err == nil && ok && m.Type == reply && got.ID == echo.ID && got.Seq == size && len(got.Data) == size {
			return nil
		}
	}
}
