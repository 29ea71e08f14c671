// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
)

// A restart with other limits moves everything to tables of the new sizes: connections keep their servers,
// templates and counters stay, and no packet of a load is lost.
func TestRestartWithOtherLimits(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	sticky := both("alt", "tcp", altPort, "rr", 1, 1, 1)
	for i := range sticky {
		sticky[i].keys = "persistence: 5m"
	}
	services := join(standard("rr", 1, 1, 1), sticky)
	config := f.config("eth0", services...)
	f.writeConfig(config)
	d := f.start()
	held := f.hold("rs1", "rs2", "rs3")
	var clients []string
	for _, family := range families {
		clients = append(clients, get(f.fetch(family.vip, altPort))(t))
	}
	load := f.load(4, f.fresh()...)
	load.await(t, 100)
	before := netstat(t, f.client, "TcpExt", "TCPSynRetrans")
	const limits = "limits: {connections4: 16k, connections6: 16k, services: 64, real_servers: 256, plan_slots: 64k}"
	for i, other := range []string{
		"limits: {connections4: 64k, connections6: 16k, services: 64, real_servers: 256, plan_slots: 64k}",
		"limits: {connections4: 32k, connections6: 64k, services: 1k, real_servers: 4k, plan_slots: 256k, mark_entries: 1k, prefixes: 4k, destinations: 1k}",
		limits,
	} {
		if i%2 == 0 {
			d.stop()
		} else {
			d.kill()
		}
		f.writeConfig(strings.Replace(config, limits, other, 1))
		d = f.start()
		load.mark()
		mustShare(t, other, load.await(t, 150), thirds)
		held.goOn()
		for j, family := range families {
			if name := get(f.fetch(family.vip, altPort))(t); name != clients[j] {
				t.Errorf("with %s a client of %s, which persistence has sent there, comes to %s", other, clients[j], name)
			}
		}
		if log := d.log.String(); !strings.Contains(log, "event=tables_moved") || strings.Contains(log, "event=tables_replaced") {
			t.Errorf("with %s the log is\n%s", other, d.log.tail())
		}
	}
	load.mustEnd(t)
	if n := netstat(t, f.client, "TcpExt", "TCPSynRetrans") - before; n > 0 {
		t.Errorf("%d SYNs were lost", n)
	}
	f.mustAgree(held)
	held.finish()
}

// What is in use and finds no room in smaller tables is said, and lost.
func TestRestartWithTooSmallLimits(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	config := f.config("eth0", standard("rr", 1, 1, 1)...)
	f.writeConfig(config)
	d := f.start()
	d.stop()
	f.writeConfig(strings.Replace(f.config("eth0", both("web", "tcp", webPort, "rr", 1, 1, 1)...), "services: 64", "services: 3", 1))
	d = f.start()
	if want := `msg="connections of the former run are lost" event=tables_replaced reason="pinned tables cannot be taken over: service `; !strings.Contains(d.log.String(), want) {
		t.Errorf("log has no %q:\n%s", want, d.log)
	}
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 1, "rs2": 1, "rs3": 1})
	}
}
