// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// ServerOptions say who may ask what, and how much. Root and the daemon's own
// user may do everything; others are members of one of the groups, or refused.
type ServerOptions struct {
	AdminGroup   uint32        // gid whose members may read and change; 0: none
	ReadGroup    uint32        // gid whose members may read; 0: none
	MaxConns     int           // connections at once; 0: 64
	StallTimeout time.Duration // how long a reader may take nothing (a pager does); 0: 5 min
	Grace        time.Duration // how long requests may go on when Serve's ctx has ended; 0: 1 s
	Pages        []Page        // beside the API's routes
	Journal      *Journal      // what watchers are told; nil: nobody can watch
}

func (o ServerOptions) withDefaults() ServerOptions {
	o.MaxConns = cmp.Or(o.MaxConns, 64)
	o.StallTimeout = cmp.Or(o.StallTimeout, 5*time.Minute)
	o.Grace = cmp.Or(o.Grace, time.Second)
	return o
}

// The limits on what a client sends, in bytes where they are sizes.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = time.Minute
	maxHeaderBytes    = 16 << 10
	maxBody           = 16 << 10
	maxCapture        = 1 << 30
	maxEdits          = 32 << 20 // of run-time changes: 100,000 real servers at once
)

// Server answers requests. Its methods may be called from several goroutines at once.
type Server struct {
	log     *slog.Logger
	backend Backend
	opts    ServerOptions

	description func() []byte // OpenAPI's
	watchers    atomic.Int32

	dispatch    func(http.ResponseWriter, *http.Request) error
	identify    func(http.ResponseWriter, *http.Request, *connInfo) (*caller, error)
	connContext func(context.Context, net.Conn) context.Context
	wrap        func(net.Listener) net.Listener
	netLevel    slog.Level // of what net/http has to say
}

// NewServer makes a server; nothing runs before Serve.
func NewServer(log *slog.Logger, b Backend, opts ServerOptions) *Server {
	s := &Server{log: log, backend: b, opts: opts.withDefaults(), connContext: connContext, description: sync.OnceValue(OpenAPI), netLevel: slog.LevelWarn}
	s.dispatch, s.identify = s.dispatchKnown, s.identifyPeer
	s.wrap = func(l net.Listener) net.Listener { return newLimitListener(l, s.opts.MaxConns) }
	return s
}

// Serve answers on l until ctx ends, which is no error, or l fails. It closes
// l. When ctx ends the requests' contexts end too, so that streams stop with a
// last line that says so; all connections' goroutines have ended when Serve returns.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	requests, cancel := context.WithCancel(ctx)
	defer cancel()
	var conns connGroup
	server := s.httpServer(requests, &conns)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.shutdown(server)
	})
	err := server.Serve(s.wrap(l))
	if stop() { // the listener failed by itself
		cancel()
		err = errors.Join(err, server.Close())
	} else {
		<-stopped
		err = nil
	}
	conns.Wait()
	if err != nil {
		return fmt.Errorf("serve api: %w", err)
	}
	return nil
}

// shutdown lets requests end for a while, then closes their connections.
func (s *Server) shutdown(server *http.Server) {
	grace, cancel := context.WithTimeout(context.Background(), s.opts.Grace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		s.log.Warn("api requests cut off", "event", "api_cut_off", "after", s.opts.Grace)
		_ = server.Close() // the listener is closed already; the connections go
	}
}

func (s *Server) httpServer(requests context.Context, conns *connGroup) *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnContext:       s.connContext,
		ConnState:         conns.track,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), s.netLevel),
	}
}

// connGroup waits for net/http's goroutines, which http.Server itself does not.
type connGroup struct{ sync.WaitGroup }

// track is called before a connection's goroutine starts, and as its last act.
func (g *connGroup) track(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		g.Add(1)
	case http.StateClosed, http.StateHijacked:
		g.Done()
	}
}

// connKey is the context key of a connection's connInfo.
type connKey struct{}

type connInfo struct {
	peer    *peer      // of a unix socket
	from    netip.Addr // over TCP
	refused bool       // beyond the limit
	err     error      // why peer is unknown
}

// connContext asks for the peer's credentials once for each connection.
func connContext(ctx context.Context, c net.Conn) context.Context {
	info := &connInfo{}
	if limited, ok := c.(*limitedConn); ok {
		info.refused = limited.refused
		c = limited.Conn
	}
	info.peer, info.err = peerOf(c)
	return context.WithValue(ctx, connKey{}, info)
}
