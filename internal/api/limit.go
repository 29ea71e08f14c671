// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net"
	"sync"
)

// spareConns are places beyond the limit whose requests get an error: that is
// kinder than silence. When they are taken too, the others wait in the kernel's queue.
const spareConns = 8

// limitListener bounds the number of open connections.
type limitListener struct {
	net.Listener
	max    int
	places chan struct{} // max + spareConns

	close  sync.Once
	closed chan struct{}
}

func newLimitListener(l net.Listener, max int) *limitListener {
	return &limitListener{Listener: l, max: max,
		places: make(chan struct{}, max+spareConns), closed: make(chan struct{})}
}

// Accept waits for a place, then for a connection.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: c, refused: len(l.places) > l.max, release: func() { <-l.places }}, nil
}

// Close also ends an Accept that waits for a place.
func (l *limitListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	refused bool // it is beyond the limit and gets nothing but an error
	once    sync.Once
	release func()
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}
