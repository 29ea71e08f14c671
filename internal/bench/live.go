// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"xdplvs/bpf"
	"xdplvs/internal/netlab"
)

// Live is what frames per second come back over a veth pair, one core doing
// everything: it makes them, the program bounces them, and a sink counts them.
type Live struct {
	Raw  float64 // millions per second, the raw bounce
	Ways []Way
	New  Gauge // new connections per second, each of one frame
}

// Way is one flow's way through the director.
type Way struct {
	Name  string
	Mpps  float64 // millions per second
	Ratio float64 // to the raw bounce, of the rounds, median
}

// liveWays are sent, each as the scenario of its key.
var liveWays = []struct{ name, key string }{
	{"dr", "dr4_established_over_raw_ns"},
	{"tun", "tun4_over_raw_ns"},
	{"nat_request", "nat4_request_over_raw_ns"},
	{"nat_reply", "nat4_reply_over_raw_ns"},
	{"fullnat", "fullnat4_over_raw_ns"},
}

// RunLive measures the raw bounce and the director in turn.
func RunLive(opts Options) (Live, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	lab, err := netlab.New("bench")
	if err != nil {
		return Live{}, err
	}
	defer lab.Close()
	p, err := scenarioOf(byNATKey).plane()
	if err != nil {
		return Live{}, err
	}
	w, err := newWire(lab, "", p)
	if err != nil {
		return Live{}, errors.Join(err, p.close())
	}
	defer w.close()
	w.aim()
	if err := w.greet(); err != nil {
		return Live{}, err
	}
	raw, mpps, ratios, err := w.rounds(opts)
	if err != nil {
		return Live{}, err
	}
	live := Live{Raw: median(raw)}
	for i, way := range liveWays {
		live.Ways = append(live.Ways, Way{way.name, median(mpps[i]), median(ratios[i])})
	}
	live.New, err = w.newRates(opts)
	return live, err
}

// rounds measures everything in each round: mpps and ratios are by liveWays.
func (w *wire) rounds(opts Options) (raw []float64, mpps, ratios [][]float64, err error) {
	mpps, ratios = make([][]float64, len(liveWays)), make([][]float64, len(liveWays))
	for range opts.Rounds {
		bounced, err := w.rate(w.raw, scenarioOf(liveWays[0].key).stream(w.plane), opts.Packets)
		if err != nil {
			return nil, nil, nil, err
		}
		raw = append(raw, bounced)
		for i, way := range liveWays {
			rate, err := w.rate(w.director, scenarioOf(way.key).stream(w.plane), opts.Packets)
			if err != nil {
				return nil, nil, nil, fmt.Errorf("%s: %w", way.name, err)
			}
			mpps[i], ratios[i] = append(mpps[i], rate), append(ratios[i], rate/bounced)
		}
	}
	return raw, mpps, ratios, nil
}

// wire is a veth pair between a generator and a director.
type wire struct {
	generator, far *netlab.Iface
	plane          *plane
	sink           io.Closer
}

// newWire makes one with a data plane. name tells it from others.
func newWire(lab *netlab.Lab, name string, p *plane) (*wire, error) {
	gen, err := lab.Host("generator" + name)
	if err != nil {
		return nil, err
	}
	dir, err := lab.Host("director" + name)
	if err != nil {
		return nil, err
	}
	w := &wire{plane: p}
	if w.generator, w.far, err = netlab.Link(gen, "eth0", nil, dir, "eth0", nil); err != nil {
		return nil, err
	}
	err = gen.Do(func() (err error) {
		w.sink, err = w.bench().AttachSink(w.generator.Index)
		return err
	})
	return w, err
}

// aim makes all real servers be reached where the generator is.
func (w *wire) aim() {
	for i := range w.plane.data.Tables.Reals[:w.plane.reals] {
		r := &w.plane.data.Tables.Reals[i]
		r.Ifindex = uint32(w.far.Index)
		copy(r.Mac[:], w.generator.MAC)
	}
}

// become makes the director one with the scenario's services.
func (w *wire) become(s scenario) error {
	p, err := s.plane()
	if err != nil {
		return err
	}
	err = w.plane.close()
	w.plane = p
	w.aim()
	return err
}

// greet makes the flows known by frames on the wire: the way back of one by nat
// is the interface that its first came in by.
func (w *wire) greet() error {
	var on io.Closer
	err := w.far.Host.Do(func() (err error) { on, err = w.director(); return err })
	if err != nil {
		return err
	}
	defer on.Close()
	for _, way := range liveWays {
		s := scenarioOf(way.key)
		frames := make([][]byte, 0, len(greeting)+1)
		for _, flags := range greeting {
			frames = append(frames, frame(s.dst, flags))
		}
		for _, f := range append(frames, s.frame(w.plane)) {
			if err := w.send(f, s.flows, 1); err != nil {
				return err
			}
			time.Sleep(time.Millisecond) // until the other end has seen it
		}
	}
	return nil
}

// byNATKey is of a scenario whose plane has every service.
const byNATKey = "nat4_request_over_raw_ns"

func scenarioOf(key string) scenario {
	for _, s := range slices.Concat(scenarios, countedOnly) {
		if s.key == key {
			return s
		}
	}
	panic("no scenario " + key)
}

func (w *wire) bench() *bpf.Bench { return w.plane.targets[bpf.TargetRaw] }

func (w *wire) close() error { return errors.Join(w.sink.Close(), w.plane.close()) }

func (w *wire) raw() (io.Closer, error) {
	return w.bench().AttachTarget(bpf.TargetRaw, w.far.Index)
}

func (w *wire) director() (io.Closer, error) {
	a, err := w.plane.data.Attach(w.far.Index, bpf.Native)
	if err != nil {
		return nil, err
	}
	return closer(func() error { return w.plane.data.Detach(a) }), nil
}

type closer func() error

// Close implements io.Closer.
func (c closer) Close() error { return c() }

// send sends a frame to the director, over and over.
func (w *wire) send(f []byte, flows bpf.Flows, n uint32) error {
	copy(f, w.far.MAC)
	return w.generator.Host.Do(func() error { return w.bench().Send(w.generator.Index, f, flows, n) })
}

// stream is what a generator sends.
type stream struct {
	frame []byte
	flows bpf.Flows
	warm  uint32 // so many before it is measured
}

func (s scenario) stream(p *plane) stream { return stream{s.frame(p), s.flows, 10_000} }

// rate sends packets and returns how many millions came back per second.
func (w *wire) rate(attach func() (io.Closer, error), s stream, packets uint32) (float64, error) {
	var on io.Closer
	err := w.far.Host.Do(func() (err error) { on, err = attach(); return err })
	if err != nil {
		return 0, err
	}
	defer on.Close()
	return w.received(s, packets)
}

// received sends packets and returns how many millions were counted per second.
func (w *wire) received(s stream, packets uint32) (float64, error) {
	send := func(n uint32) error { return w.send(s.frame, s.flows, n) }
	if err := send(s.warm); err != nil {
		return 0, err
	}
	before, err := w.bench().Received()
	if err != nil {
		return 0, err
	}
	w.bench().Watch()
	if err := send(packets); err != nil {
		return 0, err
	}
	after, err := w.bench().Received()
	if err != nil {
		return 0, err
	}
	each := w.bench().Pace()
	if lost := int64(packets) - int64(after-before); lost > int64(packets/2) || each == 0 {
		return 0, fmt.Errorf("live: %d of %d frames did not come back", lost, packets)
	}
	return 1e3 / each, nil
}

// freshConns are made in one round. They fill half of the table, and are many, so
// that the grace periods that a live run waits for (some 10 ms) do not count.
const freshConns = smallTable / 2

// newRates measures new connections: a SYN of another flow each time, into a
// table that was emptied. The wire's director has no services by nat from then on.
func (w *wire) newRates(opts Options) (Gauge, error) {
	var rates []float64
	if err := w.become(scenarioOf("dr4_new_over_raw_ns")); err != nil {
		return Gauge{}, err
	}
	for range opts.Rounds {
		w.plane.empty()
		rate, err := w.newRate(freshConns)
		if err != nil {
			return Gauge{}, err
		}
		rates = append(rates, rate)
	}
	return gauged(opts, Gauge{Key: "new_conns_per_s", Unit: "/s", What: "new connections, live, one core doing everything"}, rates), nil
}

// newRate is how many connections were stored per second: a frame that the veth
// pair lost, or that found no place, is none.
func (w *wire) newRate(conns uint32) (float64, error) {
	var on io.Closer
	err := w.far.Host.Do(func() (err error) { on, err = w.director(); return err })
	if err != nil {
		return 0, err
	}
	defer on.Close()
	send := func(n uint32) error { return w.send(frame(vip4, tcpSYN), bpf.Flows{Count: 1 << 31, Counting: true}, n) }
	if err := send(10_000); err != nil { // warm
		return 0, err
	}
	before, err := w.plane.data.Verdicts()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := send(conns); err != nil {
		return 0, err
	}
	took := time.Since(start)
	after, err := w.plane.data.Verdicts()
	if err != nil {
		return 0, err
	}
	stored := after["tx_new"] - before["tx_new"]
	if stored < uint64(conns/2) {
		return 0, fmt.Errorf("live: of %d new connections %d were stored", conns, stored)
	}
	return float64(stored) / took.Seconds(), nil
}
