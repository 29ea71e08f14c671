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
		Fwmark      int // services of one, by the second octet of the address that packets are sent to
		Sched       string
		Fwd         string // ipvsadm's -g, -m or -i, with options
		SvcArgs     string `json:"svc_args"`
		Sysctl      map[string]string
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
		Err              string // what ipvsadm said
		MS               int
		Keep             []netip.AddrPort
		Pkt              string
		Out              []left
		State            *conn
		Conns            []conn
		Note             string
		Vals             json.RawMessage
	}
	// left is a frame that left the director.
	left struct{ Side, Via, Dest, Desc, Hex string }
	// conn is a line of /proc/net/ip_vs_conn.
	conn struct {
		Proto                 string
		Client, Virtual, Dest netip.AddrPort
		State                 string
		Expires               int // seconds
	}
	row struct {
		Addr                  netip.AddrPort
		Weight, Active, Inact uint32
	}
)

// The recordings of schedulers are scheduler's, too; those of connections are ours.
const (
	recordings      = "../../scheduler/testdata/ipvs-6.1"
	connRecordings  = "testdata/ipvs-6.1"
	frameRecordings = "testdata/ipvs-6.1/frames"
)

// refused is the choice of a client that was sent an ICMP port unreachable.
const refused = -1

func (s scenario) String() string { return s.file + "/" + s.Name }

func (s step) String() string { return strings.TrimSpace(s.Op + " " + s.Pattern + s.Cmd) }

func allScenarios(t *testing.T) (all []scenario) {
	t.Helper()
	return scenariosIn(t, recordings, "*")
}

func scenariosIn(t *testing.T, dir, files string) (all []scenario) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, files+".json.gz"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings in %s: %v", dir, err)
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
