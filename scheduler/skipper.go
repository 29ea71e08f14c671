// SPDX-License-Identifier: Apache-2.0

package scheduler

import "slices"

// skipper moves a cyclic scheduler by many choices at once: once it has seen a
// state twice (Brent's algorithm: the state to wait for is renewed at distances
// that double) it leaves out whole cycles.
type skipper struct {
	s        Cyclic
	servers  []Server
	counting Counting

	mark     [2]uint64 // the state to wait for
	since    uint64    // choices since it was seen
	patience uint64    // choices after which a new one is taken
	share    []uint64  // by server: choices since
}

func newSkipper(s Cyclic, servers []Server, counting Counting) *skipper {
	k := &skipper{s: s, servers: slices.Clone(servers), counting: counting, share: make([]uint64, len(servers))}
	k.wait(1)
	return k
}

// wait begins to wait for the present state to come again.
func (k *skipper) wait(patience uint64) {
	k.mark, k.since, k.patience = k.s.State(), 0, patience
	clear(k.share)
}

func (k *skipper) advance(n uint64) {
	for n > 0 {
		full := k.step()
		n--
		switch {
		case full:
			// States seen before led elsewhere.
			k.wait(1)
		case k.s.State() == k.mark:
			n -= k.skip(n)
			k.wait(1)
		case k.since == k.patience:
			k.wait(2 * k.patience)
		}
	}
}

func (k *skipper) step() (full bool) {
	i := k.s.Pick(Packet{}, k.servers)
	k.since++
	if i < 0 {
		return false
	}
	k.share[i]++
	return k.servers[i].Connect(k.counting)
}

// skip counts as many whole cycles as fit into n without filling a server, and
// returns how many choices they were.
func (k *skipper) skip(n uint64) uint64 {
	cycles := n / k.since
	for i, c := range k.share {
		if c > 0 && k.counting != CountNothing {
			cycles = min(cycles, (room(k.servers[i])-1)/c)
		}
	}
	for i, c := range k.share {
		if c > 0 {
			k.servers[i].connect(k.counting, c*cycles)
		}
	}
	return cycles * k.since
}
