// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/healthcheck"
	"xdplvs/internal/door"
	"xdplvs/internal/health"
)

// openForProbes makes the door for probes, if they are wanted. Services do not depend on it: what cannot be is
// told, and probes take another way, or none.
func (d *daemon) openForProbes(want door.Marks) door.Marks {
	d.noProbes.Store(nil)
	if err := d.probes.Open(want); err != nil {
		d.failProbes(errors.Join(err, d.probes.Withdraw()))
		return door.Marks{}
	}
	return want
}

func (d *daemon) setForProbes(want door.Marks) {
	if err := d.probes.Set(want); err != nil {
		d.failProbes(err)
	}
}

func (d *daemon) failProbes(err error) {
	reason := err.Error()
	d.noProbes.Store(&reason)
	d.log.Warn("health checks cannot go via services", "event", "probe_door_failed", "error", err)
}

// clientWay is the way of probes that come as a client's: through the program, which forwards them to one real
// server. Comparable.
type clientWay struct {
	d *daemon
	health.Client
}

// Take implements healthcheck.Way.
func (w clientWay) Take(ctx context.Context, t healthcheck.Target) (healthcheck.Target, error) {
	way, source, why, err := w.find(ctx)
	switch {
	case err != nil:
		return t, err
	case why != "" && w.Strict:
		return t, fmt.Errorf("not via the service: %s", why)
	case why != "":
		return healthcheck.Target{Address: w.real(), Dialer: w.sockets()}, nil
	}
	return healthcheck.Target{Address: t.Address, Real: t.Real, Dialer: healthcheck.Sockets{
		Mark: way.Row + 1, Interface: door.ProbeNear, Source: source, FirstPort: bpf.ProbePortFirst}}, nil
}

// sockets are those of probes that go directly after all.
func (w clientWay) sockets() healthcheck.Dialer {
	if w.Source.IsValid() {
		return healthcheck.Sockets{Source: w.Source}
	}
	return nil
}

func (w clientWay) real() netip.AddrPort { return netip.AddrPortFrom(w.Of.Real.Addr, w.Of.Real.Port) }

// find is the way as it is now, and where probes come from; or why it cannot be taken.
func (w clientWay) find(ctx context.Context) (way director.Way, source netip.Addr, why string, err error) {
	if reason := w.d.noProbes.Load(); reason != nil {
		return way, source, *reason, nil
	}
	if way, err = w.await(ctx); err != nil || way.Unseen != "" {
		return way, source, way.Unseen, err
	}
	if source, err = w.from(ctx, way.Link); err != nil {
		return way, source, "", err
	}
	if source == w.Address.Addr() {
		why = fmt.Sprintf("the address that probes come from is %s, too", source)
	}
	return way, source, why, nil
}

// await waits for a real server that is just being added, though not for so long that the answer would come
// too late.
func (w clientWay) await(ctx context.Context) (director.Way, error) {
	const pause = 20 * time.Millisecond
	end := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		end = end.Add(time.Until(deadline) / 4)
	}
	for {
		way, err := w.d.director.Way(ctx, w.Of)
		if !errors.Is(err, director.ErrNoWayYet) || time.Now().Add(pause).After(end) {
			return way, err
		}
		time.Sleep(pause)
	}
}

// from is the address that answers come to: that of the route to the real server. By a tunnel of the other family it is
// one of the interface by which packets leave.
func (w clientWay) from(ctx context.Context, link int) (netip.Addr, error) {
	switch {
	case w.Source.IsValid():
		return w.Source, nil
	case w.Of.Real.Addr.Is4() == w.Address.Addr().Is4():
		return routeSource(ctx, w.Of.Real.Addr)
	default:
		return linkSource(link, w.Address.Addr())
	}
}

// routeSource looks the route up by connecting a UDP socket, which sends nothing.
func routeSource(ctx context.Context, to netip.Addr) (netip.Addr, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(to, 9).String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the route to %s: %w", to, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// linkSource is the first address of an interface (0: of any) that is of the family of the one that is asked, and
// another one.
func linkSource(link int, asked netip.Addr) (netip.Addr, error) {
	list, name := net.InterfaceAddrs, "this host"
	if i, err := net.InterfaceByIndex(link); link != 0 && err == nil {
		list, name = i.Addrs, i.Name
	}
	addrs, err := list()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if addr := p.Addr(); err == nil && addr.Is4() == asked.Is4() && addr.IsGlobalUnicast() && addr != asked && !addr.Is4In6() {
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no address that %s could answer to", name, asked)
}

// String implements health.ClientWay.
func (w clientWay) String() string {
	way, _, why, err := w.find(context.Background())
	switch {
	case why != "" && !w.Strict:
		return "direct (" + why + ")"
	case why != "":
		return "via " + w.asked() + " (" + why + ")"
	case err != nil:
		return "via " + w.asked() + " (" + err.Error() + ")"
	default:
		return "via " + w.asked() + " by " + way.Method.String()
	}
}

func (w clientWay) asked() string {
	if w.Address.Port() == 0 {
		return w.Address.Addr().String()
	}
	return w.Address.String()
}
