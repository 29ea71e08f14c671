// SPDX-License-Identifier: Apache-2.0

package nexthop

import "time"

// Options tune a Resolver. The zero value is what a director wants.
//
// All times run on the time package's clock, so tests run under testing/synctest.
type Options struct {
	// Refresh is the longest time between two probes of a resolved next hop; the actual time is
	// drawn between 80 % and all of it. It is also the longest time between two probes of one that
	// does not answer. 0: 10 s.
	Refresh time.Duration
	// Retry is how long an answer is waited for before the next probe. 0: 1 s.
	Retry time.Duration
	// Fails is after how many unanswered probes in a row a next hop becomes unresolved. A host that
	// vanishes is noticed within Refresh + Fails * Retry. 0: 3.
	Fails int
	// ProbeRate bounds the probes per second over all next hops. When it does not suffice, probes
	// are late and nothing becomes unresolved for that. 0: 2000.
	ProbeRate int
	// Coalesce is how long notifications are gathered before they are applied. 0: 10 ms.
	Coalesce time.Duration
	// Resync is the time between two complete readings of the kernel's tables. 0: 1 min.
	Resync time.Duration
	// FirstWait is after what time Synced is closed, whatever is still open; counted from the moment
	// Run has the first targets. 0: Fails * Retry + 1 s, enough for a first "no answer".
	FirstWait time.Duration
}

// withDefaults gives the options with zeros replaced.
func (o Options) withDefaults() Options {
	o.Refresh = positive(o.Refresh, 10*time.Second)
	o.Retry = positive(o.Retry, time.Second)
	o.Fails = positive(o.Fails, 3)
	o.ProbeRate = positive(o.ProbeRate, 2000)
	o.Coalesce = positive(o.Coalesce, 10*time.Millisecond)
	o.Resync = positive(o.Resync, time.Minute)
	o.FirstWait = positive(o.FirstWait, time.Duration(o.Fails)*o.Retry+time.Second)
	return o
}

// positive gives v, or fallback when v is not positive.
func positive[T int | time.Duration](v, fallback T) T {
	if v > 0 {
		return v
	}
	return fallback
}
