// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// ICMPOptions are those of a check that sends an echo request (ping), in ICMP or ICMPv6 as the
// target has it. Needs CAP_NET_RAW.
type ICMPOptions struct {
	// Size is that of the data, 8 to 1400 bytes. 0: 56, as ping's.
	Size int
}

type icmpChecker struct {
	identity
	size int
}

// NewICMP is a checker that sends an echo request.
func NewICMP(o ICMPOptions) (Checker, error) {
	m := mistakes{kind: "icmp"}
	o.Size = orElse(o.Size, 56)
	if o.Size < 8 || o.Size > 1400 {
		m.add("size", "%d is not between 8 and 1400", o.Size)
	}
	return &icmpChecker{identify("icmp", o), o.Size}, m.err()
}

// Check is Checker's.
func (c *icmpChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		network, request, answer, protocol := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
		if p.target.Address.Addr().Is6() {
			network, request, answer, protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
		}
		conn, err := p.dial(network)
		if err != nil {
			return Result{}, err
		}
		echo := c.echo()
		packet, err := (&icmp.Message{Type: request, Body: echo}).Marshal(nil)
		if err != nil {
			return Result{}, err
		}
		err = p.exchange(conn, layer4, "echo request", packet, func(b []byte) (bool, error) {
			m, err := icmp.ParseMessage(protocol, b)
			if err != nil || m.Type != answer { // others' ICMP reaches this socket too
				return false, nil
			}
			back, ok := m.Body.(*icmp.Echo)
			return ok && back.ID == echo.ID && back.Seq == echo.Seq && bytes.Equal(back.Data, echo.Data), nil
		})
		return good(L4OK, "echo reply"), err
	})
}

// echo is a request that nobody else has made.
func (c *icmpChecker) echo() *icmp.Echo {
	data := make([]byte, c.size)
	binary.BigEndian.PutUint64(data, rand.Uint64())
	return &icmp.Echo{ID: rand.IntN(1 << 16), Seq: 1, Data: data}
}
