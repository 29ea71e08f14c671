// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every curve has a point for each number, and they are written as table, plots and JSON.
func TestScale(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	conns, reals, services := scaleConns, scaleReals, scaleServices
	defer func() { scaleConns, scaleReals, scaleServices = conns, reals, services }()
	scaleConns, scaleReals, scaleServices = []int{16, 1024}, []int{2, 20}, []int{1, 300}
	s, err := MeasureScale(Options{Rounds: 1, Slice: time.Millisecond, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Curves) != 5 {
		t.Errorf("%d curves", len(s.Curves))
	}
	for _, c := range s.Curves {
		if len(c.Points) != 2 {
			t.Errorf("%s: %v", c.Key, c.Points)
		}
	}
	for _, row := range []string{"\n| 1024 |", "\n| 20 |", "\n| 300 |"} {
		if !strings.Contains(s.Markdown(), row) {
			t.Errorf("no %q in\n%s", row, s.Markdown())
		}
	}
	dir := t.TempDir()
	if err := s.WriteAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"scale-conns.svg", "scale-reals.svg", "scale-services.svg", "scale.md"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(text) < 100 {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
	}
	var back Scale
	text, err := os.ReadFile(filepath.Join(dir, "scale.json"))
	if err != nil || json.Unmarshal(text, &back) != nil || len(back.Curves) != len(s.Curves) {
		t.Errorf("scale.json: %v\n%s", err, text)
	}
}

// All virtual addresses differ, also those of 100,000 services.
func TestManyVIPs(t *testing.T) {
	seen := map[string]bool{}
	for n := range uint32(100_000) {
		vip := manyVIP(n).String()
		if seen[vip] || !strings.HasPrefix(vip, "172.") {
			t.Fatalf("service %d has %s, another one's or none of 172.16.0.0/12", n, vip)
		}
		seen[vip] = true
	}
}
