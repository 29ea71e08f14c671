// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/programs"
)

// syslog is a farm of log collectors.
var syslog = Use{
	Name:    "syslog",
	Summary: "log collectors over UDP, each message scheduled by itself",
	Methods: []director.Method{director.DirectRouting, director.Tunnel, director.NAT},
	Reals:   3,
	Tell:    tellSyslog,
}

// collectors are rsyslogd on each real server.
type collectors struct {
	*Stage
	servers []*programs.Process
	batch   int // of messages
}

func tellSyslog(ctx context.Context, s *Stage) error {
	c := &collectors{Stage: s}
	for _, r := range s.Reals {
		p, err := c.start(r)
		if err != nil {
			return err
		}
		c.servers = append(c.servers, p)
	}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	s.Screen.Step("A host sends messages", "logger sends them from one port, as syslog daemons do. Each is scheduled by itself.")
	if err := errors.Join(c.awaitAll(ctx, 0, 1, 2), c.wantShares(ctx, 30, []int{10, 10, 10})); err != nil {
		return err
	}
	s.Screen.Step("kill -9 of rsyslogd on rs2", "What was sent to it since is lost, as with UDP it is. As soon as the checks know, nothing is.")
	c.servers[1].Kill()
	if err := errors.Join(c.awaitAll(ctx, 0, 2), c.wantShares(ctx, 20, []int{10, 0, 10})); err != nil {
		return err
	}
	s.Screen.Step("It is started again", "It gets its share.")
	if _, err := c.start(s.Reals[1]); err != nil {
		return err
	}
	if err := errors.Join(c.awaitAll(ctx, 0, 1, 2), c.wantShares(ctx, 30, []int{10, 10, 10})); err != nil {
		return err
	}
	return s.Show(ctx, "stats", "--verdicts")
}

// start starts rsyslogd on a real server.
func (c *collectors) start(r *Real) (*programs.Process, error) {
	dir, err := c.directory(r)
	if err != nil {
		return nil, err
	}
	server, err := programs.NewRsyslog(dir)
	if err != nil {
		return nil, err
	}
	return c.serve(r, server)
}

func (c *collectors) awaitAll(ctx context.Context, numbers ...int) error {
	for _, service := range []string{"syslog", "syslog6"} {
		if err := c.AwaitUsable(ctx, service, c.Addrs(c.vipOf(service), numbers...)...); err != nil {
			return err
		}
	}
	return nil
}

// wantShares sends messages to each virtual address, and fails unless each collector has so many of them, from the client.
func (c *collectors) wantShares(ctx context.Context, n int, want []int) error {
	return c.eachVIP(func(vip netip.Addr) error {
		c.batch++
		mark := fmt.Sprintf("batch-%d.", c.batch)
		file := filepath.Join(c.Dir, "lines")
		if err := programs.Write(file, strings.Repeat(mark+"\n", n)); err != nil {
			return err
		}
		if _, err := c.Output(ctx, c.Client, "logger", "--udp", "--server", vip.String(), "--port", "514", "--file", file); err != nil {
			return err
		}
		return Await(ctx, func() error { return c.compare(c.clientOf(vip), mark, want) })
	})
}

// compare counts the messages of a batch that came from the client.
func (c *collectors) compare(client netip.Addr, mark string, want []int) error {
	var got []int
	for _, r := range c.Reals {
		text, err := os.ReadFile(filepath.Join(c.Dir, r.Name(), "messages"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		count := 0
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, client.String()+" ") && strings.Contains(line, mark) {
				count++
			}
		}
		got = append(got, count)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("of %s the collectors have %v, want %v", mark, got, want)
	}
	c.Screen.Block(fmt.Sprintf("%s rs1, rs2, rs3 have %v", mark, got))
	return nil
}
