// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"log/slog"
	"time"

	"xdplvs/director"
)

// Kind is what an event is about.
type Kind string

// The kinds of events.
const (
	RealUp       Kind = "real_up"
	RealDraining Kind = "real_drain"
	RealDown     Kind = "real_down"
	RealUnknown  Kind = "real_unknown"
	QuorumGained Kind = "quorum_gained"
	QuorumLost   Kind = "quorum_lost"
)

// Event is a transition of a real server, or of a service's quorum.
type Event struct {
	Time        time.Time
	Kind        Kind
	Service     director.ServiceKey
	ServiceName string
	Real        director.RealKey // zero: the event is the service's
	RealName    string
	Sorry       bool // Real is a sorry server
	Evidence    string
	Up          float64 // weight of the service's real servers that are up
}

// maxTransitions is how many are kept of each real server.
const maxTransitions = 32

var kinds = map[director.Condition]Kind{
	director.Up: RealUp, director.Draining: RealDraining, director.Down: RealDown, director.Unknown: RealUnknown,
}

// turn takes over a real server's health; true: it is another.
func (m *Monitor) turn(s *service, r *real, health director.Health) bool {
	was := r.health
	if health == was {
		return false
	}
	r.health = health
	if !r.checked() || health.Condition == was.Condition && health.Forced == was.Forced {
		return true
	}
	r.transitions = append(r.transitions, director.HealthTransition{Time: health.Since, From: was.Condition, To: health.Condition, Evidence: health.Evidence})
	r.transitions = r.transitions[max(0, len(r.transitions)-maxTransitions):]
	m.tellReal(s, r, was)
	return true
}

// tellReal logs a transition and notifies of it. That a real server is up at first is no news.
func (m *Monitor) tellReal(s *service, r *real, was director.Health) {
	event := Event{
		Time: time.Now(), Kind: kinds[r.health.Condition], Service: s.Key, ServiceName: s.Name,
		Real: r.Real.Key, RealName: r.Real.Name, Sorry: r.isSorry(), Evidence: r.health.Evidence,
	}
	sum, _ := s.upWeight()
	event.Up = float64(sum) / 100
	level := slog.LevelInfo
	if r.health.Condition == director.Down {
		level = slog.LevelWarn
	}
	whose := "real server is "
	if event.Sorry {
		whose = "sorry server is "
	}
	m.opts.Log.Log(context.Background(), level, whose+described(r.health.Condition), "event", string(event.Kind),
		"service", nameOr(s.Name, s.Key.String()), "real", nameOr(r.Real.Name, r.Real.Key.String()), "address", r.Real.Key.String(),
		"was", was.Condition.String(), "forced", r.health.Forced, "evidence", r.health.Evidence)
	if was.Condition == director.Unknown && r.health.Condition == director.Up {
		return
	}
	m.notify(event)
}

func described(c director.Condition) string {
	if c == director.Draining {
		return "draining"
	}
	return c.String()
}

func (m *Monitor) notify(e Event) {
	if m.opts.Notify != nil {
		m.opts.Notify(e)
	}
}

// tellQuorum logs that a service has lost its quorum or has it again, and notifies of it.
func (m *Monitor) tellQuorum(s *service, sum uint64) {
	kind, level, text := QuorumGained, slog.LevelInfo, "service has its quorum again"
	if s.quorum.lost {
		kind, level, text = QuorumLost, slog.LevelWarn, "service has lost its quorum"
	}
	up := float64(sum) / 100
	m.opts.Log.Log(context.Background(), level, text, "event", string(kind), "service", nameOr(s.Name, s.Key.String()),
		"up", up, "quorum", max(s.Quorum.Weight, 1), "hysteresis", s.Quorum.Hysteresis)
	m.notify(Event{Time: time.Now(), Kind: kind, Service: s.Key, ServiceName: s.Name, Up: up})
}
