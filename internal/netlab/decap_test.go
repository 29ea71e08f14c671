// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestDecapsulate: a datagram for an address on lo comes out of each kind of tunnel, and nothing else does.
func TestDecapsulate(t *testing.T) {
	p := newPair(t)
	d := need(p.b.Decapsulate(6080))(t)
	for inner, vip := range map[byte]string{4: "192.0.2.1", 6: "2001:db8::1"} {
		addr := netip.MustParseAddr(vip)
		must(t, p.b.AddAddr("lo", netip.PrefixFrom(addr, addr.BitLen())))
		conn := need(p.b.ListenPacket("udp", netip.AddrPortFrom(addr, 53).String()))(t)
		datagram := innerDatagram(inner, addr)
		gre := append([]byte{0, 0}, map[byte][]byte{4: {8, 0}, 6: {0x86, 0xdd}}[inner]...)
		protocol := map[byte]byte{4: 4, 6: 41}[inner]
		checked := append([]byte{0x80, 0, gre[2], gre[3], 0, 0, 0, 0}, datagram...)
		sum := ^onesSum(checked)
		checked[4], checked[5] = byte(sum>>8), byte(sum)
		for _, outer := range []struct{ family, addr string }{{"4", "10.0.0.2"}, {"6", "fd00::2"}} {
			for kind, c := range map[string]struct {
				network string
				payload []byte
			}{
				"ipip" + outer.family: {fmt.Sprintf("ip%s:%d", outer.family, protocol), datagram},
				"gre" + outer.family:  {"ip" + outer.family + ":47", append(gre, datagram...)},
				"gue" + outer.family:  {"udp" + outer.family, append([]byte{0, protocol, 0, 0}, datagram...)},
			} {
				t.Run(fmt.Sprintf("IPv%d by %s", inner, kind), func(t *testing.T) {
					before := d.Received(kind)
					sendTo(t, p.a, c.network, outer.addr, c.payload)
					mustHear(t, conn, true)
					if got := d.Received(kind); got != before+1 {
						t.Errorf("%d packets were received, there were %d before", got, before)
					}
				})
			}
			sendTo(t, p.a, "ip"+outer.family+":47", outer.addr, checked)
			mustHear(t, conn, true)
			wrong := d.Wrong()
			checked[len(checked)-1] ^= 1
			sendTo(t, p.a, "ip"+outer.family+":47", outer.addr, checked)
			checked[len(checked)-1] ^= 1
			sendTo(t, p.a, "udp"+outer.family, outer.addr, append([]byte{0x40, protocol, 0, 0}, datagram...))
			sendTo(t, p.a, "udp"+outer.family, outer.addr, append([]byte{0, protocol ^ 4 ^ 41, 0, 0}, datagram...))
			must(t, eventually("wait for wrong packets", func() (bool, error) { return d.Wrong() == wrong+3, nil }))
			mustHear(t, conn, false)
		}
	}
	must(t, d.Close())
	must(t, d.Close())
}

// innerDatagram is one of UDP without a checksum to port 53; over IPv6 it has one.
func innerDatagram(version byte, dst netip.Addr) []byte {
	udp := []byte{0x30, 0x39, 0, 53, 0, 12, 0, 0, 'd', 'a', 't', 'a'}
	if version == 4 {
		ip := append([]byte{0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1}, dst.AsSlice()...)
		sum := ^onesSum(ip)
		ip[10], ip[11] = byte(sum>>8), byte(sum)
		return append(ip, udp...)
	}
	src := netip.MustParseAddr("fd00::1")
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 0, 0, 12, 0, 0, 0, 17)
	sum := ^onesSum(append(pseudo, udp...))
	udp[6], udp[7] = byte(sum>>8), byte(sum)
	ip := append([]byte{0x60, 0, 0, 0, 0, 12, 17, 64}, src.AsSlice()...)
	return append(append(ip, dst.AsSlice()...), udp...)
}

func sendTo(t *testing.T, h *Host, network, addr string, payload []byte) {
	t.Helper()
	if network[:3] == "udp" {
		addr = net.JoinHostPort(addr, "6080")
	}
	conn := need(h.DialContext(t.Context(), network, addr))(t)
	defer conn.Close()
	need(conn.Write(payload))(t)
}

func mustHear(t *testing.T, conn net.PacketConn, want bool) {
	t.Helper()
	wait := 5 * time.Second
	if !want {
		wait = 20 * time.Millisecond
	}
	must(t, conn.SetReadDeadline(time.Now().Add(wait)))
	b := make([]byte, 100)
	n, _, err := conn.ReadFrom(b)
	if (err == nil) != want {
		t.Fatalf("heard %q, %v", b[:n], err)
	}
}
