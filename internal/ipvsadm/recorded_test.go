// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"xdplvs/configs"
	"xdplvs/director"
)

// table is a director without packets.
type table struct {
	services []director.Service
	timeouts director.Timeouts
	conns    []director.Conn
	gone     error // there is no director
	requests int   // of edits
}

func newTable() *table { return &table{timeouts: director.DefaultTimeouts} }

func (d *table) Edit(_ context.Context, edits ...director.Edit) error {
	d.requests++
	if d.gone != nil {
		return d.gone
	}
	services, err := configs.Default().Edit(d.services, edits)
	if err == nil {
		d.services = services
	}
	return err
}

func (d *table) Zero(_ context.Context, service string) error {
	if service == "" {
		return d.gone
	}
	_, err := configs.FindService(d.services, service)
	return err
}

func (d *table) Timeouts(context.Context) (director.Timeouts, error) { return d.timeouts, d.gone }

func (d *table) SetTimeouts(_ context.Context, change director.Timeouts) (director.Timeouts, error) {
	for i, timeout := range change {
		if timeout != 0 {
			d.timeouts[i] = timeout
		}
	}
	return d.timeouts, d.gone
}

func (d *table) Entries(_ context.Context, yield func(*director.Conn) error) error {
	for i := range d.conns {
		if err := yield(&d.conns[i]); err != nil {
			return err
		}
	}
	return d.gone
}

func (d *table) Unreachable(err error) bool { return d.gone != nil && errors.Is(err, d.gone) }

func (d *table) Fault(err error) director.EditFault {
	var edit *director.EditError
	if errors.As(err, &edit) {
		return edit.Fault
	}
	return ""
}

// Snapshot has the services in the order in which they were added, and the last real server first.
func (d *table) Snapshot(context.Context) (*director.Snapshot, error) {
	s := &director.Snapshot{TableSize: 4096}
	for i := range d.services {
		service := &d.services[i]
		state := director.ServiceState{Key: service.Key, Scheduler: service.Scheduler, Flags: service.Flags.String(),
			OnePacket: service.OnePacket, Persistence: service.Persistence}
		for _, r := range service.Reals {
			real := director.RealState{Key: r.Key, Method: r.Method, Weight: r.Weight, Upper: r.Upper, Lower: r.Lower}
			if r.Method == director.Tunnel {
				real.Tunnel = &r.Tunnel
			}
			state.Reals = append(state.Reals, real)
		}
		slices.Reverse(state.Reals)
		s.Services = append(s.Services, state)
	}
	return s, d.gone
}

// noNames is a machine that knows none, as the recording one.
type noNames struct{}

func (noNames) Host(string) (netip.Addr, bool)                { return netip.Addr{}, false }
func (noNames) HostName(netip.Addr) string                    { return "" }
func (noNames) Port(string, director.Protocol) (uint16, bool) { return 0, false }
func (noNames) PortName(uint16, director.Protocol) string     { return "" }

// ipvsadm runs a command line and returns what a terminal would show, in the recordings' form.
func (d *table) ipvsadm(stdin string, args ...string) string {
	var out, errs bytes.Buffer
	code := Run(context.Background(), Env{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs, Director: d, Names: noNames{}, Program: "ipvsadm"}, args)
	shown := out.String()
	if errs.Len() > 0 {
		shown += "--stderr\n" + errs.String()
	}
	return fmt.Sprintf("%s= %d\n", shown, code)
}

var piped = regexp.MustCompile(`^printf '([^']*)'(.*)\| ipvsadm (.*)$`)

// shell runs a command line as the recording shell did: ipvsadm, or printf and ipvsadm.
func (d *table) shell(line string) string {
	stdin := ""
	if m := piped.FindStringSubmatch(line); m != nil {
		format := strings.NewReplacer(`\n`, "\n", `\r`, "\r").Replace(m[1])
		for _, word := range split(m[2]) {
			stdin += strings.Replace(format, "%s", word, 1)
		}
		line = "ipvsadm " + m[3]
	}
	return d.ipvsadm(stdin, split(line)[1:]...)
}

// split splits words at blanks; one in quotes is one word.
func split(line string) (words []string) {
	for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(line, -1) {
		words = append(words, m[1]+m[2])
	}
	return words
}

// session is one command of a recording, and what it printed.
type session struct{ line, output string }

func recording(t *testing.T, name string) (all []session) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "recorded", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split("\n"+string(text), "\n$ ")[1:] {
		line, output, _ := strings.Cut(part, "\n")
		all = append(all, session{line, strings.TrimSuffix(output, "\n") + "\n"})
	}
	return all
}

// differs are lines of lists that only one of the two has: what IPVS takes and the director refuses,
// the scheduler twos, which that kernel has not, real servers on loopback by nat, which are Route here, and --pe without -p.
var differs = regexp.MustCompile(`(?m)^.*(224\.0\.0\.1:80|0\.0\.0\.0:80|10\.99\.0\.(3:80 .*2678400|7:80 .*0\.0\.0\.24|8:80 .*255\.0\.255\.0|12:|17:80 -s wlc|29:)|` +
	`10\.2\.0\.(7|8|22):80|127\.0\.0\.[12]:80).*\n|^  -> 10\.2\.0\.2:80 .*\n|^-a -t 10\.99\.0\.2:0 -r 10\.2\.0\.2:80 -m.*\n`)

// unordered is for --nosort: IPVS's order is that of a hash table.
var unordered = regexp.MustCompile(`--nosort`)

// TestRecorded: in the same state each command prints the same bytes and ends with the same code as
// ipvsadm 1.31 with a kernel's IPVS; but for those of differences.txt, which shows what they print here.
func TestRecorded(t *testing.T) {
	ours := map[string]string{}
	for _, s := range recording(t, "differences") {
		ours[s.line] = s.output
	}
	used := map[string]bool{}
	for _, name := range []string{"help", "basic", "services", "reals", "restore", "parse", "order", "matrix", "listopts", "proc"} {
		t.Run(name, func(t *testing.T) {
			d := newTable()
			for _, s := range recording(t, name) {
				if !strings.Contains(s.line, "ipvsadm") || unordered.MatchString(s.line) || strings.HasPrefix(s.output, "<the help>") {
					continue
				}
				want := s.output
				if other, ok := ours[s.line]; ok {
					want, used[s.line] = other, true
				}
				if got := d.shell(s.line); differs.ReplaceAllString(got, "") != differs.ReplaceAllString(want, "") {
					t.Errorf("$ %s\n got %s\nwant %s", s.line, got, want)
				}
			}
		})
	}
	for line := range ours {
		if !used[line] {
			t.Errorf("a difference in what nobody does: %s", line)
		}
	}
}
