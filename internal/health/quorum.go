// SPDX-License-Identifier: Apache-2.0

package health

import (
	"time"

	"xdplvs/director"
)

// quorum is whether a service has its quorum.
type quorum struct {
	decided bool // enough was known once to tell
	lost    bool
	since   time.Time
}

// upWeight is the weight of the real servers that are up, in hundredths, and whether any is unknown.
func (s *service) upWeight() (sum uint64, unknown bool) {
	for _, r := range s.reals {
		switch r.health.Condition {
		case director.Up:
			sum += uint64(r.Weight) * uint64(r.health.Factor)
		case director.Unknown:
			unknown = true
		}
	}
	return sum, unknown
}

// after is the quorum with so much weight up, in hundredths. As long as some real server is unknown
// and nothing was decided yet, it is not lost.
func (q Quorum) after(was quorum, sum uint64, unknown bool, now time.Time) quorum {
	weight := max(uint64(q.Weight), 1)
	low, high := 100*(weight-min(weight, uint64(q.Hysteresis))), 100*(weight+uint64(q.Hysteresis))
	next := quorum{decided: true, lost: sum < low || sum == 0}
	switch {
	case !was.decided && unknown && sum < high:
		return was
	case was.decided && was.lost:
		next.lost = sum < high
	}
	if next.since = was.since; next.decided != was.decided || next.lost != was.lost {
		next.since = now
	}
	return next
}

// judgeQuorum finds whether a service has its quorum, and tells of a change.
func (m *Monitor) judgeQuorum(s *service) {
	if !s.checked() {
		s.quorum = quorum{}
		return
	}
	sum, unknown := s.upWeight()
	was := s.quorum
	s.quorum = s.Quorum.after(was, sum, unknown, time.Now())
	if s.quorum.decided == was.decided && s.quorum.lost == was.lost {
		return
	}
	if m.opts.Quorum != nil {
		m.opts.Quorum(s.Key, !s.quorum.lost)
	}
	if s.quorum.lost || was.decided {
		m.tellQuorum(s, sum)
	}
}

// tellQuorums says of every service what is known: who is told may not have known it before. One that
// is not checked, or not any more, has its quorum.
func (m *Monitor) tellQuorums() {
	for _, s := range m.services {
		m.judgeQuorum(s)
		if m.opts.Quorum != nil && (s.quorum.decided || !s.checked()) {
			m.opts.Quorum(s.Key, !s.quorum.lost)
		}
	}
}

func (s *service) quorumState() director.QuorumState {
	sum, _ := s.upWeight()
	return director.QuorumState{
		Weight: max(s.Quorum.Weight, 1), Hysteresis: s.Quorum.Hysteresis, Up: float64(sum) / 100,
		Decided: s.quorum.decided, Lost: s.quorum.lost, Since: s.quorum.since,
	}
}
