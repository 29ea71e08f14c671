// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How a connection may end. A port is free again at once, but for the client that closed first: its
// kernel keeps the port for a second.
var closings = []struct {
	name  string
	ports string // for the client to use
	conns int
	close func(*net.TCPConn) error
}{
	{"reset", "40000 40063", 2000, func(c *net.TCPConn) error {
		return errors.Join(c.SetLinger(0), c.Close())
	}},
	{"server first", "40000 40063", 2000, func(c *net.TCPConn) error {
		_, err := io.Copy(io.Discard, c) // until the server has closed
		return errors.Join(err, c.Close())
	}},
	{"client first", "41000 41499", 1500, func(c *net.TCPConn) error {
		return c.Close()
	}},
}

// New connections from ports that were used a moment ago are served at once, whatever became of the
// old ones: with more than 5,000 over each address none waits for a SYN to be sent again.
func TestPortReuse(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	f.start()
	must(t, f.client.Sysctl("net.ipv4.tcp_tw_reuse", "1"))
	for _, family := range families {
		for _, closing := range closings {
			t.Run(family.name+" "+closing.name, func(t *testing.T) {
				f := f.on(t)
				must(t, f.client.Sysctl("net.ipv4.ip_local_port_range", closing.ports))
				before := netstat(t, f.client, "TcpExt", "TCPSynRetrans")
				served := f.openAndClose(family.vip, closing.conns, closing.close)
				if lost := netstat(t, f.client, "TcpExt", "TCPSynRetrans") - before; lost > 0 {
					t.Errorf("%d SYNs were sent again", lost)
				}
				for _, r := range f.reals {
					if served[r.Name()] < closing.conns/6 {
						t.Errorf("connections were served by %v, %s is left out", served, r.Name())
					}
				}
			})
		}
	}
	f.mustRecount(f.snapshot())
}

// openAndClose makes n connections, some at a time, and returns who served them.
func (f *farm) openAndClose(vip netip.Addr, n int, closing func(*net.TCPConn) error) map[string]int {
	f.t.Helper()
	const clients = 4
	var mu sync.Mutex
	var all sync.WaitGroup
	served := map[string]int{}
	for client := range clients {
		all.Go(func() {
			for i := client; i < n; i += clients {
				name, err := f.once(vip, closing)
				if err != nil {
					f.t.Errorf("connection %d of %d: %v", i, n, err)
					return
				}
				mu.Lock()
				served[name]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return served
}

// once makes a connection, asks who is there and closes it.
func (f *farm) once(vip netip.Addr, closing func(*net.TCPConn) error) (server string, err error) {
	conn, err := f.dialPatiently(netip.AddrPortFrom(vip, webPort).String())
	if err != nil {
		return "", err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", errors.Join(err, conn.Close())
	}
	// The answer comes in one piece, and the end of it is the name.
	buf := make([]byte, 4096)
	got, err := conn.Read(buf)
	if err != nil {
		return "", errors.Join(err, conn.Close())
	}
	_, name, ok := strings.Cut(string(buf[:got]), "\r\n\r\n")
	if !ok {
		return "", errors.Join(fmt.Errorf("answer %q", buf[:got]), conn.Close())
	}
	return strings.TrimSpace(name), closing(conn)
}

// dialPatiently waits while the client has no free port.
func (f *farm) dialPatiently(addr string) (*net.TCPConn, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := f.client.DialContext(context.Background(), "tcp", addr)
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		if !errors.Is(err, unix.EADDRNOTAVAIL) || time.Now().After(deadline) {
			return nil, err
		}
	}
}

// A client that uses its ports again finds no way to a real server that takes no new connections.
func TestPortReuseAndQuiesce(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	f.start()
	must(t, f.client.Sysctl("net.ipv4.ip_local_port_range", "40000 40063"))
	for i, services := range [][]service{standard("rr", 1, 0, 1), standard("rr", 1, absent, 1)} {
		f.configure(standard("rr", 1, 1, 1)...)
		f.reload()
		f.awaitReachable("rs2")
		for _, family := range families {
			f.openAndClose(family.vip, 300, closings[1].close)
		}
		f.configure(services...)
		f.reload()
		for _, family := range families {
			if served := f.openAndClose(family.vip, 300, closings[1].close); served["rs2"] > 0 {
				t.Errorf("%s: rs2 is %s, new connections were served by %v", family.name, []string{"quiesced", "removed"}[i], served)
			}
		}
	}
}
