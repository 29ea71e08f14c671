// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"strings"
	"testing"
)

// The figures are the last object that the machine prints, whatever its kernel says before and after.
func TestLastJSON(t *testing.T) {
	for out, want := range map[string]string{
		"{\"machine\":\"a\"}\n": "a",
		"[    1.0] noise\n{\"machine\":\"a\"}\n{\"machine\":\"b\"}\nbye\n": "b",
	} {
		var c Counted
		if err := lastJSON([]byte(out), &c); err != nil || c.Machine != want {
			t.Errorf("%q: machine %q, %v; want %q", out, c.Machine, err, want)
		}
	}
	for out, want := range map[string]string{
		"":                    "printed no figures",
		"no { object":         "printed no figures",
		"{\"machine\": \"a\n": "read figures",
	} {
		if err := lastJSON([]byte(out), &Counted{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", out, err, want)
		}
	}
}

// What is counted has a name of its own, and none of it waits for memory.
func TestCountable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range countable() {
		key := countKey(s.key)
		if seen[key] {
			t.Errorf("%s is counted twice", key)
		}
		seen[key] = true
		if s.flows.Count > 1 && s.fresh != countedPackets {
			t.Errorf("%s: %d flows, %d of them new", key, s.flows.Count, s.fresh)
		}
	}
	for _, key := range []string{"dr4_established", "dr4_new", "nat4_new", "no_service"} {
		if !seen[key] {
			t.Errorf("%s is not counted", key)
		}
	}
}
