// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxRead is how many bytes a check reads from one connection. A server that says more is down.
const MaxRead = 1 << 20

// DefaultTimeout bounds a check whose context has no deadline.
const DefaultTimeout = 10 * time.Second

// probe is one run of a checker: how far it has come, and what must be closed when it ends.
type probe struct {
	ctx    context.Context
	target Target

	secrets []Secret // that no text may show

	mu     sync.Mutex // libraries dial in goroutines of their own
	at     layer
	doing  string
	opened []io.Closer
	ended  bool
	// About the server's certificate: what does no harm as yet, and why it is not accepted. Libraries do
	// not always pass this on.
	warning string
	refused error
}

// run gives fn a probe and makes a result of what it returns.
func run(ctx context.Context, t Target, fn func(p *probe) (Result, error)) Result {
	begin := time.Now()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	t, err := t.take(ctx)
	p := &probe{ctx: ctx, target: t, doing: "connect to " + t.Address.String()}
	var r Result
	if err == nil {
		r, err = fn(p)
	}
	r = p.outcome(r, err)
	p.end()
	return r.finish(begin)
}

// outcome makes a result of what a check returned.
func (p *probe) outcome(r Result, err error) Result {
	p.mu.Lock()
	warning, refused := p.warning, p.refused
	p.mu.Unlock()
	switch {
	case err != nil && refused != nil:
		r = p.fault(refused)
	case err != nil:
		r = p.fault(err)
	}
	r.Text, r.Warning = hide(r.Text, p.secrets...), orElse(r.Warning, warning)
	return r
}

// keep keeps secrets out of the texts, should the server repeat them.
func (p *probe) keep(secrets ...Secret) { p.secrets = append(p.secrets, secrets...) }

// finish bounds the texts and sets the times.
func (r Result) finish(begin time.Time) Result {
	r.Text, r.Warning = printable(r.Text, MaxText), printable(r.Warning, MaxText)
	r.Begin, r.Duration = begin, time.Since(begin)
	return r
}

// enter notes what the probe does next, for the text should it fail.
func (p *probe) enter(at layer, doing string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.doing = at, doing
}

func (p *probe) progress() (layer, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.doing
}

// closeLater closes c when the probe ends, at once if it has.
func (p *probe) closeLater(c io.Closer) {
	p.mu.Lock()
	if !p.ended {
		p.opened = append(p.opened, c)
		c = nil
	}
	p.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

func (p *probe) end() {
	p.mu.Lock()
	opened := p.opened
	p.opened, p.ended = nil, true
	p.mu.Unlock()
	for i := range opened { // the last opened first, as TLS over TCP
		opened[len(opened)-1-i].Close()
	}
}

// dial connects to the target.
func (p *probe) dial(network string) (net.Conn, error) {
	return p.dialAddr(network, p.target.Address)
}

// dialAddr connects to an address. The connection ends with the probe and its context, whatever it waits
// for, and reads at most MaxRead bytes.
func (p *probe) dialAddr(network string, to netip.AddrPort) (net.Conn, error) {
	address := to.String()
	p.enter(layer4, "connect to "+address)
	switch {
	case network != "tcp" && network != "udp": // raw sockets have no ports
		address = to.Addr().String()
	case to.Port() == 0:
		return nil, unsent("connect to %s: the check needs a port", to.Addr())
	}
	c, err := p.target.dialer().DialContext(p.ctx, network, address)
	if err != nil {
		return nil, err
	}
	p.closeLater(c)
	if deadline, ok := p.ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	stop := context.AfterFunc(p.ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	p.closeLater(closerFunc(func() { stop() }))
	if network != "tcp" {
		reportErrors(c, to.Addr())
		return c, nil
	}
	return &boundedConn{Conn: c, left: MaxRead}, nil
}

// reportErrors makes a socket without a handshake tell of all ICMP errors: others than that a port is
// unreachable count as passing and are kept back (ip(7), IP_RECVERR).
func reportErrors(c net.Conn, to netip.Addr) {
	socket, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if to.Is4() || to.Is4In6() {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		} else {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		}
	})
}

type closerFunc func()

func (f closerFunc) Close() error {
	f()
	return nil
}

// errTooMuch ends a check whose server does not stop talking.
var errTooMuch = errors.New("the server said more than 1 MiB")

// boundedConn reads no more than so many bytes. One goroutine reads at a time.
type boundedConn struct {
	net.Conn
	left int
}

// Read is net.Conn's.
func (c *boundedConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooMuch
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// protocolConn looks at the first byte that a server says, before a library makes something of it, and
// keeps the error that ended reading, of which libraries leave less. One goroutine reads at a time.
type protocolConn struct {
	net.Conn
	protocol string // its name
	first    string // all bytes that an answer can begin with
	checked  bool

	mu    sync.Mutex
	ended error
}

// Read is net.Conn's.
func (c *protocolConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.checked && strings.IndexByte(c.first, b[0]) < 0 {
		n, err = 0, fail(L7RSP, 0, "the server does not speak %s, it says %s", c.protocol, excerpt(b[:n]))
	}
	c.checked = c.checked || n > 0
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended = orElse(c.ended, err)
	}
	return n, err
}

// end is what ended reading, or nil.
func (c *protocolConn) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

func addrPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
