// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
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

// bodyTimeout is how long a body may take to come, whoever sends it.
const bodyTimeout = time.Minute

// timedBody is a request's body that must have come in time. The deadline is no longer than the body is read, as it would
// end a request that takes longer to answer.
type timedBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func limitBody(w http.ResponseWriter, body io.ReadCloser) io.ReadCloser {
	b := &timedBody{body, http.NewResponseController(w)}
	_ = b.rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // the error is for writers that know no deadline
	return b
}

// Read reads on; at the end the deadline goes.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}
