// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/api"
)

// scaleBounds are what is promised of a director with 10,000 services of 10 real servers each.
const (
	scaleStart  = 3 * time.Second
	scaleChange = 50 * time.Millisecond
	scaleList   = time.Second
	scaleMemory = 300 << 20
)

// TestScale: with so many services as a director may have, a start, a change, a list and the daemon's memory stay
// within their bounds. The long form (make promises) has the size that they are promised for, and wants a machine for
// itself; the short one is a tenth of it, on a machine that has other tests to run: what takes many times as long is found.
func TestScale(t *testing.T) {
	f := newFarm(t, 1)
	services := 1000
	if long() {
		services = 10_000
	}
	f.writeConfig(f.scaleConfig(services))
	must(t, f.director.AddRoute(netip.MustParsePrefix("10.128.0.0/16"), f.reals[0].addr4, "eth0"))
	begun := time.Now()
	d := f.start()
	mustTake(t, "start", time.Since(begun), scaleStart)
	d.kill()
	begun = time.Now()
	d = f.start()
	mustTake(t, "restart", time.Since(begun), scaleStart)
	mustTake(t, "change of a weight", f.timeChange(services/2), scaleChange)
	begun = time.Now()
	if lines := strings.Count(f.output("list"), "\n"); lines != 3+11*services {
		t.Errorf("list prints %d lines", lines)
	}
	mustTake(t, "list", time.Since(begun), scaleList)
	took := eventually(t, 6*patience, func() error {
		if used := d.memory(); used > scaleMemory && !raceEnabled {
			return fmt.Errorf("the daemon takes %d MiB", used>>20)
		}
		return nil
	})
	t.Logf("the daemon takes %d MiB, %v later", d.memory()>>20, took.Round(time.Millisecond))
}

// mustTake fails if something took longer than promised; in the short form, many times as long.
func mustTake(t *testing.T, what string, took, most time.Duration) {
	t.Helper()
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if !long() {
		most *= 50 * slowness()
	}
	if took > most {
		t.Errorf("%s took %v, more than %v", what, took, most)
	}
}

// scaleConfig are services of ten real servers each, on a thousand machines behind a router.
func (f *farm) scaleConfig(services int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "interfaces: [eth0]\nsocket: %s\nstate_dir: %s\n", f.socket(), f.stateDir())
	b.WriteString("limits: {connections4: 16k, connections6: 16k, services: 16k, real_servers: 128k, plan_slots: 4M}\nservices:\n")
	for i := range services {
		fmt.Fprintf(&b, "  - {virtual: %q, scheduler: wlc, reals: [%s]}\n", scaleService(i), strings.Join(scaleReals(i), ", "))
	}
	return b.String()
}

func scaleService(i int) string { return fmt.Sprintf("198.18.%d.%d:80", i>>8, i&0xff) }

func scaleReals(i int) (reals []string) {
	for j := range 10 {
		n := (10*i + j) % 1000
		reals = append(reals, fmt.Sprintf("10.128.%d.%d", n/250, n%250+1))
	}
	return reals
}

// timeChange is how long after the request a weight is in the tables, as packets see it.
func (f *farm) timeChange(i int) time.Duration {
	f.t.Helper()
	client := api.Dial(f.socket())
	defer client.Close()
	reals := get(ebpf.LoadPinnedMap(filepath.Join(f.stateDir(), "map_reals"), nil))(f.t)
	defer reals.Close()
	rows := get(rowsOf(reals, scaleReals(i)[3]))(f.t)
	begun := time.Now()
	must(f.t, client.Edit(f.t.Context(), director.Edit{Op: director.EditReal, Service: scaleService(i), Real: scaleReals(i)[3],
		Set: map[string]json.RawMessage{"weight": json.RawMessage("7")}}))
	took := time.Since(begun) // it is answered when the plan is in force
	for _, id := range rows {
		var row bpf.Real
		if must(f.t, reals.Lookup(id, &row)); row.Weight == 7 {
			return took
		}
	}
	f.t.Errorf("no row of %s has the weight", scaleReals(i)[3])
	return took
}

// rowsOf are the numbers of the rows of a real server's address.
func rowsOf(reals *ebpf.Map, addr string) (rows []uint32, err error) {
	want := netip.MustParseAddr(addr).As16()
	for id := range reals.MaxEntries() {
		var row bpf.Real
		if err := reals.Lookup(id, &row); err != nil {
			return nil, err
		}
		if bytes.Equal(row.Addr[:], want[:]) {
			rows = append(rows, id)
		}
	}
	return rows, nil
}

// memory is what the daemon takes, but for what is mapped: the tables are the kernel's.
func (d *daemon) memory() uint64 {
	d.f.t.Helper()
	text := string(get(os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid)))(d.f.t))
	_, rest, _ := strings.Cut(text, "RssAnon:")
	n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
	must(d.f.t, err)
	return n << 10
}
