// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"net"
	"net/netip"
	"sync"
	"time"
)

// mostClients is how many clients are remembered.
const mostClients = 4096

// clientTable bounds what each client may ask: an IPv4 address, or an IPv6 network of 64 bits, as whoever has one address
// of that has all. Requests are paid for out of a store that fills with time.
type clientTable struct {
	now func() time.Time

	mu   sync.Mutex
	rate float64 // that come in a second
	most float64 // that are stored
	all  map[netip.Prefix]*client
}

// client is what one has left.
type client struct {
	left  float64 // requests; below 0 after more than it may
	at    time.Time
	conns int // open connections
}

func newClientTable() *clientTable {
	t := &clientTable{now: time.Now, all: map[netip.Prefix]*client{}}
	t.setRate(0)
	return t
}

// setRate sets how many requests a second has; 0: the default.
func (t *clientTable) setRate(rate int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rate = float64(cmp.Or(rate, defaultRate))
	t.most = 2 * t.rate
}

// of finds a client, with what it has now. The lock is held.
func (t *clientTable) of(a netip.Addr) *client {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	who, _ := a.Prefix(bits) // the error is for bits that it does not have
	now := t.now()
	c := t.all[who]
	if c == nil {
		t.makeRoom()
		c = &client{left: t.most, at: now}
		t.all[who] = c
	}
	c.left = min(t.most, c.left+now.Sub(c.at).Seconds()*t.rate)
	c.at = now
	return c
}

// makeRoom forgets somebody without connections, of which there are fewer than clients.
func (t *clientTable) makeRoom() {
	if len(t.all) < mostClients {
		return
	}
	for who, c := range t.all {
		if c.conns == 0 {
			delete(t.all, who)
			return
		}
	}
}

// take takes the price of a request. Who has less has to wait; it is taken from him nevertheless, down to a limit.
func (t *clientTable) take(a netip.Addr, price float64) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.of(a)
	c.left = max(c.left-price, -t.most)
	if c.left >= 0 {
		return 0
	}
	return time.Duration(-c.left / t.rate * float64(time.Second))
}

// open takes a connection into account, unless the client has too many, or opens them too fast: handshakes are dear.
func (t *clientTable) open(a netip.Addr, most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.of(a)
	if c.conns >= most || c.left-1 < -t.most {
		return false
	}
	c.left--
	c.conns++
	return true
}

// close gives a connection back.
func (t *clientTable) close(a netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(a).conns--
}

// gatedListener closes connections of clients that have too many.
type gatedListener struct {
	net.Listener
	clients *clientTable
	most    int // connections of one client
}

// Accept waits for a connection that may be.
func (l *gatedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(c.RemoteAddr())
		if l.clients.open(from, l.most) {
			return &gatedConn{Conn: c, gone: sync.OnceFunc(func() { l.clients.close(from) })}, nil
		}
		c.Close()
	}
}

// gatedConn is one connection of a client.
type gatedConn struct {
	net.Conn
	gone func()
}

// Close closes the connection.
func (c *gatedConn) Close() error {
	defer c.gone()
	return c.Conn.Close()
}
