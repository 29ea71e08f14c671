// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"

	"xdplvs/internal/netlab"
	"xdplvs/test/stage"
)

// prefix begins the names of everything that the demo makes.
const prefix = "lvsdemo"

// theatre is what the demo plays on. Whatever is made is entered first, so that strike finds all of it.
type theatre struct {
	binary string                  // the director's
	fail   context.CancelCauseFunc // called when the director ends unasked

	lab      *netlab.Lab
	client   *netlab.Host
	director *stage.Director
	ports    atomic.Uint32 // how many the client has used
}

// build makes the network and the servers.
func (s *theatre) build(ctx context.Context) (err error) {
	if s.lab, err = netlab.New(prefix); err != nil {
		return err
	}
	sw, err := s.lab.Switch("switch")
	if err != nil {
		return err
	}
	if s.client, err = s.host(ctx, sw, "client", client4, client6); err != nil {
		return err
	}
	director, err := s.host(ctx, sw, "director", director4, director6)
	if err != nil {
		return err
	}
	s.director = stage.NewDirector(director, s.binary, s.fail)
	for _, r := range reals {
		if err := s.real(ctx, sw, r); err != nil {
			return err
		}
	}
	// The client's router to the virtual addresses is the director.
	return errors.Join(
		s.client.AddRoute(netip.PrefixFrom(vip4, vip4.BitLen()), director4, "eth0"),
		s.client.AddRoute(netip.PrefixFrom(vip6, vip6.BitLen()), director6, "eth0"))
}

func (s *theatre) host(ctx context.Context, sw *netlab.Switch, name string, v4, v6 netip.Addr) (*netlab.Host, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	h, err := s.lab.Host(name)
	if err != nil {
		return nil, err
	}
	_, err = h.Connect(sw, "eth0", netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64))
	return h, err
}

// real makes a real server for direct routing, with its servers.
func (s *theatre) real(ctx context.Context, sw *netlab.Switch, r real) error {
	h, err := s.host(ctx, sw, r.name, r.v4, r.v6)
	if err != nil {
		return err
	}
	if err := h.RealServerDR(vip4, vip6); err != nil {
		return err
	}
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	if _, err := h.ServeHTTP(r.name, netip.AddrPortFrom(any4, 80), netip.AddrPortFrom(any6, 80)); err != nil {
		return err
	}
	_, err = h.ServeUDP(r.name, netip.AddrPortFrom(any4, 53), netip.AddrPortFrom(any6, 53))
	return err
}

// strike removes everything, and goes on after an error.
func (s *theatre) strike() error {
	var errs []error
	if s.director != nil {
		errs = append(errs, s.director.Remove())
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	return errors.Join(errs...)
}
