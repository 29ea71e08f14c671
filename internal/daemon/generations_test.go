// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"xdplvs/configs"
	"xdplvs/director"
	"xdplvs/internal/testkit"
)

func (h *half) onDisk() string {
	h.t.Helper()
	text, err := os.ReadFile(h.file)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

func (h *half) apply(text string, confirm time.Duration) {
	h.t.Helper()
	if err := h.backend().Apply(h.t.Context(), "new.yaml", []byte(text), confirm); err != nil {
		h.t.Fatal(err)
	}
}

// wantInForce checks what is in force, and what a restart would find.
func (h *half) wantInForce(what string, weight, onDisk int) {
	h.t.Helper()
	if h.weight() != uint32(weight) || h.onDisk() != weighing(onDisk) {
		h.t.Errorf("%s: weight %d is in force, want %d; the file is\n%s", what, h.weight(), weight, h.onDisk())
	}
}

// TestApply: a configuration is in force and in the file, and the way back goes step by step.
func TestApply(t *testing.T) {
	h := newHalf(t, weighing(1))
	if err := os.Chmod(h.file, 0o640); err != nil {
		t.Fatal(err)
	}
	h.apply(weighing(2), 0)
	h.wantInForce("applied", 2, 2)
	if info, err := os.Stat(h.file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	h.write(weighing(3))
	if err := h.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, weight := range []int{2, 1} {
		if err := h.backend().Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.wantInForce("rolled back", weight, weight)
	}
	if err := h.backend().Rollback(t.Context()); !errors.Is(err, errNoFormer) {
		t.Errorf("error %v", err)
	}
	if err := h.backend().Apply(t.Context(), "new.yaml", []byte("interfaces: []\n"), 0); err == nil || !strings.HasPrefix(err.Error(), "new.yaml:1:") {
		t.Errorf("error %v", err)
	}
	h.wantInForce("refused", 1, 1)
}

// TestGenerationsAreBounded: the oldest go.
func TestGenerationsAreBounded(t *testing.T) {
	h := newHalf(t, weighing(0))
	for weight := range 2 * mostGenerations {
		h.apply(weighing(weight+1), 0)
	}
	if n := len(h.generations()); n != mostGenerations {
		t.Errorf("%d are kept", n)
	}
	if err := h.backend().Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.wantInForce("rolled back", 2*mostGenerations-1, 2*mostGenerations-1)
}

// TestConfirm: until it is confirmed a configuration is in force only, and nothing else may come in between.
func TestConfirm(t *testing.T) {
	h := newHalf(t, weighing(1))
	h.apply(weighing(2), time.Hour)
	h.wantInForce("unconfirmed", 2, 1)
	if err := h.reload(t.Context()); !errors.Is(err, errUnconfirmed) {
		t.Errorf("reload: %v", err)
	}
	if err := h.backend().Apply(t.Context(), "x", []byte(weighing(3)), 0); !errors.Is(err, errUnconfirmed) {
		t.Errorf("apply: %v", err)
	}
	if err := h.backend().Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.wantInForce("confirmed", 2, 2)
	if err := h.backend().Confirm(t.Context()); !errors.Is(err, errNoTrial) {
		t.Errorf("confirmed twice: %v", err)
	}
	h.apply(weighing(5), time.Hour)
	if err := h.backend().Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.wantInForce("given up", 2, 2)
}

// TestNotConfirmed: the former configuration comes back by itself, with what was changed at run time meanwhile.
func TestNotConfirmed(t *testing.T) {
	h := newHalf(t, weighing(1))
	h.apply(weighing(2), 50*time.Millisecond)
	h.edit(addService("192.0.2.2:80"))
	testkit.Eventually(t, "the former configuration is back", func() bool { return h.weight() == 1 })
	h.wantInForce("back", 1, 1)
	if n := len(h.snapshot().Services); n != 2 {
		t.Errorf("%d services", n)
	}
	if err := h.backend().Confirm(t.Context()); !errors.Is(err, errNoTrial) {
		t.Errorf("confirmed too late: %v", err)
	}
}

// TestTrialKeepsChanges: a change that the trial's file has, too, is there when the former file is back, by
// itself or after kill -9; so is one that was made meanwhile.
func TestTrialKeepsChanges(t *testing.T) {
	for name, back := range map[string]func(*half) error{
		"rollback": func(h *half) error { return h.backend().Rollback(t.Context()) },
		"kill":     func(h *half) error { return h.daemon.recall([]byte(h.onDisk())) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHalf(t, weighing(1))
			h.edit(weigh("0"))
			h.apply(weighing(0), time.Hour)
			h.edit(addService("192.0.2.2:80"))
			if !strings.Contains(h.recorded(), "192.0.2.2") || len(h.backend().Changes().Services) != 1 {
				t.Errorf("recorded %s", h.recorded())
			}
			if err := back(h); err != nil {
				t.Fatal(err)
			}
			if s := h.doc.services; len(s) != 2 || s[0].Reals[0].Weight != 0 {
				t.Errorf("back with %+v", s)
			}
		})
	}
	h := newHalf(t, weighing(1))
	h.edit(weigh("0"))
	h.apply(weighing(0), time.Hour)
	if err := h.backend().Confirm(t.Context()); err != nil || h.recorded() != "" {
		t.Errorf("confirmed: %v, recorded %s", err, h.recorded())
	}
}

// TestNotWritten: a configuration that cannot be written is not in force.
func TestNotWritten(t *testing.T) {
	h := newHalf(t, weighing(1))
	if err := os.Remove(h.file); err != nil {
		t.Fatal(err)
	}
	err := h.backend().Apply(t.Context(), "new.yaml", []byte(weighing(2)), 0)
	if err == nil || h.weight() != 1 {
		t.Errorf("error %v, weight %d", err, h.weight())
	}
}

// TestPreview: the difference is exact, and says what becomes of the connections that there are.
func TestPreview(t *testing.T) {
	const before = `interfaces: [eth0]
services:
  - {name: web, virtual: "192.0.2.1:80", on_remove: reset, reals: [{name: rs1, address: 10.0.0.1}, {name: rs2, address: 10.0.0.2}, 10.0.0.3, 10.0.0.4]}
  - {virtual: "192.0.2.1:81", reals: [10.0.0.1]}
  - {virtual: "192.0.2.1:53", protocol: udp, reals: [10.0.0.1]}
  - {virtual: "192.0.2.1:82", reals: [10.0.0.1]}
`
	const after = `interfaces: [eth0, eth1]
services:
  - {name: web, virtual: "192.0.2.1:80", scheduler: sh, on_remove: reset, reals: [{name: rs1, address: 10.0.0.1}, {name: rs2, address: 10.0.0.2, weight: 0}, {address: 10.0.0.4, method: nat, port: 8080}, {address: 10.0.0.5, weight: 3}]}
  - {virtual: "192.0.2.1:81", reals: [{address: 10.0.0.1, method: tun}]}
  - {virtual: "192.0.2.1:82", reals: [10.0.0.1]}
`
	read := func(text string) *document {
		config, err := configs.Parse("test", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		doc, err := newDocument([]byte(text), config, director.Changes{})
		if err != nil {
			t.Fatal(err)
		}
		return &doc
	}
	from := read(before)
	s := &director.Snapshot{}
	for i := range from.services {
		state := director.ServiceState{Key: from.services[i].Key}
		for j, r := range from.services[i].Reals {
			state.Reals = append(state.Reals, director.RealState{Key: r.Key, Active: uint32(100*i + 10*j), Inactive: 1})
		}
		s.Services = append(s.Services, state)
	}
	var got []string
	p := preview(from, read(after), s)
	for _, s := range p.Services {
		got = append(got, fmt.Sprintf("%s %s %v", s.Op, s.Key, s.Keys))
		for _, r := range s.Reals {
			got = append(got, fmt.Sprintf("  %s %s %v %d %s", r.Op, r.Key, r.Keys, r.Connections, r.Effect))
		}
	}
	want := []string{
		"~ tcp 192.0.2.1:80 [{scheduler wrr sh}]",
		"  ~ 10.0.0.2:80 [{weight 1 0}] 11 drain",
		"  - 10.0.0.3:80 [] 21 reset",
		"  - 10.0.0.4:80 [] 31 reset",
		"  + 10.0.0.4:8080 [{port  8080} {method  nat}] 0 none",
		"  + 10.0.0.5:80 [{weight  3}] 0 none",
		"  tcp 192.0.2.1:81 []",
		"  ~ 10.0.0.1:81 [{method  tun}] 101 drain",
		"- udp 192.0.2.1:53 []",
		"  - 10.0.0.1:53 [] 201 reschedule",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if want := (director.Unchanged{Services: 1, RealServers: 2, Connections: 1 + 301}); p.Unchanged != want || !reflect.DeepEqual(p.Other, []string{"interfaces"}) {
		t.Errorf("unchanged %+v, other %v", p.Unchanged, p.Other)
	}
	if same := preview(from, from, s); !same.Empty() {
		t.Errorf("the same differs: %+v", same)
	}
}

// TestPreviewOfDaemon: it changes nothing.
func TestPreviewOfDaemon(t *testing.T) {
	h := newHalf(t, weighing(1))
	p, err := h.backend().Preview(t.Context(), "new.yaml", []byte(weighing(0)))
	if err != nil || len(p.Services) != 1 || p.Services[0].Key.Addr != netip.MustParseAddr("192.0.2.1") || h.weight() != 1 {
		t.Errorf("%v, %+v, weight %d", err, p, h.weight())
	}
	if _, err := h.backend().Preview(t.Context(), "new.yaml", []byte("interfaces: [lo]\nlimits: {services: 5}\n")); err == nil || !strings.Contains(err.Error(), "new.yaml: limits") {
		t.Errorf("error %v", err)
	}
}
