// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"xdplvs/director"
	"xdplvs/internal/bench"
	"xdplvs/internal/netlab"
	"xdplvs/test/stage"
)

// failover is a farm whose first real server fails in every way.
var failover = Use{
	Name:    "failover",
	Summary: "a real server is killed, frozen, unplugged, walled off, slowed down, filled: what clients see",
	Methods: []director.Method{director.DirectRouting, director.Tunnel, director.NAT, director.FullNAT},
	Reals:   3,
	Tell:    tellFailover,
}

// A fault is a way to fail.
type fault struct {
	name, what string
	begin, end func(ctx context.Context, s *Stage, w *web) error // end makes it good
}

// faults are all of them.
var faults = []fault{
	{"kill", "kill -9 of nginx: the kernel refuses connections", killWeb, startAgain},
	{"freeze", "SIGSTOP: the kernel takes connections, nobody answers", signalWeb(syscall.SIGSTOP), signalWeb(syscall.SIGCONT)},
	{"unplug", "the cable is pulled at the switch", plug(false), plug(true)},
	{"firewall", "a new rule drops port 80", raiseWall, razeWall},
	{"slow down", "answers come at 20 bytes a second", reloadWeb(slowRate), reloadWeb("0")},
	{"fill", "all connections that nginx can have are taken", fillWeb, drainWeb},
}

// outage is what clients saw of a fault.
type outage struct {
	fault
	out, back     time.Duration // until nothing new went there, and came again
	asked, failed int           // requests before it was out, and those without an answer
	slowest       time.Duration // of those that were answered
	last          time.Duration // from the fault until the last one failed
}

func tellFailover(ctx context.Context, s *Stage) error {
	webs, err := s.startWebs("0")
	if err != nil {
		return err
	}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	if err := s.awaitWebs(ctx, 0, 1, 2); err != nil {
		return err
	}
	s.Screen.Step("A real server fails", fmt.Sprintf("Clients ask all the time, each request on a connection of its own, and give up after %v.", givesUp))
	var all []outage
	for _, f := range faults {
		o, err := s.suffer(ctx, f, webs[0])
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		all = append(all, o)
	}
	s.Screen.Block(outageTable(all))
	return s.plot("failover.svg", all)
}

// outageTable is for people.
func outageTable(all []outage) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %8s %8s %8s %9s %9s\n", "", "failed", "of", "slowest", "out after", "back after")
	for _, o := range all {
		fmt.Fprintf(&b, "%-10s %8d %8d %7.2fs %8.2fs %9.2fs   %s\n", o.name, o.failed, o.asked, o.slowest.Seconds(), o.out.Seconds(), o.back.Seconds(), o.what)
	}
	return b.String()
}

// plot draws how long clients noticed something.
func (s *Stage) plot(name string, all []outage) error {
	if s.plots == "" {
		return nil
	}
	var bars []bench.Bar
	for _, o := range all {
		bars = append(bars, bench.Bar{Label: fmt.Sprintf("%s (%d of %d failed): clients", o.name, o.failed, o.asked), Value: o.last.Seconds()},
			bench.Bar{Label: "out of the farm", Value: o.out.Seconds(), Ours: true})
	}
	text := bench.BarsSVG("From a fault until the last request failed, and until the server was out", "s", bars)
	return os.WriteFile(filepath.Join(s.plots, name), []byte(text), 0o644)
}

// suffer has a fault come and go under load.
func (s *Stage) suffer(ctx context.Context, f fault, w *web) (o outage, err error) {
	load := s.startLoad(ctx)
	defer load.stop()
	if err := load.await(ctx, requestsBefore); err != nil {
		return o, err
	}
	begun := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // whatever the fault still does
	if err := f.begin(ctx, s, w); err != nil {
		return o, err
	}
	if err := s.awaitWebs(ctx, 1, 2); err != nil {
		return o, err
	}
	out := time.Now()
	if err := load.await(ctx, requestsBefore); err != nil {
		return o, err
	}
	good := time.Now()
	if err := f.end(ctx, s, w); err != nil {
		return o, err
	}
	if err := s.awaitWebs(ctx, 0, 1, 2); err != nil {
		return o, err
	}
	back := time.Now()
	if err := load.await(ctx, requestsBefore); err != nil {
		return o, err
	}
	load.stop()
	o = outage{fault: f, out: out.Sub(begun), back: back.Sub(good)}
	return o, o.judge(load.requests, w.real.Name(), begun, out, good, back)
}

// judge looks at all requests: none may fail but those begun between the fault and the end of the real server's part, and
// that has a part before and afterwards.
func (o *outage) judge(requests []request, lost string, begun, out, good, back time.Time) error {
	served := map[bool]int{} // before, and afterwards
	for _, r := range requests {
		ended := r.begun.Add(r.took)
		during := ended.After(begun) && r.begun.Before(out)
		switch {
		case during:
			o.count(r, ended.Sub(begun))
		case r.err != nil:
			return fmt.Errorf("a request %v after the fault failed, when %s was out since %v: %w", r.begun.Sub(begun), lost, out.Sub(begun), r.err)
		case r.who == lost && r.begun.After(out) && ended.Before(good):
			return fmt.Errorf("%s answered while it was out", lost)
		case r.who == lost:
			served[r.begun.After(back)]++
		}
	}
	if served[false] == 0 || served[true] == 0 {
		return fmt.Errorf("%s answered %d requests before, %d afterwards", lost, served[false], served[true])
	}
	return nil
}

// count counts a request that the fault may have met, and that ended so long after it.
func (o *outage) count(r request, after time.Duration) {
	o.asked++
	if r.err == nil {
		o.slowest = max(o.slowest, r.took)
		return
	}
	o.failed++
	o.last = max(o.last, after)
}

func killWeb(_ context.Context, _ *Stage, w *web) error {
	w.Kill()
	return nil
}

func startAgain(_ context.Context, s *Stage, w *web) error {
	again, err := s.startWeb(w.real, "0")
	if err == nil {
		*w = *again
	}
	return err
}

func signalWeb(signal syscall.Signal) func(context.Context, *Stage, *web) error {
	return func(_ context.Context, _ *Stage, w *web) error { return w.Signal(signal) }
}

func plug(in bool) func(context.Context, *Stage, *web) error {
	return func(_ context.Context, _ *Stage, w *web) error { return w.real.Eth0.Peer.SetUp(in) }
}

func raiseWall(ctx context.Context, _ *Stage, w *web) error {
	_, err := w.real.Run(ctx, "nft", "add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in tcp dport 80 drop")
	return err
}

func razeWall(ctx context.Context, _ *Stage, w *web) error {
	_, err := w.real.Run(ctx, "nft", "delete table inet wall")
	return err
}

// slowRate is bytes in a second.
const slowRate = "20"

// reloadWeb gives nginx another rate for all its answers.
func reloadWeb(rate string) func(context.Context, *Stage, *web) error {
	return func(_ context.Context, _ *Stage, w *web) error {
		return errors.Join(w.configure(rate), w.SignalFirst(syscall.SIGHUP))
	}
}

// fillers are clients of fillWeb.
const fillers = 4

// fillWeb begins requests at the real server's own address that never end, as many as are taken, and goes on, so that
// whatever becomes free is taken, too.
func fillWeb(ctx context.Context, s *Stage, w *web) error {
	ctx, cancel := context.WithCancel(ctx)
	var filling sync.WaitGroup
	for range fillers {
		filling.Go(func() { holdAll(ctx, s.Director.Host, net.JoinHostPort(w.real.V4.String(), "80")) })
	}
	w.release = func() {
		cancel()
		filling.Wait()
	}
	return nil
}

// holdAll takes connections until ctx ends, and gives them back then.
func holdAll(ctx context.Context, from *netlab.Host, to string) {
	for stage.Sleep(ctx, 5*time.Millisecond) == nil {
		conn, err := from.DialContext(ctx, "tcp", to)
		if err != nil {
			continue
		}
		defer conn.Close()
		if isTaken(conn) {
			continue
		}
		conn.Close()
	}
}

// isTaken tells whether the server waits for the rest of a request. One that is full closes the connection.
func isTaken(conn net.Conn) bool {
	conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\n")
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func drainWeb(_ context.Context, _ *Stage, w *web) error {
	w.release()
	return nil
}
