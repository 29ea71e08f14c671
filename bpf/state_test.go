// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// transition is what one packet makes of a connection in an IPVS kernel; see
// testdata/ipvs-6.1/README.md.
type transition struct {
	SecureTCP int    `json:"secure_tcp"`
	Table     string `json:"table"`
	Event     string `json:"event"`
	From      string `json:"from"`
	To        string `json:"to"`
	Active    int    `json:"active_after"`
	Inactive  int    `json:"inact_after"`
}

func readTransitions(t *testing.T) (all []transition) {
	t.Helper()
	file := need(os.Open("testdata/ipvs-6.1/states.json.gz"))(t)
	defer file.Close()
	var recording struct {
		Scenarios []struct{ Steps []struct{ Vals []transition } }
	}
	must(t, json.NewDecoder(need(gzip.NewReader(file))(t)).Decode(&recording))
	for _, scenario := range recording.Scenarios {
		for _, s := range scenario.Steps {
			all = append(all, s.Vals...)
		}
	}
	if len(all) != 704 {
		t.Fatalf("%d transitions are recorded, not 704", len(all))
	}
	return all
}

// flagsOf are the TCP flags that a recording names by their first letters.
func flagsOf(event string) (flags uint8) {
	for _, c := range event {
		flags |= map[rune]uint8{'S': syn, 'F': fin, 'A': ack, 'R': rst}[c]
	}
	return flags
}

// TestStates replays every transition that the packets of a client can cause:
// all states, all tables, both modes.
func TestStates(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			r.plan("web", 0, "a")
			replayed := 0
			for _, tr := range readTransitions(t) {
				if tr.Table == "OUTPUT" {
					continue // replies of the server's: not seen with dr
				}
				if err := r.replay(t, tr); err != nil {
					t.Errorf("%+v: %v", tr, err)
				}
				replayed++
			}
			if replayed != 352 {
				t.Errorf("%d transitions were replayed", replayed)
			}
			r.check(t)
		})
	}
}

// replay puts a connection into a state and sends a packet.
func (r *rig) replay(t *testing.T, tr transition) error {
	r.forget()
	r.Settings.SecureTcp = uint32(min(tr.SecureTCP, 1))
	r.send(t, tcp(syn)(r.f))
	word := uint32(stateNumber(tr.From))
	if tr.Table == "INPUT_ONLY" {
		word |= noOutput
	}
	r.setWord(r.mustFind(t, clientPort), word)
	if got := r.send(t, tcp(flagsOf(tr.Event))(r.f)); got.verdict != "tx_forward" {
		return fmt.Errorf("verdict %s", got.verdict)
	}
	e := r.mustFind(t, clientPort)
	if got := stateNames[ConnState(&e.conn)]; got != tr.To {
		return fmt.Errorf("went to %s", got)
	}
	if e.conn.Word&(noOutput|unproven) != word&noOutput {
		return fmt.Errorf("flags are %#x", e.conn.Word)
	}
	counts := r.Counts[r.reals["a"]].Conns
	if uint32(counts) != uint32(tr.Active) || counts>>32 != uint64(tr.Inactive) {
		return fmt.Errorf("%d active, %d inactive", uint32(counts), counts>>32)
	}
	return nil
}
