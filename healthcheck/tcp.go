// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"net"
)

// TCPOptions are those of a check that connects.
type TCPOptions struct {
	// HalfOpen ends the handshake with a reset once the server has accepted, so that its application
	// never sees a connection. Needs CAP_NET_RAW.
	HalfOpen bool
	// Reset ends the connection with a reset instead of closing it.
	Reset bool
}

type tcpChecker struct {
	identity
	TCPOptions
}

// NewTCP is a checker that connects.
func NewTCP(o TCPOptions) (Checker, error) {
	m := mistakes{kind: "tcp"}
	if o.HalfOpen && o.Reset {
		m.add("reset", "a half-open check always ends with one")
	}
	return &tcpChecker{identify("tcp", o), o}, m.err()
}

// Check is Checker's.
func (c *tcpChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		if c.HalfOpen {
			return p.halfOpen()
		}
		conn, err := p.dial("tcp")
		if err != nil {
			return Result{}, err
		}
		if c.Reset {
			abort(conn)
		}
		return good(L4OK, ""), nil
	})
}

// abort makes closing a connection reset it.
func abort(conn net.Conn) {
	if b, ok := conn.(*boundedConn); ok {
		conn = b.Conn
	}
	if c, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
		c.SetLinger(0)
	}
}
