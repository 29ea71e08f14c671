// SPDX-License-Identifier: Apache-2.0

package healthcheck

import "time"

// State is what is known of a target. It is a value: readers may keep it.
type State struct {
	// Verdict, Drain, Factor and Reserve are what counts: of the last known result of the level that
	// rise and fall have settled on.
	Verdict Verdict
	Drain   bool
	Factor  int // percent of the configured weight; 0 unless up
	Reserve bool
	Lag     time.Duration
	// Since is when Verdict or Drain changed last.
	Since time.Time
	// Evidence is the result that brought the verdict; the zero Result before the first.
	Evidence Result
	// Last is the newest result, whatever it says.
	Last Result
	// Pending is how many known results in a row have contradicted the verdict: worse ones are
	// counted below 0, better ones above.
	Pending int
	// Silent is how many probes in a row could not be sent, SilentSince when the first of them began.
	Silent      int
	SilentSince time.Time
	// Checks counts all probes, Failures those that said down.
	Checks, Failures uint64
}

// initialState is a target's before anything is known.
func initialState(v Verdict, now time.Time) State {
	s := State{Verdict: v, Since: now}
	if v == Up {
		s.Factor = 100
	}
	return s
}

// anew is the state as it is for somebody who goes on with it.
func (s State) anew() State {
	return State{
		Verdict: s.Verdict, Drain: s.Drain, Factor: s.Factor, Reserve: s.Reserve, Lag: s.Lag,
		Since: s.Since, Evidence: s.Evidence,
	}
}

// differs tells whether something changed that others act upon.
func (s State) differs(old State) bool {
	return s.Verdict != old.Verdict || s.Drain != old.Drain || s.Factor != old.Factor || s.Reserve != old.Reserve ||
		s.Lag != old.Lag || (s.Silent == 0) != (old.Silent == 0)
}

func (s State) level() level { return levelOf(s.Verdict, s.Drain) }

// after gives the state with one more result.
func (s State) after(r Result, t Timing) State {
	s.Last = r
	s.Checks++
	if r.Verdict == Unknown {
		if s.Silent == 0 {
			s.SilentSince = r.Begin
		}
		s.Silent++
		return s
	}
	s.Silent, s.SilentSince = 0, time.Time{}
	if r.Verdict == Down {
		s.Failures++
	}
	if r.level() == s.level() {
		s.Pending = 0
		return s.settle(r)
	}
	return s.count(r, t)
}

// count takes a result of another level, which is believed after enough in a row. Results on both
// sides of a level do not add up: a change of side begins anew.
func (s State) count(r Result, t Timing) State {
	need := t.Fall
	if r.level() > s.level() {
		need = t.Rise
	}
	if s.Pending < 0 != (r.level() < s.level()) {
		s.Pending = 0
	}
	if r.level() < s.level() {
		s.Pending--
	} else {
		s.Pending++
	}
	if s.level() != levelNone && max(s.Pending, -s.Pending) < need {
		return s
	}
	s.Pending = 0
	s.Verdict, s.Drain = r.Verdict, r.Drain
	s.Since, s.Evidence = r.Begin.Add(r.Duration), r
	return s.settle(r)
}

// settle takes over what a result of the state's own level says.
func (s State) settle(r Result) State {
	s.Factor, s.Reserve, s.Lag = r.Factor, r.Reserve, r.Lag
	return s
}

// interval is the time to the next probe.
func (s State) interval(t Timing) time.Duration {
	switch {
	case s.Pending != 0:
		return t.Fast
	case s.Verdict == Down || s.Silent > 0:
		return t.Retry
	default:
		return t.Interval
	}
}

// Transition is a change of a target's verdict, with its evidence.
type Transition struct {
	When     time.Time
	From, To Verdict
	// FromDrain and ToDrain tell whether the target drained before and after.
	FromDrain, ToDrain bool
	Evidence           Result
}

// MaxHistory is how many transitions and how many results are kept of each check.
const MaxHistory = 32

// ring keeps the last MaxHistory values.
type ring[T any] struct {
	values []T
	next   int
}

func (r *ring[T]) add(v T) {
	if len(r.values) < MaxHistory {
		r.values = append(r.values, v)
		return
	}
	r.values[r.next] = v
	r.next = (r.next + 1) % MaxHistory
}

// list gives the values, the oldest first.
func (r *ring[T]) list() []T {
	return append(append([]T(nil), r.values[r.next:]...), r.values[:r.next]...)
}
