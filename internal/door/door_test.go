// SPDX-License-Identifier: Apache-2.0

package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a kernel in memory.
type fake struct {
	up    bool
	rules map[string]bool
	fail  error
}

func (f *fake) pair(program int, again bool) (missing []string, err error) {
	if program != 42 {
		return nil, fmt.Errorf("program %d", program)
	}
	if !f.up {
		missing = []string{"interfaces"}
	}
	f.up = f.fail == nil
	return missing, f.fail
}

func (f *fake) dropPair() error { f.up = false; return f.fail }

func (f *fake) routes(marks []uint32, v6 bool) (missing []string, err error) {
	for _, mark := range marks {
		if name := fmt.Sprint(mark, v6); !f.rules[name] {
			f.rules[name] = true
			missing = append(missing, name)
		}
	}
	return missing, nil
}

func (f *fake) dropRules(want Marks) error {
	for name := range f.rules {
		if !slices.ContainsFunc(want.V4, func(m uint32) bool { return fmt.Sprint(m, false) == name }) &&
			!slices.ContainsFunc(want.V6, func(m uint32) bool { return fmt.Sprint(m, true) == name }) {
			delete(f.rules, name)
		}
	}
	return nil
}

func newFake() (*Manager, *fake, *strings.Builder) {
	log := &strings.Builder{}
	k := &fake{rules: map[string]bool{}}
	m := New(Options{Log: slog.New(slog.NewTextHandler(log, nil)), Program: func() int { return 42 }})
	m.kernel = k
	return m, k, log
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenSetRemove(t *testing.T) {
	m, k, _ := newFake()
	marks := MarksOf([]uint32{9, 7, 9}, []uint32{7})
	must(t, m.Open(marks))
	if !k.up || len(k.rules) != 0 {
		t.Errorf("opened: up %t, rules %v, want a pair that no packet comes to", k.up, k.rules)
	}
	must(t, m.Withdraw())
	if k.up {
		t.Error("the pair is there after the state that wanted it was refused")
	}
	must(t, m.Open(marks))
	must(t, m.Set(marks))
	if len(k.rules) != 3 || !m.State().Open {
		t.Errorf("rules %v, state %+v", k.rules, m.State())
	}
	must(t, m.Set(MarksOf(nil, []uint32{7})))
	if len(k.rules) != 1 || !k.up {
		t.Errorf("rules %v", k.rules)
	}
	must(t, m.Remove())
	if k.up || len(k.rules) != 0 || m.State().Open {
		t.Errorf("removed: up %t, rules %v, state %+v", k.up, k.rules, m.State())
	}
	must(t, m.Open(Marks{}))
	if k.up {
		t.Error("there is a pair that nobody wants")
	}
}

// others change something while the manager does not look.
func others(m *Manager, change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// What is missing is put back and said once; an error is said once, until it is another one.
func TestRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, k, log := newFake()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		sleep := func() { time.Sleep(2 * checkEvery); synctest.Wait() }
		must(t, m.Set(MarksOf([]uint32{7}, nil)))
		sleep()
		if log.Len() > 0 {
			t.Errorf("nothing was missing, and the log is\n%s", log)
		}
		others(m, func() { delete(k.rules, "7 false") })
		sleep()
		if n := strings.Count(log.String(), "door_repaired"); n != 1 || !k.rules["7 false"] || m.State().Repaired != 1 {
			t.Errorf("%d lines, rules %v, state %+v, log\n%s", n, k.rules, m.State(), log)
		}
		others(m, func() { k.fail = errors.New("no such thing") })
		sleep()
		sleep()
		if n := strings.Count(log.String(), "no such thing"); n != 1 || m.State().Problem != "no such thing" {
			t.Errorf("%d lines, state %+v, log\n%s", n, m.State(), log)
		}
		others(m, func() { k.fail = nil })
		sleep()
		if m.State().Problem != "" {
			t.Errorf("state %+v", m.State())
		}
		cancel()
		must(t, <-done)
	})
}
