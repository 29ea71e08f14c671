// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api"
)

// someExplanation is of a client that persistence knows.
func someExplanation() director.Explanation {
	key := director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80}
	real := netip.MustParseAddrPort("10.0.0.11:80")
	state := func(at netip.AddrPort, weight uint32) director.RealState {
		return director.RealState{Key: director.RealKey{Addr: at.Addr(), Port: at.Port()}, Method: director.DirectRouting,
			Weight: weight, EffectiveWeight: weight, Active: 3, Inactive: 4}
	}
	entry := func(state string, expires time.Duration) *director.Conn {
		return &director.Conn{Real: real, State: state, Expires: expires}
	}
	after := entry("SYN_RECV", time.Minute)
	after.Local = netip.MustParseAddrPort("10.0.0.2:1024")
	return director.Explanation{
		Interface: "eth0", Verdict: "tx_new", Action: "redirect", Egress: "eth1", Service: &key, Name: "web", Scheduler: "wrr",
		Persistence: director.Persistence{Timeout: 5 * time.Minute}, ChoicesBefore: 16, ChoicesAfter: 17,
		Reals: []director.Candidate{
			{RealState: state(real, 2), Chosen: true},
			{RealState: state(netip.MustParseAddrPort("10.0.0.12:80"), 0), Excluded: "quiesced: its weight is 0"},
		},
		TemplateBefore: entry("ASSURED", 299600*time.Millisecond), TemplateAfter: entry("ASSURED", 5*time.Minute), ConnAfter: after,
		FrameBefore: []byte("the packet before"), FrameAfter: []byte("the packet after"),
	}
}

const explained = `packet       tcp 198.51.100.7:40000 -> 192.0.2.10:80, syn, in by eth0
mark         7, as asked
service      web, tcp 192.0.2.10:80
persistence  5m0s; ASSURED to 10.0.0.11:80, for 5m0s
connection   not known
scheduler    wrr, choice 17 of its plan was taken
real servers
  -> 10.0.0.11:80             dr       weight 2 of 2, active 3, inactive 4
     10.0.0.12:80             dr       weight 0 of 0, active 3, inactive 4; excluded: quiesced: its weight is 0
verdict      tx_new: redirect, out by eth1
afterwards   SYN_RECV to 10.0.0.11:80 from 10.0.0.2:1024, for 1m0s
             persistence: ASSURED to 10.0.0.11:80, for 5m0s
before, 17 bytes
00000000  74 68 65 20 70 61 63 6b  65 74 20 62 65 66 6f 72  |the packet befor|
00000010  65                                                |e|
after, 16 bytes
00000000  74 68 65 20 70 61 63 6b  65 74 20 61 66 74 65 72  |the packet after|
`

func TestExplain(t *testing.T) {
	b := &fakeBackend{explanation: someExplanation()}
	w := newWorld(t, b)
	code, out, stderr := w.run(t.Context(), "explain", "tcp", "198.51.100.7:40000", "192.0.2.10:80", "--mark", "7")
	wantExit(t, code, exitOK, stderr)
	if out != explained {
		t.Errorf("printed\n%s\nwant\n%s", out, explained)
	}
	b.explanation = director.Explanation{Interface: "eth0", Verdict: "drop_malformed", Action: "drop"}
	_, out, _ = w.run(t.Context(), "explain", "udp", "[2001:db8::7]:4000", "[2001:db8:1::10]:53")
	for _, part := range []string{"packet       udp [2001:db8::7]:4000 -> [2001:db8:1::10]:53, in by eth0\n", "service      none\n", "verdict      drop_malformed: drop\n"} {
		if !strings.Contains(out, part) {
			t.Errorf("%q is not in\n%s", part, out)
		}
	}
	b.explainErr = &api.Error{Status: http.StatusUnprocessableEntity, Message: "no such interface"}
	if code, _, stderr := w.run(t.Context(), "explain", "udp", "192.0.2.1:1", "192.0.2.2:2"); code != exitFailure || stderr != "director: no such interface\n" {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestExplainMistakes(t *testing.T) {
	w := newWorld(t, &fakeBackend{})
	for args, want := range map[string]string{
		"tcp 192.0.2.1:1":                              "want protocol, client and virtual address, not 2 arguments",
		"icmp 192.0.2.1:1 192.0.2.2:2":                 `unknown protocol "icmp" (known: tcp, udp, sctp)`,
		"tcp 192.0.2.1 192.0.2.2:2":                    `"192.0.2.1" is no address with a port`,
		"tcp 192.0.2.1:1 [2001:db8::1]:2":              "are of different families",
		"tcp 192.0.2.1:0 192.0.2.2:2":                  "client 192.0.2.1:0: port 0",
		"tcp 0.0.0.0:1 192.0.2.2:2":                    "unspecified address",
		"tcp 192.0.2.1:1 192.0.2.2:2 --segment urgent": "known: syn, ack, fin, rst",
		"udp 192.0.2.1:1 192.0.2.2:2 --segment ack":    "only tcp has segments, not udp",
	} {
		code, _, stderr := w.run(t.Context(), append([]string{"explain"}, strings.Fields(args)...)...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %q, want %q", args, code, stderr, want)
		}
	}
}
