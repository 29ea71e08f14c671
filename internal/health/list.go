// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"xdplvs/director"
	"xdplvs/healthcheck"
)

// List is the health of all services that are checked.
func (m *Monitor) List() director.HealthList {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := director.HealthList{Time: time.Now(), Services: []director.ServiceHealth{}}
	for _, s := range m.services {
		if !slices.ContainsFunc(s.servers(), (*real).checked) {
			continue
		}
		state := director.ServiceHealth{Name: s.Name, Key: s.Key, Quorum: s.quorumState(), Reals: []director.RealHealth{}}
		for _, r := range s.servers() {
			state.Reals = append(state.Reals, m.listReal(r))
		}
		list.Services = append(list.Services, state)
	}
	return list
}

func (m *Monitor) listReal(r *real) director.RealHealth {
	h := director.RealHealth{Name: r.Real.Name, Key: r.Real.Key, Sorry: r.isSorry(), Checked: r.checked(), Health: r.health, Checks: []director.CheckHealth{}}
	for i, name := range r.names {
		h.Checks = append(h.Checks, listCheck(&r.Real.Checks[i], m.state(name)))
		if way, ok := m.target(r.key, &r.Real.Checks[i]).Way.(ClientWay); ok {
			h.Checks[i].Way = way.String()
		}
	}
	return h
}

func listCheck(c *Check, s healthcheck.State) director.CheckHealth {
	h := director.CheckHealth{
		Name: c.Name, Target: c.Target.Address.String(), Condition: conditionOf(s), Factor: s.Factor, Since: s.Since,
		Pending: s.Pending, Silent: s.Silent, Checks: s.Checks, Failures: s.Failures,
	}
	if s.Evidence.Code != "" {
		h.Evidence = s.Evidence.String()
	}
	if s.Last.Code != "" {
		h.Last, h.Code, h.LastAt, h.Took = s.Last.String(), string(s.Last.Code), s.Last.Begin, s.Last.Duration
	}
	return h
}

// History is what became of the real servers that are meant by a name, ADDRESS or ADDRESS:PORT, of one
// service or all.
func (m *Monitor) History(realText, serviceText string) ([]director.HealthHistory, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []director.HealthHistory
	err := m.each(realText, serviceText, func(s *service, r *real) {
		h := director.HealthHistory{Service: nameOr(s.Name, s.Key.String()), Real: r.Real.Key, Name: r.Real.Name,
			Transitions: append([]director.HealthTransition{}, r.transitions...), Results: []director.CheckResult{}}
		for i, name := range r.names {
			_, results := m.manager.History(name)
			for _, result := range results {
				h.Results = append(h.Results, director.CheckResult{Time: result.Begin, Check: r.Real.Checks[i].Name, Result: result.String()})
			}
		}
		slices.SortStableFunc(h.Results, func(a, b director.CheckResult) int { return a.Time.Compare(b.Time) })
		all = append(all, h)
	})
	return all, err
}

// Order sets the condition of real servers by hand; it returns how many. It holds until it is
// ordered otherwise, over restarts too.
func (m *Monitor) Order(o director.HealthOrder) (int, error) {
	condition := director.Unknown
	if o.Condition != "auto" {
		if err := condition.UnmarshalText([]byte(o.Condition)); err != nil || condition == director.Unknown {
			return 0, fmt.Errorf("unknown condition %q (known: up, drain, down, auto)", o.Condition)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	err := m.each(o.Real, o.Service, func(_ *service, r *real) {
		if r.checked() {
			r.forced = condition
			n++
		}
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("real server %s is not checked: its weight says whether it is used", o.Real)
	}
	m.refresh()
	return n, err
}

// each calls fn for the real servers that are meant; it is an error if there is none.
func (m *Monitor) each(realText, serviceText string, fn func(*service, *real)) error {
	var known []string
	found := false
	for _, s := range m.services {
		if serviceText != "" && !s.is(serviceText) {
			continue
		}
		for _, r := range s.servers() {
			known = append(known, nameOr(r.Real.Name, r.Real.Key.String()))
			if r.is(realText) {
				found = true
				fn(s, r)
			}
		}
	}
	switch {
	case found:
		return nil
	case len(known) == 0 && serviceText != "":
		return fmt.Errorf("no service %q is checked", serviceText)
	default:
		slices.Sort(known)
		return fmt.Errorf("no real server %q%s (known: %s)", realText, ofService(serviceText), strings.Join(someOf(slices.Compact(known)), ", "))
	}
}

func ofService(text string) string {
	if text == "" {
		return ""
	}
	return " in service " + text
}

func someOf(list []string) []string {
	const most = 8
	if len(list) > most {
		return append(slices.Clone(list[:most]), "…")
	}
	return list
}

// is tells whether a text means the service: its name, ADDRESS:PORT, or its key as listings have it.
func (s *service) is(text string) bool {
	key := s.Key.String()
	_, where, _ := strings.Cut(key, " ")
	return text == s.Name && text != "" || text == key || s.Key.Mark == 0 && text == where
}

// is tells whether a text means the real server: its name, ADDRESS or ADDRESS:PORT.
func (r *real) is(text string) bool {
	return text == r.Real.Name && text != "" || text == r.Real.Key.String() || text == r.Real.Key.Addr.String()
}
