// SPDX-License-Identifier: Apache-2.0

package director

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
)

// Fault says what is wrong with the options, nothing if they can be.
func (o TunnelOptions) Fault() string {
	switch {
	case o.Type == GUE && o.Port == 0:
		return "a gue tunnel needs a port"
	case o.Type != GUE && o.Port != 0:
		return fmt.Sprintf("a tunnel of type %s has no port", o.Type)
	case o.Type == IPIP && o.Checksum:
		return "a tunnel of type ipip has no checksum"
	default:
		return ""
	}
}

// String is ipip, gue:6080 or gre+csum.
func (o TunnelOptions) String() string {
	text := o.Type.String()
	if o.Port != 0 {
		text += fmt.Sprintf(":%d", o.Port)
	}
	if o.Checksum {
		text += "+csum"
	}
	return text
}

// tunnelOf are the options of the tunnel that a row has.
func tunnelOf(row *bpf.Real) TunnelOptions {
	t, ok := row.TunnelWritten()
	if !ok {
		return TunnelOptions{}
	}
	return TunnelOptions{Type: TunnelType(t.Type), Port: t.Port, Checksum: t.Checksum}
}

// tunnelTo is the real server's tunnel from the address that its route prefers.
func (r *real) tunnelTo(hop NextHop) bpf.Tunnel {
	return bpf.Tunnel{
		Type:        bpf.TunnelType(r.want.Tunnel.Type),
		Port:        r.want.Tunnel.Port,
		Checksum:    r.want.Tunnel.Checksum,
		Source:      hop.Source,
		Destination: r.want.Key.Addr,
		Inner:       r.vip,
	}
}

// tunnelStands reports whether the row has the tunnel that it should have.
func (r *real) tunnelStands(hop NextHop) bool {
	return r.want.Method != Tunnel || !hop.Resolved || r.row.SameTunnel(r.tunnelTo(hop).Row())
}

// The least that IP must be able to carry whole: RFC 791, RFC 8200 section 5.
const (
	leastMTU4 = 68
	leastMTU6 = 1280
)

// fitTunnel finds out whether there can be a tunnel by a next hop that is known.
func (r *real) fitTunnel(hop NextHop) NextHop {
	to := r.want.Key.Addr
	if !hop.Source.IsValid() || hop.Source.Is4() != to.Is4() {
		return unfit("the route to %s has no source address for a tunnel", to)
	}
	least := leastMTU4
	if r.vip.Is6() {
		least = leastMTU6
	}
	if mtu := r.mtuBy(hop); mtu < least {
		return unfit("the MTU to %s, %d, leaves %d bytes in a tunnel of type %s, less than the %d that IP needs",
			to, hop.MTU, mtu, r.want.Tunnel.Type, least)
	}
	return hop
}

// unknownMTU is what fits where nobody said how much does: whatever came in.
const unknownMTU = 0xffff

// mtuBy is how many bytes of IP fit the way to the real server.
func (r *real) mtuBy(hop NextHop) int {
	if r.want.Method == Tunnel {
		return hop.MTU - r.tunnelTo(hop).Overhead()
	}
	return hop.MTU
}

// mtu is how many bytes of IP a client's packet may have; 0: not known.
func (r *real) mtu() int {
	mtu := int(r.row.Mtu)
	if !r.hop.Resolved || r.hop.Local || mtu+int(r.row.Tunnel.Size) == unknownMTU {
		return 0
	}
	return mtu
}

// pathMTULife is for how long an ICMP error about a tunnel is believed, as long as
// Linux does (net.ipv4.route.mtu_expires).
const pathMTULife = 10 * time.Minute

// forgetPaths gives tunnels their routes' MTU back whose path was narrower some
// time ago: if it still is, the next error says so.
func (d *Director) forgetPaths() {
	now, err := d.clock.Now()
	if err != nil {
		d.log.Error("read clock", "event", "clock_failed", "error", err)
		return
	}
	for _, s := range d.services {
		for _, r := range s.reals {
			d.followPath(r, now)
		}
	}
}

func (d *Director) followPath(r *real, now uint32) {
	learned := atomic.LoadUint32(&r.row.Tunnel.Learned)
	if learned == 0 || !r.hop.Resolved {
		return
	}
	if d.clock.Duration(int32(now-learned)) > pathMTULife {
		r.row.Mtu = uint16(r.mtuBy(r.hop))
		atomic.StoreUint32(&r.row.Tunnel.Learned, 0)
		r.narrowed = 0
	} else if mtu := r.row.Mtu; mtu != r.narrowed {
		r.narrowed = mtu
		d.log.Info("the path to a real server is narrower than its route says", "event", "path_mtu",
			"real", r.want.Key.Addr.String(), "mtu", mtu)
	}
}

// fit is what a next hop means for the real server's method, without what that
// does not ask for.
func (d *Director) fit(r *real, hop NextHop) NextHop {
	if !hop.Resolved {
		return hop
	}
	if hop.MTU <= 0 || hop.MTU > unknownMTU {
		hop.MTU = unknownMTU
	}
	switch method := r.want.Method; {
	case hop.Local && (method == DirectRouting || method == Local):
		return d.fitLocal(r)
	case hop.Local:
		return unfit("%s is this host itself: method %s goes to another one, use local", r.want.Key.Addr, method)
	case method == Local:
		return unfit("%s is no address of this host, and method local is for those", r.want.Key.Addr)
	case method == Tunnel:
		return r.fitTunnel(hop)
	case !method.Translates():
		hop.Source = netip.Addr{}
	}
	return hop
}

func unfit(format string, args ...any) NextHop { return NextHop{Reason: fmt.Sprintf(format, args...)} }

// fitLocal: the stack takes only what is sent to an address of its own, so that
// of the service has to be one.
func (d *Director) fitLocal(r *real) NextHop {
	d.watchVIP(r)
	vip, known := d.nextHops[r.vip]
	switch {
	case !known || vip.Pending:
		return NextHop{Reason: fmt.Sprintf("it is being looked up whether %s is an address of this host", r.vip), Pending: true}
	case !vip.Local:
		return unfit("%s is no address of this host: its stack would not take the packets", r.vip)
	}
	return NextHop{Resolved: true, Local: true}
}

// watchVIP lets the service's address be looked up, too, until the real server's row is free.
func (d *Director) watchVIP(r *real) {
	if !r.vipWatched {
		r.vipWatched = true
		d.watch(r.vip, 1)
	}
}

// unwatch undoes watch for a real server whose row is free.
func (d *Director) unwatch(r *real) {
	d.watch(r.want.Key.Addr, -1)
	if r.vipWatched {
		r.vipWatched = false
		d.watch(r.vip, -1)
	}
}

// tunnelState is shown of a real server by tun.
func (r *real) tunnelState() *TunnelOptions {
	if r.want.Method != Tunnel {
		return nil
	}
	options := r.want.Tunnel
	return &options
}

// Translates reports whether packets get another destination, so that the port
// may be another one, too.
func (m Method) Translates() bool { return m == NAT || m == FullNAT }
