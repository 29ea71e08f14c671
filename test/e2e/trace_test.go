// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"xdplvs/director"
)

// watcher is a command that looks at packets as they go by.
type watcher struct {
	f           *farm
	cmd         *exec.Cmd
	out, errors lockedBuffer
}

// watch starts one, and waits until packets are seen.
func (f *farm) watch(args ...string) *watcher {
	f.t.Helper()
	w := &watcher{f: f}
	w.cmd = f.director.Command(context.Background(), program, append([]string{"-s", f.socket()}, args...)...)
	w.cmd.Stdout, w.cmd.Stderr, w.cmd.Env = &w.out, &w.errors, environment()
	must(f.t, f.director.Start(w.cmd))
	f.t.Cleanup(func() { w.cmd.Process.Kill() }) // fails if it has ended
	eventually(f.t, patience, func() error {
		if !strings.Contains(w.errors.String(), "packets are seen from now on") {
			return fmt.Errorf("director %s says %q", strings.Join(args, " "), w.errors.String())
		}
		return nil
	})
	return w
}

// stop ends it as an administrator would.
func (w *watcher) stop() {
	w.f.t.Helper()
	must(w.f.t, w.cmd.Process.Signal(syscall.SIGINT))
	w.wait()
}

// wait waits until it has ended well.
func (w *watcher) wait() {
	w.f.t.Helper()
	if err := w.cmd.Wait(); err != nil {
		w.f.t.Errorf("%s: %v: %s", w.cmd, err, w.errors.String())
	}
}

// packets are those that it has printed so far, as JSON.
func (w *watcher) packets() (list []director.Traced) {
	w.f.t.Helper()
	for line := range strings.Lines(w.out.String()) {
		var p director.Traced
		if !strings.HasSuffix(line, "\n") { // it is being written
			return list
		}
		must(w.f.t, json.Unmarshal([]byte(line), &p))
		list = append(list, p)
	}
	return list
}

// await waits until a connection has ended: both ends have said so.
func (w *watcher) await() []director.Traced {
	w.f.t.Helper()
	eventually(w.f.t, patience, func() error {
		if n := strings.Count(w.out.String(), "fin"); n < 1 {
			return fmt.Errorf("no FIN was seen:\n%s", w.out.String())
		}
		return nil
	})
	return w.packets()
}

// verdictsOf counts the verdicts of packets.
func verdictsOf(list []director.Traced) map[string]int {
	counts := map[string]int{}
	for i := range list {
		counts[list[i].Verdict]++
	}
	return counts
}

// A client's connection is shown, packet by packet, and nobody else's.
func TestTrace(t *testing.T) {
	t.Parallel()
	for _, m := range []method{byDR, byNAT} {
		m.on(t, netWays[0], func(t *testing.T, f *farm, _ *daemon) {
			for _, family := range families {
				t.Run(family.name, func(t *testing.T) { f.on(t).traceConnection(family.vip, m.name) })
			}
			f.on(t).traceSeveral()
		})
	}
}

func (f *farm) traceConnection(vip netip.Addr, method string) {
	f.t.Helper()
	w := f.watch("trace", "dst", vip.String(), "proto", "tcp", "dport", "=", fmt.Sprint(webPort), "-o", "json")
	others := f.watch("trace", "dst", vip.String(), "protocol", "udp", "verdict", "drop", "-o", "json")
	answered := get(f.fetch(vip, webPort))(f.t)
	list := w.await()
	w.stop()
	first := &list[0]
	virtual := netip.AddrPortFrom(vip, webPort)
	if first.Verdict != "tx_new" || first.Flags != "syn" || first.Virtual != virtual || first.RealName != answered ||
		!strings.HasPrefix(first.Service, "web") || first.Ingress != "eth0" || first.Egress != "eth1" {
		f.t.Errorf("the first packet: %+v, and %s answered", first, answered)
	}
	for i := range list {
		p := &list[i]
		if p.Client != first.Client || p.Virtual != virtual || p.Real != first.Real || p.Before != nil {
			f.t.Errorf("packet %d is no packet of the connection %s -> %s: %+v", i, first.Client, virtual, p)
		}
		if fromServer := p.Source != first.Client; fromServer != (p.Verdict == "tx_reply") {
			f.t.Errorf("packet %d: %+v", i, p)
		}
	}
	counts := verdictsOf(list)
	if counts["tx_new"] != 1 || counts["tx_forward"] == 0 || (counts["tx_reply"] > 0) != (method != "dr") {
		f.t.Errorf("verdicts %v", counts)
	}
	others.stop()
	if list := others.packets(); len(list) != 0 {
		f.t.Errorf("packets of somebody else: %+v", list)
	}
}

// traceSeveral: who wants a number of packets gets so many; as many as may trace at a time do, and no more; and it
// ends with the daemon.
func (f *farm) traceSeveral() {
	f.t.Helper()
	counted := f.watch("trace", "service", "web4,web6", "--count", "3")
	get(f.fetch(vip4, webPort))(f.t)
	counted.wait()
	lines := slices.Collect(strings.Lines(counted.out.String()))
	if len(lines) != 3 || !strings.Contains(lines[0], " syn, ") || !strings.Contains(lines[0], ": tx_new, service web4, real server rs") {
		f.t.Errorf("trace printed\n%s", counted.out.String())
	}
	f.watch("trace", "--for", "100ms").wait()
	var all []*watcher
	for range 8 {
		all = append(all, f.watch("trace", "src", "203.0.113.1"))
	}
	r := f.run("trace")
	if want := "director: 8 traces and captures are under way, which is the limit\n"; r.code != 1 || r.stderr != want {
		f.t.Errorf("a ninth one: %+v, want %q", r, want)
	}
	for _, w := range all {
		w.stop()
	}
	r = f.run("trace", "service", "wbe")
	if want := "director: there is no service \"wbe\"\n"; r.code != 1 || r.stderr != want {
		f.t.Errorf("an unknown service: %+v, want %q", r, want)
	}
}

// What is captured is what was traced, and another program reads it.
func TestCapture(t *testing.T) {
	t.Parallel()
	for _, m := range []method{byDR, byNAT} {
		m.on(t, netWays[0], func(t *testing.T, f *farm, _ *daemon) {
			for _, family := range families {
				t.Run(family.name, func(t *testing.T) { f.on(t).captureConnection(family.vip, m.name) })
			}
		})
	}
}

func (f *farm) captureConnection(vip netip.Addr, method string) {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "client.pcapng")
	filter := []string{"dst", vip.String(), "dport", "=", fmt.Sprint(webPort), "proto", "tcp"}
	w := f.watch(append([]string{"capture", "-w", file}, filter...)...)
	traced := f.watch(append([]string{"trace", "-o", "json"}, filter...)...)
	get(f.fetch(vip, webPort))(f.t)
	list := traced.await()
	first := &list[0]
	eventually(f.t, patience, func() error {
		if text := tcpdump(f.t, file); !strings.Contains(text, "Flags [F.]") {
			return fmt.Errorf("tcpdump reads\n%s", text)
		}
		return nil
	})
	w.stop()
	traced.stop()
	text := tcpdump(f.t, file)
	client, virtual := dumped(first.Client), dumped(first.Virtual)
	if want := client + " > " + virtual + ": Flags [S]"; strings.Count(text, want) == 0 {
		f.t.Errorf("%q is not in what tcpdump reads:\n%s", want, text)
	}
	if method == "nat" { // both ends are rewritten, each in its direction
		for _, want := range []string{client + " > " + dumped(first.Real) + ": Flags [S]", dumped(first.Real) + " > " + client + ": Flags [S.]",
			virtual + " > " + client + ": Flags [S.]"} {
			if !strings.Contains(text, want) {
				f.t.Errorf("%q is not in what tcpdump reads:\n%s", want, text)
			}
		}
	}
	if lines := strings.Count(text, "\n"); lines < 2*len(list) {
		f.t.Errorf("%d packets were traced, and %d frames are in the file:\n%s", len(list), lines, text)
	}
	content := string(get(os.ReadFile(file))(f.t))
	for _, want := range []string{"tx_new: redirect, service web", "connection " + first.Client.String() + " -> " + first.Virtual.String(), "eth1 (sent)"} {
		if !strings.Contains(content, want) {
			f.t.Errorf("%q is not in the capture", want)
		}
	}
	f.replayConnection(file, first.Client, list)
}

// replayConnection: once the connection is forgotten, its packets would have the same verdicts again; and nothing has changed.
func (f *farm) replayConnection(file string, client netip.AddrPort, list []director.Traced) {
	f.t.Helper()
	f.output("connections", "delete", "--all")
	before := f.still()
	r := f.run("replay", file, "-o", "json")
	if r.code != 0 || !strings.Contains(r.stderr, "is skipped: it is one that was sent\n") {
		f.t.Fatalf("replay: exit %d, %s", r.code, r.stderr)
	}
	if after := f.still(); after != before {
		f.t.Errorf("the replay changed\n%s to\n%s", before, after)
	}
	verdicts := func(list []director.Traced) (all []string) { // of the client: other real servers may be chosen now
		for i := range list {
			if list[i].Source == client && list[i].Verdict != "" {
				all = append(all, list[i].Flags+" "+list[i].Verdict)
			}
		}
		return all
	}
	var again watcher
	again.f = f
	again.out.Write([]byte(r.stdout))
	got, want := verdicts(again.packets()), verdicts(list)
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		f.t.Errorf("verdicts of the replay\n%q\nwhen it happened\n%q", got, want)
	}
}

// dumped is an address and port as tcpdump writes it.
func dumped(a netip.AddrPort) string { return fmt.Sprintf("%s.%d", a.Addr(), a.Port()) }

// tcpdump is what it reads from a capture.
func tcpdump(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("tcpdump", "-nr", file).CombinedOutput()
	if err != nil {
		t.Fatalf("tcpdump: %v: %s", err, out)
	}
	_, text, _ := strings.Cut(string(out), "\n") // the first line says what the file is
	return text
}
