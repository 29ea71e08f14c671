// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"math/bits"
	"time"
)

// SlowStart returns the effective weight of a server that has been up for elapsed,
// while it is brought in over duration: a straight line from 0 to weight, but at
// least 1, so that the server is usable from the first moment. Weight 0 stays 0,
// a duration of 0 or less means the full weight at once.
func SlowStart(weight uint32, elapsed, duration time.Duration) uint32 {
	if weight == 0 || duration <= 0 || elapsed >= duration {
		return weight
	}
	// 32 bits times 63: the product needs 128.
	hi, lo := bits.Mul64(uint64(weight), uint64(max(elapsed, 0)))
	ramp, _ := bits.Div64(hi, lo, uint64(duration))
	return max(uint32(ramp), 1)
}
