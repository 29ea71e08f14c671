// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api"
)

// somePackets are a client's packet, the server's by nat, a dropped one, and one that is no IP.
func somePackets() []director.Traced {
	client, virtual, real := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.10:80"), netip.MustParseAddrPort("10.0.0.11:8080")
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.Local)
	return []director.Traced{
		{Time: at, Protocol: "tcp", Source: client, Destination: virtual, Flags: "syn", Client: client, Virtual: virtual, Real: real,
			RealName: "rs1", Service: "web", Verdict: "tx_new", Action: "redirect", Ingress: "eth0", Egress: "eth1", Length: 74, Left: 74,
			Before: []byte("the frame before"), After: []byte("the frame after it")},
		{Time: at.Add(time.Millisecond), Protocol: "tcp", Source: real, Destination: client, Flags: "syn,ack", Client: client, Virtual: virtual,
			Real: real, RealName: "rs1", Service: "web", Verdict: "tx_reply", Action: "redirect", Ingress: "eth1", Egress: "eth0", Length: 74, Left: 74,
			Before: []byte("the answer before"), After: []byte("the answer after it")},
		{Time: at.Add(2 * time.Millisecond), Protocol: "ipv6-icmp", Source: netip.MustParseAddrPort("[2001:db8::7]:0"), Destination: netip.MustParseAddrPort("[2001:db8::1]:0"),
			Client: netip.MustParseAddrPort("[2001:db8::7]:0"), Virtual: netip.MustParseAddrPort("[2001:db8::1]:0"), Mark: 7,
			Verdict: "drop_rate", Action: "drop", Ingress: "eth0", Length: 118, Before: []byte("dropped")},
		{Time: at.Add(3 * time.Millisecond), Protocol: "arp", Verdict: "pass_not_ip", Action: "pass", Ingress: "eth0", Length: 60, Before: []byte("passed")},
	}
}

const tracedText = `05:06:07.089000 eth0 tcp 198.51.100.7:40000 > 192.0.2.10:80 syn, 74 bytes: tx_new, service web, real server rs1 10.0.0.11:8080, out by eth1
05:06:07.090000 eth1 tcp 10.0.0.11:8080 > 198.51.100.7:40000 syn,ack, 74 bytes: tx_reply, service web, real server rs1 10.0.0.11:8080, client 198.51.100.7:40000, out by eth0
05:06:07.091000 eth0 ipv6-icmp 2001:db8::7 > 2001:db8::1, 118 bytes: drop_rate, mark 7
05:06:07.092000 eth0 arp, 60 bytes: pass_not_ip
`

const seenNow = "director: packets are seen from now on\n"

func TestTrace(t *testing.T) {
	b := &fakeBackend{traced: somePackets(), traceGoesOn: true}
	w := newWorld(t, b)
	code, out, stderr := w.run(t.Context(), "trace", "--count", "4")
	wantExit(t, code, exitOK, stderr)
	if out != tracedText || stderr != seenNow || b.tracedBytes != 0 {
		t.Errorf("printed\n%s%swant\n%s", out, stderr, tracedText)
	}
	b.traceLost = 12
	code, out, stderr = w.run(t.Context(), "trace", "src", "198.51.100.0/24", "--for", "300ms")
	wantExit(t, code, exitOK, stderr)
	first := strings.Join(slices.Collect(strings.Lines(tracedText))[:2], "")
	if want := seenNow + "director: 12 packets are missing: there were more than could be told of\n"; out != first || stderr != want {
		t.Errorf("printed\n%s%swant\n%s%s", out, stderr, first, want)
	}
	code, out, stderr = w.run(t.Context(), "trace", "proto", "arp", "-c1", "-o", "json")
	wantExit(t, code, exitOK, stderr)
	var got director.Traced
	if err := json.Unmarshal([]byte(out), &got); err != nil || !got.Time.Equal(b.traced[3].Time) {
		t.Errorf("%v: %s", err, out)
	}
	if got.Time = b.traced[3].Time; !reflect.DeepEqual(got, b.traced[3]) {
		t.Errorf("%+v, want %+v", got, b.traced[3])
	}
}

func TestTraceFails(t *testing.T) {
	b := &fakeBackend{}
	w := newWorld(t, b)
	code, _, stderr := w.run(t.Context(), "trace")
	if code != exitFailure || stderr != seenNow+"director: the daemon has ended the trace\n" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	b.traceErr = &api.Error{Status: http.StatusServiceUnavailable, Message: "8 traces and captures are under way, which is the limit"}
	if code, _, stderr = w.run(t.Context(), "trace"); code != exitFailure || stderr != "director: "+b.traceErr.Error()+"\n" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	code, _, stderr = w.run(t.Context(), "trace", "verdict", "tx", "stat", "x")
	if want := "director: filter: column 12: unknown word \"stat\" (known: "; code != exitUsage || !strings.HasPrefix(stderr, want) ||
		!strings.Contains(stderr, "\n  verdict tx stat x\n             ^\n") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
