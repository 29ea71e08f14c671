// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
)

// Offsets and flags of a TCP header (RFC 9293).
const (
	tcpHeader = 20
	flagSYN   = 0x02
	flagRST   = 0x04
	flagACK   = 0x10
	protoTCP  = 6
)

// synProbe is a handshake that is never finished.
type synProbe struct {
	conn          net.Conn
	local, remote netip.AddrPort
	seq           uint32
}

// halfOpen sends a SYN of its own and resets what the server answers. The kernel, which knows nothing
// of this handshake, may reset it as well.
func (p *probe) halfOpen() (Result, error) {
	network := "ip4:tcp"
	if p.target.Address.Addr().Is6() {
		network = "ip6:tcp"
	}
	if p.target.Address.Port() == 0 {
		return Result{}, unsent("connect to %s: the check needs a port", p.target.Address.Addr())
	}
	conn, err := p.dial(network)
	if err != nil {
		return Result{}, err
	}
	ip := conn.LocalAddr().(*net.IPAddr).IP
	local, _ := netip.AddrFromSlice(ip)
	s := synProbe{conn, netip.AddrPortFrom(local.Unmap(), ephemeralPort()), p.target.Address, rand.Uint32()}
	return s.run(p)
}

// ephemeralPort is above the range that the kernel chooses from (net.ipv4.ip_local_port_range), so that
// no connection of its own has it.
func ephemeralPort() uint16 {
	const first, beyond = 61000, 65536
	return uint16(first + rand.IntN(beyond-first))
}

// run sends the SYN, as often as it takes, and judges the answer.
func (s synProbe) run(p *probe) (Result, error) {
	err := p.exchange(s.conn, layer4, "SYN", s.segment(flagSYN, s.seq), func(b []byte) (bool, error) {
		switch s.kind(b) {
		case flagSYN | flagACK:
			s.conn.Write(s.segment(flagRST, s.seq+1))
			return true, nil
		case flagRST:
			return true, fail(L4CON, 0, "connect to %s: connection refused", s.remote)
		default:
			return false, nil
		}
	})
	return good(L4OK, "half-open"), err
}

// kind tells an answer to the SYN from what is not meant: 0.
func (s synProbe) kind(b []byte) int {
	if len(b) < tcpHeader || binary.BigEndian.Uint16(b) != s.remote.Port() || binary.BigEndian.Uint16(b[2:]) != s.local.Port() {
		return 0
	}
	flags := int(b[13])
	if flags&flagACK == 0 || binary.BigEndian.Uint32(b[8:]) != s.seq+1 {
		return 0
	}
	if flags&flagRST != 0 {
		return flagRST
	}
	return flags & (flagSYN | flagACK)
}

// segment is a TCP segment without data.
func (s synProbe) segment(flags byte, seq uint32) []byte {
	b := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(b, s.local.Port())
	binary.BigEndian.PutUint16(b[2:], s.remote.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	b[12], b[13] = tcpHeader/4<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65535) // window
	binary.BigEndian.PutUint16(b[16:], s.checksum(b))
	return b
}

// checksum is that of a segment with its pseudo-header, which has the same sum in both families.
func (s synProbe) checksum(segment []byte) uint16 {
	sum := uint32(protoTCP + len(segment))
	for _, part := range [][]byte{s.local.Addr().AsSlice(), s.remote.Addr().AsSlice(), segment} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
