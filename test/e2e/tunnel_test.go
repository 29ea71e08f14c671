// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"xdplvs/internal/netlab"
)

// guePort is where real servers take GUE.
const guePort = 6080

// tunnel is a type, and what real servers need for it.
type tunnel struct {
	name string
	keys string   // of a service
	args []string // of director realserver
	shim int
}

// tunnels are all types.
var tunnels = []tunnel{
	{"ipip", "tunnel: {type: ipip}", nil, 0},
	{"gue", "tunnel: {type: gue, port: 6080}", []string{"--tunnel", "gue"}, 12},
	{"gue with checksum", "tunnel: {type: gue, port: 6080, checksum: true}", []string{"--tunnel", "gue"}, 12},
	{"gre", "tunnel: {type: gre}", []string{"--tunnel", "gre"}, 4},
	{"gre with checksum", "tunnel: {type: gre, checksum: true}", []string{"--tunnel", "gre", "--checksum"}, 8},
}

// decapsulate gives the real servers the lab's ends of tunnels, which every kernel can have.
func (f *farm) decapsulate() {
	for _, r := range f.reals {
		d := get(r.Decapsulate(guePort))(f.t)
		f.t.Cleanup(func() {
			if n := d.Wrong(); n > 0 {
				f.t.Errorf("%s got %d packets that no tunnel has, or with wrong checksums", r.Name(), n)
			}
		})
	}
}

// eachTunnel runs a test for every type of tunnel, of the packets' own family and of the other one, on one
// farm that is reloaded. prepare changes the real servers.
func eachTunnel(t *testing.T, way netWay, prepare func(*farm, tunnel)) {
	t.Helper()
	f := newLab(t)
	way.build(f)
	way.direct(f)
	var d *daemon
	for _, tunnel := range tunnels {
		prepare(f, tunnel)
		for _, mixed := range []bool{false, true} {
			m := method{name: "tun", keys: tunnel.keys, shim: tunnel.shim, mixed: mixed}
			f.configureOn(way.interfaces, m.services(len(f.reals))...)
			if d == nil {
				d = f.start()
			} else {
				f.reload()
				f.awaitHops()
			}
			t.Run(fmt.Sprintf("%s, mixed %v", tunnel.name, mixed), func(t *testing.T) { f.on(t).mustTunnel(m) })
		}
	}
}

// Every type of tunnel with the lab's ends.
func TestTunnels(t *testing.T) {
	t.Parallel()
	for _, way := range netWays {
		t.Run(way.name, func(t *testing.T) {
			prepared := false
			eachTunnel(t, way, func(f *farm, _ tunnel) {
				if !prepared { // those take all types
					f.decapsulate()
				}
				prepared = true
			})
		})
	}
}

// mustTunnel looks at what a tunnel does to packets.
func (f *farm) mustTunnel(m method) {
	f.t.Helper()
	for _, family := range families {
		f.t.Run(family.name, func(t *testing.T) {
			f := f.on(t)
			f.ip(f.client, "route flush cache")
			f.ip(f.client, "-6 route flush cache")
			f.mustFit(family.vip, 0)
			f.mustReachAll(f.fetch, family.vip, webPort)
			f.mustReachAll(f.query, family.vip, dnsPort)
			f.mustCarry(family.vip, 5_000_000, 5_000_000)
			f.mustFit(family.vip, 1500-m.added(family.vip))
			f.mustEchoSizes(family.vip, 479)
			f.mustWrap(family.vip, m)
			if t.Failed() {
				t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
			}
		})
	}
}

// mustWrap looks at a datagram on the wire: it travels whole, in the headers that it should have.
func (f *farm) mustWrap(vip netip.Addr, m method) {
	f.t.Helper()
	w := tap(f.t, f.reals[0].eth0)
	text := []byte("in a tunnel, " + f.t.Name())
	for range f.reals { // one of so many connections is the first real server's
		conn := get(f.dialUDP(vip, dnsPort))(f.t)
		defer conn.Close()
		get(conn.Write(text))(f.t)
	}
	seen := w.await(f.t, patience, func(seen frame) bool { return !seen.sent && bytes.HasSuffix(seen.data, text) })
	headers := seen.data[etherLen : len(seen.data)-len(text)]
	from, to := director4, f.reals[0].addr4
	if vip.Is4() == m.mixed {
		from, to = director6, f.reals[0].addr6
	}
	addresses := append(from.AsSlice(), to.AsSlice()...)
	if at := bytes.Index(headers, addresses); at != 12 && at != 8 {
		f.t.Errorf("frame is not from %s to %s: %x", from, to, headers)
	}
	outer, inner := 20, 28
	if from.Is6() {
		outer = 40
	}
	if vip.Is6() {
		inner = 48
	}
	if len(headers) != outer+m.shim+inner {
		f.t.Fatalf("headers of %d bytes: %x", len(headers), headers)
	}
	mustBeShim(f.t, m, headers[outer:][:m.shim])
}

// mustBeShim fails unless the bytes between the IP headers are the tunnel's.
func mustBeShim(t *testing.T, m method, shim []byte) {
	t.Helper()
	wanted := strings.Contains(m.keys, "checksum")
	switch {
	case strings.Contains(m.keys, "gue"):
		if port := binary.BigEndian.Uint16(shim[2:]); port != guePort {
			t.Errorf("GUE goes to port %d", port)
		}
		if sum := binary.BigEndian.Uint16(shim[6:]); (sum != 0) != wanted {
			t.Errorf("GUE's checksum is %#x", sum)
		}
	case strings.Contains(m.keys, "gre"):
		if checked := shim[0]&0x80 != 0; checked != wanted {
			t.Errorf("GRE's header is %x", shim)
		}
	}
}

// realServerTunnel prepares a real server as its administrator would, with the kernel's own devices.
func (f *farm) realServerTunnel(r *realServer, args ...string) {
	f.t.Helper()
	out := runOn(f.t, r.Host, append([]string{"realserver", "tun", "--vip", vip4.String(), "--vip", vip6.String(),
		"--as", r.addr4.String(), "--as", r.addr6.String(), "--apply"}, args...)...)
	if strings.Contains(out.stderr, "this kernel ") {
		f.mustHave(fmt.Errorf("%w: %s", netlab.ErrNoDevices, out.stderr))
	}
	if out.code != 0 {
		f.t.Fatalf("director realserver tun: exit %d: %s", out.code, out.stderr)
	}
}

// addTunnels makes the kernel's devices on real servers which have the virtual addresses on lo.
func (f *farm) addTunnels(args []string) {
	f.t.Helper()
	for _, r := range f.reals {
		for _, vip := range []netip.Addr{vip4, vip6} { // the command puts them on the devices
			must(f.t, r.DelAddr("lo", netip.PrefixFrom(vip, vip.BitLen())))
		}
		f.realServerTunnel(r, args...)
	}
}

// The same with the kernel's devices, as director realserver makes them.
func TestTunnelDevices(t *testing.T) {
	t.Parallel()
	var before []string
	eachTunnel(t, netWays[1], func(f *farm, tun tunnel) {
		if before == nil {
			f.routeByDirector() // for what is elsewhere: there has to be a default route
			f.addTunnels(tun.args)
		} else {
			for _, r := range f.reals {
				f.realServerTunnel(r, append(before, "--remove")...)
				f.realServerTunnel(r, tun.args...)
			}
		}
		before = append([]string{}, tun.args...)
	})
}
