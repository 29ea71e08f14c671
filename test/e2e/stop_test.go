// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// traces are what a director can change of its host, by what they are asked with.
func (f *farm) traces() map[string]string {
	f.t.Helper()
	all := map[string]string{}
	for _, command := range []string{"ip -o -d link", "ip -o maddress", "ip rule", "ip -6 rule", "ip route show table all",
		"ip -6 route show table all", "nft -s list ruleset", "tc qdisc", "ip -o -4 addr", "ip -o -6 addr"} {
		words := strings.Fields(command)
		all[command] = f.onDirector(words[0], words[1:]...)
	}
	all["state"] = fmt.Sprint(glob(filepath.Dir(f.stateDir()), filepath.Base(f.stateDir())), glob(f.stateDir(), ""))
	all["run directory"] = fmt.Sprint(glob(filepath.Dir(f.socket()), ""))
	return all
}

// mustBe fails where a host has changed.
func mustBe(t *testing.T, when string, before, after map[string]string) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(before)) {
		if after[what] != before[what] {
			t.Errorf("%s: %s shows\n%s\nbefore it was\n%s", when, what, after[what], before[what])
		}
	}
}

// stopFarm is a host with everything that a director can add, and what is there without one.
func stopFarm(t *testing.T) (f *farm, before map[string]string) {
	f = newFarm(t, 3)
	f.forwarding(f.director)
	markByNFT(f)
	addresses := fmt.Sprintf("addresses: [{address: %s, mode: interface}, {address: %q, mode: answer}]\n", near4, near6)
	group := strings.TrimPrefix(f.firewalled("eth0", "dr"), f.config("eth0"))
	f.writeConfig(f.config("eth0", service{name: "near4", protocol: "tcp", vip: near4, port: webPort, scheduler: "rr", weights: []int{1}},
		service{name: "near6", protocol: "tcp", vip: near6, port: webPort, scheduler: "rr", weights: []int{1}}) + group + addresses)
	return f, f.traces()
}

// busy starts a director and waits until it has added everything.
func (f *farm) busy() *daemon {
	f.t.Helper()
	d := f.start()
	d.waitLog("event=address_held", 2)
	f.output("service", "set", "near4", "scheduler=wrr") // a run-time change is written
	f.reload()
	return d
}

// Nothing of a director stays: neither of one that runs, nor of one that died.
func TestStopDetach(t *testing.T) {
	t.Parallel()
	f, before := stopFarm(t)
	for _, way := range []struct {
		name string
		end  func(*daemon)
	}{
		{"while it runs", func(*daemon) {}},
		{"after it was killed", (*daemon).kill},
		{"after it was stopped", func(*daemon) { f.mustStop("stopped: the data plane forwards on (director stop --detach removes it)\n") }},
	} {
		d := f.busy()
		if during := f.traces(); during["ip -o -d link"] == before["ip -o -d link"] || during["ip rule"] == before["ip rule"] ||
			during["ip -o -4 addr"] == before["ip -o -4 addr"] || during["state"] == before["state"] {
			t.Fatalf("%s: the director added too little for this test: %v", way.name, during)
		}
		way.end(d)
		f.mustStop("removed: programs, tables, addresses, rules and interfaces of the director\n", "--detach")
		<-d.done
		mustBe(t, way.name, before, f.traces())
		f.mustStop("nothing was left to remove\n", "--detach")
		mustBe(t, way.name+", said again", before, f.traces())
	}
	f.mustStop("no daemon runs\n")
	f.mustStop("nothing was left to remove\n", "--detach", "-c", f.configFile())
}

// mustStop runs director stop, and compares what it prints.
func (f *farm) mustStop(want string, flags ...string) {
	f.t.Helper()
	if got := f.output(append([]string{"stop"}, flags...)...); got != want {
		f.t.Errorf("director stop %v printed %q, want %q", flags, got, want)
	}
}

// Who stops the daemon without more stops no packet.
func TestStopForwardsOn(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(standard("rr", 1, 1, 1)...)
	d := f.start()
	held := f.hold("rs1", "rs2", "rs3")
	load := f.load(1, f.fresh()...)
	load.await(t, 30)
	f.mustStop("stopped: the data plane forwards on (director stop --detach removes it)\n")
	<-d.done
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
	load.mark()
	load.await(t, 60)
	held.goOn()
	f.start()
	load.mustEnd(t)
	f.mustAgree(held)
	held.finish()
}

// Without the privilege nothing is removed, and the error says what it takes.
func TestStopDetachUnprivileged(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not installed")
	}
	f := newFarm(t, 1)
	command, state := f.asService()
	text := strings.Replace(f.config("eth0", both("web", "tcp", webPort, "rr", 1)...), "state_dir: "+f.stateDir(), "state_dir: "+state, 1)
	f.writeConfig(text)
	must(t, os.Chmod(f.configFile(), 0o644))
	d := f.launchBy(command, nil, nil)
	d.waitLog("event=ready", 1)
	before := f.traces()
	stranger := []string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
		command[len(command)-1], "-s", f.socket(), "stop", "--detach"}
	for _, alive := range []bool{true, false} {
		if !alive {
			d.kill()
			before = f.traces()
		}
		_, err := f.director.Run(t.Context(), "setpriv", stranger...)
		if err == nil || !strings.Contains(err.Error(), "exit status 1: director: stop: ") || !strings.Contains(err.Error(), "only root") {
			t.Errorf("alive %t: a stranger's director stop --detach ended with %v", alive, err)
		}
		mustBe(t, "a stranger tried", before, f.traces())
	}
	f.mustStop("removed: programs, tables, addresses, rules and interfaces of the director\n", "--detach")
	if pins := glob(state, ""); len(pins) > 0 {
		t.Errorf("left pinned: %v", pins)
	}
}
