// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"xdplvs/director"
)

// listening is a socket of which a QUIC server knows no more than what package net has. Knowing more, it answers by the
// device that a packet came in by, which with tun is the tunnel's, and leads nowhere.
type listening struct{ net.PacketConn }

// serveHTTP3 serves the site by HTTP/3 on a real server, which Debian's nginx cannot: on each address that clients'
// packets have there, so that they are answered by that address.
func (s *Stage) serveHTTP3(w *web) error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(w.dir, "cert.pem"), filepath.Join(w.dir, "key.pem"))
	if err != nil {
		return err
	}
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true") // it is about throughput
	server := &http3.Server{TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}}),
		QUICConfig: &quic.Config{MaxIdleTimeout: patience},
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
			client, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintf(answer, "%s %s\n3", w.real.Name(), client)
		})}
	s.closers = append(s.closers, server)
	for _, a := range s.served(w.real) {
		socket, err := w.real.ListenPacket("udp", netip.AddrPortFrom(a, 443).String())
		if err != nil {
			return err
		}
		go server.Serve(listening{socket}) // ends with the socket
	}
	return nil
}

// served are the addresses that clients' packets have at a real server.
func (s *Stage) served(r *Real) []netip.Addr {
	if s.Method == director.NAT || s.Method == director.FullNAT {
		return []netip.Addr{r.V4, r.V6}
	}
	return []netip.Addr{VIP4, VIP6}
}

// quicClient has one connection by QUIC.
type quicClient struct {
	s       *Stage
	conn    *quic.Conn
	h3      *http3.ClientConn
	vip     netip.Addr
	closers []io.Closer
}

// quicSocket is one of the client's, at a free port of an address.
func (s *Stage) quicSocket(source netip.Addr) (*quic.Transport, error) {
	socket, err := s.Client.ListenPacket("udp", netip.AddrPortFrom(source, 0).String())
	if err != nil {
		return nil, err
	}
	return &quic.Transport{Conn: socket}, nil
}

// dialHTTP3 connects from an address.
func (s *Stage) dialHTTP3(ctx context.Context, source, vip netip.Addr) (*quicClient, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	socket, err := s.quicSocket(source)
	if err != nil {
		return nil, err
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, 443))
	config := &tls.Config{ServerName: siteName, InsecureSkipVerify: true, NextProtos: []string{http3.NextProtoH3}}
	conn, err := socket.Dial(ctx, to, config, &quic.Config{HandshakeIdleTimeout: patience, MaxIdleTimeout: patience})
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return &quicClient{s: s, conn: conn, h3: (&http3.Transport{}).NewClientConn(conn), vip: vip, closers: []io.Closer{socket, socket.Conn}}, nil
}

func (c *quicClient) close() {
	c.conn.CloseWithError(0, "")
	for _, closer := range c.closers {
		closer.Close()
	}
}

// get asks for the site: NAME CLIENT, and in a second line 3.
func (c *quicClient) get(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url("https", c.vip, "/"), nil)
	if err != nil {
		return "", err
	}
	answer, err := c.h3.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// migrate moves the connection to another socket, if the server answers by that within a time.
func (c *quicClient) migrate(ctx context.Context, source netip.Addr, within time.Duration) error {
	socket, err := c.s.quicSocket(source)
	if err != nil {
		return err
	}
	c.closers = append(c.closers, socket, socket.Conn)
	path, err := c.conn.AddPath(socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := path.Probe(ctx); err != nil {
		return err
	}
	return path.Switch()
}

// strayWithin is how long a client tries an address at which another real server answers.
const strayWithin = 2 * time.Second

// tellMigration moves a client's connection to another port, and then to addresses that another real server serves.
func (s *Stage) tellMigration(ctx context.Context, vip netip.Addr) error {
	s.Screen.Step("HTTP/3 to "+vip.String()+" changes its port, then its address", "A port of the same address: persistence leads to the same real server. Another address is another client.")
	home, stranger, err := s.twoVisitors(ctx, vip)
	if err != nil {
		return err
	}
	c, err := s.dialHTTP3(ctx, home.source, vip)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.migrate(ctx, home.source, patience); err != nil {
		return fmt.Errorf("migrate to another port: %w", err)
	}
	after, err := c.get(ctx)
	if err != nil {
		return fmt.Errorf("after the port has changed: %w", err)
	}
	if err := home.heard(s, after, "3"); err != nil {
		return err
	}
	s.Screen.Block(fmt.Sprintf("another port of %v: %s goes on\n", home.source, home.home))
	err = c.migrate(ctx, stranger.source, strayWithin)
	if err == nil {
		return fmt.Errorf("%s answers the connection of %s: the story is wrong", stranger.home, home.home)
	}
	if after, err = c.get(ctx); err != nil {
		return fmt.Errorf("after the attempt to change the address: %w", err)
	}
	s.Screen.Block(fmt.Sprintf("%v is a client of %s, which does not know the connection (%v); the old path goes on\n", stranger.source, stranger.home, err))
	return home.heard(s, after, "3")
}

// twoVisitors are clients of different real servers.
func (s *Stage) twoVisitors(ctx context.Context, vip netip.Addr) (*visitor, *visitor, error) {
	var first *visitor
	for i := range 6 {
		v := &visitor{vip: vip, source: netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})}
		if vip.Is6() {
			v.source = addr(fmt.Sprintf("2001:db8:c::%d", 10+i))
		}
		if err := s.findHome(ctx, v); err != nil {
			return nil, nil, err
		}
		if first == nil {
			first = v
		} else if v.home != first.home {
			return first, v, nil
		}
	}
	return nil, nil, fmt.Errorf("all clients are %s's", first.home)
}
