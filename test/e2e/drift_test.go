// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	"xdplvs/bpf"
	"xdplvs/director"
)

// tamperSizes are the tables of config.
var tamperSizes = bpf.Sizes{Conns4: 16 << 10, Conns6: 16 << 10, Overflow: 512, Services: 64, Reals: 256, Plans: 64 << 10,
	Marks: director.DefaultLimits.MarkEntries, Prefixes: director.DefaultLimits.Prefixes, Destinations: director.DefaultLimits.Destinations}

// tables are those of the farm's director, by its pins, as bpftool would reach them.
func (f *farm) tables() *bpf.DataPlane {
	f.t.Helper()
	var d *bpf.DataPlane
	must(f.t, f.director.Do(func() (err error) {
		var lost error
		if d, lost, err = bpf.Open(f.stateDir(), tamperSizes); err == nil && (lost != nil || d.Fresh || d.Moved != nil) {
			err = fmt.Errorf("lost %v, fresh %t, moved %v: the sizes are not those of the configuration", lost, d.Fresh, d.Moved)
		}
		return err
	}))
	f.t.Cleanup(func() { must(f.t, d.Close()) })
	return d
}

// detachProgram takes the program off eth0, as bpftool link detach does.
func (f *farm) detachProgram() error {
	paths, err := filepath.Glob(filepath.Join(f.stateDir(), "xdp_*"))
	if err != nil || len(paths) != 1 {
		return fmt.Errorf("links are %v: %w", paths, err)
	}
	l, err := link.LoadPinnedLink(paths[0], nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// What others change is noticed within seconds, put back, said in the log once, counted and shown, and traffic is as before.
func TestDriftRepaired(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	d := f.start()
	if out := f.output("status"); !strings.Contains(out, "interface eth0: attached, native mode\n6 services, 18 real servers, 18 of them reachable\nnobody has changed") {
		t.Errorf("director status printed\n%s", out)
	}
	held := f.hold("rs1", "rs2", "rs3")
	metrics := func() string { _, text := page(t, f.socketClient(), "http://director/metrics"); return text }
	plane := f.tables()
	rows := plane.Tables
	for _, test := range []struct {
		what   string
		damage func() error
	}{
		{"real_servers", func() error { rows.Reals[0].Flags, rows.Reals[1].Flags = 0, 0; return nil }},
		{"services", func() error { rows.Services[0].Flags, rows.Services[1].Id = 0xffff, 9; return nil }},
		{"plans", func() error { clear(rows.Plans); return nil }},
		{"service_keys", func() error { clear(rows.Keys); clear(rows.Filter); return nil }},
		{"settings", func() error { rows.Settings.LocalPorts = 1; return nil }},
		{"pins", func() error { return os.Remove(filepath.Join(f.stateDir(), "map_conns4")) }},
		{"program", f.detachProgram},
	} {
		must(t, test.damage())
		said := "event=drift_repaired what=" + test.what + " "
		d.waitLog(said, 1)
		for _, family := range families {
			eventually(t, 30*time.Second, func() error { _, err := f.fetch(family.vip, webPort); return err })
		}
		if out := f.output("status"); !strings.Contains(out, "\n  "+test.what+" ") {
			t.Errorf("%s: director status printed\n%s", test.what, out)
		}
		if !strings.Contains(metrics(), fmt.Sprintf("director_drift_repairs_total{what=%q} ", test.what)) {
			t.Errorf("%s is not in the metrics", test.what)
		}
	}
	held.goOn()
	d.stop()
	f.start() // with the pin that was removed
	held.goOn()
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 2, "rs2": 2, "rs3": 2})
	}
}
