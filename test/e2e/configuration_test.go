// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
)

// badConfig has a mistake in most lines; wantMistakes are all messages but for the file's name.
const badConfig = `interfaces: [eth0]
servces: []
services:
  - {name: web, address: 192.0.2.10, port: 70000, reals: [10.0.0.11]}
  - {name: web, address: 192.0.2.11, port: 80, scheduler: wr, reals: ["fd00::11"]}
`

var wantMistakes = []string{
	`:2:1: servces: unknown key, did you mean services?`,
	`:4:44: services[0].port: expected a number from 1 to 65535, or any, found 70000`,
	`:5:12: services[1].name: name web is already used in line 4`,
	`:5:59: services[1].scheduler: unknown scheduler "wr", did you mean wrr? (known: `,
	`:5:71: services[1].reals[0]: fd00::11 is of another address family than the service's 192.0.2.11, method dr needs the same`,
}

func mustName(t *testing.T, what, file, text string, mistakes []string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != len(mistakes) {
		t.Errorf("%s: %d lines, want %d:\n%s", what, len(lines), len(mistakes), text)
		return
	}
	for i, mistake := range mistakes {
		if !strings.HasPrefix(lines[i], file+mistake) {
			t.Errorf("%s: line %d is %q, want %q", what, i, lines[i], file+mistake)
		}
	}
}

func TestBadConfigurationAtStart(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.writeConfig(badConfig)
	for _, args := range [][]string{{"run", "-c", f.configFile()}, {"check", f.configFile()}} {
		r := f.run(args...)
		if r.code != 1 || r.stdout != "" {
			t.Errorf("%s: exit %d, stdout %q; want exit 1 and nothing", args[0], r.code, r.stdout)
		}
		mustName(t, args[0], f.configFile(), r.stderr, wantMistakes)
	}
	if left := glob(f.stateDir(), ""); len(left) > 0 {
		t.Errorf("a configuration that was refused left pins: %v", left)
	}
	r := f.run("run", "-c", f.configFile()+".missing")
	want := fmt.Sprintf("director: read configuration: open %s.missing: no such file or directory\n", f.configFile())
	if r.code != 1 || r.stderr != want {
		t.Errorf("missing file: %+v, want exit 1 and %q", r, want)
	}
}

// What is wrong with a new configuration is said, and the old state goes on.
func TestBadConfigurationAtReload(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	good := f.config("eth0", standard("rr", 1, 1)...)
	f.writeConfig(good)
	d := f.start()
	state := f.output("list")
	generation := f.snapshot().Generation
	for _, bad := range []struct {
		name, text string
		mistakes   []string
	}{
		{"mistakes", badConfig, wantMistakes},
		{"no YAML", "services: [", []string{":2:1: invalid YAML: "}},
		{"empty", "", []string{":1:1: file is empty (at least interfaces is needed)"}},
		{"other limits", strings.Replace(good, "services: 64", "services: 128", 1),
			[]string{": limits and state_dir are fixed while the director runs: restart it to change them"}},
	} {
		f.writeConfig(bad.text)
		f.mustRefuse(d, bad.name, bad.mistakes)
	}
	// What only the kernel can tell: the interface.
	f.writeConfig(strings.Replace(good, "[eth0]", "[eth0, eth9]", 1))
	r := f.run("reload")
	if want := "interface eth9: no such interface (there are lo, eth0)"; r.code != 1 || !strings.Contains(r.stderr, want) {
		t.Errorf("missing interface: %+v, want exit 1 and %q", r, want)
	}
	if got := f.output("list"); got != state {
		t.Errorf("after refused reloads the list is\n%s, before it was\n%s", got, state)
	}
	if got := f.snapshot().Generation; got != generation {
		t.Errorf("generation is %d, before it was %d", got, generation)
	}
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3, "rs2": 3})
	}
	f.configure(standard("rr", 0, 1)...)
	f.reload()
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs2": 3})
	}
}

// mustRefuse fails unless a reload says the mistakes, by the command and by SIGHUP.
func (f *farm) mustRefuse(d *daemon, what string, mistakes []string) {
	f.t.Helper()
	r := f.run("reload")
	if r.code != 1 || r.stdout != "" {
		f.t.Errorf("%s: exit %d, stdout %q; want exit 1 and nothing", what, r.code, r.stdout)
	}
	mustName(f.t, what, f.configFile(), r.stderr, mistakes)
	d.hangup("event=reload_refused")
	// The log has quotes in quotes.
	if first, _, _ := strings.Cut(mistakes[0], `"`); !strings.Contains(d.log.tail(), f.configFile()+first) {
		f.t.Errorf("%s: log does not say %q:\n%s", what, first, d.log.tail())
	}
}

// What does not fit the tables is refused as a whole.
func TestReloadBeyondLimits(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	f.start()
	before := f.output("list")
	for _, limit := range []struct {
		name     string
		services []service
		want     string
	}{
		{"services", many(80, 1), "80 services, limits.services allows 64"},
		{"real servers", many(60, 5), "real servers in all, limits.real_servers allows 256"},
		// Each of these weights needs a plan of 60,024 slots; together they have 65,536.
		{"plan slots", both("new", "tcp", altPort, "wrr", 30011, 30013), "limits.plan_slots"},
	} {
		t.Run(limit.name, func(t *testing.T) {
			f := f.on(t)
			f.configure(limit.services...)
			r := f.run("reload")
			if r.code != 1 || !strings.Contains(r.stderr, limit.want) {
				t.Errorf("reload: %+v, want exit 1 and %q", r, limit.want)
			}
			if got := f.output("list"); got != before {
				t.Errorf("after the refused reload the list is\n%s, before it was\n%s", got, before)
			}
		})
	}
}

// many are n services with so many real servers, most of which do not exist.
func many(n, reals int) (services []service) {
	for i := range n {
		weights := make([]int, reals)
		for j := range weights {
			weights[j] = 1
		}
		services = append(services, service{name: fmt.Sprintf("s%d", i), protocol: "tcp", vip: vip4,
			port: uint16(1000 + i), scheduler: "rr", weights: weights})
	}
	return services
}

func TestMissingInterface(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.configureOn("eth9", standard("rr", 1)...)
	r := f.run("run", "-c", f.configFile(), "--log-format", "text")
	want := "interface eth9: no such interface (there are lo, eth0)\n"
	if r.code != 1 || !strings.HasSuffix(r.stderr, want) {
		t.Errorf("run: %+v, want exit 1 and %q", r, want)
	}
}

func TestAttachMode(t *testing.T) {
	t.Parallel()
	for _, attach := range []struct {
		text string
		want director.AttachMode
	}{
		{"eth0", director.AttachNative},
		{"{name: eth0, mode: native}", director.AttachNative},
		{"{name: eth0, mode: generic}", director.AttachGeneric},
	} {
		t.Run(attach.text, func(t *testing.T) {
			f := newFarm(t, 3)
			f.configureOn(attach.text, standard("rr", 1, 1, 1)...)
			d := f.start()
			if want := "event=attached interface=eth0 mode=" + attach.want.String(); !strings.Contains(d.log.String(), want) {
				t.Errorf("log has no %q:\n%s", want, d.log)
			}
			if want := "event=tags_kept device=eth0"; !strings.Contains(d.log.String(), want) {
				t.Errorf("log has no %q:\n%s", want, d.log)
			}
			got := f.snapshot().Interfaces
			if len(got) != 1 || got[0].Name != "eth0" || got[0].Device != "eth0" || got[0].Why != "" || got[0].Index == 0 || got[0].Mode != attach.want || got[0].Error != "" {
				t.Errorf("interfaces are %+v, want eth0 with mode %s", got, attach.want)
			}
			if want := fmt.Sprintf(`"mode": %q`, attach.want); !strings.Contains(f.output("list", "-o", "json"), want) {
				t.Errorf("list -o json has no %s", want)
			}
			for _, family := range families {
				f.mustServe(family.vip)
			}
		})
	}
	t.Run("change", testChangeMode)
}

// The mode is changed by a reload, and back.
func testChangeMode(t *testing.T) {
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	f.start()
	held := f.hold("rs1", "rs2", "rs3")
	for _, mode := range []director.AttachMode{director.AttachGeneric, director.AttachNative} {
		f.configureOn(fmt.Sprintf("{name: eth0, mode: %s}", mode), standard("rr", 1, 1, 1)...)
		f.reload()
		if got := f.snapshot().Interfaces; len(got) != 1 || got[0].Mode != mode {
			t.Errorf("interfaces are %+v, want eth0 with mode %s", got, mode)
		}
		held.goOn()
	}
	held.finish()
}

// An interface that has another program is left alone.
func TestForeignProgram(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	must(t, f.directorEnd.AcceptXDP())
	f.configure(standard("rr", 1)...)
	r := f.run("run", "-c", f.configFile(), "--log-format", "text")
	if r.code != 1 || !strings.Contains(r.stderr, "interface eth0: ") {
		t.Errorf("run: %+v, want exit 1 and the interface's name", r)
	}
}

// An interface that is taken from the configuration is left alone, and can be had again.
func TestChangeInterfaces(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	viaRouter(f)
	services := standard("rr", 1, 1, 1)
	f.configureOn("eth0, eth1", services...)
	f.start()
	f.configureOn("eth1", services...)
	f.reload()
	if name, err := f.queryFor(vip4, onePort, 200*time.Millisecond); err == nil {
		t.Errorf("eth0 is not attached, but %s answers", name)
	}
	if got := f.snapshot().Interfaces; len(got) != 1 || got[0].Name != "eth1" {
		t.Errorf("interfaces are %+v, want eth1", got)
	}
	f.configureOn("eth0", services...)
	f.reload()
	for _, family := range families {
		f.mustServe(family.vip)
	}
	if pins := glob(f.stateDir(), "xdp_"); len(pins) != 1 {
		t.Errorf("pinned links are %v, want one", pins)
	}
}

// Of two directors on one machine the second says who was first.
func TestSecondRun(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.configure(standard("rr", 1)...)
	d := f.start()
	r := f.run("run", "-c", f.configFile())
	want := fmt.Sprintf("director: another director is running: pid %d (director) holds %s\n",
		d.cmd.Process.Pid, filepath.Join(f.dir, "director.pid"))
	if r.code != 1 || r.stdout != "" || r.stderr != want {
		t.Errorf("second run: %+v, want exit 1 and %q", r, want)
	}
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3})
	}
	// Who was killed holds nothing.
	d.kill()
	d = f.start()
	if text, err := os.ReadFile(filepath.Join(f.dir, "director.pid")); err != nil || string(text) != fmt.Sprintln(d.cmd.Process.Pid) {
		t.Errorf("lock names %q (%v), want %d", text, err, d.cmd.Process.Pid)
	}
}

// It is the state that only one director may have, not the socket.
func TestSecondRunWithOtherSocket(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.configure(standard("rr", 1)...)
	d := f.start()
	r := f.runWith(filepath.Join(t.TempDir(), "other.sock"), "run", "-c", f.configFile())
	if want := fmt.Sprintf("pid %d (director)", d.cmd.Process.Pid); r.code != 1 || !strings.Contains(r.stderr, want) {
		t.Errorf("second run: %+v, want exit 1 and %q", r, want)
	}
}
