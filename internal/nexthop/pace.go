// SPDX-License-Identifier: Apache-2.0

package nexthop

import "time"

// paceBurst is what share of a second's probes may be sent at once: enough to wake up a hundred
// times per second instead of for each probe.
const paceBurst = time.Second / 50

// A pace bounds a rate (the generic cell rate algorithm, a leaky bucket as a meter).
type pace struct {
	each time.Duration
	next time.Time // when the next one would be on time
}

func newPace(perSecond int) pace { return pace{each: time.Second / time.Duration(perSecond)} }

// allow tells whether one more may happen now, and counts it.
func (p *pace) allow(now time.Time) bool {
	if p.next.After(now) {
		return false
	}
	if earliest := now.Add(-paceBurst); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(p.each)
	return true
}

// ready tells when to try again after allow has refused: with some room for a batch.
func (p *pace) ready() time.Time { return p.next.Add(paceBurst / 2) }
