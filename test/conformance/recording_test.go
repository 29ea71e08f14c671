// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"compress/gzip"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The recordings' form is described in recordings/README.md.
type (
	recording struct {
		Scenarios []scenario
	}
	scenario struct {
		file        string // without extensions
		Name, Proto string
		VIP         netip.AddrPort
		Fwmark      int
		Sched       string
		SvcArgs     string `json:"svc_args"`
		Dests       []dest
		Steps       []step
	}
	dest struct {
		Addr         netip.AddrPort
		Weight       int // -1: not there from the start
		Upper, Lower uint32
	}
	step struct {
		Op, Pattern, Cmd string
		Clients, Targets []netip.AddrPort
		Choices          []int
		Table            []row
	}
	row struct {
		Addr                  netip.AddrPort
		Weight, Active, Inact uint32
	}
)

const recordings = "../../scheduler/testdata/ipvs-6.1"

// refused is the choice of a client that was sent an ICMP port unreachable.
const refused = -1

func (s scenario) String() string { return s.file + "/" + s.Name }

// words are those of a command.
func (s step) words() []string { return strings.Fields(s.Cmd) }

func (s step) String() string { return strings.TrimSpace(s.Op + " " + s.Pattern + s.Cmd) }

func allScenarios(t *testing.T) (all []scenario) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(recordings, "*.json.gz"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings in %s: %v", recordings, err)
	}
	for _, path := range paths {
		for _, s := range readRecording(t, path).Scenarios {
			s.file = strings.TrimSuffix(filepath.Base(path), ".json.gz")
			all = append(all, s)
		}
	}
	return all
}

func readRecording(t *testing.T, path string) (r recording) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	if err := json.NewDecoder(plain).Decode(&r); err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return r
}
