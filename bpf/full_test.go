// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// oneSet is a table of eight places, and two more connections in the overflow map.
var oneSet = Sizes{Conns4: 8, Conns6: 8, Overflow: 2, Services: 32, Reals: 64, Plans: 1024}

// A full table gives up what is expired, then what is half-open, the oldest
// first, and never an established connection.
var fullTests = []programTest{
	{name: "the oldest half-open connection goes", setup: onlyA, steps: append(halfOpen(8),
		step{before: idle(5, 50*time.Second), send: tcp(syn, from(9)), want: begins("a")},
		step{before: idle(2, 40*time.Second), send: tcp(syn, from(10)), want: begins("a")},
		step{send: tcp(syn, from(1)), want: known("a")},
	), conns: webConns("SYN_RECV 1: 3 4 6 7 8 9 10", "SYN_RECV 2: 1")},
	{name: "an established one never goes", setup: onlyA, steps: append(established(8),
		step{before: idle(5, 800*time.Second), send: tcp(syn, from(9)), want: begins("a")},
		step{send: tcp(syn, from(10)), want: begins("a")},
		step{send: tcp(syn, from(11)), want: untracked("a")},
		step{send: tcp(syn, from(11)), want: untracked("a")},
		step{send: tcp(ack, from(5)), want: known("a")},
		step{send: tcp(ack, from(10)), want: known("a")},
		step{send: tcp(ack, from(9)), want: known("a")},
		step{send: tcp(fin, from(9)), want: known("a")},
	), check: func(t *testing.T, r *rig) {
		if n := r.service("web").Untracked; n != 2 {
			t.Errorf("untracked is %d", n)
		}
	}, conns: webConns("ESTABLISHED 2: 1 2 3 4 6 7 8", "ESTABLISHED 3: 5", "ESTABLISHED 2 overflow: 10", "FIN_WAIT 3 overflow: 9")},
	{name: "what is expired goes before what is half-open", setup: onlyA, steps: append(established(6),
		step{send: tcp(syn, from(7)), want: begins("a")},
		step{send: tcp(syn, from(8)), want: begins("a")},
		step{send: tcp(rst, from(4)), want: known("a")},
		step{before: func(r *rig) { idle(7, 50*time.Second)(r); idle(4, 11*time.Second)(r) }, send: tcp(syn, from(9)), want: begins("a")},
	), conns: webConns("ESTABLISHED 2: 1 2 3 5 6", "SYN_RECV 1: 7 8 9")},
	{name: "the longest idle of the expired goes", setup: onlyA, steps: append(established(8),
		step{before: func(r *rig) { idle(3, 902*time.Second)(r); idle(6, 901*time.Second)(r) }, send: tcp(syn, from(9)), want: begins("a")},
	), conns: webConns("ESTABLISHED 2: 1 2 4 5 6 7 8", "SYN_RECV 1: 9")},
	{name: "closing connections do not go", setup: onlyA, steps: append(established(8),
		step{send: tcp(fin, from(1)), want: known("a")},
		step{send: tcp(rst, from(2)), want: known("a")},
		step{send: tcp(syn, from(9)), want: begins("a")},
	), conns: webConns("ESTABLISHED 2: 3 4 5 6 7 8", "CLOSE 3: 2", "FIN_WAIT 3: 1", "SYN_RECV 1 overflow: 9")},
	{name: "what an ACK made goes until it is proven", setup: func(r *rig) { onlyA(r); sloppy(r) }, steps: append(established(7),
		step{send: tcp(ack, from(8)), want: begins("a")},
		step{send: tcp(ack, from(9)), want: begins("a")},
		step{send: tcp(ack, from(9)), want: known("a")},
		step{send: tcp(ack, from(10)), want: begins("a")},
	), conns: webConns("ESTABLISHED 2: 1 2 3 4 5 6 7 9", "ESTABLISHED 1 unproven overflow: 10")},
	{name: "a datagram goes that nothing followed", setup: func(r *rig) { onlyA(r); r.plan("dns", 0, "d") }, steps: append(established(7),
		step{send: udp(), want: begins("d")},
		step{send: tcp(syn, from(8)), want: begins("a")},
		step{send: tcp(ack, from(8)), want: known("a")},
		step{send: udp(), want: begins("d")}, // to the overflow map
		step{send: udp(), want: known("d")},
		step{before: idle(8, 901*time.Second), send: udp(from(1)), want: begins("d")},
		step{send: udp(from(1)), want: known("d")},
		step{send: udp(from(2)), want: begins("d")},
		step{send: udp(from(3)), want: untracked("d")},
	), conns: append(webConns("ESTABLISHED 2: 1 2 3 4 5 6 7"),
		"c:1>vip:53 UDP d 2", "c:2>vip:53 UDP d 1 overflow", "c:40000>vip:53 UDP d 2 overflow")},
	{name: "an overflow entry expires in its own packet", setup: onlyA, steps: append(established(8),
		step{send: tcp(syn, from(9)), want: begins("a")},
		step{before: idle(9, 61*time.Second), send: tcp(ack, from(9)), want: untouched("pass_no_connection")},
		step{send: tcp(syn, from(9)), want: begins("a")},
		step{before: idle(9, 61*time.Second), send: tcp(syn, from(9)), want: begins("a")},
	), conns: webConns("ESTABLISHED 2: 1 2 3 4 5 6 7 8", "SYN_RECV 1 overflow: 9")},
	{name: "an overflow entry stays when there is room again", setup: onlyA, steps: append(established(8),
		step{send: tcp(syn, from(9)), want: begins("a")},
		step{before: idle(2, 901*time.Second), send: tcp(ack, from(2)), want: untouched("pass_no_connection")},
		step{send: tcp(ack, from(9)), want: known("a")},
		step{send: tcp(syn, from(10)), want: begins("a")},
	), conns: webConns("ESTABLISHED 2: 1 3 4 5 6 7 8", "ESTABLISHED 2 overflow: 9", "SYN_RECV 1: 10")},
}

func TestFullTable(t *testing.T) {
	r := newRig(t, oneSet)
	for _, f := range families {
		for _, test := range fullTests {
			t.Run(f.name+"/"+test.name, func(t *testing.T) {
				r.reset(f)
				test.run(t, r)
				r.drain(t)
			})
		}
	}
}

func onlyA(r *rig) { r.plan("web", 0, "a") }

// webConns lists connections of the web service to real server a, as rig.conns
// does: each line is state, packets and flags, then the ports.
func webConns(lines ...string) []string {
	var list []string
	for _, line := range lines {
		state, ports, _ := strings.Cut(line, ": ")
		for port := range strings.FieldsSeq(ports) {
			name, rest, _ := strings.Cut(state, " ")
			list = append(list, fmt.Sprintf("c:%s>vip:80 %s a %s", port, name, rest))
		}
	}
	slices.Sort(list)
	return list
}

// halfOpen begins connections from ports 1 to n.
func halfOpen(n uint16) (steps []step) {
	for port := range n {
		steps = append(steps, step{send: tcp(syn, from(port+1)), want: begins("a")})
	}
	return steps
}

// established begins connections from ports 1 to n and completes them.
func established(n uint16) (steps []step) {
	for port := range n {
		steps = append(steps,
			step{send: tcp(syn, from(port+1)), want: begins("a")},
			step{send: tcp(ack, from(port+1)), want: known("a")})
	}
	return steps
}

// idle lets the connection from a port be unused for so long.
func idle(port uint16, d time.Duration) func(*rig) {
	return func(r *rig) {
		e := r.find(r.webFlow(port))
		e.conn.LastUse = r.now() - r.clock.Jiffies(d)
		e.store()
	}
}

// drain lets everything expire and sweeps: nothing is left, and nothing counted.
func (r *rig) drain(t *testing.T) {
	t.Helper()
	r.pass(24 * time.Hour)
	r.sweep(t)
	if left := r.conns(); len(left) > 0 {
		t.Errorf("left after the sweep: %q", left)
	}
	r.check(t)
}

// TestManyConns fills tables of several sets, with both families at once. What
// was stored is found, in whatever set; what goes leaves no trace.
func TestManyConns(t *testing.T) {
	r := newRig(t, Sizes{Conns4: 256, Conns6: 128, Overflow: 4, Services: 32, Reals: 64, Plans: 1024})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r.reset(f)
			began, random := map[uint16]string{}, newRandom(t)
			places := both(f, 256, 128)
			// At random: ports in a row spread so evenly that hardly any moves.
			for n, port := range random.Perm(1 << 16) {
				if len(began) == places+4 {
					break
				}
				r.begin(t, began, uint16(port))
				if n > 1000 {
					t.Fatalf("%d of %d places are taken", len(began), places)
				}
			}
			r.check(t)
			r.findAll(t, began)
			r.check(t)
			r.drain(t)
		})
	}
}

// begin establishes a connection, if there is room, and notes its real server.
func (r *rig) begin(t *testing.T, began map[uint16]string, port uint16) {
	t.Helper()
	got := r.send(t, tcp(syn, from(port))(r.f))
	if got.verdict == "tx_untracked" {
		return
	}
	began[port] = string(got.out[5])
	if v := r.send(t, tcp(ack, from(port))(r.f)); v.verdict != "tx_forward" || string(v.out[5]) != began[port] {
		t.Fatalf("port %d: ACK after SYN to %s: %v", port, began[port], v)
	}
}

// findAll looks for what was stored.
func (r *rig) findAll(t *testing.T, began map[uint16]string) {
	t.Helper()
	kinds := map[string]int{}
	for _, e := range r.entries() {
		switch {
		case e.slot < 0:
			kinds["overflow"]++
		case e.second:
			kinds["second set"]++
		case e.slot != e.home:
			kinds["moved in set"]++
		default:
			kinds["home"]++
		}
	}
	t.Logf("stored: %v", kinds)
	for _, kind := range []string{"overflow", "second set", "moved in set", "home"} {
		if kinds[kind] == 0 {
			t.Errorf("none is stored in %s", kind)
		}
	}
	for port, real := range began {
		got := r.send(t, tcp(ack, from(port))(r.f))
		if got.verdict != "tx_forward" || string(got.out[5]) != real {
			t.Errorf("port %d to %s: %v", port, real, got)
		}
	}
}

// admitted is how many of upper connections must be left for more to come,
// recorded of an IPVS kernel (thresholds.json).
var admitted = map[uint32]uint64{1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 4, 7: 5, 10: 7, 12: 8}

func TestThresholds(t *testing.T) {
	for _, f := range families {
		for upper, clear := range admitted {
			for by, end := range map[string]func(*rig, testing.TB, uint16){"packet": (*rig).endByPacket, "sweep": (*rig).endBySweep} {
				t.Run(fmt.Sprintf("%s/%d/%s", f.name, upper, by), func(t *testing.T) {
					r := smallRig(t, f)
					onlyA(r)
					r.threshold("a", upper)
					testThreshold(t, r, upper, clear, end)
				})
			}
		}
	}
}

func testThreshold(t *testing.T, r *rig, upper uint32, clear uint64, end func(*rig, testing.TB, uint16)) {
	for port := range uint16(upper) {
		if got := r.send(t, tcp(syn, from(port+1))(r.f)); got.verdict != "tx_new" {
			t.Fatalf("connection %d of %d: %v", port+1, upper, got)
		}
	}
	for left := uint64(upper); ; left-- {
		refused := r.send(t, tcp(syn, from(999))(r.f)).verdict == "drop_no_real"
		if refused != (left > clear) {
			t.Fatalf("with %d connections left: refused is %v", left, refused)
		}
		if !refused {
			return
		}
		end(r, t, uint16(left))
		r.check(t)
	}
}

// endByPacket lets a connection expire, which its next packet notices.
func (r *rig) endByPacket(t testing.TB, port uint16) {
	t.Helper()
	idle(port, time.Hour)(r)
	if got := r.send(t, tcp(ack, from(port))(r.f)); got.verdict != "pass_no_connection" {
		t.Fatalf("ACK of an expired connection: %v", got)
	}
}

// endBySweep lets a connection expire, which the sweep notices.
func (r *rig) endBySweep(t testing.TB, port uint16) {
	t.Helper()
	idle(port, time.Hour)(r)
	if freed := r.sweep(t); freed != 1 {
		t.Fatalf("the sweep freed %d", freed)
	}
}

// places are the slots of the family's table, and a sweep of them.
func (r *rig) places() (*Sweep, int) {
	if r.f.v6() {
		return NewSweep6(r.Tables), len(r.Conns6)
	}
	return NewSweep4(r.Tables), len(r.Conns4)
}

// An entry that a killed process left half freed is freed at the second pass,
// and what it did not uncount any more is found by the recount.
func TestSweepRepairs(t *testing.T) {
	for _, f := range families {
		for name, kill := range map[string]func(*Conn){
			"dead": func(c *Conn) { c.Word |= connDead },
			"busy": func(c *Conn) { c.Word |= connDead; c.Tag = c.Tag&^tagMask | tagBusy },
		} {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				r := smallRig(t, f)
				r.send(t, tcp(syn)(f))
				e := r.mustFind(t, clientPort)
				kill(&e.conn)
				e.store()
				sweep, places := r.places()
				if freed, _ := sweep.Next(r.now(), places); freed != 0 || len(r.entries()) != 1 {
					t.Errorf("the first pass freed %d", freed)
				}
				if freed, _ := sweep.Next(r.now(), places); freed != 1 || len(r.entries()) != 0 {
					t.Errorf("the second pass freed %d", freed)
				}
				r.recount()
				r.check(t)
			})
		}
	}
}

// recount repairs what drifted.
func (r *rig) recount() (repaired int) {
	sweep4, sweep6 := NewSweep4(r.Tables), NewSweep6(r.Tables)
	n := NewRecount(r.Tables, sweep4, sweep6)
	for range 5 {
		outside := map[uint32]uint64{}
		for _, e := range r.overflowEntries() {
			outside[e.conn.Real] += CountOf(&e.conn)
		}
		sweep4.Next(r.now(), 1<<30)
		sweep6.Next(r.now(), 1<<30)
		repaired += n.Pass(outside)
	}
	return repaired
}

// The recount repairs what differs, and nothing else.
func TestRecount(t *testing.T) {
	r := newRig(t, oneSet)
	for _, f := range families {
		r.reset(f)
		onlyA(r)
		for port := range uint16(10) {
			r.send(t, tcp(syn, from(port+1))(f))
			r.send(t, tcp(ack, from(port+1))(f))
		}
		r.send(t, tcp(fin, from(3))(f))
		r.check(t)
		if n := r.recount(); n != 0 {
			t.Errorf("%d counters repaired, none was wrong", n)
		}
		r.check(t)
		r.Counts[r.reals["a"]].Conns += ^uint64(1<<32) + 4 // three active more, one inactive less
		r.Counts[r.reals["d"]].Conns++
		if n := r.recount(); n != 2 {
			t.Errorf("%d counters repaired of 2", n)
		}
		r.check(t)
	}
}

// Where connections come with each pass, the same difference has to be seen for longer.
func TestRecountUnderLoad(t *testing.T) {
	for _, passes := range []int{recountPasses, movingPasses - 1, movingPasses} {
		var d drift
		repaired := uint64(0)
		for pass := range uint64(passes) {
			repaired += d.settle(100+5*pass, 98+5*pass)
		}
		want := uint64(0)
		if passes == movingPasses {
			want = 2
		}
		if repaired != want {
			t.Errorf("%d passes that count two more than they find: %d are taken off, want %d", passes, repaired, want)
		}
	}
	var d drift
	for _, by := range []uint64{2, 2, 1, 2, 2, 0, 2, 2} {
		if repaired := d.settle(100+by, 100); repaired != 0 {
			t.Errorf("a difference that changes is believed, %d", repaired)
		}
	}
}

// A sweep goes on where it stopped, and begins again after the last slot.
func TestSweepSlices(t *testing.T) {
	r := smallRig(t, families[0])
	for port := range uint16(20) {
		r.send(t, tcp(syn, from(port+21))(r.f))
	}
	r.send(t, tcp(ack, from(27))(r.f))
	r.pass(61 * time.Second)
	sweep, total := NewSweep4(r.Tables), 0
	for i := range 4 {
		freed, passed := sweep.Next(r.now(), 16)
		if passed != (i == 3) {
			t.Errorf("slice %d of 4: passed is %v", i+1, passed)
		}
		total += freed
		r.check(t)
	}
	if total != 19 || len(r.conns()) != 1 {
		t.Errorf("freed %d, left %q", total, r.conns())
	}
	r.pass(900 * time.Second)
	if n, passed := sweep.Next(r.now(), 1<<20); n != 1 || !passed {
		t.Errorf("the second time %d were freed, passed is %v", n, passed)
	}
	r.check(t)
}
