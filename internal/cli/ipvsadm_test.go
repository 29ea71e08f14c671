// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"xdplvs/director"
)

// wantIPVSADM compares a command's output with what ipvsadm printed.
func (w *world) wantIPVSADM(t *testing.T, recording string, args ...string) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join("testdata", "ipvsadm-1.31", recording+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	code, got, stderr := w.run(t.Context(), args...)
	if code != 0 || stderr != "" {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if got != string(want) {
		t.Errorf("%v differs from %s\ngot:\n%s\nwant:\n%s", args, recording, got, want)
	}
}

// recordedFarm is the farm of list.txt, in the order that --nosort showed.
func recordedFarm() *director.Snapshot {
	const tcp, udp, sctp = director.TCP, director.UDP, director.SCTP
	ops := func(s director.ServiceState) director.ServiceState { s.OnePacket = true; return s }
	counted := func(s director.ServiceState, c director.Counters, r director.Rates) director.ServiceState {
		s.Counters, s.Rates, s.Reals[0].Counters, s.Reals[0].Rates = c, r, c, r
		return s
	}
	return &director.Snapshot{TableSize: 4096, Services: []director.ServiceState{
		service(tcp, "10.99.0.2:80", "wrr",
			real("10.2.0.10:80", director.Tunnel, 1, 0, 0),
			real("10.2.0.2:8080", director.NAT, 0, 0, 0),
			real("10.2.0.1:80", director.DirectRouting, 10, 0, 0),
			real("10.2.0.3:80", director.DirectRouting, 3, 0, 0)),
		service(sctp, "10.99.0.1:36412", "rr", real("10.2.0.1:36412", director.NAT, 1, 0, 0)),
		ops(service(udp, "10.99.0.1:53", "rr", real("10.2.0.1:53", director.NAT, 1, 0, 0))),
		counted(service(udp, "10.99.0.1:5353", "rr", real("10.2.0.1:5353", director.NAT, 1, 0, 3)),
			director.Counters{Conns: 3, InPkts: 3, InBytes: 90}, director.Rates{InBPS: 1}),
		counted(service(tcp, "[2001:db8::1]:80", "wlc",
			real("[fd00:1111:2222:3333:4444:5555:6666:7777]:80", director.Tunnel, 65535, 1, 0),
			real("[fd00::1]:80", director.DirectRouting, 1, 0, 0)),
			director.Counters{Conns: 1, InPkts: 1, OutPkts: 1, InBytes: 80, OutBytes: 128}, director.Rates{InBPS: 1, OutBPS: 1}),
		ops(service(udp, "[2001:db8::1]:53", "rr", real("[fd00::1]:53", director.NAT, 0, 0, 0))),
		service(tcp, "10.99.0.1:443", "rr"),
	}}
}

// numbersFarm is what the made-up kernel of numbers-*.txt said.
func numbersFarm() *director.Snapshot {
	s := &director.Snapshot{TableSize: 4096}
	for i := range 10 {
		first := real("100.255.255.254:1", director.NAT, 1, 1, 2)
		first.Counters, first.Rates = madeUp(i + 1)
		second := real("192.168.100.200:65535", director.DirectRouting, 65535, 4294967295, 1234567890)
		second.Counters, second.Rates = madeUp(i + 2)
		one := service(director.TCP, fmt.Sprintf("10.0.0.%d:80", i+1), "wrr", first, second)
		one.Counters, one.Rates = madeUp(i)
		s.Services = append(s.Services, one)
	}
	return s
}

func madeUp(i int) (director.Counters, director.Rates) {
	numbers := []uint64{0, 99999999, 100000000, 4294967295}
	big := []uint64{0, 1e8 - 1, 1e8, 1e11 - 1, 1e11, 1e14 - 1, 1e14, 1e17 - 1, 1e17, 18446744073709551615}
	n := func(k int) uint64 { return numbers[(i+k)%4] }
	return director.Counters{Conns: n(0), InPkts: n(1), OutPkts: n(2), InBytes: big[i%10], OutBytes: big[(i+5)%10]},
		director.Rates{CPS: n(0), InPPS: n(1), OutPPS: n(2), InBPS: n(3), OutBPS: n(0)}
}

// recordedConns are those of connections.txt.
func recordedConns() []director.Conn {
	const tcp, udp, sctp = director.TCP, director.UDP, director.SCTP
	s := func(seconds int) time.Duration { return time.Duration(seconds) * time.Second }
	return []director.Conn{
		conn(udp, s(296), "UDP", "10.99.0.1:59041", "10.99.0.1:5353", "10.2.0.1:5353"),
		conn(tcp, s(57), "SYN_RECV", "10.99.0.1:50052", "10.99.0.1:443", "10.2.0.1:443"),
		conn(tcp, s(900), "ESTABLISHED", "203.0.113.255:65535", "192.168.100.200:65535", "192.168.100.201:65535"),
		conn(tcp, s(0), "FIN_WAIT", "203.0.113.1:1", "10.99.0.1:80", "10.2.0.1:80"),
		conn(tcp, s(5999), "TIME_WAIT", "203.0.113.2:1", "10.99.0.1:80", "10.2.0.1:80"),
		conn(tcp, s(6000), "ESTABLISHED", "203.0.113.2:2", "10.99.0.1:80", "10.2.0.1:80"),
		conn(tcp, s(604800), "ESTABLISHED", "203.0.113.2:3", "10.99.0.1:80", "10.2.0.1:80"),
		conn(sctp, s(7), "ESTABLISHED", "10.99.0.1:54704", "192.0.2.1:80", "127.0.0.1:80"),
		conn(tcp, s(57), "SYN_RECV", "[2001:db8::1]:50970", "[2001:db8::1]:80", "[fd00:1111:2222:3333:4444:5555:6666:7777]:80"),
		conn(udp, s(299), "UDP", "[2001:db8::1]:50970", "[2001:db8::1]:53", "[fd00::1]:53"),
	}
}

// TestIPVSADM: the same state gives the same bytes as ipvsadm 1.31.
func TestIPVSADM(t *testing.T) {
	farm := newWorld(t, &fakeBackend{snapshot: recordedFarm(), conns: recordedConns()})
	numbers := newWorld(t, &fakeBackend{snapshot: numbersFarm()})
	empty := newWorld(t, &fakeBackend{snapshot: &director.Snapshot{TableSize: 4096}})
	for recording, test := range map[string]struct {
		world *world
		args  []string
	}{
		"list":                {farm, []string{"list"}},
		"list-nosort":         {farm, []string{"list", "--nosort", "-n"}},
		"stats":               {farm, []string{"stats"}},
		"rate":                {farm, []string{"rate", "-n"}},
		"connections":         {farm, []string{"connections", "-n"}},
		"numbers-list":        {numbers, []string{"list"}},
		"numbers-stats":       {numbers, []string{"stats"}},
		"numbers-stats-exact": {numbers, []string{"stats", "--exact"}},
		"numbers-rate":        {numbers, []string{"rate"}},
		"numbers-rate-exact":  {numbers, []string{"rate", "--exact"}},
		"empty-list":          {empty, []string{"list"}},
		"empty-stats":         {empty, []string{"stats"}},
		"empty-rate":          {empty, []string{"rate"}},
		"empty-connections":   {empty, []string{"connections"}},
	} {
		t.Run(recording, func(t *testing.T) { test.world.wantIPVSADM(t, recording, test.args...) })
	}
}
