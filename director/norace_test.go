// SPDX-License-Identifier: Apache-2.0

//go:build !race

// What packets read is memory of the kernel: the race detector knows nothing of
// its rules (a plan is written where nobody reads it, then put in force with one
// store), so these tests are for builds without it.

package director

import (
	"encoding/binary"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"xdplvs/bpf"
)

const raceDetector = false

// pickers are CPUs that get new connections for one service all the time.
type pickers struct {
	w      *world
	s      *bpf.Service
	stop   atomic.Bool
	done   sync.WaitGroup
	chosen [16]atomic.Uint64 // by the last byte of the address; 0: none
	rounds [2]atomic.Uint64
}

func startPickers(w *world) *pickers {
	p := &pickers{w: w, s: findService(w.tables, key4(1))}
	for cpu := range p.rounds {
		p.done.Go(func() {
			for !p.stop.Load() {
				id := pick(w.tables, p.s, 0)
				if id == bpf.NoReal {
					p.chosen[0].Add(1)
				} else {
					p.chosen[w.tables.Reals[id].Addr[15]&15].Add(1)
				}
				if p.rounds[cpu].Add(1)%64 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	return p
}

// pass waits until every picker has made a choice that it began after now.
func (p *pickers) pass() {
	for cpu := range p.rounds {
		for begin := p.rounds[cpu].Load(); p.rounds[cpu].Load() < begin+2; {
			time.Sleep(20 * time.Microsecond)
		}
	}
}

func (p *pickers) end() {
	p.stop.Store(true)
	p.done.Wait()
}

// TestPlansUnderLoad: while plans are exchanged all the time, every connection
// finds a real server, each gets its share, and a quiesced one nothing more.
func TestPlansUnderLoad(t *testing.T) {
	w := newWorld(t, bpf.Sizes{Conns4: 8, Conns6: 8, Overflow: 1, Services: 4, Reals: 32, Plans: 2048, CPUs: 1})
	reals := []RealServer{real4(1, 1), real4(2, 1), real4(3, 1), real4(4, 1)}
	w.mustWant(one("rr", reals...))
	for _, r := range reals {
		w.resolve(r.Key.Addr)
	}
	p := startPickers(w)
	defer p.end()
	s := w.d.services[key4(1)]
	begin := time.Now()
	exchanges := 0
	for ; time.Since(begin) < 300*time.Millisecond; exchanges++ {
		must(w.d.publish(s))
		if exchanges%16 == 0 {
			w.d.compact()
		}
	}
	p.pass()
	sum := uint64(0)
	for i := 1; i <= 4; i++ {
		sum += p.chosen[i].Load()
	}
	for i := 1; i <= 4; i++ {
		if share := 4 * float64(p.chosen[i].Load()) / float64(sum); share < 0.97 || share > 1.03 {
			t.Errorf("real server %d has %.3f of its share, after %d choices and %d exchanges", i, share, sum, exchanges)
		}
	}
	for round := range 20 {
		quiesced := reals[round%4]
		with := append([]RealServer(nil), reals...)
		with[round%4].Weight = 0
		if err := w.d.apply(one("rr", with...)); err != nil {
			t.Fatal(err)
		}
		p.pass()
		n := &p.chosen[quiesced.Key.Addr.As4()[3]]
		before := n.Load()
		p.pass()
		expect(t, "choices of a quiesced one", n.Load(), before)
		if err := w.d.apply(one("rr", reals...)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "connections without a real server", p.chosen[0].Load(), 0)
}

// TestListedConnectionsAreWhole: slots that change hands while they are listed.
func TestListedConnectionsAreWhole(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	var stop atomic.Bool
	var done sync.WaitGroup
	for cpu := range 2 {
		done.Go(func() {
			for n := uint32(cpu); !stop.Load(); n += 2 {
				rewrite(&w.tables.Conns4[n%8], n, w.clock.now.Load())
			}
		})
	}
	d := w.run(t)
	seen := 0
	for begin := time.Now(); time.Since(begin) < 300*time.Millisecond; {
		err := d.Connections(t.Context(), func(c *Conn) error {
			seen++
			from, to := c.Client.Addr().As4(), c.Virtual.Addr().As4()
			port := bits.ReverseBytes16(uint16(binary.NativeEndian.Uint32(from[:])))
			if from != to || c.Client.Port() != port || c.Virtual.Port() != port {
				t.Errorf("a torn connection: %v to %v", c.Client, c.Virtual)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	done.Wait()
	if seen == 0 {
		t.Error("no connection was seen")
	}
	t.Logf("%d connections were listed", seen)
}

// rewrite is what the data plane does to replace an entry: claim, fill, publish.
func rewrite(c *bpf.Conn4, n, now uint32) {
	tag := atomic.LoadUint64(&c.C.Tag)
	if tag&3 == 1 || !atomic.CompareAndSwapUint64(&c.C.Tag, tag, tag&^3|1) {
		return
	}
	c.Saddr, c.Daddr, c.C.Ports = n, n, n&0xffff|n<<16
	c.C.Word, c.C.Generation, c.C.LastUse = stateEstablished, 1, now
	atomic.StoreUint64(&c.C.Tag, (tag+1<<16)&(0xffff<<16)|6<<8|2)
}
