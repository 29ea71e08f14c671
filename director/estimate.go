// SPDX-License-Identifier: Apache-2.0

package director

import "time"

// estimateEvery is how often rates are updated, as in IPVS.
const estimateEvery = 2 * time.Second

// Fractional bits of the averages, as in IPVS (net/netfilter/ipvs/ip_vs_est.c
// describes the method): the new average is the old one plus a quarter of the
// difference to the last interval's rate.
const (
	packetBits = 10
	byteBits   = 5
)

// estimator averages the rates of one set of counters.
type estimator struct {
	last Counters
	avg  [5]int64 // conns, in and out packets, in and out bytes; fixed point
}

func (c Counters) list() [5]uint64 {
	return [5]uint64{c.Conns, c.InPkts, c.OutPkts, c.InBytes, c.OutBytes}
}

func fraction(i int) int {
	if i < 3 {
		return packetBits
	}
	return byteBits
}

// update takes the counters at the end of an interval of estimateEvery.
func (e *estimator) update(now Counters) {
	last, counts := e.last.list(), now.list()
	for i := range counts {
		// Half of the delta is the rate: two seconds have passed.
		rate := int64((counts[i] - last[i]) << (fraction(i) - 1))
		e.avg[i] += (rate - e.avg[i]) >> 2
	}
	e.last = now
}

func (e *estimator) rates() Rates {
	var r [5]uint64
	for i := range r {
		round := int64(1)<<(fraction(i)-1) - 1
		r[i] = uint64((e.avg[i] + round) >> fraction(i))
	}
	return Rates{CPS: r[0], InPPS: r[1], OutPPS: r[2], InBPS: r[3], OutBPS: r[4]}
}

func (c *Counters) add(o Counters) {
	c.Conns += o.Conns
	c.InPkts += o.InPkts
	c.OutPkts += o.OutPkts
	c.InBytes += o.InBytes
	c.OutBytes += o.OutBytes
}

func (c *Counters) sub(o Counters) {
	c.Conns -= o.Conns
	c.InPkts -= o.InPkts
	c.OutPkts -= o.OutPkts
	c.InBytes -= o.InBytes
	c.OutBytes -= o.OutBytes
}
