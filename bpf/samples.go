// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net/netip"
	"sync/atomic"
)

// Sample is a packet that would begin a connection, and what became of it.
type Sample struct {
	Source  netip.Addr
	Service uint32 // id
	Verdict string // that it was dropped with; empty: the defenses let it in
}

// ReadSamples gives the samples taken since the counts of seen, which it moves on, and returns how many packets
// they stand for. Each is given with how many those are: where more came than are kept, the last stand for all.
func (t *Tables) ReadSamples(seen []uint64, yield func(s Sample, weight uint64)) (count uint64) {
	for cpu := range t.Samples {
		ring := &t.Samples[cpu]
		end := atomic.LoadUint64(&ring.Count)
		fresh := end - seen[cpu]
		kept := min(fresh, uint64(len(ring.Sample)))
		for i := range kept {
			row := ring.Sample[(end-kept+i)%uint64(len(ring.Sample))]
			s := Sample{Source: netip.AddrFrom16(row.Addr).Unmap(), Service: row.Service}
			if int(row.Verdict) < len(verdictNames()) {
				s.Verdict = verdictNames()[row.Verdict]
			}
			yield(s, fresh/kept+btoi(i < fresh%kept))
		}
		seen[cpu] = end
		count += fresh
	}
	return count
}

// SamplesSeen is where all that was taken so far has been seen.
func (t *Tables) SamplesSeen() []uint64 {
	seen := make([]uint64, len(t.Samples))
	for cpu := range t.Samples {
		seen[cpu] = atomic.LoadUint64(&t.Samples[cpu].Count)
	}
	return seen
}

func btoi(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
