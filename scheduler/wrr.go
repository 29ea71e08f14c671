// SPDX-License-Identifier: Apache-2.0

package scheduler

// wrr, weighted round robin: passes over the list, each with a lower demand on
// the weight than the pass before, from the largest weight down to 1. It is not
// smooth: heavy servers come in bursts.
//
// Filled one server at a time it serves each server once before the first proper
// cycle: the first server of weight w has step w, thus top 1, and the level of 1
// survives the following edits.
type wrr struct {
	last  int   // cl: index of the last choice, -1 = before the first
	level int64 // cw: the weight that this pass demands, 0 = nothing was ever added
	top   int64 // mw: the level of a cycle's first pass, 0 = all quiesced
	step  int64 // di: greatest common divisor of the weights, the drop between passes
}

func newWRR(Options) (Scheduler, error) { return &wrr{last: -1, step: 1}, nil }

func (w *wrr) Name() string     { return "wrr" }
func (w *wrr) Kind() Kind       { return Sequence }
func (w *wrr) State() [2]uint64 { return [2]uint64{uint64(w.last + 1), uint64(w.level)} }
func (w *wrr) Clone() Scheduler { c := *w; return &c }

// Edit starts a new pass at about the level where the old one was. Levels stay
// at 1 modulo the step, or the last pass would demand more than the least weight.
func (w *wrr) Edit(servers []Server) {
	heaviest, divisor := int64(0), int64(0)
	for _, s := range servers {
		heaviest = max(heaviest, int64(s.Weight))
		divisor = gcd(divisor, int64(s.Weight))
	}
	w.last, w.step = -1, max(divisor, 1)
	w.top = heaviest - (w.step - 1)
	switch {
	case w.level > w.top || w.level == 0:
		w.level = w.top
	case w.step > 1:
		w.level = w.level/w.step*w.step + 1
	}
}

func (w *wrr) Pick(_ Packet, servers []Server) int {
	if w.top <= 0 {
		return -1
	}
	if i := w.next(servers, w.last+1); i >= 0 {
		w.last = i
		return i
	}
	reachable := heaviestReady(servers)
	if reachable == 0 {
		w.fail()
		return -1
	}
	w.descend(reachable)
	if i := w.next(servers, 0); i >= 0 {
		w.last = i
		return i
	}
	return -1
}

// next returns the first server from index from on that this pass serves, or -1.
func (w *wrr) next(servers []Server, from int) int {
	for i := from; i < len(servers); i++ {
		if !servers[i].Overloaded && int64(servers[i].Weight) >= w.level {
			return i
		}
	}
	return -1
}

// descend begins the next pass that finds a server, reachable being the largest
// weight there is. The kernel makes the empty passes one by one.
func (w *wrr) descend(reachable int64) {
	w.level -= w.step
	if w.level <= 0 {
		w.level = w.top
	}
	if over := w.level - reachable; over > 0 {
		w.level -= (over + w.step - 1) / w.step * w.step
	}
	w.level = max(w.level, 1)
}

// fail leaves the state as the kernel's vain search does: it goes down to the
// last pass and ends with a new cycle, unless it began within a last pass: then
// it goes once around and stops where it began.
func (w *wrr) fail() {
	if w.last >= 0 && w.level <= w.step {
		w.level = (w.top-1)%w.step + 1
		return
	}
	w.last, w.level = -1, w.top
}

func heaviestReady(servers []Server) int64 {
	heaviest := uint32(0)
	for _, s := range servers {
		if !s.Overloaded {
			heaviest = max(heaviest, s.Weight)
		}
	}
	return int64(heaviest)
}

// gcd(0, b) is b, so that weights of 0 do not count.
func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
