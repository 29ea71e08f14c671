// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"xdplvs/director"
)

// fresh are the questions to the standard services each of which is a new connection for certain.
func (f *farm) fresh() []question {
	return []question{{f.fetch, webPort}, {f.query, onePort}}
}

// all are the questions to the standard services. A UDP socket may get the port of an earlier one,
// and is then the same connection.
func (f *farm) all() []question {
	return append(f.fresh(), question{f.query, dnsPort})
}

var thirds = map[string]float64{"rs1": 1. / 3, "rs2": 1. / 3, "rs3": 1. / 3}

// The data plane needs no daemon.
func TestWithoutDaemon(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	d := f.start()
	old := f.hold("rs1", "rs2", "rs3")
	load := f.load(2, f.all()...)
	load.await(t, 100)
	d.kill()
	load.mark()
	mustShare(t, "without daemon", load.await(t, 300), thirds)
	old.goOn()
	fresh := f.hold("rs1", "rs2", "rs3")
	fresh.goOn()
	r := f.run("list")
	want := fmt.Sprintf("director: connect to %s: connection refused (is the daemon running? start it with: director run -c FILE)\n", f.socket())
	if r.code != 1 || r.stdout != "" || r.stderr != want {
		t.Errorf("list without daemon: %+v, want exit 1 and %q", r, want)
	}
	load.mustEnd(t)
	old.finish()
	fresh.finish()
}

func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	d := f.start()
	old := f.hold("rs1", "rs2", "rs3")
	load := f.load(2, f.all()...)
	load.await(t, 100)
	d.kill()
	load.mark()
	load.await(t, 100)
	fresh := f.hold("rs1", "rs2", "rs3")
	f.start()
	load.mark()
	mustShare(t, "after the restart", load.await(t, 300), thirds)
	old.goOn()
	fresh.goOn()
	load.mustEnd(t)
	f.mustAgree(old, fresh)
	old.finish()
	fresh.finish()
}

// mustAgree fails unless the counts of TCP connections, all of HTTP, are those of the real servers since the
// farm was made, and the downloads are the active ones.
func (f *farm) mustAgree(all ...*held) {
	f.t.Helper()
	s := f.snapshot()
	conns, active, requests, downloads := map[string]uint64{}, map[string]uint32{}, map[string]uint64{}, map[string]uint32{}
	for _, service := range s.Services {
		for _, r := range service.Reals {
			if service.Key.Protocol == director.TCP {
				conns[r.Name] += r.Counters.Conns
				addTo(active, r.Name, r.Active)
			}
		}
	}
	for _, r := range f.reals {
		requests[r.Name()] += r.http.Requests()
	}
	for _, h := range all {
		for _, d := range h.downloads {
			addTo(downloads, d.server, 1)
		}
	}
	if !maps.Equal(conns, requests) {
		f.t.Errorf("%v connections are counted, the real servers had %v", conns, requests)
	}
	if !maps.Equal(active, downloads) {
		f.t.Errorf("%v active connections are counted, open are %v", active, downloads)
	}
	f.mustRecount(s)
}

// addTo keeps zeros out of maps that are compared.
func addTo(m map[string]uint32, name string, n uint32) {
	if n > 0 {
		m[name] += n
	}
}

// mustRecount fails unless the counts of active and inactive connections are those of the listed ones.
func (f *farm) mustRecount(s *director.Snapshot) {
	f.t.Helper()
	if counted, listed := f.recount(s); !maps.Equal(listed, counted) {
		f.t.Errorf("counts of active and inactive connections are\n%v, listed are\n%v", counted, listed)
	}
}

// mustRecountSoon is mustRecount where connections may just be closing.
func (f *farm) mustRecountSoon() {
	f.t.Helper()
	eventually(f.t, patience, func() error {
		counted, listed := f.recount(f.snapshot())
		if !maps.Equal(listed, counted) {
			return fmt.Errorf("counts of active and inactive connections are\n%v, listed are\n%v", counted, listed)
		}
		return nil
	})
}

type counts struct{ active, inactive uint32 }

// recount are the counts of connections, and those of the listed ones, by service and real server.
func (f *farm) recount(s *director.Snapshot) (counted, listed map[string]counts) {
	f.t.Helper()
	listed, counted = map[string]counts{}, map[string]counts{}
	for _, c := range f.connections() {
		n := listed[c.Service+" "+c.Real.String()]
		if c.State == "ESTABLISHED" || c.State == "SYN_RECV" {
			n.active++
		} else {
			n.inactive++
		}
		listed[c.Service+" "+c.Real.String()] = n
	}
	for _, service := range s.Services {
		for _, r := range service.Reals {
			if r.Active+r.Inactive > 0 {
				counted[service.Name+" "+r.Key.String()] = counts{r.Active, r.Inactive}
			}
		}
	}
	return counted, listed
}

// The configuration may change while no daemon runs.
func TestStoppedDaemon(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 4)
	f.configure(standard("rr", 1, 1, 1, absent)...)
	d := f.start()
	held := f.hold("rs1", "rs2", "rs3")
	load := f.load(2, f.fresh()...)
	load.await(t, 100)

	if code := d.stop(); code != 0 {
		t.Errorf("SIGTERM: exit %d, want 0", code)
	}
	said := `msg="stopped: the data plane is kept and forwards with its last plans and addresses" event=stopped data_plane=kept state_dir=` + f.stateDir()
	if !strings.Contains(d.log.String(), said) {
		t.Errorf("SIGTERM: log has no %q:\n%s", said, d.log)
	}
	load.mark()
	mustShare(t, "stopped", load.await(t, 300), thirds)
	held.goOn()

	f.configure(standard("wrr", 0, 1, 1, 2)...)
	f.start()
	f.awaitReachable("rs4")
	load.mark()
	mustShare(t, "changed", load.await(t, 300), map[string]float64{"rs2": .25, "rs3": .25, "rs4": .5})
	held.goOn()
	load.mustEnd(t)
	f.mustAgree(held)
	held.finish()
}

// Restarts lose no packet: no request fails, and no SYN has to be sent again.
func TestRestarts(t *testing.T) {
	t.Parallel()
	for _, topology := range []struct {
		name  string
		build func(*testing.T) *farm
		times int
	}{
		{"one interface", func(t *testing.T) *farm { return newFarm(t, 3) }, 20},
		{"one interface for each real server", func(t *testing.T) *farm {
			f := newLab(t)
			viaDirector(f)
			return f
		}, 6},
	} {
		t.Run(topology.name, func(t *testing.T) {
			f := topology.build(t)
			f.configure(standard("rr", 1, 1, 1)...)
			d := f.start()
			held := f.hold("rs1", "rs2", "rs3")
			load := f.load(2, f.all()...)
			before := netstat(t, f.client, "TcpExt", "TCPSynRetrans")
			for i := range topology.times {
				if i%2 == 0 {
					d.kill()
				} else {
					d.stop()
				}
				d = f.start()
			}
			held.goOn()
			total := load.mustEnd(t)
			t.Logf("%d questions during %d restarts", total, topology.times)
			if n := netstat(t, f.client, "TcpExt", "TCPSynRetrans") - before; n > 0 {
				t.Errorf("%d SYNs were lost", n)
			}
			f.mustAgree(held)
			held.finish()
		})
	}
}

// What a service counted stays counted, also by real servers that it no longer has.
func TestStatisticsSurvive(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	d := f.start()
	for _, family := range families {
		even := map[string]int{"rs1": 4, "rs2": 4, "rs3": 4}
		f.mustSpread(f.fetch, family.vip, webPort, even)
		f.mustSpread(f.query, family.vip, dnsPort, even)
		f.mustSpread(f.query, family.vip, onePort, even)
	}
	f.mustKeepStats("restarted", func() { d.kill(); d = f.start() })
	f.configure(standard("rr", 1, 1, absent)...)
	f.mustKeepStats("one removed", f.reload)
	f.mustKeepStats("restarted without it", func() { d.stop(); f.start() })
}

// mustKeepStats fails unless the services' counters are the same after the change, and their sum is
// the total.
func (f *farm) mustKeepStats(what string, change func()) {
	f.t.Helper()
	before := f.snapshot()
	change()
	after := f.snapshot()
	var sum director.Counters
	for i, s := range after.Services {
		if was := before.Services[i].Counters; s.Counters != was || s.Counters == (director.Counters{}) {
			f.t.Errorf("%s: %s counts %+v, before it was %+v", what, s.Name, s.Counters, was)
		}
		sum.Conns += s.Counters.Conns
		sum.InPkts += s.Counters.InPkts
		sum.InBytes += s.Counters.InBytes
	}
	if after.Total != sum || after.Total != before.Total {
		f.t.Errorf("%s: total is %+v, before it was %+v; sum of the services %+v", what, after.Total, before.Total, sum)
	}
	for name, n := range before.Verdicts {
		if after.Verdicts[name] < n {
			f.t.Errorf("%s: %d packets with verdict %s, before it were %d", what, after.Verdicts[name], name, n)
		}
	}
}
