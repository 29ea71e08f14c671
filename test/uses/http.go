// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"xdplvs/director"
	"xdplvs/internal/netlab"
)

// webFarm is HTTP, HTTPS and HTTP/3 as one service.
var webFarm = Use{
	Name:    "http",
	Summary: "HTTP/1.1, HTTP/2 and HTTP/3 of a site as one persistent service; nginx, curl",
	Methods: []director.Method{director.DirectRouting, director.Tunnel, director.NAT, director.FullNAT},
	Reals:   3,
	Tell:    tellWeb,
}

// webServices are the services of the site with their addresses.
var webServices = []struct {
	name string
	vip  netip.Addr
}{{"web", VIP4}, {"web6", VIP6}}

// transferRate bounds a transfer behind its first MiB, so that it takes some seconds.
const transferRate = "2m"

// visitor is a client's address.
type visitor struct {
	vip, source netip.Addr
	home        string // the real server that serves it
}

func tellWeb(ctx context.Context, s *Stage) error {
	webs, err := s.startWebs(transferRate)
	if err != nil {
		return err
	}
	for _, w := range webs {
		if err := s.serveHTTP3(w); err != nil {
			return err
		}
	}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	if err := s.awaitWebs(ctx, 0, 1, 2); err != nil {
		return err
	}
	visitors, err := s.tellProtocols(ctx)
	if err != nil {
		return err
	}
	if err := s.tellTransfers(ctx, webs, visitors); err != nil {
		return err
	}
	for _, service := range webServices {
		if err := s.tellMigration(ctx, service.vip); err != nil {
			return fmt.Errorf("HTTP/3 to %v: %w", service.vip, err)
		}
	}
	return s.Show(ctx, "list")
}

// awaitWebs waits until just these are usable in both services.
func (s *Stage) awaitWebs(ctx context.Context, numbers ...int) error {
	for _, service := range webServices {
		if err := s.AwaitUsable(ctx, service.name, s.Addrs(service.vip, numbers...)...); err != nil {
			return err
		}
	}
	return nil
}

// tellProtocols has some clients, each of whom finds the same real server by every protocol.
func (s *Stage) tellProtocols(ctx context.Context) (visitors []*visitor, err error) {
	s.Screen.Step("Clients come by all protocols", "Each by HTTP/1.1, HTTP/2 and HTTP/3, of which one real server answers all.")
	var b strings.Builder
	for _, service := range webServices {
		for i := range 6 {
			v := &visitor{vip: service.vip, source: netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})}
			if v.vip.Is6() {
				v.source = addr(fmt.Sprintf("2001:db8:c::%d", 10+i))
			}
			if err := s.Client.AddAddr("eth0", netip.PrefixFrom(v.source, networkBits(v.source))); err != nil {
				return nil, err
			}
			if err := s.findHome(ctx, v); err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "%-16v %s\n", v.source, v.home)
			visitors = append(visitors, v)
		}
	}
	s.Screen.Block(b.String())
	return visitors, s.allServe(visitors)
}

// allServe fails where a real server serves nobody of a family.
func (s *Stage) allServe(visitors []*visitor) error {
	served := map[string]int{}
	for _, v := range visitors {
		served[fmt.Sprint(v.home, " to ", v.vip)]++
	}
	if len(served) != len(s.Reals)*len(webServices) {
		return fmt.Errorf("not every real server serves somebody: %v", served)
	}
	return nil
}

// findHome asks by each protocol.
func (s *Stage) findHome(ctx context.Context, v *visitor) error {
	v.home = ""
	for _, ask := range []struct {
		want string
		args []string
	}{{"1.1", []string{"--http1.1", url("http", v.vip, "/")}}, {"1.1", []string{"--http1.1", url("https", v.vip, "/")}},
		{"2", []string{"--http2", url("https", v.vip, "/")}}} {
		out, err := curl(ctx, s.Client, append(ask.args, "--interface", v.source.String(), "-w", "%{http_version}")...)
		if err != nil {
			return err
		}
		if err := v.heard(s, out, ask.want); err != nil {
			return err
		}
	}
	c, err := s.dialHTTP3(ctx, v.source, v.vip)
	if err != nil {
		return fmt.Errorf("client %v of %s by HTTP/3: %w", v.source, v.home, err)
	}
	defer c.close()
	out, err := c.get(ctx)
	if err != nil {
		return fmt.Errorf("client %v of %s by HTTP/3: %w", v.source, v.home, err)
	}
	return v.heard(s, out, "3")
}

// heard compares an answer, "NAME CLIENT\nVERSION", with what is known of the client.
func (v *visitor) heard(s *Stage, answer, version string) error {
	var name, client, got string
	if _, err := fmt.Sscan(answer, &name, &client, &got); err != nil {
		return fmt.Errorf("answer %q: %w", answer, err)
	}
	switch {
	case got != version:
		return fmt.Errorf("%s answered by HTTP/%s, want HTTP/%s", name, got, version)
	case v.home != "" && v.home != name:
		return fmt.Errorf("HTTP/%s of client %v is answered by %s, what it asked before by %s", version, v.source, name, v.home)
	case s.Method != director.FullNAT && client != v.source.String():
		return fmt.Errorf("%s saw the client %s, not %v", name, client, v.source)
	}
	v.home = name
	return nil
}

// keepAlive is a client with one connection for all that it asks.
type keepAlive struct {
	client *http.Client
	dials  int
	url    string
}

func newKeepAlive(h *netlab.Host, v *visitor) *keepAlive {
	k := &keepAlive{url: url("http", v.vip, "/")}
	k.client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxConnsPerHost: 1, IdleConnTimeout: time.Hour,
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			k.dials++
			return h.DialFrom(ctx, network, netip.AddrPortFrom(v.source, 0), to)
		}}}
	return k
}

// who asks once more, and gives who answers.
func (k *keepAlive) who(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return "", err
	}
	answer, err := k.client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body) // else the connection is not used again
	return answer.Header.Get("X-Real-Server"), err
}

// goesOn tells whether the connection is still the first one, to its real server.
func (k *keepAlive) goesOn(ctx context.Context, v *visitor) error {
	for range 3 {
		name, err := k.who(ctx)
		if err != nil || name != v.home || k.dials != 1 {
			return errors.Join(err, fmt.Errorf("keep-alive connection of %v: %s answers on connection %d, want %s on the first", v.source, name, k.dials, v.home))
		}
	}
	return nil
}
