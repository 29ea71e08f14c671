// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xdplvs/configs"
	"xdplvs/director"
)

func weigh(weight string) director.Edit {
	return director.Edit{Op: director.EditReal, Service: "192.0.2.1:80", Real: "10.0.0.1", Set: map[string]json.RawMessage{"weight": json.RawMessage(weight)}}
}

func addService(virtual string) director.Edit {
	return director.Edit{Op: director.AddService, Set: map[string]json.RawMessage{"virtual": json.RawMessage(`"` + virtual + `"`)}}
}

func (h *half) edit(edits ...director.Edit) {
	h.t.Helper()
	if err := h.backend().Edit(h.t.Context(), edits); err != nil {
		h.t.Fatal(err)
	}
}

// config is what director save prints, which must be a configuration.
func (h *half) config() *configs.Config {
	h.t.Helper()
	text, err := h.backend().Config()
	if err != nil {
		h.t.Fatal(err)
	}
	config, err := configs.Parse("save", text)
	if err != nil {
		h.t.Fatalf("%v in\n%s", err, text)
	}
	return config
}

func (h *half) recorded() string {
	h.t.Helper()
	text, err := os.ReadFile(h.changesFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	return string(text)
}

// TestEdit: a change is in force and on record at once; a restart and a reload keep it, and discarding
// it makes everything as in the file.
func TestEdit(t *testing.T) {
	h := newHalf(t, weighing(1))
	h.edit(weigh("5"), addService("192.0.2.2:80"))
	if s := h.snapshot(); len(s.Services) != 2 || h.weight() != 5 {
		t.Fatalf("in force: %+v", s.Services)
	}
	if saved := h.config().Desired.Services; len(saved) != 2 || saved[0].Reals[0].Weight != 5 {
		t.Errorf("saved: %+v", saved)
	}
	h.recall() // as after kill -9
	if got := h.doc.services; len(got) != 2 || got[0].Reals[0].Weight != 5 {
		t.Errorf("after a restart: %+v", got)
	}
	h.write(weighing(9) + "    answer: drop\n")
	if err := h.reload(t.Context()); err != nil || h.weight() != 5 || h.doc.services[0].Answer != director.AnswerDrop {
		t.Errorf("after a reload: %v, weight %d, %+v", err, h.weight(), h.doc.services[0])
	}
	if changes := h.backend().Changes(); len(changes.Services) != 2 {
		t.Errorf("changes %+v", changes)
	}
	if err := h.backend().DiscardChanges(t.Context()); err != nil || h.weight() != 9 || len(h.snapshot().Services) != 1 || h.recorded() != "" {
		t.Errorf("discarded: %v, weight %d, record %q", err, h.weight(), h.recorded())
	}
	if !h.backend().Changes().Empty() {
		t.Error("there are changes left")
	}
}

// TestEditRefused: of several changes, one that cannot be keeps all from being made, whoever finds out.
func TestEditRefused(t *testing.T) {
	for name, last := range map[string]director.Edit{
		"by the schema":  weigh("70000"),
		"by the table":   {Op: director.AddService, Set: map[string]json.RawMessage{"virtual": json.RawMessage(`"192.0.2.3:80"`), "scheduler": json.RawMessage(`"mh"`), "mh_table": json.RawMessage("131071")}},
		"does not exist": {Op: director.RemoveService, Service: "fwmark 7"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHalf(t, weighing(1)+"limits: {plan_slots: 64k}\n")
			before := h.snapshot().Generation
			if err := h.backend().Edit(t.Context(), []director.Edit{weigh("5"), last}); err == nil {
				t.Fatal("it was not refused")
			}
			if h.weight() != 1 || h.snapshot().Generation != before || h.recorded() != "" {
				t.Errorf("weight %d, record %q", h.weight(), h.recorded())
			}
			h.edit(weigh("2"))
		})
	}
}

// TestEditNotRecorded: a change that cannot be written down is not made.
func TestEditNotRecorded(t *testing.T) {
	h := newHalf(t, weighing(1))
	h.changesFile = filepath.Join(filepath.Dir(h.changesFile), "missing", "changes.json")
	err := h.backend().Edit(t.Context(), []director.Edit{weigh("5")})
	if err == nil || h.weight() != 1 || h.doc.services[0].Reals[0].Weight != 1 {
		t.Fatalf("error %v, weight %d", err, h.weight())
	}
	expectText(t, "error", err.Error(), "write run-time changes", "missing")
}

// TestEditKeepsTimeouts: those that were changed at run time are a reload's to change back.
func TestEditKeepsTimeouts(t *testing.T) {
	h := newHalf(t, weighing(1))
	if _, err := h.backend().SetTimeouts(t.Context(), timeoutsOf(t, "tcp", time.Minute)); err != nil {
		t.Fatal(err)
	}
	h.edit(weigh("5"))
	if got, err := h.backend().Timeouts(t.Context()); err != nil || got.Get("tcp") != time.Minute {
		t.Errorf("tcp %s, %v", got.Get("tcp"), err)
	}
	if err := h.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := h.backend().Timeouts(t.Context()); err != nil || got.Get("tcp") != director.DefaultTimeouts.Get("tcp") {
		t.Errorf("after a reload tcp %s, %v", got.Get("tcp"), err)
	}
}

func timeoutsOf(t *testing.T, name string, d time.Duration) (all director.Timeouts) {
	t.Helper()
	if err := all.Set(name, d); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestEditAndAddresses: the address of a service that was removed is not held any more, and is again
// when the service comes back.
func TestEditAndAddresses(t *testing.T) {
	h := newHalf(t, weighing(1)+"addresses: [{address: 192.0.2.1, mode: none}]\n")
	if err := h.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	held := func() int { return len(h.backend().Addresses().Addresses) }
	h.edit(director.Edit{Op: director.RemoveService, Service: "192.0.2.1:80"})
	if held() != 0 {
		t.Errorf("without the service %d addresses are held", held())
	}
	h.edit(addService("192.0.2.1:81"))
	if held() != 1 {
		t.Errorf("with another service of it %d addresses are held", held())
	}
}

// TestReloadContradicts: a file that does not go together with a change is refused with the reason.
func TestReloadContradicts(t *testing.T) {
	h := newHalf(t, weighing(1))
	h.edit(director.Edit{Op: director.AddService, Set: map[string]json.RawMessage{"fwmark": json.RawMessage("7"), "name": json.RawMessage(`"web"`)}})
	h.write(weighing(3) + "    name: web\n")
	err := h.reload(t.Context())
	if err == nil || h.weight() != 1 {
		t.Fatalf("error %v, weight %d", err, h.weight())
	}
	expectText(t, "error", err.Error(), "director.yaml", "name web", "fwmark 7", "director changes discard")
}

// TestUnreadableChanges: a start without them would let somebody back into service unasked.
func TestUnreadableChanges(t *testing.T) {
	h := newHalf(t, weighing(1))
	for _, text := range []string{"{", `{"version": 2}`, `{"version":1,"services":[{"service":{"protocol":"x"}}]}`} {
		if err := os.WriteFile(h.changesFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := h.daemon.recall(h.doc.text)
		if err == nil || !strings.Contains(err.Error(), h.changesFile) {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

// TestZero: counters are shown from 0 on, of one service or of all.
func TestZero(t *testing.T) {
	count := func(n uint64) director.Counters { return director.Counters{Conns: n, InPkts: 2 * n, InBytes: 3 * n} }
	key := func(port uint16) director.ServiceKey {
		return director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: port}
	}
	state := func(n uint64) *director.Snapshot {
		s := &director.Snapshot{Total: count(2 * n)}
		for port := range uint16(2) {
			s.Services = append(s.Services, director.ServiceState{Key: key(port), Counters: count(n), Reals: []director.RealState{{Counters: count(n)}}})
		}
		return s
	}
	var z zeroes
	z.begin(state(10), func(k director.ServiceKey) bool { return k.Port == 1 }, false)
	s := state(15)
	z.adjust(s)
	if s.Services[0].Counters != count(15) || s.Services[1].Counters != count(5) || s.Services[1].Reals[0].Counters != count(5) || s.Total != count(30) {
		t.Errorf("after one: %+v", s)
	}
	z.begin(state(20), func(director.ServiceKey) bool { return true }, true)
	s = state(21)
	z.adjust(s)
	if s.Services[0].Counters != count(1) || s.Services[1].Reals[0].Counters != count(1) || s.Total != count(2) {
		t.Errorf("after all: %+v", s)
	}
	s = state(3) // they were removed, and came back
	z.adjust(s)
	if s.Services[0].Counters != count(3) {
		t.Errorf("anew: %+v", s)
	}
	h := newHalf(t, weighing(1))
	if err := h.backend().Zero(t.Context(), "192.0.2.1:80"); err != nil {
		t.Error(err)
	}
	var edit *director.EditError
	if err := h.backend().Zero(t.Context(), "fwmark 7"); !errors.As(err, &edit) || edit.Fault != director.FaultNoService {
		t.Errorf("error %v", err)
	}
}

// TestEditOfMany: one change of a large configuration is in force soon. The fastest of some counts, as
// other tests may be at work.
func TestEditOfMany(t *testing.T) {
	h := newHalf(t, string(manyServices(10000)))
	limit := 500 * time.Millisecond
	if raceEnabled {
		limit *= 10
	}
	change := director.Edit{Op: director.EditReal, Service: "tcp 198.18.19.136:80", Real: "10.19.136.2"}
	fastest := time.Hour
	for _, weight := range []string{"3", "4", "5", "6", "7"} {
		change.Set = weigh(weight).Set
		begun := time.Now()
		h.edit(change)
		fastest = min(fastest, time.Since(begun))
	}
	t.Logf("changed in %v", fastest.Round(time.Millisecond))
	if weight := h.snapshot().Services[5000].Reals[2].Weight; fastest > limit || weight != 7 {
		t.Errorf("took %v, weight %d", fastest, weight)
	}
}
