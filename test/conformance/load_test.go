// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/packet"
	"xdplvs/scheduler"
)

// Clients that come by the clock of the director, 50,000 in a second, however fast
// the machine is: some hundred while one plan is in force.
const (
	clientsEach = 50
	clientsTick = time.Millisecond
)

// crowd is a service whose clients come, stay as long as their real server is slow,
// and go.
type crowd struct {
	*node
	service director.Service
	targets []netip.AddrPort
	slow    []time.Duration // how long connections stay on average, by real server
	random  *rand.Rand
	leaving map[time.Duration][]visit // by the time when they do
	here    []int                     // connections that have not left, by real server
	made    []int                     // connections, by real server
	refused int
	clients int
	past    time.Duration
	source  func(client int) netip.Addr
	chosen  func(flow, int) // is told every choice
}

// visit is a connection of a real server.
type visit struct {
	flow flow
	real int
}

// newCrowd has a real server for each weight.
func newCrowd(t *testing.T, p *bpf.DataPlane, name string, weights []uint32, slow ...time.Duration) *crowd {
	t.Helper()
	c := &crowd{node: startNode(t, p), slow: slow, random: seeded(t), chosen: func(flow, int) {}}
	c.passes = true
	c.service = director.Service{
		Key:       director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80},
		Scheduler: name, Answer: director.AnswerPass,
	}
	c.source = func(client int) netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(client >> 16), byte(client >> 8), byte(client)})
	}
	c.targets = []netip.AddrPort{netip.AddrPortFrom(c.service.Key.Addr, 80)}
	c.leaving, c.here, c.made = map[time.Duration][]visit{}, make([]int, len(weights)), make([]int, len(weights))
	addrs := make([]netip.Addr, len(weights))
	for i, w := range weights {
		addrs[i] = number(i)
		c.service.Reals = append(c.service.Reals, director.RealServer{
			Key: director.RealKey{Addr: addrs[i], Port: 80}, Method: director.DirectRouting, Weight: w,
		})
	}
	if err := c.set(c.service); err != nil {
		t.Fatal(err)
	}
	c.reach(addrs...)
	return c
}

// run lets clients come and go for so long, and has a look every now and then.
func (c *crowd) run(d time.Duration, look func(active []float64)) {
	c.t.Helper()
	for end := c.past + d; c.past < end; c.past += clientsTick {
		for _, v := range c.leaving[c.past] {
			c.sendTo(v.flow, packet.FIN|packet.ACK, v.real)
			c.here[v.real]--
		}
		delete(c.leaving, c.past)
		for range clientsEach {
			c.come()
		}
		if c.past%(20*time.Millisecond) == 0 {
			c.expire()
			if look != nil {
				look(c.active())
			}
		}
		time.Sleep(clientsTick)
	}
}

// expire takes out closed connections, as their timeout would: the data plane's
// clock is the kernel's, which is not the test's.
func (c *crowd) expire() {
	c.t.Helper()
	closed := func(conn *director.Conn) bool { return conn.State == "FIN_WAIT" }
	if _, err := c.director.DeleteConnections(c.ctx, closed); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crowd) come() {
	c.t.Helper()
	f := flow{netip.AddrPortFrom(c.source(c.clients), uint16(1024+c.clients/251)), c.targets[c.clients%len(c.targets)]}
	c.clients++
	got, err := c.send(f.frame(director.TCP, packet.SYN))
	if err != nil {
		c.t.Fatal(err)
	}
	c.chosen(f, got)
	if got == refused {
		c.refused++
		return
	}
	c.made[got]++
	c.sendTo(f, packet.ACK, got)
	c.here[got]++
	mean := c.slow[got%len(c.slow)]
	ends := (c.past + mean/2 + time.Duration(c.random.Int64N(int64(mean)))).Truncate(clientsTick) + clientsTick
	c.leaving[ends] = append(c.leaving[ends], visit{f, got})
}

// sendTo: a known connection stays where it is.
func (c *crowd) sendTo(f flow, flags uint8, want int) {
	c.t.Helper()
	if got, err := c.send(f.frame(director.TCP, flags)); err != nil || got != want {
		c.t.Fatalf("a segment of %s went to %d (%v), its connection is %d's", f.client, got, err, want)
	}
}

// active are the active connections that the data plane has counted, by real server.
func (c *crowd) active() []float64 {
	c.t.Helper()
	active := make([]float64, len(c.made))
	for _, r := range c.snapshot().Services[0].Reals {
		active[r.Key.Addr.As4()[3]] = float64(r.Active)
	}
	return active
}

// proportional is how far values are from the parts of their sum that weights say,
// at most, as a part of these.
func proportional(values []float64, weights []uint32) (off float64) {
	sum, all := 0.0, 0.0
	for i := range values {
		sum += values[i]
		all += float64(weights[i])
	}
	for i := range values {
		want := sum * float64(weights[i]) / all
		off = max(off, math.Abs(values[i]-want)/want)
	}
	return off
}

func floats(counts []int) []float64 {
	values := make([]float64, len(counts))
	for i, n := range counts {
		values[i] = float64(n)
	}
	return values
}

// even are equal weights.
func even(n int) []uint32 { return slices.Repeat([]uint32{1}, n) }

func underLoad(t *testing.T, name string, weights []uint32, slow []time.Duration, test func(*crowd)) {
	t.Helper()
	plane := loadPlane(t)
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(newCrowd(t, plane, name, weights, slow...)) })
	})
}

// TestLoad: what each scheduler is for, at 50,000 new connections in a second, with
// real servers of different speed.
func TestLoad(t *testing.T) {
	weights := []uint32{10, 20, 30, 40}
	short := []time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 30 * time.Millisecond, 60 * time.Millisecond}
	long := []time.Duration{200 * time.Millisecond, 300 * time.Millisecond, 400 * time.Millisecond, 600 * time.Millisecond}

	within := func(c *crowd, what string, off, most float64) {
		c.t.Helper()
		if off > most {
			c.t.Errorf("%s are %.1f %% off what they should be, at most %.0f", what, 100*off, 100*most)
		}
	}
	underLoad(t, "wlc", weights, long, func(c *crowd) {
		c.run(1300*time.Millisecond, nil)
		c.run(200*time.Millisecond, func(active []float64) { within(c, "active connections", proportional(active, weights), 0.05) })
	})
	underLoad(t, "lc", weights, long[:2], func(c *crowd) {
		c.run(400*time.Millisecond, nil)
		c.run(100*time.Millisecond, func(active []float64) { within(c, "active connections", proportional(active, even(4)), 0.05) })
	})
	for _, name := range []string{"sed", "nq"} {
		underLoad(t, name, weights, long[:2], func(c *crowd) {
			c.run(400*time.Millisecond, nil)
			c.run(100*time.Millisecond, func(active []float64) { within(c, "active connections", proportional(active, weights), 0.05) })
		})
	}
	underLoad(t, "twos", weights, long[:2], func(c *crowd) {
		c.run(400*time.Millisecond, nil)
		c.run(100*time.Millisecond, func(active []float64) { within(c, "active connections", proportional(active, weights), 0.20) })
	})
	underLoad(t, "rr", weights, short, func(c *crowd) {
		c.run(200*time.Millisecond, nil)
		within(c, "new connections", proportional(floats(c.made), even(4)), 0.001)
	})
	underLoad(t, "wrr", weights, short, func(c *crowd) {
		c.run(200*time.Millisecond, nil)
		within(c, "new connections", proportional(floats(c.made), weights), 0.005)
	})
	underLoad(t, "fo", weights, short, func(c *crowd) {
		c.run(100*time.Millisecond, nil)
		if c.made[3] != c.clients {
			c.t.Errorf("connections %v, want all at the heaviest", c.made)
		}
	})
}

// TestLoadOverflow: a server of weight w has w+1 active connections at most, the
// next heaviest gets the rest, and who finds none is refused.
func TestLoadOverflow(t *testing.T) {
	weights := []uint32{100, 300, 500}
	stay := []time.Duration{30 * time.Millisecond} // 1,500 at a time
	underLoad(t, "ovf", weights, stay, func(c *crowd) {
		c.chosen = func(_ flow, got int) {
			// The first plan is short: who comes by the hundred all at once goes round in it.
			if c.past > 30*time.Millisecond && got != refused && c.here[got] > int(weights[got]) {
				c.t.Fatalf("real server %d of weight %d gets another connection than its %d", got, weights[got], c.here[got])
			}
		}
		c.run(100*time.Millisecond, nil)
		for i, n := range c.active() {
			if n < 0.25*float64(weights[i]) { // it is some of them that have left, when one looks
				c.t.Errorf("real server %d of weight %d has %v active connections", i, weights[i], n)
			}
		}
		if c.refused == 0 {
			c.t.Error("nobody was refused")
		}
	})
	c := []uint32{100, 300, 5000}
	underLoad(t, "ovf", c, stay, func(c *crowd) {
		c.run(100*time.Millisecond, nil)
		if c.made[2] != c.clients {
			c.t.Errorf("connections %v, want all at the heaviest, which has room", c.made)
		}
	})
}

// TestLoadSticks: dh, sh and mh send the same address to the same server, and all
// addresses to all servers.
func TestLoadSticks(t *testing.T) {
	weights := []uint32{1, 1, 1, 1}
	for _, name := range []string{"sh", "mh", "dh"} {
		underLoad(t, name, weights, []time.Duration{5 * time.Millisecond}, func(c *crowd) {
			seen := map[netip.Addr]int{}
			c.source = func(client int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(client % 251), 1}) }
			of := func(f flow) netip.Addr { return f.client.Addr() }
			if name == "dh" {
				c.manyTargets(200)
				of = func(f flow) netip.Addr { return f.target.Addr() }
			}
			c.chosen = func(f flow, got int) {
				if before, known := seen[of(f)]; known && before != got {
					c.t.Fatalf("%s went to %d, and now to %d", of(f), before, got)
				}
				seen[of(f)] = got
			}
			c.run(100*time.Millisecond, nil)
			if off := proportional(floats(c.made), weights); off > 0.5 {
				c.t.Errorf("connections %v, want every server to have its share of the addresses", c.made)
			}
		})
	}
}

func (c *crowd) manyTargets(n int) {
	c.t.Helper()
	for i := range n {
		c.targets = append(c.targets, netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 80))
	}
	c.alias(c.service.Key, c.targets[1:]...)
}

// TestLoadLocality: destinations stay with one server while that is below its
// weight, and are spread; a busy one collects servers with lblcr.
func TestLoadLocality(t *testing.T) {
	stay := []time.Duration{20 * time.Millisecond} // 1,000 at a time
	for _, name := range []string{"lblc", "lblcr"} {
		at := map[netip.AddrPort]map[int]bool{}
		note := func(f flow, got int) {
			if at[f.target] == nil {
				at[f.target] = map[int]bool{}
			}
			at[f.target][got] = true
		}
		underLoad(t, name, []uint32{5000, 5000, 5000, 5000}, stay, func(c *crowd) {
			c.manyTargets(100)
			c.chosen = note
			c.run(100*time.Millisecond, nil)
			for target, servers := range at {
				if len(servers) != 1 {
					c.t.Errorf("%s went to %d servers", target, len(servers))
				}
			}
			if off := proportional(floats(c.made), even(4)); off > 0.5 {
				c.t.Errorf("connections %v, want destinations everywhere", c.made)
			}
		})
		clear(at)
		underLoad(t, name, []uint32{300, 300, 300, 300}, stay, func(c *crowd) {
			c.chosen = note
			c.run(100*time.Millisecond, nil)
			if n := len(at[c.targets[0]]); n < 3 {
				c.t.Errorf("a destination with three times a server's weight of connections is at %d servers", n)
			}
		})
	}
}

// TestEstablishedStay: whatever becomes of the scheduler, the weights and the list,
// packets of established connections go where they went, while clients come.
func TestEstablishedStay(t *testing.T) {
	plane := loadPlane(t)
	n := startNode(t, plane)
	n.passes = true
	service := director.Service{
		Key:       director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80},
		Scheduler: "rr", Answer: director.AnswerPass,
	}
	reals := make([]director.RealServer, 6)
	addrs := make([]netip.Addr, len(reals))
	for i := range reals {
		addrs[i] = number(i)
		reals[i] = director.RealServer{Key: director.RealKey{Addr: addrs[i], Port: 80}, Method: director.DirectRouting, Weight: uint32(1 + i)}
	}
	set := func(name string, flags scheduler.Flags, reals ...director.RealServer) {
		service.Scheduler, service.Flags, service.Reals = name, flags, reals
		if err := n.set(service); err != nil {
			t.Fatal(err)
		}
	}
	set("rr", 0, reals...)
	n.reach(addrs...)
	homes := map[flow]int{}
	for i := range 300 {
		f := flow{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 4000), netip.AddrPortFrom(service.Key.Addr, 80)}
		got, err := n.send(f.frame(director.TCP, packet.SYN))
		if err != nil {
			t.Fatal(err)
		}
		homes[f] = got
	}
	var stop atomic.Bool
	rounds, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for client := 0; !stop.Load(); rounds++ {
			for f, home := range homes {
				fresh := flow{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(client >> 8), byte(client)}), 4000), f.target}
				client++
				for _, frame := range [][]byte{f.frame(director.TCP, packet.ACK), fresh.frame(director.TCP, packet.SYN), fresh.frame(director.TCP, packet.RST)} {
					r, err := plane.Run(frame, n.loopback)
					if err != nil {
						t.Error(err)
						return
					}
					if to := packet.MAC(r.Frame[:6]); frame[14+20+13] == packet.ACK && to != realMAC(home) {
						t.Errorf("a packet of a connection of %d went to %x", home, to)
						return
					}
				}
			}
		}
	}()
	for _, name := range director.SchedulerNames() {
		set(name, 0, reals...)
		for i := range reals {
			changed := slices.Clone(reals)
			changed[i].Weight = uint32(i % 3 * 1000)
			changed[i].Upper = 1
			set(name, 0, changed...)
			set(name, 0, append(slices.Clone(reals[i:]), reals[:i]...)...)
			set(name, 0, slices.Delete(slices.Clone(reals), i, i+1)...) // with on_remove: keep
			set(name, 0, reals...)
		}
	}
	stop.Store(true)
	<-done
	if rounds == 0 {
		t.Error("no packet was sent meanwhile")
	}
}
