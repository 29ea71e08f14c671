// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
)

var update = flag.Bool("update", false, "write what the scripts print into them")

// TestScripts runs testdata/script: commands, and what they print. Lines are
//
//	# a comment
//	> a command
//	| a line of its input (want and hops)
//	a line of its output
//
// The tables are those of memory, and the kernel's where they can be had.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts: %v", len(files), err)
	}
	t.Run("memory", func(t *testing.T) {
		for _, file := range files {
			t.Run(scriptName(file), func(t *testing.T) { runScript(t, file, memoryTables(t, small)) })
		}
	})
	t.Run("kernel", func(t *testing.T) {
		tables := kernelTables(t, small)
		for _, file := range files {
			clearTables(tables)
			t.Run(scriptName(file), func(t *testing.T) { runScript(t, file, tables) })
		}
	})
}

func scriptName(file string) string { return strings.TrimSuffix(filepath.Base(file), ".txt") }

// kernelTables are the maps of a loaded data plane, which is attached to nothing.
func kernelTables(t *testing.T, sizes bpf.Sizes) *bpf.Tables {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading the data plane needs root")
	}
	d, err := bpf.Load(sizes)
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("this system does not let root load programs: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d.Tables
}

func clearTables(t *bpf.Tables) {
	*t.Settings = bpf.Settings{}
	clear(t.Filter)
	clear(t.Services)
	clear(t.Keys)
	clear(t.Plans)
	clear(t.Reals)
	clear(t.Counts)
	clear(t.Traffic)
	clear(t.Conns4)
	clear(t.Conns6)
}

func runScript(t *testing.T, file string, tables *bpf.Tables) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{world: newWorldOn(t, tables), rows: map[string]string{}}
	var got strings.Builder
	lines := strings.SplitAfter(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, "> "):
			end := i + 1
			for end < len(lines) && strings.HasPrefix(lines[end], "|") {
				end++
			}
			got.WriteString(strings.Join(lines[i:end], ""))
			got.WriteString(s.run(strings.TrimSpace(line[2:]), lines[i+1:end]))
			i = end - 1
		case strings.HasPrefix(line, "#") || line == "\n":
			got.WriteString(line)
		}
	}
	s.mustHold()
	if got.String() == string(text) {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s differs, it is now:\n%s", file, differing(string(text), got.String()))
}

// differing marks the lines of now that are not those of before.
func differing(before, now string) string {
	old := strings.Split(before, "\n")
	var out strings.Builder
	for i, line := range strings.Split(now, "\n") {
		mark := "  "
		if i >= len(old) || old[i] != line {
			mark = "! "
		}
		fmt.Fprintln(&out, mark+line)
	}
	return out.String()
}

type script struct {
	*world
	clients int
	rows    map[string]string // noted by "note", for "same"
}

// run runs a command; what it prints ends in a newline, or is nothing.
func (s *script) run(command string, input []string) string {
	args := strings.Fields(command)
	for i := range input {
		input[i] = strings.TrimSpace(input[i][1:])
	}
	switch args[0] {
	case "want":
		return s.want(input)
	case "hops":
		return s.resolveAll(input)
	case "connect":
		return s.connectMany(args[1], number(s, args[2]))
	case "expire":
		s.expire()
	case "sweep":
		s.sweepTwice()
	case "verdicts":
		return s.verdicts()
	case "follow":
		s.follow()
	case "quorum":
		return s.quorum(args[1], args[2] == "back")
	case "wait":
		s.clock.advance(seconds(args[1]))
	case "tick":
		s.tick()
	case "restart":
		s.restart()
	case "dump":
		return s.dump()
	case "list":
		return s.list()
	case "card", "vlan", "slave", "unplug":
		s.device(args[0], args[1:])
	case "merge": // merge INDEX NAME...: those merge segments before the device
		s.merging = map[int][]string{number(s, args[1]): args[2:]}
	case "interfaces":
		return s.interfaces()
	case "logged":
		return fmt.Sprintf("%d times\n", strings.Count(s.log.String(), args[1]))
	case "links":
		return cmp.Or(s.plane.attached(), "none") + "\n"
	case "fail":
		s.plane.fault = func(what string) error {
			if strings.HasPrefix(what, strings.Join(args[1:], " ")) {
				return errors.New("injected failure")
			}
			return nil
		}
	case "heal":
		s.plane.fault = nil
	case "note":
		s.rows[args[1]] = s.rowsOf(args[1])
	case "same":
		return fmt.Sprintln(s.rows[args[1]] == s.rowsOf(args[1]))
	case "targets":
		return s.targets()
	default:
		s.t.Fatalf("unknown command %q", command)
	}
	return ""
}

func number(s *script, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// device changes the host's devices: card NAME INDEX, vlan NAME INDEX PARENT, slave NAME BOND, unplug NAME.
func (s *script) device(what string, args []string) {
	name := args[0]
	switch what {
	case "card":
		s.links[name] = card(number(s, args[1]), name)
	case "vlan":
		at := s.links[args[2]]
		at.Blind = strings.HasPrefix(args[2], "bond")
		s.links[args[2]] = at
		parent := at.Native
		index := number(s, args[1])
		s.links[name] = Entrance{Native: parent, Generic: Device{index, name}, Why: name + " is a VLAN of " + parent.Name}
		s.plane.below[index] = parent.Index
	case "slave":
		bond := s.links[args[1]].Native
		s.links[name] = Entrance{Native: bond, Generic: bond, Why: name + " is a slave of " + bond.Name}
	case "unplug":
		delete(s.links, name)
	}
}

// interfaces prints what a user sees of them.
func (s *script) interfaces() string {
	snapshot, err := s.d.snapshot()
	if err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	for _, i := range snapshot.Interfaces {
		fmt.Fprintf(&out, "%s: %s on %s, index %d", i.Name, i.Mode, cmp.Or(i.Device, "none"), i.Index)
		for _, more := range [][2]string{{"why", i.Why}, {"warning", i.Warning}, {"error", i.Error}} {
			if more[1] != "" {
				fmt.Fprintf(&out, ", %s: %s", more[0], more[1])
			}
		}
		fmt.Fprintln(&out)
	}
	return out.String()
}

func (s *script) want(input []string) string {
	want, err := parseDesired(input)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.d.apply(want); err != nil {
		return "refused: " + strings.ReplaceAll(err.Error(), "\n", "\nrefused: ") + "\n"
	}
	s.mustHold()
	return ""
}

// resolveAll takes lines as "10.0.0.1", reachable, "10.0.0.1 vlan 10 link 3" or
// "10.0.0.1 no answer to ARP", the reason. An address without a line is not known of.
func (s *script) resolveAll(input []string) string {
	hops := map[netip.Addr]NextHop{}
	for _, line := range input {
		words := strings.Fields(line)
		a := addr(words[0])
		hop := hopFor(a)
		rest := words[1:]
		for ; len(rest) >= 2; rest = rest[2:] {
			if rest[0] == "vlan" {
				hop.VLAN, hop.TPID = append(hop.VLAN, uint16(number(s, rest[1]))), append(hop.TPID, 0x8100)
			} else if rest[0] == "link" {
				hop.Link = number(s, rest[1])
			} else {
				break
			}
		}
		if len(rest) > 0 {
			hop = NextHop{Reason: strings.Join(rest, " ")}
		}
		hops[a] = hop
	}
	s.setHops(hops)
	return ""
}

// quorum lets a service lose its quorum, or have it back.
func (s *script) quorum(name string, back bool) string {
	if err := s.d.setQuorum(s.serviceOf(name).want.Key, back); err != nil {
		return err.Error() + "\n"
	}
	s.mustHold()
	return ""
}

// serviceOf finds a service by its name.
func (s *script) serviceOf(name string) *service {
	for key, x := range s.d.services {
		if x.want.Name == name && !key.Sorry {
			return x
		}
	}
	s.t.Fatalf("no service %s", name)
	return nil
}

func (s *script) connectMany(name string, n int) string {
	key := s.serviceOf(name).want.Key
	var chosen []string
	for range n {
		s.clients++
		from := client(s.clients)
		if key.Addr.Is6() {
			from = client6(s.clients)
		}
		id := s.connect(key, from)
		if id == bpf.NoReal {
			chosen = append(chosen, "-")
			continue
		}
		chosen = append(chosen, s.realName(id))
	}
	return strings.Join(chosen, " ") + "\n"
}

// realName is the last number of the address: 1 for 10.0.0.1.
func (s *script) realName(id uint32) string {
	if id == bpf.NoReal {
		return "-"
	}
	return fmt.Sprint(s.tables.Reals[id].Addr[15])
}

// targets prints what was published since the last time.
func (s *script) targets() string {
	select {
	case list := <-s.d.Targets():
		slices.SortFunc(list, netip.Addr.Compare)
		return strings.Trim(fmt.Sprint(list), "[]") + "\n"
	default:
		return "none\n"
	}
}

// rowsOf is everything stored for a real server, byte by byte.
func (s *script) rowsOf(key string) string {
	at := netip.MustParseAddrPort(key)
	var all []string
	for id := range s.tables.Reals {
		if row := s.tables.Reals[id]; row.Addr == at.Addr().As16() && row.Port == bits.ReverseBytes16(at.Port()) {
			all = append(all, fmt.Sprint(id, row, s.tables.Counts[id], s.tables.Traffic[id*s.tables.CPUs:][:s.tables.CPUs]))
		}
	}
	return strings.Join(all, "\n")
}

// dump prints the tables.
func (s *script) dump() string {
	var out strings.Builder
	for _, e := range sortedKeys(s.tables) {
		if isVIPKey(e.Key) {
			fmt.Fprintf(&out, "address %s\n", e.Key.Addr)
			continue
		}
		fmt.Fprintf(&out, "key %s: service %d\n", keyOf(e.Key), e.Service)
	}
	for id := range s.tables.Services {
		s.dumpService(&out, &s.tables.Services[id])
	}
	for id := range s.tables.Reals {
		if s.tables.Reals[id].Addr != [16]byte{} {
			s.dumpReal(&out, s.d.realAt(uint32(id)))
		}
	}
	return out.String()
}

func sortedKeys(t *bpf.Tables) []bpf.KeyEntry {
	all := storedKeys(t)
	slices.SortFunc(all, func(a, b bpf.KeyEntry) int {
		return strings.Compare(fmt.Sprint(a.Key.Addr, a.Key.Port, a.Key.Protocol), fmt.Sprint(b.Key.Addr, b.Key.Port, b.Key.Protocol))
	})
	return all
}

func (s *script) dumpService(out *strings.Builder, row *bpf.Service) {
	if row.Protocol == 0 {
		return
	}
	fmt.Fprintf(out, "service %d: %s", row.Id, Protocol(row.Protocol))
	if row.Flags&bpf.ServiceRemoved != 0 {
		fmt.Fprint(out, " removed")
	}
	if row.Flags&bpf.ServiceOnePacket != 0 {
		fmt.Fprint(out, " one-packet")
	}
	if row.Sorry != 0 {
		fmt.Fprintf(out, " sorry %d", row.Sorry-1)
	}
	if row.Flags&bpf.ServiceNoQuorum != 0 {
		fmt.Fprint(out, " no-quorum")
	}
	if row.Answer != 0 {
		fmt.Fprintf(out, " answer %s", Answer(row.Answer))
	}
	plan := row.Plan[row.Current&1]
	fmt.Fprintf(out, " plan [")
	for i, id := range s.tables.Plans[plan.Base:][:plan.Length] {
		if i > 0 {
			fmt.Fprint(out, " ")
		}
		if i > 0 && uint32(i) == plan.Loop {
			fmt.Fprint(out, "| ")
		}
		fmt.Fprint(out, s.realName(id))
	}
	shares := map[string]int{}
	for _, id := range s.tables.Plans[row.Flow.Base:][:row.Flow.Length] {
		shares[s.realName(id)]++
	}
	fmt.Fprintf(out, "] flow %v\n", shares)
}

func (s *script) dumpReal(out *strings.Builder, r *real) {
	row := r.row
	fmt.Fprintf(out, "real %d: %s", r.id, r.key())
	fmt.Fprintf(out, " service %d", row.Service)
	fmt.Fprintf(out, " generation %d %s weight %d", row.Generation&^away, Method(row.Method), row.Weight)
	if row.Generation&away != 0 {
		fmt.Fprint(out, " away")
	}
	if row.Upper > 0 {
		fmt.Fprintf(out, " thresholds %d %d", row.Upper, row.Lower)
	}
	for _, f := range []struct {
		flag uint32
		name string
	}{{bpf.RealUsable, "usable"}, {bpf.RealNextHop, "next-hop"}, {bpf.RealOverloaded, "overloaded"}, {bpf.RealRemoved, "removed"}} {
		if row.Flags&f.flag != 0 {
			fmt.Fprint(out, " "+f.name)
		}
	}
	if hop := r.writtenHop(); hop.Resolved {
		fmt.Fprintf(out, " link %d port %d mac %x", hop.Link, row.TxPort, hop.DstMAC)
		if len(hop.VLAN) > 0 {
			fmt.Fprintf(out, " vlan %v", hop.VLAN)
		}
	}
	active, inactive := r.conns()
	fmt.Fprintf(out, " active %d inactive %d conns %d\n", active, inactive, r.counters().Conns)
}

// list prints what a user sees.
func (s *script) list() string {
	snapshot, err := s.d.snapshot()
	if err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	for _, v := range snapshot.Services {
		fmt.Fprintf(&out, "%s %s conns %d no_real %d", v.Key, v.Scheduler, v.Counters.Conns, v.NoReal)
		if v.QuorumLost {
			fmt.Fprint(&out, " quorum lost")
		}
		if v.SorryInUse {
			fmt.Fprint(&out, " sorry in use")
		}
		fmt.Fprintln(&out)
		for _, r := range v.Reals {
			listReal(&out, "  -> ", &r)
		}
		for _, r := range v.Sorry {
			listReal(&out, "  sorry -> ", &r)
		}
	}
	fmt.Fprintf(&out, "generation %d, total conns %d\n", snapshot.Generation, snapshot.Total.Conns)
	return out.String()
}

func listReal(out *strings.Builder, head string, r *RealState) {
	fmt.Fprintf(out, "%s%s %s %d %d %d", head, r.Key, r.Method.IPVSName(), r.Weight, r.Active, r.Inactive)
	if r.Overloaded {
		fmt.Fprint(out, " overloaded")
	}
	if !r.Reachable {
		fmt.Fprintf(out, " unreachable: %s", r.Unreachable)
	}
	fmt.Fprintln(out)
}

// parseDesired reads the compact form of a desired state:
//
//	interface NAME [MODE]
//	timeouts TCP TCPFIN UDP
//	service NAME PROTOCOL ADDRESS:PORT SCHEDULER [ops] [persistent=TIME] [on_remove=FATE] [on_down=FATE] [ANSWER]
//	real ADDRESS [WEIGHT] [KEY VALUE ...]     keys: port, method, name, upper, lower
//	sorry ADDRESS [WEIGHT] [KEY VALUE ...]
func parseDesired(lines []string) (want Desired, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("desired state %q: %v", lines, r)
		}
	}()
	for _, line := range lines {
		w := strings.Fields(line)
		switch w[0] {
		case "interface":
			i := Interface{Name: w[1]}
			if len(w) > 2 {
				must(i.Mode.UnmarshalText([]byte(w[2])))
			}
			want.Interfaces = append(want.Interfaces, i)
		case "timeouts":
			want.Timeouts = timeouts("tcp", seconds(w[1]), "tcpfin", seconds(w[2]), "udp", seconds(w[3]))
		case "service":
			want.Services = append(want.Services, parseService(w[1:]))
		case "real":
			s := &want.Services[len(want.Services)-1]
			s.Reals = append(s.Reals, parseReal(s, w[1:]))
		case "sorry":
			s := &want.Services[len(want.Services)-1]
			s.Sorry = append(s.Sorry, parseReal(s, w[1:]))
		default:
			return want, fmt.Errorf("unknown line %q", line)
		}
	}
	return want, nil
}

// timeouts are those of names and durations in turn.
func timeouts(pairs ...any) (t Timeouts) {
	for i := 0; i < len(pairs); i += 2 {
		must(t.Set(pairs[i].(string), pairs[i+1].(time.Duration)))
	}
	return t
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func seconds(text string) time.Duration {
	d, err := time.ParseDuration(text)
	must(err)
	return d
}

func parseService(w []string) Service {
	at := netip.MustParseAddrPort(w[2])
	s := Service{Name: w[0], Key: ServiceKey{Addr: at.Addr(), Port: at.Port()}, Scheduler: w[3]}
	must(s.Key.Protocol.UnmarshalText([]byte(w[1])))
	for _, option := range w[4:] {
		switch key, value, _ := strings.Cut(option, "="); key {
		case "ops":
			s.OnePacket = true
		case "on_remove":
			must(s.Conns.OnRemove.UnmarshalText([]byte(value)))
		case "persistent":
			s.Persistence.Timeout = seconds(value)
		case "on_down":
			must(s.Conns.OnDown.UnmarshalText([]byte(value)))
		default:
			must(s.Answer.UnmarshalText([]byte(option)))
		}
	}
	return s
}

func parseReal(s *Service, w []string) RealServer {
	r := RealServer{Key: RealKey{addr(w[0]), s.Key.Port}, Method: DirectRouting, Weight: 1}
	w = w[1:]
	if len(w)%2 == 1 {
		n, err := strconv.ParseUint(w[0], 10, 32)
		must(err)
		r.Weight, w = uint32(n), w[1:]
	}
	for ; len(w) > 0; w = w[2:] {
		switch w[0] {
		case "port":
			n, err := strconv.ParseUint(w[1], 10, 16)
			must(err)
			r.Key.Port = uint16(n)
		case "method":
			must(r.Method.UnmarshalText([]byte(w[1])))
		case "name":
			r.Name = w[1]
		case "upper", "lower":
			n, err := strconv.ParseUint(w[1], 10, 32)
			must(err)
			if w[0] == "upper" {
				r.Upper = uint32(n)
			} else {
				r.Lower = uint32(n)
			}
		default:
			panic("unknown key " + w[0])
		}
	}
	return r
}
