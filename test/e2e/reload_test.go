// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// After any sequence of reloads the state is that of a fresh start, and a service that none of them
// changed has not noticed.
func TestManyReloads(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 4)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	untouched := join(both("web", "tcp", webPort, "rr", 1, 1, 1, 1), onePacket(both("one", "udp", onePort, "wrr", 1, 2, 3, 4)))
	f.configure(untouched...)
	d := f.start()
	held := f.holdDownloads("rs1", "rs2", "rs3", "rs4")
	load := f.load(1, f.fresh()...)
	const reloads = 30
	for i := range reloads {
		f.configure(join(untouched, randomServices(random))...)
		if i%2 == 0 {
			f.reload()
		} else {
			d.hangup("event=reloaded")
		}
	}
	held.goOn()
	load.mustEnd(t)
	held.finish()
	if got := f.snapshot().Generation; got != reloads+1 {
		t.Errorf("generation is %d after %d reloads, want %d", got, reloads, reloads+1)
	}
	f.awaitHops()
	reloaded := f.shape()
	d.kill()
	must(t, os.RemoveAll(f.stateDir()))
	f.start()
	if fresh := f.shape(); fresh != reloaded {
		t.Errorf("after reloads there is\n%s\nafter a fresh start with the same configuration\n%s", reloaded, fresh)
	}
}

// randomServices are some of four services, with some of the farm's real servers each.
func randomServices(random *rand.Rand) (services []service) {
	for i := range uint16(4) {
		if random.IntN(3) == 0 {
			continue
		}
		weights := make([]int, 4)
		for j := range weights {
			weights[j] = random.IntN(5) - 1 // absent, quiesced, or one to three
		}
		scheduler := []string{"rr", "wrr"}[random.IntN(2)]
		services = append(services, both(fmt.Sprintf("other%d-", i), "tcp", 1000+i, scheduler, weights...)...)
	}
	return services
}

// shape is the list without what depends on the past: one line for each service and real server.
func (f *farm) shape() string {
	f.t.Helper()
	var b strings.Builder
	for _, s := range f.snapshot().Services {
		fmt.Fprintln(&b, s.Name, s.Key, s.Scheduler, s.OnePacket)
		for _, r := range s.Reals {
			fmt.Fprintln(&b, " ", r.Name, r.Key, r.Method, r.Weight, r.Reachable, r.Unreachable)
		}
	}
	return b.String()
}

// A connection to a removed real server outlives the daemon. When the real server is added again
// before the connection ends it is counted again, as IPVS does.
func TestRemovedOutlivesRestart(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	d := f.start()
	held := f.holdDownloads("rs1", "rs2", "rs3")
	f.configure(standard("rr", 1, 1, absent)...)
	f.reload()
	d.kill()
	d = f.start()
	held.goOn()
	f.configure(standard("rr", 1, 1, 1)...)
	f.reload()
	f.awaitHops()
	fresh := f.holdDownloads("rs3")
	d.stop()
	f.start()
	for _, family := range families {
		if got := f.realState(ofFamily("web", family.vip), "rs3").Active; got != 2 {
			t.Errorf("%s: rs3, which was added again, has %d active connections, want the old and the new one", family.name, got)
		}
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3, "rs2": 3, "rs3": 3})
	}
	held.goOn()
	fresh.goOn()
	held.finish()
	fresh.finish()
}

// Connections end when nothing came for the configured time, and are no longer counted then.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.writeConfig(f.config("eth0", standard("rr", 1, 1)...) + "timeouts: {tcp: 1s, tcpfin: 1s, udp: 1s}\n")
	f.start()
	held := f.hold("rs1", "rs2")
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3, "rs2": 3})
	}
	// One is swept at most two seconds after its time.
	took := eventually(t, 2*patience, func() error {
		for _, s := range f.snapshot().Services {
			for _, r := range s.Reals {
				if r.Active+r.Inactive > 0 {
					return fmt.Errorf("%s of %s has %d active and %d inactive connections", r.Name, s.Name, r.Active, r.Inactive)
				}
			}
		}
		return nil
	})
	t.Logf("all had ended after %v", took)
	if got := f.output("connections", "count"); got != "0\n" {
		t.Errorf("director connections count printed %q, want 0", got)
	}
	// A socket whose connection is forgotten is served again, as a new connection.
	for _, s := range held.sockets {
		get(s.ask())(t)
	}
}

// A full table breaks no service: what has no place goes to a real server all the same, and what
// comes later to the same. Only of datagrams that nothing followed the place may be taken away.
func TestFullTable(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.writeConfig(strings.Replace(f.config("eth0", standard("rr", 1, 1, 1)...),
		"connections4: 16k, connections6: 16k", "connections4: 1k, connections6: 1k", 1))
	f.start()
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			f := f.on(t)
			const sockets = 1500
			list := make([]heldSocket, sockets)
			for i := range list {
				list[i] = f.newSocket(family.vip)
				if server := get(list[i].ask())(t); server != list[i].server {
					t.Fatalf("socket %d was answered by %s, then by %s", i, list[i].server, server)
				}
			}
			moved := 0
			for _, s := range list {
				if server := get(s.ask())(t); server != s.server {
					moved++
				}
			}
			if moved > 0 {
				t.Errorf("%d of %d sockets were answered by another real server than at first", moved, sockets)
			}
			if got := f.service(ofFamily("dns", family.vip)).Untracked; got == 0 {
				t.Errorf("no connection is counted as untracked, of %d in a table of 1024", sockets)
			}
			f.mustSpreadTCP(family.vip)
		})
	}
	f.mustRecount(f.snapshot())
}

// mustSpreadTCP fails unless each of three real servers serves some TCP connections, and all are served.
func (f *farm) mustSpreadTCP(vip netip.Addr) {
	f.t.Helper()
	must(f.t, getBytes(f.client.HTTPClient(0), vip, 5_000_000))
	must(f.t, putBytes(f.client.HTTPClient(0), vip, 5_000_000))
	if got := f.spread(f.fetch, vip, webPort, 30); len(got) != 3 {
		f.t.Errorf("connections are spread %v, want some at each of three", got)
	}
}

// An interface that was deleted is told of, and attached again when there is one of its name.
func TestInterfaceReplaced(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	f.start()
	nl := get(f.director.Netlink())(t)
	must(t, nl.LinkDel(get(nl.LinkByName("eth0"))(t)))
	eventually(t, noticed, func() error { return f.reach("rs1", false, "link eth0 is gone") })
	eventually(t, patience, func() error { return f.attachedTo("eth0", false) })
	f.directorEnd = f.connect(f.director, f.sw, "eth0", director4.String()+"/24", director6.String()+"/64")
	// The new one has another address, which the client has to learn.
	for _, addr := range []netip.Addr{director4, director6} {
		must(t, f.client.SetNeigh("eth0", addr, f.directorEnd.MAC))
	}
	eventually(t, patience, func() error { return f.attachedTo("eth0", true) })
	for _, name := range []string{"rs1", "rs2", "rs3"} {
		f.awaitReachable(name)
	}
	for _, family := range families {
		f.mustServe(family.vip)
	}
}

// attachedTo compares what is said of an interface.
func (f *farm) attachedTo(name string, want bool) error {
	for _, i := range f.snapshot().Interfaces {
		if i.Name == name && (i.Error == "") == want {
			return nil
		}
	}
	return fmt.Errorf("interfaces are %+v, want %s to be attached: %t", f.snapshot().Interfaces, name, want)
}
