// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"xdplvs/scheduler"
)

// The recordings' form is described in testdata/ipvs-6.1/README.md.
type (
	recording struct {
		Kernel    string
		Scenarios []scenario
	}
	scenario struct {
		Name, Proto, VIP string
		Fwmark           int
		Sched            string
		SvcArgs          string `json:"svc_args"`
		Dests            []dest
		Steps            []step
	}
	dest struct {
		Addr         netip.AddrPort
		Weight       int // -1: not there from the start
		Upper, Lower uint32
	}
	step struct {
		Op, Pattern, Cmd, Err string
		Clients, Targets      []netip.AddrPort
		Choices               []int
		Table                 []row
		MS                    int
		Keep                  []netip.AddrPort
	}
	row struct {
		Addr                  netip.AddrPort
		Weight, Active, Inact uint32
	}
)

const recordings = "testdata/ipvs-6.1"

func recordingNames(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(recordings, "*.json.gz"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings in %s: %v", recordings, err)
	}
	return paths
}

func readRecording(t *testing.T, path string) recording {
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
	var r recording
	if err := json.NewDecoder(plain).Decode(&r); err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return r
}

// options are those that ipvsadm and sysctl gave the scheduler.
func (s scenario) options(t *testing.T) scheduler.Options {
	t.Helper()
	var o scheduler.Options
	words := strings.Fields(s.SvcArgs)
	if at := slices.Index(words, "-b"); at >= 0 {
		flags, err := scheduler.ParseFlags(words[at+1])
		if err != nil {
			t.Fatal(err)
		}
		o.Flags = flags
	}
	for _, st := range s.Steps {
		name, seconds, _ := strings.Cut(st.Cmd, "_expiration=")
		if st.Op != "sysctl" {
			continue
		}
		age := time.Duration(number(seconds)) * time.Second
		switch name {
		case "lblc":
			o.LBLCExpiration = age
		case "lblcr":
			o.LBLCRExpiration = age
		}
	}
	return o
}

// watcher follows what happens to a service: a scheduler under test, or statistics.
type watcher interface {
	// edited: the set or a weight changed.
	edited(servers []scheduler.Server)
	// moved: only counts changed, other than by a connection scheduled.
	moved()
	// choose is asked for each new connection.
	choose(p scheduler.Packet, servers []scheduler.Server, counting scheduler.Counting, recorded uint32) (uint32, error)
}

// outcome is what a connection is once its pattern of packets is through.
type outcome struct {
	counting scheduler.Counting
	timeout  time.Duration // 0: the UDP timeout, which can be set
}

var patterns = map[string]outcome{
	"syn":     {scheduler.CountActive, 60 * time.Second},
	"open":    {scheduler.CountActive, 900 * time.Second},
	"fin":     {scheduler.CountInactive, 120 * time.Second},
	"rst":     {scheduler.CountInactive, 10 * time.Second},
	"udp":     {scheduler.CountInactive, 0},
	"udp-ops": {scheduler.CountNothing, 0},
}

type flow struct{ client, target netip.AddrPort }

type conn struct {
	server  uint32
	outcome outcome
	expires time.Duration
}

// farm models what surrounds a scheduler in IPVS: the list, the trash, the
// counts, the thresholds and the connections. Server ids are the places in Dests.
type farm struct {
	scenario   scenario
	vip        netip.AddrPort
	watcher    watcher
	servers    []scheduler.Server
	trash      map[uint32]scheduler.Server
	limits     map[uint32]scheduler.Threshold
	conns      map[flow]conn
	now        time.Duration
	udpTimeout time.Duration
	choices    int // compared
}

func newFarm(s scenario, w watcher) (*farm, error) {
	f := &farm{
		scenario: s, watcher: w,
		trash:  map[uint32]scheduler.Server{},
		limits: map[uint32]scheduler.Threshold{},
		conns:  map[flow]conn{},

		udpTimeout: 300 * time.Second,
	}
	if s.VIP != "" {
		vip, err := netip.ParseAddrPort(s.VIP)
		if err != nil {
			return nil, err
		}
		f.vip = vip
	}
	for id, d := range s.Dests {
		if d.Weight >= 0 {
			f.add(uint32(id), uint32(d.Weight), scheduler.Threshold{Upper: d.Upper, Lower: d.Lower})
		}
	}
	return f, nil
}

func (f *farm) find(id uint32) int {
	return slices.IndexFunc(f.servers, func(s scheduler.Server) bool { return s.ID == id })
}

func (f *farm) add(id, weight uint32, limits scheduler.Threshold) {
	addr := f.scenario.Dests[id].Addr
	s, known := f.trash[id]
	if !known {
		s = scheduler.Server{ID: id, Addr: addr.Addr(), Port: addr.Port()}
	}
	delete(f.trash, id)
	s.LastWeight = weight
	f.servers = slices.Insert(f.servers, 0, s)
	f.set(0, weight, limits)
}

func (f *farm) set(i int, weight uint32, limits scheduler.Threshold) {
	s := &f.servers[i]
	s.Weight = weight
	if weight > 0 {
		s.LastWeight = weight
	}
	if limits != f.limits[s.ID] {
		s.Overloaded = limits.Edit(uint64(s.Active)+uint64(s.Inactive), s.Overloaded)
	}
	s.Upper = limits.Upper
	f.limits[s.ID] = limits
	f.watcher.edited(f.servers)
}

func (f *farm) remove(i int) {
	s := f.servers[i]
	f.trash[s.ID] = s
	f.servers = slices.Delete(f.servers, i, i+1)
	f.watcher.edited(f.servers)
}

// undecidable is the reason why a pure scheduler cannot decide a scenario, "" if it can.
func (s scenario) undecidable() string {
	for _, st := range s.Steps {
		switch st.Op {
		case "run", "cmd", "idle", "sysctl":
		default:
			return fmt.Sprintf("step %q is about packets, not choices", st.Op)
		}
		if slices.ContainsFunc(st.Choices, func(c int) bool { return c < -1 }) {
			return "a connection was lost for reasons other than the scheduler"
		}
	}
	return ""
}

func (f *farm) replay() error {
	for n, st := range f.scenario.Steps {
		if err := f.step(st); err != nil {
			return fmt.Errorf("step %d (%s %s%s): %w", n, st.Op, st.Pattern, st.Cmd, err)
		}
		if err := f.compareTable(st.Table); err != nil {
			return fmt.Errorf("step %d (%s %s%s): %w", n, st.Op, st.Pattern, st.Cmd, err)
		}
	}
	return nil
}

func (f *farm) step(st step) error {
	switch st.Op {
	case "run":
		return f.run(st)
	case "cmd":
		return f.command(strings.Fields(st.Cmd), st.Err)
	case "idle":
		f.idle(time.Duration(st.MS)*time.Millisecond, st.Keep)
	}
	return nil
}

func (f *farm) run(st step) error {
	for n, client := range st.Clients {
		target := f.vip
		if st.Targets != nil {
			target = st.Targets[n]
		}
		recorded := scheduler.NoServer
		if st.Choices[n] >= 0 {
			recorded = uint32(st.Choices[n])
		}
		if err := f.connect(flow{client, target}, patterns[st.Pattern], recorded); err != nil {
			return fmt.Errorf("connection %d from %v: %w", n, client, err)
		}
	}
	return nil
}

// connect compares one choice and then follows the recorded one.
func (f *farm) connect(fl flow, o outcome, recorded uint32) error {
	if c, known := f.conns[fl]; known {
		return fmt.Errorf("belongs to the connection of server %d", c.server)
	}
	p := scheduler.Packet{Src: fl.client.Addr(), SrcPort: fl.client.Port(), Dst: fl.target.Addr(), Now: f.now}
	got, err := f.watcher.choose(p, f.servers, o.counting, recorded)
	if err != nil {
		return err
	}
	f.choices++
	if got != recorded {
		return fmt.Errorf("server %d, want %d", int32(got), int32(recorded))
	}
	if recorded == scheduler.NoServer {
		return nil
	}
	f.servers[f.find(recorded)].Connect(o.counting)
	if o.counting != scheduler.CountNothing {
		f.conns[fl] = conn{recorded, o, f.now + f.timeout(o)}
	}
	return nil
}

func (f *farm) timeout(o outcome) time.Duration {
	if o.timeout == 0 {
		return f.udpTimeout
	}
	return o.timeout
}

func (f *farm) idle(d time.Duration, keep []netip.AddrPort) {
	f.now += d
	for fl, c := range f.conns {
		if slices.Contains(keep, fl.client) {
			c.expires = f.now + f.timeout(c.outcome)
			f.conns[fl] = c
		}
		if c.expires <= f.now {
			f.end(fl, c)
		}
	}
	f.watcher.moved()
}

func (f *farm) end(fl flow, c conn) {
	delete(f.conns, fl)
	s := &f.servers[f.find(c.server)]
	if c.outcome.counting == scheduler.CountActive {
		s.Active--
	} else {
		s.Inactive--
	}
	s.Overloaded = f.limits[s.ID].End(uint64(s.Active)+uint64(s.Inactive), s.Overloaded)
}

// command does what an ipvsadm command line did.
func (f *farm) command(words []string, failed string) error {
	if words[1] == "--set" {
		seconds, err := strconv.Atoi(words[4])
		f.udpTimeout = time.Duration(seconds) * time.Second
		return err
	}
	values := map[string]string{"-w": "1", "-x": "0", "-y": "0"}
	for i := 2; i < len(words); i++ {
		switch words[i] {
		case "-t", "-u", "-f", "-r", "-w", "-x", "-y":
			values[words[i]] = words[i+1]
			i++
		case "-m", "-g":
		default:
			return fmt.Errorf("unknown argument %q", words[i])
		}
	}
	limits := scheduler.Threshold{Upper: number(values["-x"]), Lower: number(values["-y"])}
	if err := limits.Validate(); (err != nil) != (failed != "") {
		return fmt.Errorf("thresholds %+v: error %v, recorded %q", limits, err, failed)
	} else if err != nil {
		return nil
	}
	return f.edit(words[1], values["-r"], number(values["-w"]), limits)
}

func number(text string) uint32 {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

func (f *farm) edit(how, addr string, weight uint32, limits scheduler.Threshold) error {
	id := slices.IndexFunc(f.scenario.Dests, func(d dest) bool { return d.Addr.String() == addr })
	if id < 0 {
		return fmt.Errorf("unknown destination %q", addr)
	}
	switch i := f.find(uint32(id)); {
	case how == "-a" && i < 0:
		f.add(uint32(id), weight, limits)
	case how == "-e" && i >= 0:
		f.set(i, weight, limits)
	case how == "-d" && i >= 0:
		f.remove(i)
	default:
		return fmt.Errorf("cannot do %s %s", how, addr)
	}
	return nil
}

// compareTable compares with /proc/net/ip_vs, if it was recorded.
func (f *farm) compareTable(want []row) error {
	if want == nil {
		return nil
	}
	var got []row
	for _, s := range f.servers {
		got = append(got, row{netip.AddrPortFrom(s.Addr, s.Port), s.Weight, s.Active, s.Inactive})
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("table %v, want %v", got, want)
	}
	return nil
}
