// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/pcap"
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

func TestCapture(t *testing.T) {
	b := &fakeBackend{traced: somePackets(), traceGoesOn: true}
	w := newWorld(t, b)
	file := filepath.Join(t.TempDir(), "file.pcapng")
	code, _, stderr := w.run(t.Context(), "capture", "-w", file, "--count", "4")
	wantExit(t, code, exitOK, stderr)
	if want := seenNow + "director: 4 packets were captured\n"; stderr != want || b.tracedBytes != director.TracedBytes {
		t.Errorf("printed %q, want %q; %d bytes", stderr, want, b.tracedBytes)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v: mode %v", err, info.Mode())
	}
	at := b.traced[0].Time
	connection := ", service web, real server rs1 10.0.0.11:8080, connection 198.51.100.7:40000 -> 192.0.2.10:80"
	want := []pcap.Packet{
		{Time: at, Interface: "eth0", Direction: pcap.Inbound, Data: []byte("the frame before"), Length: 74, ID: 1, Comment: "tx_new: redirect" + connection},
		{Time: at, Interface: "eth1", Direction: pcap.Outbound, Data: []byte("the frame after it"), Length: 74, ID: 1, Comment: "tx_new: redirect" + connection},
		{Time: at.Add(time.Millisecond), Interface: "eth1", Direction: pcap.Inbound, Data: []byte("the answer before"), Length: 74, ID: 2, Comment: "tx_reply: redirect" + connection},
		{Time: at.Add(time.Millisecond), Interface: "eth0", Direction: pcap.Outbound, Data: []byte("the answer after it"), Length: 74, ID: 2, Comment: "tx_reply: redirect" + connection},
		{Time: at.Add(2 * time.Millisecond), Interface: "eth0", Direction: pcap.Inbound, Data: []byte("dropped"), Length: 118, ID: 3, Comment: "drop_rate: drop, mark 7"},
		{Time: at.Add(3 * time.Millisecond), Interface: "eth0", Direction: pcap.Inbound, Data: []byte("passed"), Length: 60, ID: 4, Comment: "pass_not_ip: pass"},
	}
	compareCapture(t, file, want)
	code, out, stderr := w.run(t.Context(), "capture", "-w", "-", "--size", "300", "--for", "30s", "--bytes", "6", "src", "198.51.100.7")
	wantExit(t, code, exitOK, stderr)
	if len(out) < 300 || len(out) > 1000 || !strings.Contains(out, "the fr") || strings.Contains(out, "the fra") || strings.Contains(out, "the an") || b.tracedBytes != 6 {
		t.Errorf("%d bytes, asked for %d of each frame: %q", len(out), b.tracedBytes, out)
	}
}

// compareCapture reads a file again.
func compareCapture(t *testing.T, file string, want []pcap.Packet) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcap.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		var got pcap.Packet
		if err := r.Next(&got); err != nil || !got.Time.Equal(want[i].Time) {
			t.Fatalf("packet %d: %v, %+v", i, err, got)
		}
		if got.Time = want[i].Time; !reflect.DeepEqual(got, want[i]) {
			t.Errorf("packet %d is\n%+v\nwant\n%+v", i, got, want[i])
		}
	}
	if err := r.Next(new(pcap.Packet)); err != io.EOF {
		t.Errorf("behind the last packet: %v", err)
	}
}

func TestCaptureMistakes(t *testing.T) {
	w := newWorld(t, &fakeBackend{})
	file := filepath.Join(t.TempDir(), "file")
	for want, args := range map[string][]string{
		`no file to write: -w FILE is missing`:                                                 {"src", "10.0.0.1"},
		"--bytes 5000 is not between 1 and 4096":                                               {"-w", file, "--bytes", "5000"},
		`filter: column 1: unknown word "stat"`:                                                {"-w", file, "stat"},
		`invalid argument "10X" for "--size" flag: want a number of bytes, as 500K, 10M or 1G`: {"-w", file, "--size", "10X"},
		`invalid argument "0" for "--size" flag: want`:                                         {"-w", file, "--size", "0"},
	} {
		code, _, stderr := w.run(t.Context(), append([]string{"capture"}, args...)...)
		if code != exitUsage || !strings.HasPrefix(stderr, "director: "+want) {
			t.Errorf("%v: exit %d, %s\nwant %s", args, code, stderr, want)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("there is a file of a capture that was not made")
	}
	code, _, stderr := w.run(t.Context(), "capture", "-w", filepath.Join(file, "not a directory"))
	if code != exitFailure || !strings.Contains(stderr, "no such file or directory") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

const replayedSummary = "4 packets, 1 drop_rate, 1 pass_not_ip, 1 tx_new, 1 tx_reply, 1 skipped\n"

func TestReplay(t *testing.T) {
	b := &fakeBackend{traced: somePackets()}
	w := newWorld(t, b)
	dir := t.TempDir()
	in, left := filepath.Join(dir, "in.pcap"), filepath.Join(dir, "left.pcapng")
	if err := os.WriteFile(in, []byte("a capture"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := w.run(t.Context(), "replay", in, "--interface", "eth1", "-w", left)
	wantExit(t, code, exitOK, stderr)
	want := ""
	for line := range strings.Lines(tracedText) {
		want += fmt.Sprintf("%6d %s", strings.Count(want, "\n")+1, line)
	}
	if out != want+replayedSummary || stderr != "director: packet 5 is skipped: it is one that was sent\n" {
		t.Errorf("printed\n%s%swant\n%s", out, stderr, want+replayedSummary)
	}
	if b.capture != "a capture" || b.replayed != "eth1" {
		t.Errorf("the daemon got %q by %q", b.capture, b.replayed)
	}
	connection := ", service web, real server rs1 10.0.0.11:8080, connection 198.51.100.7:40000 -> 192.0.2.10:80"
	at := b.traced[0].Time
	compareCapture(t, left, []pcap.Packet{
		{Time: at, Interface: "eth1", Direction: pcap.Outbound, Data: []byte("the frame after it"), Length: 74, ID: 1, Comment: "tx_new: redirect" + connection},
		{Time: at.Add(time.Millisecond), Interface: "eth0", Direction: pcap.Outbound, Data: []byte("the answer after it"), Length: 74, ID: 2, Comment: "tx_reply: redirect" + connection},
	})
	code, out, stderr = w.run(t.Context(), "replay", in, "-o", "json")
	wantExit(t, code, exitOK, stderr)
	if n := strings.Count(out, "\n"); n != 4 || !strings.HasPrefix(out, `{"number":1,`) {
		t.Errorf("printed\n%s", out)
	}
	b.replayErr = &api.Error{Status: http.StatusUnprocessableEntity, Message: "packet 3: the capture is cut off: the packet has 3 of 5 bytes"}
	code, _, stderr = w.run(t.Context(), "replay", in)
	if code != exitFailure || stderr != "director: "+in+": "+b.replayErr.Error()+"\n" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	code, _, stderr = w.run(t.Context(), "replay", filepath.Join(dir, "none"))
	if code != exitFailure || !strings.Contains(stderr, "no such file or directory") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}
