// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/netlab"
	"xdplvs/internal/programs"
)

// streams is radio by RTSP.
var streams = Use{
	Name:    "rtsp",
	Summary: "streams by RTSP: ports 554 and 7070, and RTP and RTCP, as one service; GStreamer",
	Methods: []director.Method{director.DirectRouting, director.Tunnel, director.NAT, director.FullNAT},
	Reals:   2,
	Tell:    tellStreams,
}

//go:embed rtspserver.py
var rtspServer string

// players is how many clients there are.
const players = 4

// rtspServices are the services with their addresses.
var rtspServices = []struct {
	name string
	vip  netip.Addr
}{{"rtsp", VIP4}, {"rtsp6", VIP6}}

func tellStreams(ctx context.Context, s *Stage) error {
	servers, err := s.startRTSP()
	if err != nil {
		return err
	}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	clients := []*netlab.Host{s.Client}
	for i := 2; i <= players; i++ {
		h, err := s.AddClient(i)
		if err != nil {
			return err
		}
		clients = append(clients, h)
	}
	for _, service := range rtspServices {
		if err := s.AwaitUsable(ctx, service.name, s.Addrs(service.vip, 0, 1)...); err != nil {
			return err
		}
		for _, transport := range s.transports() {
			if err := s.tellPlay(ctx, clients, service.name, service.vip, transport); err != nil {
				return fmt.Errorf("%s over %s: %w", service.name, transport, err)
			}
		}
	}
	return s.tellSilence(ctx, servers, clients)
}

// transports are those that the method allows: by fullnat a server knows no client's address to send datagrams to.
func (s *Stage) transports() []string {
	if s.Method == director.FullNAT {
		return []string{"tcp"}
	}
	return []string{"udp", "tcp"}
}

// startRTSP starts the servers, each at the addresses that clients ask at there, and at its own, which checks ask.
func (s *Stage) startRTSP() (servers []*programs.Process, err error) {
	python, err := programs.Find("python3-gi", "/usr/bin/python3")
	if err == nil {
		_, err = programs.Find("gir1.2-gst-rtsp-server-1.0", "/usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib")
	}
	if err == nil {
		_, err = programs.Find("gstreamer1.0-tools", "/usr/bin/gst-launch-1.0")
	}
	script := filepath.Join(s.Dir, "rtspserver.py")
	if err := errors.Join(err, programs.Write(script, rtspServer)); err != nil {
		return nil, err
	}
	for _, r := range s.Reals {
		args := []string{script, "6970", "7170", r.V4.String(), r.V6.String()}
		if s.Method == director.DirectRouting || s.Method == director.Tunnel {
			args = append(args, VIP4.String(), VIP6.String())
		}
		if err := r.Sysctl("net.ipv4.ip_unprivileged_port_start", "0"); err != nil {
			return nil, err
		}
		p, err := s.Run(r.Host, programs.Nobody(), python, args...)
		if err != nil {
			return nil, err
		}
		servers = append(servers, p)
	}
	return servers, nil
}

// player is a client that plays.
type player struct {
	*programs.Process
	host *netlab.Host
	file string // what it heard
}

// play starts one.
func (s *Stage) play(h *netlab.Host, vip netip.Addr, port, transport string) (*player, error) {
	p := &player{host: h, file: filepath.Join(s.Dir, h.Name()+".alaw")}
	if err := os.RemoveAll(p.file); err != nil {
		return nil, err
	}
	location := strings.Replace(url("rtsp", vip, ":"+port+"/radio"), "/:", ":", 1)
	var err error
	p.Process, err = s.Run(h, nil, "gst-launch-1.0", "rtspsrc", "location="+location, "protocols="+transport, "latency=50",
		"!", "rtppcmadepay", "!", "filesink", "buffer-mode=unbuffered", "location="+p.file)
	return p, err
}

// heard is how much it has, in bytes, of which a second has 8000.
func (p *player) heard() int64 {
	info, err := os.Stat(p.file)
	if err != nil {
		return 0
	}
	return info.Size()
}

// awaitMore waits until it has heard half a second more.
func (p *player) awaitMore(ctx context.Context) error {
	want := p.heard() + 4000
	return Await(ctx, func() error {
		if got := p.heard(); got < want {
			return fmt.Errorf("%s heard %d bytes, want %d: %s", p.host.Name(), got, want, p.Log)
		}
		return nil
	})
}

// tellPlay has all clients play at a time, half of them by each port.
func (s *Stage) tellPlay(ctx context.Context, clients []*netlab.Host, service string, vip netip.Addr, transport string) error {
	s.Screen.Step(fmt.Sprintf("%d clients play over %s: %s", len(clients), transport, service), "Control and stream of each are the same real server's.")
	var all []*player
	for i, h := range clients {
		p, err := s.play(h, vip, []string{"554", "7070"}[i%2], transport)
		if err != nil {
			return err
		}
		defer p.Stop()
		all = append(all, p)
	}
	homes := map[netip.Addr]int{}
	var b strings.Builder
	for _, p := range all {
		if err := p.awaitMore(ctx); err != nil {
			return err
		}
		home, flows, err := s.flowsOf(ctx, p.host, vip, transport)
		if err != nil {
			return err
		}
		homes[home]++
		fmt.Fprintf(&b, "%-8s %v: %s\n", p.host.Name(), home, flows)
	}
	s.Screen.Block(b.String())
	if len(homes) != len(s.Reals) {
		return fmt.Errorf("only %v serve %d clients", homes, len(clients))
	}
	return nil
}

// address is a client's in the family of another address.
func (s *Stage) address(ctx context.Context, h *netlab.Host, family netip.Addr) (netip.Addr, error) {
	out, err := h.Run(ctx, "ip", "-j", "route", "get", family.String())
	if err != nil {
		return netip.Addr{}, err
	}
	var routes []struct {
		Source netip.Addr `json:"prefsrc"`
	}
	if err := json.Unmarshal(out, &routes); err != nil || len(routes) == 0 {
		return netip.Addr{}, fmt.Errorf("route of %s to %v: %w", h.Name(), family, err)
	}
	return routes[0].Source, nil
}

// flowsOf are a client's flows to a virtual address, which must be one real server's, and that server. Over UDP the client's
// reports (RTCP), or what it sends to open the way through a NAT, are such flows.
func (s *Stage) flowsOf(ctx context.Context, h *netlab.Host, vip netip.Addr, transport string) (home netip.Addr, text string, err error) {
	client, err := s.address(ctx, h, vip)
	if err != nil {
		return home, "", err
	}
	err = Await(ctx, func() error {
		out, err := s.Director.Ask(ctx, "connections", "src", client.String(), "-o", "json")
		if err != nil {
			return err
		}
		home, text, err = oneHome(out, transport)
		return err
	})
	return home, text, err
}

// oneHome reads connections: all must be one real server's, and there must be one by the transport.
func oneHome(connections, transport string) (home netip.Addr, text string, err error) {
	found := map[string]bool{}
	for d := json.NewDecoder(strings.NewReader(connections)); d.More(); {
		var c director.Conn
		if err := d.Decode(&c); err != nil {
			return home, "", err
		}
		if home.IsValid() && c.Real.Addr() != home {
			return home, "", fmt.Errorf("a client's flows are those of %v and %v", home, c.Real.Addr())
		}
		home = c.Real.Addr()
		found[c.Protocol.String()] = true
		text += fmt.Sprintf("%s %d  ", c.Protocol, c.Virtual.Port())
	}
	if !found["tcp"] || transport == "udp" && !found["udp"] {
		return home, "", fmt.Errorf("no flows over %s: %s", transport, text)
	}
	return home, text, nil
}

// tellSilence kills a server while clients play.
func (s *Stage) tellSilence(ctx context.Context, servers []*programs.Process, clients []*netlab.Host) error {
	transport := s.transports()[0]
	s.Screen.Step("A server is killed", "Its clients end, and play again from the other one; the others hear nothing of it.")
	var all []*player
	var homes []netip.Addr
	for _, h := range clients {
		p, err := s.play(h, VIP4, "554", transport)
		if err != nil {
			return err
		}
		defer p.Stop()
		if err := p.awaitMore(ctx); err != nil {
			return err
		}
		home, _, err := s.flowsOf(ctx, h, VIP4, transport)
		if err != nil {
			return err
		}
		all, homes = append(all, p), append(homes, home)
	}
	servers[0].Kill()
	if err := s.AwaitUsable(ctx, "rtsp", s.Reals[1].V4); err != nil {
		return err
	}
	for i, p := range all {
		if homes[i] != s.Reals[0].V4 {
			if err := p.awaitMore(ctx); err != nil {
				return fmt.Errorf("client of %v: %w", homes[i], err)
			}
			continue
		}
		if err := s.playAgain(ctx, p, transport); err != nil {
			return err
		}
	}
	return s.Show(ctx, "list", "rtsp")
}

// playAgain has a client whose server is gone begin anew.
func (s *Stage) playAgain(ctx context.Context, p *player, transport string) error {
	p.Stop()
	again, err := s.play(p.host, VIP4, "554", transport)
	if err != nil {
		return err
	}
	defer again.Stop()
	if err := again.awaitMore(ctx); err != nil {
		return fmt.Errorf("second time: %w", err)
	}
	s.Screen.Block(p.host.Name() + " plays again\n")
	return nil
}
