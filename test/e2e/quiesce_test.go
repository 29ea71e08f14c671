// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
)

// held are connections that a test began and looks at again when something has changed: a download
// from each of the servers over each family, and a UDP socket that each of them answers.
type held struct {
	f         *farm
	downloads []*download
	sockets   []heldSocket
}

type heldSocket struct {
	server string
	ask    func() (server string, err error)
}

// heldSize is more than fits between server and client at once, so that a download ends only if its
// packets still pass.
const heldSize = 20_000_000

func (f *farm) hold(servers ...string) *held {
	f.t.Helper()
	h := f.holdDownloads(servers...)
	for _, family := range families {
		h.sockets = append(h.sockets, f.sockets(family.vip, servers...)...)
	}
	return h
}

// holdDownloads holds TCP connections only.
func (f *farm) holdDownloads(servers ...string) *held {
	f.t.Helper()
	h := &held{f: f}
	for _, family := range families {
		h.downloads = slices.AppendSeq(h.downloads, maps.Values(f.downloads(family.vip, heldSize, servers...)))
	}
	return h
}

// sockets are opened until each of the servers answers one.
func (f *farm) sockets(vip netip.Addr, servers ...string) (list []heldSocket) {
	f.t.Helper()
	for range 10 * len(servers) {
		s := f.newSocket(vip)
		if slices.Contains(servers, s.server) && !slices.ContainsFunc(list, func(o heldSocket) bool { return o.server == s.server }) {
			list = append(list, s)
		}
		if len(list) == len(servers) {
			return list
		}
	}
	f.t.Fatalf("no socket that each of %v answers: there are %d", servers, len(list))
	return nil
}

// newSocket opens a socket and asks once.
func (f *farm) newSocket(vip netip.Addr) heldSocket {
	f.t.Helper()
	conn := get(f.dialUDP(vip, dnsPort))(f.t)
	f.t.Cleanup(func() { conn.Close() })
	again := func() (string, error) { return ask(conn, "still there?", patience) }
	return heldSocket{get(again())(f.t), again}
}

// goOn reads a part of each download and asks by each socket again: it must be the same real server.
func (h *held) goOn() {
	h.f.t.Helper()
	for _, d := range h.downloads {
		if err := d.read(heldSize / 10); err != nil {
			h.f.t.Error(err)
		}
	}
	for _, s := range h.sockets {
		if server, err := s.ask(); err != nil || server != s.server {
			h.f.t.Errorf("socket that %s answered is answered by %q (%v)", s.server, server, err)
		}
	}
}

// finish reads the downloads to their end: they must be whole.
func (h *held) finish() {
	h.f.t.Helper()
	for _, d := range h.downloads {
		if err := d.finish(); err != nil {
			h.f.t.Error(err)
		}
	}
}

// Each change is made while clients ask all the time, and while connections are held that it must
// not touch.
func TestChangesUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 4)
	f.configure(standard("rr", 1, 1, 1, absent)...)
	d := f.start()
	held := f.hold("rs1", "rs2", "rs3")
	load := f.load(3, f.fresh()...)
	hangup := func() { d.hangup("event=reloaded") }
	for _, change := range []struct {
		name     string
		services []service
		reload   func()
		want     map[string]float64 // shares of the new connections
	}{
		{"weight 0 by SIGHUP", standard("rr", 0, 1, 1, absent), hangup, map[string]float64{"rs2": 1. / 2, "rs3": 1. / 2}},
		{"weight 0 by director reload", standard("rr", 0, 0, 1, absent), f.reload, map[string]float64{"rs3": 1}},
		{"weights back", standard("rr", 1, 1, 1, absent), f.reload, map[string]float64{"rs1": 1. / 3, "rs2": 1. / 3, "rs3": 1. / 3}},
		{"one added", standard("rr", 1, 1, 1, 1), f.reload, map[string]float64{"rs1": 1. / 4, "rs2": 1. / 4, "rs3": 1. / 4, "rs4": 1. / 4}},
		{"another scheduler", standard("wrr", 1, 2, 3, 4), hangup, map[string]float64{"rs1": .1, "rs2": .2, "rs3": .3, "rs4": .4}},
		{"other weights", standard("wrr", 4, 3, 2, 1), f.reload, map[string]float64{"rs1": .4, "rs2": .3, "rs3": .2, "rs4": .1}},
	} {
		f.configure(change.services...)
		change.reload()
		if change.name == "one added" {
			f.awaitReachable("rs4")
		}
		load.mark()
		mustShare(t, change.name, load.await(t, 300), change.want)
		held.goOn()
	}
	held.finish()
	load.mustEnd(t)
}

// awaitReachable waits until the director knows the way to a real server.
func (f *farm) awaitReachable(server string) {
	f.t.Helper()
	eventually(f.t, patience, func() error {
		return f.reachable(server)
	})
}

// mustShare fails unless each real server served its share, give or take what the questions under
// way at the begin and the cut-off cycles of six services can account for.
func mustShare(t *testing.T, what string, got map[string]int, want map[string]float64) {
	t.Helper()
	sum := 0
	for _, n := range got {
		sum += n
	}
	const tolerance = 20
	for server, n := range got {
		if _, ok := want[server]; !ok {
			t.Errorf("%s: %s got %d new connections, want none", what, server, n)
		}
	}
	for server, share := range want {
		if off := float64(got[server]) - share*float64(sum); off > tolerance || off < -tolerance {
			t.Errorf("%s: %s served %d of %d, want about %.0f", what, server, got[server], sum, share*float64(sum))
		}
	}
}

// A real server that is removed keeps its TCP connections until they end, and gets no other.
func TestRemoveUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	d := f.start()
	held := f.holdDownloads("rs1", "rs2", "rs3") // UDP may go to another server then
	load := f.load(2, f.fresh()...)
	for _, change := range []struct {
		name     string
		services []service
		reload   func()
		want     map[string]float64
	}{
		{"removed by SIGHUP", standard("rr", absent, 1, 1), func() { d.hangup("event=reloaded") }, map[string]float64{"rs2": 1. / 2, "rs3": 1. / 2}},
		{"removed by director reload", standard("rr", absent, absent, 1), f.reload, map[string]float64{"rs3": 1}},
	} {
		f.configure(change.services...)
		change.reload()
		load.mark()
		mustShare(t, change.name, load.await(t, 200), change.want)
		held.goOn()
	}
	f.configure(standard("rr", 1, 1, 1)...)
	f.reload()
	f.awaitReachable("rs1")
	f.awaitReachable("rs2")
	load.mark()
	mustShare(t, "added again", load.await(t, 200), map[string]float64{"rs1": 1. / 3, "rs2": 1. / 3, "rs3": 1. / 3})
	held.finish()
	load.mustEnd(t)
}

// A service that is removed and added again under load: its connections go on meanwhile.
func TestRemoveService(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	web, dns := both("web", "tcp", webPort, "rr", 1, 1), both("dns", "udp", dnsPort, "rr", 1, 1)
	f.configure(join(web, dns)...)
	f.start()
	held := f.holdDownloads("rs1", "rs2")
	load := f.load(1, question{f.query, dnsPort})
	f.configure(dns...)
	f.reload()
	for _, family := range families {
		if name, err := f.fetch(family.vip, webPort); err == nil {
			t.Errorf("%s: service is removed, but %s answers", family.name, name)
		}
	}
	held.goOn()
	f.configure(join(web, dns)...)
	f.reload()
	f.awaitReachable("rs1")
	f.awaitReachable("rs2")
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 6, "rs2": 6})
	}
	held.finish()
	load.mustEnd(t)
}
