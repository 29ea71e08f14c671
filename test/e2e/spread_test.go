// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"
)

func TestSpread(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(join(
		both("web", "tcp", webPort, "wrr", 1, 2, 3),
		both("alt", "tcp", altPort, "rr", 1, 2, 3),
		both("dns", "udp", dnsPort, "wrr", 1, 2, 3),
		both("dns-alt", "udp", onePort, "rr", 1, 2, 3),
	)...)
	f.start()
	// The first pass of wrr serves everybody once, as the kernel's does; then the weights count.
	wrr := []map[string]int{{"rs1": 3, "rs2": 5, "rs3": 7}, {"rs1": 2, "rs2": 4, "rs3": 6}}
	rr := []map[string]int{{"rs1": 3, "rs2": 3, "rs3": 3}, {"rs1": 4, "rs2": 4, "rs3": 4}}
	for _, s := range []struct {
		name string
		ask  asker
		port uint16
		want []map[string]int
	}{
		{"wrr of tcp", f.fetch, webPort, wrr},
		{"rr of tcp", f.fetch, altPort, rr},
		{"wrr of udp", f.query, dnsPort, wrr},
		{"rr of udp", f.query, onePort, rr},
	} {
		for _, family := range families {
			t.Run(s.name+" "+family.name, func(t *testing.T) {
				for _, want := range s.want {
					f.on(t).mustSpread(s.ask, family.vip, s.port, want)
				}
			})
		}
	}
}

// Datagrams of one socket are one connection, unless the service has one_packet.
func TestOnePacket(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("wrr", 1, 2, 3)...)
	f.start()
	const datagrams = 15
	for _, family := range families {
		for _, s := range []struct {
			service string
			port    uint16
			want    map[string]int
			conns   int
		}{
			{ofFamily("one", family.vip), onePort, map[string]int{"rs1": 3, "rs2": 5, "rs3": 7}, 0},
			{ofFamily("dns", family.vip), dnsPort, map[string]int{"rs3": datagrams}, 1},
		} {
			t.Run(s.service, func(t *testing.T) {
				f := f.on(t)
				conn := get(f.dialUDP(family.vip, s.port))(t)
				defer conn.Close()
				got := map[string]int{}
				for i := range datagrams {
					got[get(ask(conn, fmt.Sprintf("question %d", i), patience))(t)]++
				}
				if fmt.Sprint(got) != fmt.Sprint(s.want) {
					t.Errorf("datagrams of one socket were spread %v, want %v", got, s.want)
				}
				if conns := f.connections("service", s.service); len(conns) != s.conns {
					t.Errorf("%d connections are listed, want %d: %v", len(conns), s.conns, conns)
				}
			})
		}
	}
}
