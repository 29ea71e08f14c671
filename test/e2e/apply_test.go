// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mustSay fails unless a text has all the others.
func mustSay(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s says no %q:\n%s", what, part, text)
		}
	}
}

// other writes another configuration, in which the services have these weights.
func (f *farm) other(name string, weights ...int) (path string) {
	f.t.Helper()
	path = filepath.Join(f.dir, name)
	must(f.t, os.WriteFile(path, []byte(f.config("eth0", both("web", "tcp", webPort, "rr", weights...)...)), 0o600))
	return path
}

// fileHas tells whether the daemon's file is the one at path.
func (f *farm) fileHas(path string) bool {
	f.t.Helper()
	return string(get(os.ReadFile(f.configFile()))(f.t)) == string(get(os.ReadFile(path))(f.t))
}

// only fails unless, soon, all requests go to a real server.
func (f *farm) only(server string) {
	f.t.Helper()
	eventually(f.t, patience, func() error {
		for range 4 {
			if got, err := f.fetch(vip4, webPort); err != nil || got != server {
				return fmt.Errorf("a request went to %q (%v)", got, err)
			}
		}
		return nil
	})
}

// TestApply: what a plan says of the connections that there are is what becomes of them; what nobody confirms
// does not stay, what is confirmed does, and the former configuration comes back when it is wanted.
func TestApply(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	before := f.other("before.yaml", 1, 1)
	f.writeConfig(string(get(os.ReadFile(before))(t)))
	d := f.start()
	held := f.holdDownloads("rs1", "rs2")
	drained := f.other("drained.yaml", 0, 1)

	r := f.run("plan", drained, "--exit-code")
	if r.code != 2 {
		t.Errorf("plan --exit-code ended with %d: %s%s", r.code, r.stdout, r.stderr)
	}
	mustSay(t, "the plan", r.stdout, "drains ", ", moves 0", "weight: 1 -> 0")
	if r := f.run("plan", before, "--exit-code"); r.code != 0 {
		t.Errorf("of the same file, plan --exit-code ended with %d: %s%s", r.code, r.stdout, r.stderr)
	}

	f.output("apply", drained, "--confirm", "3s")
	f.only("rs2")
	if !f.fileHas(before) {
		t.Error("the daemon's file was written before somebody confirmed")
	}
	if r := f.run("apply", before); r.code == 0 {
		t.Error("another configuration was applied while one is on trial")
	}
	eventually(t, patience, func() error { // nobody confirms
		got, err := f.fetch(vip4, webPort)
		if got != "rs1" {
			return fmt.Errorf("a request went to %q (%v)", got, err)
		}
		return nil
	})
	d.waitLog("event=not_confirmed", 1)

	f.output("apply", drained, "--confirm", "1m")
	f.output("confirm")
	f.only("rs2")
	if !f.fileHas(drained) {
		t.Error("what was confirmed is not the daemon's file")
	}
	f.output("rollback")
	if !f.fileHas(before) {
		t.Error("after the rollback the daemon has another file")
	}
	f.mustSpread(f.fetch, vip4, webPort, map[string]int{"rs1": 2, "rs2": 2})
	held.goOn()
}

// TestDrain: a real server is drained while clients hold connections there, and removed when they have gone.
func TestDrain(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.writeConfig(string(get(os.ReadFile(f.other("web.yaml", 1, 1)))(t)))
	f.start()
	download := f.downloads(vip4, heldSize, "rs1")["rs1"]
	r := f.run("drain", "web4", "rs1", "--until-idle", "--deadline", "1s")
	if r.code != 1 {
		t.Errorf("at the deadline it ended with %d", r.code)
	}
	mustSay(t, "drain", r.stdout+r.stderr, "1 active")
	f.only("rs2")

	done := make(chan result, 1)
	go func() { done <- f.run("drain", "web4", "rs1", "--until-idle", "--deadline", "5m", "--then", "remove") }()
	must(t, download.read(heldSize/10))
	must(t, download.body.Close())
	eventually(t, patience, func() error {
		f.run("connections", "delete", "state", "fin_wait,time_wait,close,close_wait,last_ack") // as their timeouts would
		select {
		case r := <-done:
			if r.code != 0 {
				t.Errorf("drain ended with %d: %s%s", r.code, r.stdout, r.stderr)
			}
			return nil
		default:
			return errors.New("the drained real server is not idle")
		}
	})
	if list := f.output("list"); strings.Contains(section(list, netip.AddrPortFrom(vip4, webPort)), real4(0).String()) {
		t.Errorf("it is still there:\n%s", list)
	}
	saved := f.output("save")
	mustSay(t, "director save", saved, real4(1).String())
}

// section is what director list prints of a service.
func section(list string, service netip.AddrPort) string {
	_, rest, _ := strings.Cut(list, service.String())
	own, _, _ := strings.Cut(rest, "\nTCP")
	return own
}
