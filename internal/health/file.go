// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"xdplvs/director"
	"xdplvs/healthcheck"
)

// keptFile is the state for the next process.
type keptFile struct {
	Version  int           `json:"version"` // keptVersion
	Services []keptService `json:"services"`
}

const keptVersion = 1

type keptService struct {
	Key     director.ServiceKey `json:"service"`
	Decided bool                `json:"quorum_decided"`
	Lost    bool                `json:"quorum_lost"`
	Since   time.Time           `json:"quorum_since"`
	Reals   []keptReal          `json:"reals"`
}

type keptReal struct {
	Key         director.RealKey            `json:"real"`
	Sorry       bool                        `json:"sorry,omitempty"`
	Health      director.Health             `json:"health"`
	Forced      director.Condition          `json:"forced"`
	Transitions []director.HealthTransition `json:"transitions,omitempty"`
	Checks      []keptCheck                 `json:"checks,omitempty"`
}

// key is the Monitor's.
func (s *keptService) key(r *keptReal) director.HealthKey {
	if r.Sorry {
		return director.HealthKey{Service: s.Key.OfSorry(), Real: r.Key}
	}
	return director.HealthKey{Service: s.Key, Real: r.Key}
}

// keptCheck is a healthcheck.State, as far as it matters until the first result.
type keptCheck struct {
	Name      string             `json:"name"`
	Condition director.Condition `json:"condition"`
	Factor    int                `json:"factor"`
	Reserve   bool               `json:"reserve,omitempty"`
	Lag       time.Duration      `json:"lag,omitempty"`
	Since     time.Time          `json:"since"`
	Evidence  healthcheck.Result `json:"evidence"`
}

// keptTransitions is how many of each real server the file has.
const keptTransitions = 8

func keptOf(name string, s healthcheck.State) keptCheck {
	return keptCheck{name, conditionOf(s), s.Factor, s.Reserve, s.Lag, s.Since, s.Evidence}
}

func (k keptCheck) state() healthcheck.State {
	s := healthcheck.State{Factor: k.Factor, Reserve: k.Reserve, Lag: k.Lag, Since: k.Since, Evidence: k.Evidence}
	switch k.Condition {
	case director.Up:
		s.Verdict = healthcheck.Up
	case director.Draining:
		s.Verdict, s.Drain = healthcheck.Up, true
	case director.Down:
		s.Verdict = healthcheck.Down
	}
	return s
}

// checks are the kept ones by the manager's names.
func (f keptFile) checks() map[string]keptCheck {
	all := map[string]keptCheck{}
	for _, s := range f.Services {
		for _, r := range s.Reals {
			for _, c := range r.Checks {
				all[checkName(s.key(&r), c.Name)] = c
			}
		}
	}
	return all
}

// inForce is Monitor's, of the former process.
func (f keptFile) inForce() (map[director.HealthKey]*real, map[director.ServiceKey]quorum) {
	reals, quorums := map[director.HealthKey]*real{}, map[director.ServiceKey]quorum{}
	for _, s := range f.Services {
		quorums[s.Key] = quorum{s.Decided, s.Lost, s.Since}
		for _, r := range s.Reals {
			key := s.key(&r)
			reals[key] = &real{key: key, health: r.Health, forced: r.Forced, transitions: r.Transitions}
		}
	}
	return reals, quorums
}

// read takes what a former process has kept; what cannot be read is told, and nothing is known then.
func (m *Monitor) read() (f keptFile) {
	if m.opts.File == "" {
		return f
	}
	text, err := os.ReadFile(m.opts.File)
	if errors.Is(err, os.ErrNotExist) {
		return f
	}
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err == nil && f.Version != keptVersion {
		err = fmt.Errorf("version %d, this is %d", f.Version, keptVersion)
	}
	if err != nil {
		m.opts.Log.Warn("health of the former run is lost", "event", "health_lost", "file", m.opts.File, "error", err)
		return keptFile{}
	}
	return f
}

// keep writes the file whenever there is something new. It takes no more than a tenth of the time.
func (m *Monitor) keep(ctx context.Context) error {
	for m.opts.File != "" {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.news:
		}
		begin := time.Now()
		if err := m.write(); err != nil {
			m.opts.Log.Error("keep health for a restart", "event", "health_not_kept", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(9 * time.Since(begin)):
		}
	}
	return nil
}

// write replaces the file in one step. It need not survive the machine, as its tables do not.
func (m *Monitor) write() error {
	text, err := json.Marshal(m.toKeep())
	if err != nil {
		return err
	}
	next := m.opts.File + ".new"
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, m.opts.File)
}

func (m *Monitor) toKeep() keptFile {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := keptFile{Version: keptVersion}
	for _, s := range m.services {
		kept := keptService{Key: s.Key, Decided: s.quorum.decided, Lost: s.quorum.lost, Since: s.quorum.since}
		for _, r := range s.servers() {
			kr := keptReal{Key: r.Real.Key, Sorry: r.isSorry(), Health: r.health, Forced: r.forced, Transitions: r.transitions[max(0, len(r.transitions)-keptTransitions):]}
			for i, name := range r.names {
				kr.Checks = append(kr.Checks, keptOf(r.Real.Checks[i].Name, m.state(name)))
			}
			kept.Reals = append(kept.Reals, kr)
		}
		f.Services = append(f.Services, kept)
	}
	return f
}
