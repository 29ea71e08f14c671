// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"xdplvs/director"
)

// explain is what director explain -o json says.
func (f *farm) explain(args ...string) *director.Explanation {
	f.t.Helper()
	var e director.Explanation
	f.decode(&e, append([]string{"explain"}, args...)...)
	return &e
}

// still is what explaining must not change: counters, connections, templates.
func (f *farm) still() string {
	s := f.snapshot()
	text := fmt.Sprint(s.Total)
	for _, verdict := range slices.Sorted(maps.Keys(s.Verdicts)) {
		if !strings.HasPrefix(verdict, "pass_") { // neighbours ask and tell each other all the time
			text += fmt.Sprint(verdict, s.Verdicts[verdict])
		}
	}
	for i := range s.Services {
		text += fmt.Sprint(s.Services[i].Counters, s.Services[i].NoReal)
		for _, r := range s.Services[i].Reals {
			text += fmt.Sprint(r.Counters, r.Active, r.Inactive, r.Templates)
		}
	}
	return text + f.output("connections", "count") + f.output("persistence", "count")
}

// What is said of a client's packet is what becomes of it, and saying it changes nothing.
func TestExplain(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	dns := both("dns", "udp", dnsPort, "rr", 1, 1)
	for i := range dns {
		dns[i].keys = "persistence: 5m"
	}
	f.configure(join(both("web", "tcp", webPort, "rr", 1, 1, 1), both("alt", "tcp", altPort, "wrr", 0, 2), dns)...)
	f.start()
	for _, vip := range []netip.Addr{vip4, vip6} {
		client := map[bool]netip.Addr{true: client4, false: client6}[vip.Is4()]
		question := func(protocol string, port uint16, more ...string) []string {
			return append([]string{protocol, netip.AddrPortFrom(client, 40000).String(), netip.AddrPortFrom(vip, port).String()}, more...)
		}
		for range 2 {
			before := f.still()
			said := f.explain(question("tcp", webPort)...)
			if after := f.still(); after != before {
				t.Errorf("explaining changed\n%s to\n%s", before, after)
			}
			if said.Verdict != "tx_new" || said.Action != "transmit" || said.ChoicesAfter == said.ChoicesBefore || said.ConnBefore != nil {
				t.Errorf("a new connection: %+v", said)
			}
			if said.ConnAfter == nil || said.ConnAfter.State != "SYN_RECV" {
				t.Errorf("afterwards: %+v", said.ConnAfter)
			}
			if got := get(f.fetch(vip, webPort))(t); got != chosen(said) {
				t.Errorf("%s answered, and %s was said", got, chosen(said))
			}
		}
		if said := f.explain(question("tcp", altPort)...); chosen(said) != "rs2" || excluded(said, "rs1") != "quiesced: its weight is 0" {
			t.Errorf("a quiesced real server: %+v", said.Reals)
		}
		if said := f.explain(question("tcp", webPort)...); !strings.HasPrefix(excluded(said, "rs3"), "cannot be reached: ") {
			t.Errorf("a real server that does not exist: %+v", said.Reals)
		}
		if said := f.explain(question("tcp", webPort, "--segment", "ack")...); said.Verdict != "pass_no_connection" || said.ConnAfter != nil {
			t.Errorf("an ACK of no connection: %+v", said)
		}
		if said := f.explain(question("tcp", 9)...); said.Verdict != "pass_no_service" || said.Service != nil {
			t.Errorf("no service's: %+v", said)
		}
		answered := get(f.query(vip, dnsPort))(t)
		said := f.explain(question("udp", dnsPort)...)
		if chosen(said) != answered || said.TemplateBefore == nil || said.ConnBefore != nil {
			t.Errorf("a client that persistence knows went to %s: %+v", answered, said)
		}
	}
}

// chosen is the name of the real server that the packet would go to.
func chosen(e *director.Explanation) string {
	for i := range e.Reals {
		if e.Reals[i].Chosen {
			return e.Reals[i].Name
		}
	}
	return ""
}

func excluded(e *director.Explanation, name string) string {
	for i := range e.Reals {
		if e.Reals[i].Name == name {
			return e.Reals[i].Excluded
		}
	}
	return "not listed"
}

// Known connections, full-NAT and marks, and the text.
func TestExplainKnown(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	web := both("web", "tcp", webPort, "rr", 1)
	for i := range web {
		web[i].keys = "method: fullnat"
	}
	f.writeConfig(f.config("eth0", web...) + "  - {name: marked, fwmark: 7, reals: [10.0.0.11]}\n")
	f.start()
	f.download(vip4, 1<<30)
	var known director.Conn
	eventually(t, patience, func() error {
		for _, c := range f.connections("state", "established") {
			known = c
			return nil
		}
		return fmt.Errorf("no connection")
	})
	said := f.explain("tcp", known.Client.String(), known.Virtual.String(), "--segment", "ack")
	if said.Verdict != "tx_forward" || said.ConnBefore == nil || said.ConnBefore.Local != known.Local || said.ConnAfter.State != "ESTABLISHED" {
		t.Errorf("a known connection: %+v", said)
	}
	source := known.Local.Addr().As4()
	if after := hex.EncodeToString(said.FrameAfter); !strings.Contains(after, hex.EncodeToString(source[:])) {
		t.Errorf("%s is not in the packet that leaves, %s", known.Local, after)
	}

	text := f.output("explain", "udp", "10.0.0.1:5000", "203.0.113.9:53", "--mark", "7")
	for _, part := range []string{"packet       udp 10.0.0.1:5000 -> 203.0.113.9:53, in by eth0\n", "mark         7, as asked\n",
		"service      marked, fwmark 7\n", "-> 10.0.0.11:0 ", "verdict      tx_new: transmit, out by eth0\n", "afterwards   UDP to 10.0.0.11:53, for 5m0s\n",
		"before, 49 bytes\n", "after, 49 bytes\n"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
	if said := f.explain("udp", "10.0.0.1:5000", "203.0.113.9:53"); said.Verdict != "pass_no_service" {
		t.Errorf("without the mark: %+v", said)
	}
	r := f.run("explain", "tcp", "10.0.0.1:5000", "192.0.2.10:80", "--interface", "eth7")
	if want := "director: the program is not attached to interface eth7 (known: eth0)\n"; r.code != 1 || r.stderr != want {
		t.Errorf("another interface: %+v, want %q", r, want)
	}
}
