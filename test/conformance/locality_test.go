// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/packet"
)

// locality is a service by lblc or lblcr with real servers 0, 1, 2 …, the last
// of which is the first in the list and so the one that wlc prefers.
type locality struct {
	*node
	service director.Service
	clients int
}

func withLocality(t *testing.T, name string, test func(*locality)) {
	t.Helper()
	plane := loadPlane(t)
	synctest.Test(t, func(t *testing.T) {
		l := &locality{node: startNode(t, plane)}
		l.passes = true
		l.service = director.Service{
			Key:       director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80},
			Scheduler: name, Answer: director.AnswerPass,
		}
		test(l)
	})
}

func number(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}) }

// weigh is the service with those real servers; -1 is none.
func (l *locality) weigh(weights ...int) {
	l.t.Helper()
	l.service.Reals = nil
	addrs := make([]netip.Addr, len(weights))
	for i, w := range weights {
		addrs[i] = number(i)
		if w >= 0 {
			l.service.Reals = append(l.service.Reals, director.RealServer{
				Key: director.RealKey{Addr: number(i), Port: 80}, Method: director.DirectRouting, Weight: uint32(w),
			})
		}
	}
	if err := l.set(l.service); err != nil {
		l.t.Fatal(err)
	}
	l.reach(addrs...)
}

// come is where a new client goes that stays, or resets once it is connected.
func (l *locality) come(stays bool) int {
	l.t.Helper()
	l.settle()
	l.clients++
	client := netip.AddrFrom4([4]byte{172, 16, byte(l.clients >> 8), byte(l.clients)})
	f := flow{netip.AddrPortFrom(client, 1024), netip.AddrPortFrom(l.service.Key.Addr, 80)}
	got, err := l.send(f.frame(director.TCP, packet.SYN))
	if err == nil && got != refused && !stays {
		err = l.abort(f)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return got
}

func (l *locality) expect(what string, stays bool, want int) {
	l.t.Helper()
	if got := l.come(stays); got != want {
		l.t.Errorf("%s: real server %d, want %d", what, got, want)
	}
}

// freeConns ends every connection, so that rows of removed real servers become free.
func (l *locality) freeConns() {
	l.t.Helper()
	if _, err := l.director.DeleteConnections(l.ctx, func(*director.Conn) bool { return true }); err != nil {
		l.t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
}

// TestLocalitySurvives: another director goes on with what is remembered.
func TestLocalitySurvives(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		withLocality(t, name, func(l *locality) {
			l.weigh(50, 50)
			l.expect(name+": the first", true, 1)
			l.restart()
			l.weigh(50, 50)
			l.expect(name+": after a restart", true, 1) // wlc would take 0, which has no connection
			l.service.Scheduler = "wlc"
			l.weigh(50, 50)
			l.service.Scheduler = name
			l.weigh(50, 50)
			l.expect(name+": another scheduler forgets", true, 0)
		})
	}
}

// TestLocalityTenants: what is remembered is a real server, not its row.
func TestLocalityTenants(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		withLocality(t, name, func(l *locality) {
			l.weigh(50, 50)
			l.expect(name+": the first", false, 1)
			l.weigh(50)
			l.freeConns()
			l.weigh(50, -1, 50) // 2 gets 1's row
			if l.plane.Tables.Reals[1].Addr != number(2).As16() {
				l.t.Fatal("the row is not used again")
			}
			l.weigh(50, -1, 1)
			l.expect(name+": wlc chooses", true, 2)
			l.expect(name+": and that is remembered", true, 2)
			l.weigh(50, -1, -1)
			l.freeConns()
			l.weigh(1, -1, -1, 50) // 3 gets the row
			l.weigh(1, -1, -1, 0)
			l.expect(name+": the only one", true, 0)
			l.weigh(1, -1, -1, 50)
			l.expect(name+": no memory of 3", true, 0)
		})
	}
}

// TestLocalityShrinks: a destination of several servers loses the most loaded one
// when its set has not changed for long.
func TestLocalityShrinks(t *testing.T) {
	withLocality(t, "lblcr", func(l *locality) {
		l.service.Expiration = time.Hour // however slow this machine is
		l.weigh(2, 2)
		for range 3 {
			l.expect("alone", true, 1)
		}
		l.expect("the second joins", true, 0)
		l.freeConns()
		l.expect("the least loaded of both, the latest first", true, 0)
		l.expect("the least loaded of both", true, 1)
		l.expect("as loaded", true, 0)
		l.service.Expiration = time.Second
		l.weigh(2, 2)
		sleepReally(1100 * time.Millisecond)
		l.expect("over: after this choice, the most loaded leaves", true, 1)
		l.expect("0 has left", true, 1)
	})
}

// TestLocalityIsBounded: a set holds so many servers and no more, and goes on working.
func TestLocalityIsBounded(t *testing.T) {
	withLocality(t, "lblcr", func(l *locality) {
		const reals = 20
		weights := make([]int, reals)
		for i := range weights {
			weights[i] = 4
		}
		l.weigh(weights...)
		seen := map[int]int{}
		for range reals * 6 {
			seen[l.come(true)]++
		}
		if len(seen) != reals {
			l.t.Errorf("%d of %d real servers were used: %v", len(seen), reals, seen)
		}
		err := l.plane.Destinations(func(_ *bpf.DestinationKey, d *bpf.Destination) bool {
			if d.Reals != uint32(len(d.Real)) {
				l.t.Errorf("%d real servers are remembered, want %d", d.Reals, len(d.Real))
			}
			return true
		})
		if err != nil {
			l.t.Fatal(err)
		}
	})
}

// TestLocalityOfMany: who is below half of its weight is found among many servers
// that are not.
func TestLocalityOfMany(t *testing.T) {
	withLocality(t, "lblc", func(l *locality) {
		weights := make([]int, 100)
		for i := range weights {
			weights[i] = 1 // with a connection, more than half
		}
		l.weigh(weights...)
		for range 2*len(weights) + 10 { // a server is left when it has more than its weight
			l.come(true)
		}
		for _, r := range l.snapshot().Services[0].Reals {
			if r.Active == 0 {
				l.t.Errorf("real server %s has no connection, though others are above their weights", r.Key)
			}
		}
		weights[40] = 9
		l.weigh(weights...)
		last := l.come(true)
		l.expect(fmt.Sprintf("after %d, the one with room", last), true, 40)
	})
}

// TestLocalityLoad: in a set, an active connection weighs more than many that end.
func TestLocalityLoad(t *testing.T) {
	withLocality(t, "lblcr", func(l *locality) {
		l.weigh(2, 2)
		for range 3 {
			l.expect("alone", true, 1)
		}
		l.expect("the second joins", true, 0)
		l.freeConns()
		l.expect("none has a connection", true, 0)
		for range 3 {
			l.expect("0 has an active one", false, 1)
		}
	})
}

// TestLocalityTwins: a server that wlc chooses again is not remembered twice.
func TestLocalityTwins(t *testing.T) {
	withLocality(t, "lblcr", func(l *locality) {
		l.weigh(1, 9)
		l.service.Reals[1].Upper = 1
		if err := l.set(l.service); err != nil {
			l.t.Fatal(err)
		}
		l.expect("the heavy one", true, 1)
		for range 5 { // 1 is full, and yet below half of its weight: the others' destinations leave them for it
			l.expect("the only one that can", true, 0)
		}
		err := l.plane.Destinations(func(_ *bpf.DestinationKey, d *bpf.Destination) bool {
			if d.Reals != 2 {
				l.t.Errorf("%d real servers are remembered, want 2", d.Reals)
			}
			return true
		})
		if err != nil {
			l.t.Fatal(err)
		}
	})
}
