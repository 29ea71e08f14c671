// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"xdplvs/bpf"
	"xdplvs/internal/netlab"
)

// Live is what frames per second come back over a veth pair, one core doing
// everything: it makes them, the program bounces them, and a sink counts them.
type Live struct {
	Raw   float64 // millions per second, the raw bounce
	DR    float64 // through the director, one flow
	Ratio float64 // of the rounds, median
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
	w, err := newWire(lab)
	if err != nil {
		return Live{}, err
	}
	defer w.close()
	var raw, dr, ratio []float64
	for range opts.Rounds {
		a, err := w.rate(w.raw, opts.Packets)
		if err != nil {
			return Live{}, err
		}
		b, err := w.rate(w.director, opts.Packets)
		if err != nil {
			return Live{}, err
		}
		raw, dr, ratio = append(raw, a), append(dr, b), append(ratio, b/a)
	}
	return Live{median(raw), median(dr), median(ratio)}, nil
}

// wire is a veth pair between a generator and a director.
type wire struct {
	generator, far *netlab.Iface
	plane          *plane
	sink           io.Closer
}

func newWire(lab *netlab.Lab) (*wire, error) {
	gen, err := lab.Host("generator")
	if err != nil {
		return nil, err
	}
	dir, err := lab.Host("director")
	if err != nil {
		return nil, err
	}
	w := &wire{}
	if w.generator, w.far, err = netlab.Link(gen, "eth0", nil, dir, "eth0", nil); err != nil {
		return nil, err
	}
	if w.plane, err = newPlane(smallTable, 4); err != nil {
		return nil, err
	}
	for i := range w.plane.data.Tables.Reals[:8] {
		r := &w.plane.data.Tables.Reals[i]
		r.Ifindex = uint32(w.far.Index)
		copy(r.Mac[:], w.generator.MAC)
	}
	err = gen.Do(func() (err error) {
		w.sink, err = w.bench().AttachSink(w.generator.Index)
		return err
	})
	if err != nil {
		return nil, err
	}
	return w, w.plane.learn(scenarioOf("dr4_established_over_raw_ns"))
}

func scenarioOf(key string) scenario {
	for _, s := range scenarios {
		if s.key == key {
			return s
		}
	}
	panic("no scenario " + key)
}

func (w *wire) bench() *bpf.Bench { return w.plane.targets[bpf.TargetRaw] }

func (w *wire) close() {
	w.sink.Close()
	w.plane.close()
}

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

// rate sends packets and returns how many millions came back per second.
func (w *wire) rate(attach func() (io.Closer, error), packets uint32) (float64, error) {
	var on io.Closer
	err := w.far.Host.Do(func() (err error) { on, err = attach(); return err })
	if err != nil {
		return 0, err
	}
	defer on.Close()
	f := frame(vip4, tcpACK)
	copy(f, net.HardwareAddr(w.far.MAC))
	send := func(n uint32) error {
		return w.generator.Host.Do(func() error {
			return w.bench().Send(w.generator.Index, f, bpf.Flows{Count: 1}, n)
		})
	}
	if err := send(10_000); err != nil { // warm
		return 0, err
	}
	before, err := w.bench().Received()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := send(packets); err != nil {
		return 0, err
	}
	took := time.Since(start)
	after, err := w.bench().Received()
	if err != nil {
		return 0, err
	}
	if lost := int64(packets) - int64(after-before); lost > int64(packets/2) {
		return 0, fmt.Errorf("live: %d of %d frames did not come back", lost, packets)
	}
	return float64(after-before) / took.Seconds() / 1e6, nil
}
