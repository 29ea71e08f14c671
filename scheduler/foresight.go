// SPDX-License-Identifier: Apache-2.0

package scheduler

import "slices"

// foresight is a run of a scheduler ahead of the real connections, on its own
// copy of the servers.
type foresight struct {
	servers  []Server
	counting Counting
	limit    int   // choices wanted
	choices  []int // indices, -1 = no server
	loop     int
	closed   bool // choices[loop:] repeat for ever
	filled   bool // a server reached its upper threshold on the way
	retry    int  // before so many choices closing is known to fail
}

func newForesight(servers []Server, counting Counting, limit int) *foresight {
	return &foresight{servers: slices.Clone(servers), counting: counting, limit: limit}
}

func (f *foresight) more() bool { return len(f.choices) < f.limit }

// take notes a choice and counts it. It reports whether that filled the server up
// to its threshold: from there on all is different.
func (f *foresight) take(i int) (full bool) {
	f.choices = append(f.choices, i)
	if i < 0 {
		return false
	}
	full = f.servers[i].Connect(f.counting)
	if full {
		f.filled = true
		f.retry = 0
	}
	return full
}

// close ends the run if the choices from start on, having come to an end in the
// state where they began, will repeat; which a threshold ahead would prevent.
func (f *foresight) close(start int) bool {
	if len(f.choices) < f.retry {
		return false
	}
	period := len(f.choices) - start
	if f.thresholdAhead(f.choices[start:]) {
		f.retry = len(f.choices) + period
		return false
	}
	// What comes before the loop may already be part of it, turned.
	for start > 0 && f.choices[start-1] == f.choices[len(f.choices)-1] {
		start--
		f.choices = f.choices[:len(f.choices)-1]
	}
	f.loop, f.closed = start, true
	return true
}

// thresholdAhead reports whether repeating the cycle up to the limit would fill a
// server.
func (f *foresight) thresholdAhead(cycle []int) bool {
	if f.counting == CountNothing {
		return false
	}
	passes := uint64((f.limit-len(f.choices))/len(cycle) + 1)
	share := make(map[int]uint64)
	for _, i := range cycle {
		share[i]++
	}
	for i, n := range share {
		if i >= 0 && n*passes >= room(f.servers[i]) {
			return true
		}
	}
	return false
}

// room is how many connections a server takes until it is full: practically
// endless without a threshold, or when that was passed without notice.
func room(s Server) uint64 {
	if s.Upper == 0 || s.total() >= uint64(s.Upper) {
		return 1 << 63
	}
	return uint64(s.Upper) - s.total()
}

func (f *foresight) plan(countFree bool) Plan {
	slots := make([]uint32, len(f.choices))
	for n, i := range f.choices {
		slots[n] = idOf(f.servers, i)
	}
	return Plan{Kind: Sequence, Slots: slots, Loop: f.loop, Exact: f.closed && countFree && !f.filled}
}

// thinned runs a scheduler that knows no slow start, while there is one.
func (f *foresight) thinned(s Scheduler) {
	t := newThinning(f.servers)
	for f.more() {
		f.take(t.pick(s, f.servers))
	}
}

// plain runs a scheduler nothing is known about.
func (f *foresight) plain(s Scheduler) {
	if !anyUsable(f.servers) {
		f.take(-1)
		return
	}
	for f.more() {
		f.take(s.Pick(Packet{}, f.servers))
	}
}

// twos sums up the weights once, and again only after a server left the draw.
func (f *foresight) twos(t *twos) {
	draw := newLottery(f.servers)
	for f.more() && draw.sum() > 0 {
		if f.take(t.choose(draw, f.servers)) {
			draw = newLottery(f.servers)
		}
	}
	if f.more() {
		f.take(-1)
		f.close(len(f.choices) - 1)
	}
}

// cyclic runs until the scheduler comes into a state where it has been.
func (f *foresight) cyclic(s Cyclic) {
	seen := map[[2]uint64]int{s.State(): 0}
	for f.more() {
		if f.take(s.Pick(Packet{}, f.servers)) {
			clear(seen)
		}
		if at, again := seen[s.State()]; again && f.close(at) {
			return
		}
		seen[s.State()] = len(f.choices)
	}
}

// ranked keeps the servers in a heap by cost, which Pick would look through each
// time, and watches for choices that repeat.
func (f *foresight) ranked(r *ranked) {
	heap := newField(len(f.servers))
	for i, s := range f.servers {
		if cost, ok := r.cost(s); ok {
			heap.enter(i, cost)
		}
	}
	heap.heapify()
	var w *window
	for f.more() {
		i := heap.top()
		if i < 0 {
			f.take(-1)
			f.close(len(f.choices) - 1)
			return
		}
		if w == nil && r.repeats(heap.cost[i]) {
			w = newWindow(heap, len(f.choices))
		}
		full := f.take(i)
		heap.settle(r.cost(f.servers[i]))
		if full {
			w = nil
		} else if f.repeated(r, w) {
			return
		}
	}
}

// repeated tries to close the run after a choice.
func (f *foresight) repeated(r *ranked, w *window) bool {
	if !r.uses.moved(f.counting) {
		return f.close(len(f.choices) - 1)
	}
	if w == nil {
		return false
	}
	start := w.push(f.choices)
	return start >= 0 && f.close(start)
}

// repeats reports whether choices in proportion to the weights lead back to an
// equivalent state, if the least cost is what it is.
func (r *ranked) repeats(least Cost) bool {
	return r.growth == growthLinear || r.growth == growthAfterIdle && least.Num > 0
}

// window watches the latest choices until they are in proportion to the weights.
// Then every cost has grown by the same amount, since each connection adds 1/Den
// of something; the same server is the least as at the window's beginning, and so
// on for ever.
type window struct {
	want  []int // by server: choices in a window
	have  []int
	wrong int // servers whose have is not their want
	size  int
	first int // choices before it do not count
}

// maxWindow keeps sizes in an int; no plan is as long.
const maxWindow = 1 << 40

// newWindow begins a window for the competitors as they are.
func newWindow(f *field, first int) *window {
	divisor := int64(0)
	for _, i := range f.heap {
		divisor = gcd(divisor, int64(f.cost[i].Den))
	}
	w := &window{want: make([]int, len(f.cost)), have: make([]int, len(f.cost)), first: first}
	for _, i := range f.heap {
		w.want[i] = int(int64(f.cost[i].Den) / divisor)
		w.size = min(w.size+w.want[i], maxWindow)
	}
	w.wrong = len(f.heap)
	return w
}

// push moves the window on over the last choice. It returns where a repeating
// window begins, or -1.
func (w *window) push(choices []int) (start int) {
	w.count(choices[len(choices)-1], 1)
	start = len(choices) - w.size
	if start > w.first {
		w.count(choices[start-1], -1)
	}
	if start < w.first || w.wrong > 0 {
		return -1
	}
	return start
}

func (w *window) count(i, by int) {
	before := w.have[i] == w.want[i]
	w.have[i] += by
	switch after := w.have[i] == w.want[i]; {
	case before && !after:
		w.wrong++
	case after && !before:
		w.wrong--
	}
}
