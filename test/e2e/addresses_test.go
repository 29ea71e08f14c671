// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"xdplvs/director"
	"xdplvs/internal/netlab"
)

// The addresses of these tests are of the clients' own network: a client asks who has them.
var (
	near4 = netip.MustParseAddr("10.0.0.100")
	near6 = netip.MustParseAddr("fd00::100")
	nears = []netip.Addr{near4, near6}
)

// newNear makes a farm whose real servers have these addresses, too.
func newNear(t *testing.T, reals int) *farm {
	t.Helper()
	f := newFarm(t, reals)
	for _, r := range f.reals {
		for _, a := range nears {
			must(t, r.AddAddr("lo", netip.PrefixFrom(a, a.BitLen())))
		}
	}
	return f
}

// own writes a configuration with services on these addresses, which the director holds as the keys say.
func (f *farm) own(interfaces, keys string) {
	f.t.Helper()
	text := f.config(interfaces, service{name: "near4", protocol: "tcp", vip: near4, port: webPort, scheduler: "rr", weights: []int{1}},
		service{name: "near6", protocol: "tcp", vip: near6, port: webPort, scheduler: "rr", weights: []int{1}})
	if keys != "" {
		text += fmt.Sprintf("addresses: [{address: %q, %s}, {address: %q, %s}]\n", near4, keys, near6, keys)
	}
	f.writeConfig(text + "announce: {burst: 2, refresh: 1s}\n")
}

// addresses is what director addresses -o json shows.
func (f *farm) addresses() []director.AddressState {
	f.t.Helper()
	var list director.AddressList
	f.decode(&list, "addresses")
	return list.Addresses
}

// awaitAddresses waits until all are in the status.
func (f *farm) awaitAddresses(want director.AddressStatus) {
	f.t.Helper()
	eventually(f.t, patience, func() error {
		list := f.addresses()
		if len(list) != len(nears) || slices.ContainsFunc(list, func(s director.AddressState) bool { return s.Status != want }) {
			return fmt.Errorf("addresses are %+v, want all %s", list, want)
		}
		return nil
	})
}

// forget makes a host ask again who has the addresses.
func forget(t *testing.T, h *netlab.Host) {
	t.Helper()
	nl := get(h.Netlink())(t)
	link := get(nl.LinkByName("eth0"))(t)
	for _, n := range get(nl.NeighList(link.Attrs().Index, netlink.FAMILY_ALL))(t) {
		if slices.ContainsFunc(nears, func(a netip.Addr) bool { return n.IP.Equal(a.AsSlice()) }) {
			must(t, nl.NeighDel(&n))
		}
	}
}

// mustReach fails unless the client, which knows nothing, finds the director and is served.
func (f *farm) mustReach(when string) {
	f.t.Helper()
	forget(f.t, f.client)
	for _, a := range nears {
		if _, err := f.fetch(a, webPort); err != nil {
			f.t.Errorf("%s: %s: %v", when, a, err)
			continue
		}
		mac, err := f.client.Neigh("eth0", a)
		if err != nil || mac.String() != f.directorEnd.MAC.String() {
			f.t.Errorf("%s: the client finds %s at %v (%v), the director is %s", when, a, mac, err, f.directorEnd.MAC)
		}
	}
}

// mustNotReach fails if anybody answers for an address.
func (f *farm) mustNotReach(when string) {
	f.t.Helper()
	forget(f.t, f.client)
	for _, a := range nears {
		ctx, cancel := context.WithTimeout(f.t.Context(), 300*time.Millisecond)
		conn, err := f.client.DialContext(ctx, "tcp", netip.AddrPortFrom(a, webPort).String())
		cancel()
		if err == nil {
			conn.Close()
			f.t.Errorf("%s: %s is reached", when, a)
		}
	}
}

// local tells whether an address is one of the director's own.
func (f *farm) local(a netip.Addr) bool {
	f.t.Helper()
	nl := get(f.director.Netlink())(f.t)
	return slices.ContainsFunc(get(nl.AddrList(nil, netlink.FAMILY_ALL))(f.t), func(have netlink.Addr) bool { return have.IP.Equal(a.AsSlice()) })
}

// An address that is answered for is found by clients, is no address of the host, and stays found
// without a daemon: killed, restarted, stopped. It is not any more when the file says so.
func TestAddressAnswered(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			f := newNear(t, 1)
			on := fmt.Sprintf("{name: eth0, mode: %s}", mode)
			f.own(on, "")
			d := f.start()
			f.mustNotReach("before")
			f.own(on, "mode: answer")
			f.reload()
			f.awaitAddresses(director.AddressHeld)
			f.mustReach("answered for")
			if f.local(near4) || f.local(near6) {
				t.Error("they are the host's own")
			}
			if v := f.snapshot().Verdicts; v["tx_arp"] == 0 || v["tx_neighbor"] == 0 {
				t.Errorf("verdicts are %v", v)
			}
			f.restartNear(d)
			f.own(on, "")
			f.reload()
			f.mustNotReach("given up")
		})
	}
}

// restartNear goes on without a daemon, and with another.
func (f *farm) restartNear(d *daemon) {
	f.t.Helper()
	d.kill()
	f.mustReach("killed")
	d = f.start()
	for _, s := range f.addresses() { // at once: nobody had to be asked
		if s.Status != director.AddressHeld {
			f.t.Errorf("state is %+v", s)
		}
	}
	if strings.Contains(d.log.String(), "address_repaired") {
		f.t.Errorf("something was to be repaired:\n%s", d.log)
	}
	f.mustReach("started again")
	if code := d.stop(); code != 0 {
		f.t.Errorf("stop: exit %d", code)
	}
	f.mustReach("stopped")
	f.start()
	f.awaitAddresses(director.AddressHeld)
}

// An address that is added to the interface stays when the daemon is killed and started again, comes back
// when somebody removes it, and goes when the file or director run --detach says so. Another daemon's
// services are those that are reached at it.
func TestAddressOnInterface(t *testing.T) {
	t.Parallel()
	f := newNear(t, 1)
	f.own("eth0", "mode: interface, interface: eth0")
	d := f.start()
	f.awaitAddresses(director.AddressHeld)
	f.mustReach("added")
	f.restartNear(d)
	for _, a := range nears {
		must(t, f.director.DelAddr("eth0", netip.PrefixFrom(a, a.BitLen())))
	}
	eventually(t, patience, func() error {
		for _, s := range f.addresses() {
			if s.Repaired != 1 {
				return fmt.Errorf("states are %+v", s)
			}
		}
		return nil
	})
	f.mustReach("repaired")
	f.own("eth0", "")
	f.reload()
	if f.local(near4) || f.local(near6) {
		t.Error("the addresses are still there")
	}
}

// What the director added goes with director run --detach, what an administrator added stays.
func TestAddressDetached(t *testing.T) {
	t.Parallel()
	f := newNear(t, 1)
	must(t, f.director.AddAddr("eth0", netip.PrefixFrom(near4, 32)))
	f.own("eth0", "mode: interface")
	d := f.launchAs([]string{"--detach"}, nil)
	d.waitLog("event=ready", 1)
	f.awaitAddresses(director.AddressHeld)
	if list := f.addresses(); !list[0].Foreign || list[1].Foreign || !f.local(near6) {
		t.Errorf("states are %+v", list)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("stop: exit %d", code)
	}
	if !f.local(near4) || f.local(near6) {
		t.Errorf("the administrator's address is there: %v; ours: %v", f.local(near4), f.local(near6))
	}
}

// An address that another host has is not taken; that is said, with the real server's name. It is taken
// as soon as that host gives it up, or by force.
func TestAddressConflict(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"answer", "interface"} {
		t.Run(mode, func(t *testing.T) {
			f := newNear(t, 2)
			rs := f.reals[0]
			must(t, rs.Sysctl("net.ipv4.conf.all.arp_ignore", "0"))
			must(t, rs.AddAddr("eth0", netip.PrefixFrom(near6, 128)))
			f.own("eth0", "mode: "+mode)
			d := f.start()
			f.awaitAddresses(director.AddressConflict)
			for _, s := range f.addresses() {
				who := "real server rs1 (" + f.addrOf(0, s.Addr).String() + ")"
				if s.Rival == nil || s.Rival.MAC != rs.eth0.MAC.String() || !strings.HasPrefix(s.Rival.Who, "real server rs1 (") {
					t.Errorf("state is %+v, want the rival %s, %s", s, rs.eth0.MAC, who)
				}
			}
			if out := f.output("addresses"); strings.Count(out, "another host has it: "+rs.eth0.MAC.String()+", real server rs1 (") != 2 {
				t.Errorf("director addresses prints\n%s", out)
			}
			d.waitLog("event=address_conflict", 2)
			f.own("eth0", "force: true, mode: "+mode)
			f.reload()
			f.awaitAddresses(director.AddressHeld)
			eventually(t, patience, func() error { // it is asked for at the end of each burst
				for _, s := range f.addresses() {
					if s.Rival == nil {
						return fmt.Errorf("state is %+v", s)
					}
				}
				return nil
			})
			must(t, rs.Sysctl("net.ipv4.conf.all.arp_ignore", "1"))
			must(t, rs.DelAddr("eth0", netip.PrefixFrom(near6, 128)))
			f.mustReach("by force")
		})
	}
}

// An interface that was down announces its addresses when it comes back.
func TestAddressAfterLinkDown(t *testing.T) {
	t.Parallel()
	f := newNear(t, 1)
	f.own("eth0", "mode: answer")
	f.start()
	f.awaitAddresses(director.AddressHeld)
	must(t, f.directorEnd.SetUp(false))
	f.awaitAddresses(director.AddressWaiting)
	before := f.addresses()
	must(t, f.directorEnd.SetUp(true))
	f.awaitAddresses(director.AddressHeld)
	eventually(t, patience, func() error {
		for i, s := range f.addresses() {
			if s.Announcements <= before[i].Announcements {
				return fmt.Errorf("state is %+v", s)
			}
		}
		return nil
	})
	eventually(t, patience, func() error { // IPv6 checks its own address first
		forget(t, f.client)
		for _, a := range nears {
			if _, err := f.fetch(a, webPort); err != nil {
				return err
			}
		}
		return nil
	})
}

// The data plane answers with tables of another size than before, too: those are new ones.
func TestAddressAnsweredByNewTables(t *testing.T) {
	t.Parallel()
	f := newNear(t, 1)
	f.own("eth0", "mode: answer")
	d := f.start()
	f.awaitAddresses(director.AddressHeld)
	d.stop()
	text := get(os.ReadFile(f.configFile()))(t)
	f.writeConfig(strings.Replace(string(text), "connections4: 16k", "connections4: 32k", 1))
	d = f.start()
	d.waitLog("event=tables_moved", 1)
	for _, s := range f.addresses() { // at once: nobody had to be asked
		if s.Status != director.AddressHeld {
			t.Errorf("state is %+v", s)
		}
	}
	f.mustReach("by new tables")
}
