// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"xdplvs/bpf"
)

// fates are the texts of verdict that a connection may have by a fate.
var fates = map[Fate]string{FateKeep: "goes on", FateReschedule: "rescheduled", FateReset: "reset", FateDrop: "dropped"}

// TestKilledInRetire: a process dies after any of the stores of a removal or of a
// return. The next one finds something coherent: a real server that is removed has
// left its connections to their fate, and with one that is back those go on that
// waited for it or were never left.
func TestKilledInRetire(t *testing.T) {
	for fate := range fates {
		for stores := range 8 {
			for _, wanted := range []bool{true, false} {
				t.Run(fmt.Sprint(fate, stores, wanted), func(t *testing.T) {
					w, want := killedInRetire(t, fate, stores)
					if !wanted {
						want.Services[0].Reals = nil
					}
					w.restart()
					w.mustWant(want)
					left := stores >= 3 && (fate == FateReset || fate == FateReschedule)
					expected := "goes on"
					if left || !wanted {
						expected = fates[fate]
					}
					for c := range w.everyConn() {
						expect(t, "its connection", w.verdict(c), expected)
					}
					w.sweepTwice()
					w.expire()
					w.tick()
					w.tick()
				})
			}
		}
	}
}

// killedInRetire has a real server with a connection in the middle of being
// removed, stores 1 to 4, or added again, 5 to 7.
func killedInRetire(t *testing.T, fate Fate, stores int) (*world, Desired) {
	w := newWorld(t, small)
	want := one("rr", real4(1, 1))
	want.Services[0].Conns.OnRemove = fate
	w.mustWant(want)
	w.resolve(real4(1, 1).Key.Addr)
	w.connect(key4(1), client(1))
	r := w.d.services[key4(1)].reals[0]
	before := r.row.Generation
	steps := []func(){
		func() { r.setFlag(bpf.RealUsable, false) },
		func() { r.row.Stale = staleActions[fate] },
		func() { w.d.abandon(r, fate) },
		func() { r.setFlag(bpf.RealRemoved, true) },
		func() { r.setFlag(bpf.RealRemoved, false) },
		r.comeHome,
		func() { r.setFlag(bpf.RealUsable, true) },
	}
	for _, step := range steps[:stores] {
		step()
	}
	if fate == FateKeep || stores < 3 {
		expect(t, "generation", r.row.Generation, before)
	}
	return w, want
}

// TestLostTwice: a process that dies between marking a real server as lost and
// leaving its connections to their fate has a successor that does it.
func TestLostTwice(t *testing.T) {
	w := newWorld(t, small)
	want := one("rr", real4(1, 1))
	want.Services[0].Conns.OnDown = FateReset
	w.mustWant(want)
	a := real4(1, 1).Key.Addr
	w.resolve(a)
	w.connect(key4(1), client(1))
	w.d.services[key4(1)].reals[0].setFlag(bpf.RealNextHop, false)
	w.restart()
	w.mustWant(want)
	expect(t, "while nothing is known", w.verdicts(), "1 no next hop: 1\n")
	w.hops[a] = NextHop{Reason: "no answer to ARP"}
	w.setHops(w.hops)
	expect(t, "when it is lost", w.verdicts(), "1 reset: 1\n")
	generation := w.d.services[key4(1)].reals[0].row.Generation
	w.hops[a] = NextHop{Reason: "no route"}
	w.setHops(w.hops)
	expect(t, "generation, lost for another reason", w.d.services[key4(1)].reals[0].row.Generation, generation)
}

// TestGenerationsWrap: the mark of those that wait is never part of the number.
func TestGenerationsWrap(t *testing.T) {
	expect(t, "next", nextGeneration(7), 8)
	expect(t, "after the last", nextGeneration(away-1), 0)
}

// TestStrandedReset: what is to be reset stays a minute, then it goes; a connection
// of the same real server that is none of those stays.
func TestStrandedReset(t *testing.T) {
	w := newWorld(t, bpf.Sizes{Conns4: 1 << 14, Conns6: 8, Overflow: 1, Services: 2, Reals: 2, Plans: 256, CPUs: 1}) // a pass takes its whole time
	want := one("rr", real4(1, 1))
	want.Services[0].Conns.OnRemove = FateReset
	w.mustWant(want)
	w.resolve(real4(1, 1).Key.Addr)
	w.connect(key4(1), client(1))
	empty := one("rr")
	empty.Services[0].Conns = want.Services[0].Conns
	w.mustWant(empty)
	w.mustWant(want)
	w.connect(key4(1), client(2))
	s := newSweeper(w.d)
	for i := range resetSweeps + 1 {
		w.sweepOnce(s)
		expect(t, fmt.Sprint("after sweep ", i), w.verdicts(), "1 goes on: 1\n1 reset: 1\n")
	}
	w.sweepOnce(s)
	expect(t, "after a minute", w.verdicts(), "1 goes on: 1\n")
	expect(t, "real servers that are looked at", len(w.d.stranded)+len(s.stale.due), 0)
}

// TestStrandedOutside: those in the overflow map go, too, and an error is told.
func TestStrandedOutside(t *testing.T) {
	w := newWorld(t, small)
	want := one("rr", real4(1, 1))
	want.Services[0].Conns.OnRemove = FateReschedule
	w.mustWant(want)
	w.resolve(real4(1, 1).Key.Addr)
	for i := range 3 {
		o := overflowed{key: bpf.ConnKey{Ports: uint32(i)}}
		o.conn = bpf.Conn{Tag: 6<<8 | 2 | 8, Word: stateEstablished, Generation: 1 + uint32(i)%2, LastUse: w.clock.now.Load()}
		w.plane.overflow = append(w.plane.overflow, o)
	}
	w.d.abandon(w.d.services[key4(1)].reals[0], FateReschedule) // now 2
	w.plane.fault = func(what string) error {
		if what == "free overflow" {
			return errors.New("map is gone")
		}
		return nil
	}
	s := newSweeper(w.d)
	var err error
	for range 2 * sweepPeriod / sweepTick {
		err = errors.Join(err, s.slice())
	}
	expectError(t, err, nil, "map is gone")
	w.plane.fault = nil
	w.d.strand(w.d.services[key4(1)].reals[0])
	w.sweepTwice()
	expect(t, "left outside", len(w.plane.overflow), 1)
	expect(t, "its generation", w.plane.overflow[0].conn.Generation, 2)
}

// TestThresholdsAreIPVSs: with so many admitted, a real server is usable again when
// so many are left (recorded from Linux).
func TestThresholdsAreIPVSs(t *testing.T) {
	for upper, clears := range map[uint32]int{1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 4, 7: 5, 10: 7, 12: 8} {
		w := newWorld(t, small)
		rs := real4(1, 1)
		rs.Upper = upper
		w.mustWant(one("rr", rs))
		w.resolve(rs.Key.Addr)
		for i := range int(upper) {
			w.connect(key4(1), client(i))
		}
		r := w.d.services[key4(1)].reals[0]
		expect(t, fmt.Sprint(upper, " connections: overloaded"), r.overloaded(), true)
		left := int(upper)
		for i := range w.tables.Conns4 {
			if c := &w.tables.Conns4[i].C; c.Tag&3 == 2 && r.overloaded() {
				w.tables.Free4(i, c)
				left--
			}
		}
		expect(t, fmt.Sprint("connections of ", upper, " left when it is usable"), left, clears)
	}
}

// TestThresholdsFollowed: the plan of each scheduler leaves an overloaded real server
// out a moment later, and takes it in again.
func TestThresholdsFollowed(t *testing.T) {
	for _, name := range []string{"rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, medium)
			first, second := real4(1, 9), real4(2, 8)
			first.Upper = 2
			w.mustWant(one(name, first, second))
			w.resolve(first.Key.Addr, second.Key.Addr)
			served := map[byte]int{}
			for i := range 6 {
				served[w.tables.Reals[w.connect(key4(1), client(i))].Addr[15]]++
				w.follow()
			}
			if served[1] > 2 || served[1]+served[2] != 6 {
				t.Errorf("served by %v", served)
			}
			w.expire()
			w.follow()
			w.mustHold()
			for i := range 4 {
				served[w.tables.Reals[w.connect(key4(1), client(10+i))].Addr[15]] += 100
			}
			if served[1] < 100 {
				t.Errorf("then served by %v", served)
			}
		})
	}
}

func TestSetTimeouts(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(Desired{Timeouts: timeouts("tcp", time.Hour, "udp", time.Minute)})
	d := w.run(t)
	got, err := d.SetTimeouts(t.Context(), timeouts("tcp_close", 3*time.Second, "udp", 7*time.Second))
	must(err)
	expect(t, "answer", got, timeouts("tcp", time.Hour, "tcp_close", 3*time.Second, "udp", 7*time.Second).withDefaults())
	expect(t, "CLOSE in the row", w.tables.Settings.Timeout[6], 750)
	expect(t, "ESTABLISHED in the row", w.tables.Settings.Timeout[1], 3600*250)
	_, err = d.SetTimeouts(t.Context(), timeouts("udp", MaxTimeout+1))
	expectError(t, err, nil, "timeout udp", "is not between 0 and 596h31m23.647s")
	now, err := d.Timeouts(t.Context())
	must(err)
	expect(t, "in force", now, got)
	must(d.Set(t.Context(), Desired{Timeouts: timeouts("tcp", time.Hour, "udp", time.Minute)}))
	now, err = d.Timeouts(t.Context())
	must(err)
	expect(t, "after a reload", now, timeouts("tcp", time.Hour, "udp", time.Minute).withDefaults())
}

// TestTimeoutsTable: names are told once, numbers have one state, and every default is positive.
func TestTimeoutsTable(t *testing.T) {
	names, numbers := map[string]bool{}, map[uint8]bool{}
	for _, s := range states {
		if names[s.setting] || numbers[s.number] || s.timeout < MinTimeout || s.name == "" {
			t.Errorf("state %+v", s)
		}
		names[s.setting], numbers[s.number] = true, true
	}
	expect(t, "timeouts", len(names), 26)
	first := TimeoutNames()[:3]
	if !slices.Equal(first, []string{"tcp", "tcpfin", "udp"}) {
		t.Errorf("ipvsadm's are not the first: %v", first)
	}
	var none Timeouts
	expect(t, "an unknown one", none.Get("tcp_fin"), 0)
	expectError(t, none.Set("tcp_fin", time.Second), nil, `unknown timeout "tcp_fin" (known: tcp, tcpfin, udp, tcp_none,`)
}

func TestTimeoutText(t *testing.T) {
	for text, want := range map[string]time.Duration{"900": 15 * time.Minute, "1": time.Second, "1h30m": 90 * time.Minute, "1.5s": 1500 * time.Millisecond, "2147483": 2147483 * time.Second} {
		got, err := ParseTimeout(text)
		if got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "999ms", "2147484", "600h", "-5", "15 m", "soon", "18446744073709551616"} {
		_, err := ParseTimeout(text)
		expectError(t, err, nil, fmt.Sprintf("expected a duration such as 15m or 1h30m, or seconds, from 1s to 596h31m23.647s, found %q", text))
	}
	for d, want := range map[time.Duration]string{15 * time.Minute: "15m", 61 * time.Second: "1m1s", time.Hour: "1h", 10 * time.Second: "10s",
		100 * time.Minute: "1h40m", time.Hour + time.Second: "1h0m1s", 10 * time.Hour: "10h", 1500 * time.Millisecond: "1.5s"} {
		expect(t, "text", FormatTimeout(d), want)
	}
	for _, s := range states {
		back, err := ParseTimeout(FormatTimeout(s.timeout))
		if back != s.timeout || err != nil {
			t.Errorf("%s: %v, %v", s.setting, back, err)
		}
	}
}

// TestDeleteConnections: those that match go, wherever they lie, with their counts.
func TestDeleteConnections(t *testing.T) {
	w := newWorld(t, small)
	twoFamilies(w)
	web, dns := ServiceKey{Protocol: TCP, Addr: addr("192.0.2.1"), Port: 80}, ServiceKey{Protocol: UDP, Addr: addr("2001:db8::1"), Port: 53}
	for i := range 4 {
		w.connect(web, client(i))
		w.connect(dns, client6(i))
	}
	o := overflowed{key: bpf.ConnKey{Saddr: addr("172.16.0.9").As16(), Daddr: addr("192.0.2.1").As16()}}
	o.conn = bpf.Conn{Tag: 6<<8 | 2 | 8, Word: stateEstablished, Generation: 1, LastUse: w.clock.now.Load()}
	w.plane.overflow = []overflowed{o, o}
	w.plane.overflow[1].key.Ports = 1
	d := w.run(t)
	del := func(match func(*Conn) bool) uint64 {
		t.Helper()
		n, err := d.DeleteConnections(t.Context(), match)
		must(err)
		return n
	}
	expect(t, "none", del(func(*Conn) bool { return false }), 0)
	expect(t, "one", del(func(c *Conn) bool { return c.Client == client(2) }), 1)
	expect(t, "of udp", del(func(c *Conn) bool { return c.Protocol == UDP }), 4)
	expect(t, "of udp again", del(func(c *Conn) bool { return c.Protocol == UDP }), 0)
	expect(t, "the rest", del(func(*Conn) bool { return true }), 5)
	expect(t, "those outside", len(w.plane.overflow), 0)
	expect(t, "counts", w.tables.Counts[0].Conns+w.tables.Counts[1].Conns, 0)
}

// TestDeleteWhileItMoves: a packet that changes a connection's state meanwhile does not
// save it; a connection that has come in its place is not touched.
func TestDeleteWhileItMoves(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	w.resolve(real4(1, 1).Key.Addr)
	w.connect(key4(1), client(1))
	w.connect(key4(1), client(2))
	d := w.run(t)
	n, err := d.DeleteConnections(t.Context(), func(c *Conn) bool {
		slot := &w.tables.Conns4[0].C
		if c.Client == client(2) {
			slot = &w.tables.Conns4[1].C
			slot.Tag += 1 << 16 // freed, and stored anew
		}
		slot.Word |= 1 << 9
		return true
	})
	must(err)
	expect(t, "deleted", n, 1)
	expect(t, "the first", w.tables.Conns4[0].C.Tag&3, 0)
	expect(t, "the other", w.tables.Conns4[1].C.Tag&3, 2)
}

func TestDeleteErrors(t *testing.T) {
	w := newWorld(t, small)
	twoFamilies(w)
	w.plane.overflow = []overflowed{{conn: bpf.Conn{Tag: 6<<8 | 2 | 8, Word: stateEstablished, Generation: 1, LastUse: w.clock.now.Load()}}}
	d := w.run(t)
	all := func(*Conn) bool { return true }
	w.plane.mu.Lock()
	w.plane.fault = func(what string) error { return fmt.Errorf("%s failed", what) }
	w.plane.mu.Unlock()
	_, err := d.DeleteConnections(t.Context(), all)
	expectError(t, err, nil, "overflow failed")
	w.clock.fault.Store(true)
	_, err = d.DeleteConnections(t.Context(), all)
	expectError(t, err, nil, "no clock")
}

// TestWaitingAreListed: connections that wait for a removed real server are its still.
func TestWaitingAreListed(t *testing.T) {
	w := newWorld(t, small)
	want := one("rr", real4(1, 1))
	want.Services[0].Conns = IPVSConnPolicy(false)
	w.mustWant(want)
	w.resolve(real4(1, 1).Key.Addr)
	w.connect(key4(1), client(1))
	want.Services[0].Reals = nil
	w.mustWant(want)
	expectLines(t, w.listed(t), "tcp 172.16.0.1:20001 -> 192.0.0.1:80 -> 10.0.0.1:80 ESTABLISHED 15m0s web")
}

func TestReuseOfMode(t *testing.T) {
	for mode, want := range []Reuse{ReuseNever, ReuseClosed, ReuseClosing, ReuseClosing} {
		expect(t, fmt.Sprint("mode ", mode), ReuseOfMode(uint32(mode)), want)
	}
}
