// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"net"
	"time"
)

// UDPOptions are those of a check that sends a datagram.
type UDPOptions struct {
	// Send is the datagram; it may be empty.
	Send []byte
	// Reply says that an answer must come. Without it, the server is up if no ICMP error comes back.
	Reply bool
	// Expect is what the answer must contain; it implies Reply.
	Expect Pattern
	// MinLength and MaxLength bound the answer's length in bytes. 0: none, and 4096.
	MinLength, MaxLength int
	// Wait is how long an ICMP error is waited for, if no answer must come. It ends with the timeout. 0:
	// 4 s, as ARP and neighbour solicitation take 3 s to fail.
	Wait time.Duration
}

type udpChecker struct {
	identity
	UDPOptions
	expect matcher
}

// NewUDP is a checker that sends a datagram.
func NewUDP(o UDPOptions) (Checker, error) {
	m := mistakes{kind: "udp"}
	expect, err := o.Expect.compile()
	m.try("expect", err)
	o.Reply = o.Reply || !o.Expect.isZero() || o.MinLength > 0
	o.Wait, o.MaxLength = orElse(o.Wait, 4*time.Second), orElse(o.MaxLength, maxPacket)
	if len(o.Send) > 1400 {
		m.add("send", "%d bytes are more than 1400", len(o.Send))
	}
	if o.MinLength < 0 || o.MinLength > o.MaxLength || o.MaxLength > maxPacket {
		m.add("length", "%d to %d is not within 0 to %d", o.MinLength, o.MaxLength, maxPacket)
	}
	if o.Wait < 0 {
		m.add("wait", "%s is negative", o.Wait)
	}
	return &udpChecker{identify("udp", o), o, expect}, m.err()
}

// Check is Checker's.
func (c *udpChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		conn, err := p.dial("udp")
		if err != nil {
			return Result{}, err
		}
		if !c.Reply {
			return p.silence(conn, c.Send, c.Wait)
		}
		var text string
		err = p.exchange(conn, layer7, "datagram", c.Send, func(b []byte) (bool, error) {
			text = excerpt(b)
			return true, c.judge(b)
		})
		return good(L7OK, "%s", text), err
	})
}

// judge says what is wrong with an answer.
func (c *udpChecker) judge(b []byte) error {
	if len(b) < c.MinLength || len(b) > c.MaxLength {
		return fail(L7RSP, 0, "an answer of %d bytes, want %d to %d", len(b), c.MinLength, c.MaxLength)
	}
	if wrong := c.expect.judge(b); wrong != "" {
		return fail(L7STS, 0, "%s", wrong)
	}
	return nil
}

// silence takes it for a good sign that nobody complains.
func (p *probe) silence(conn net.Conn, datagram []byte, wait time.Duration) (Result, error) {
	if _, err := conn.Write(datagram); err != nil {
		return Result{}, err
	}
	const margin = 10 * time.Millisecond // before the probe's own end, which would be a timeout
	until := time.Now().Add(wait)
	if deadline, ok := p.ctx.Deadline(); ok && deadline.Add(-margin).Before(until) {
		until = deadline.Add(-margin)
	}
	conn.SetReadDeadline(until)
	_, err := receive(conn, make([]byte, maxPacket))
	switch {
	case err == nil:
		return good(L4OK, "answered"), nil
	case isTimeout(err) && p.ctx.Err() == nil:
		return good(L4OK, "no ICMP error"), nil
	default:
		return Result{}, err
	}
}
