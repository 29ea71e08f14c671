// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
)

// watchChanges runs director watch with some flags until the test ends.
func (f *farm) watchChanges(flags ...string) *lockedBuffer {
	f.t.Helper()
	out := &lockedBuffer{}
	cmd := f.director.Command(f.t.Context(), program, append([]string{"-s", f.socket(), "watch"}, flags...)...)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, environment()
	must(f.t, f.director.Start(cmd))
	f.t.Cleanup(func() { endWatch(cmd) })
	return out
}

func endWatch(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// waitText waits until all of the texts were printed, in this order.
func waitText(t *testing.T, out *lockedBuffer, texts ...string) {
	t.Helper()
	eventually(t, patience, func() error {
		rest := out.String()
		for _, text := range texts {
			_, after, ok := strings.Cut(rest, text)
			if !ok {
				return fmt.Errorf("no %q in the right place of\n%s", text, out)
			}
			rest = after
		}
		return nil
	})
}

// Who watches sees what is changed, what checks and defenses do, and goes on when the daemon is back.
func TestWatch(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	config := strings.Replace(f.config("eth0", standard("rr", 1, 1)...), "services:\n", "services:\n  - {name: checked, virtual: \"192.0.2.77:80\", "+
		"check: {tcp: {}, via: direct, interval: 100ms, rise: 1, fall: 1}, reals: [{name: rs1, address: "+real4(0).String()+"}]}\n", 1)
	if !strings.Contains(config, "name: checked") {
		t.Fatalf("the configuration is\n%s", config)
	}
	f.writeConfig(config)
	d := f.start()
	text, lines := f.watchChanges(), f.watchChanges("-o", "json")
	change := 1
	eventually(t, patience, func() error { // until both watch
		change++
		f.output("real", "set", "web4", "rs1", fmt.Sprintf("weight=%d", change))
		if !strings.Contains(text.String(), "~ web4 rs1") || !strings.Contains(lines.String(), "real_changed") {
			return fmt.Errorf("no change is seen:\n%s\n%s", text, lines)
		}
		return nil
	})
	f.output("service", "add", "virtual=192.0.2.99:80", "name=new")
	f.output("service", "remove", "new")
	f.output("defense", "set", "drop_packet=3")
	f.output("timeouts", "set", "tcpfin=75s")
	must(t, f.reals[0].http.Close())
	waitText(t, text, "+ new is added", "- new is removed", "! defense drop_packet begins", "~ defense: drop_packet 3", "~ timeouts: tcpfin 2m -> 1m15s", "v checked rs1 ("+real4(0).String()+":80) is down: L4")
	waitText(t, lines, `"event":"quorum_lost"`)

	var last director.Event
	for line := range strings.Lines(strings.TrimSpace(lines.String())) {
		var e director.Event
		must(t, json.Unmarshal([]byte(line), &e))
		if e.Kind == director.EventServiceAdded {
			last = e
		}
	}
	waitText(t, f.watchChanges("--since", last.Position), "- new is removed", "defense drop_packet begins", "is down", "checked has lost its quorum")

	d.stop()
	waitText(t, text, "waiting for the daemon")
	f.start()
	waitText(t, text, "waiting for the daemon", "! events are lost", "configuration")
	eventually(t, patience, func() error {
		f.output("real", "set", "web4", "rs2", fmt.Sprintf("weight=%d", 2+time.Now().UnixNano()%1000))
		if _, after, _ := strings.Cut(text.String(), "events are lost"); !strings.Contains(after, "~ web4 rs2") {
			return fmt.Errorf("after the restart no change is seen:\n%s", text)
		}
		return nil
	})
}
