// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"xdplvs/director"
)

// tracedPackets are one of a connection, and one of nobody's.
func tracedPackets() []director.Traced {
	client, virtual := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.1:443")
	return []director.Traced{
		{Protocol: "tcp", Source: client, Destination: virtual, Client: client, Virtual: virtual, Flags: "syn", Verdict: "tx_new",
			Action: "transmit", Ingress: "eth0", Egress: "eth0", Length: 54, Left: 54, Before: []byte{1, 2}, After: []byte{3}},
		{Protocol: "arp", Verdict: "pass_not_ip", Action: "pass", Ingress: "eth0", Length: 60},
	}
}

func TestTrace(t *testing.T) {
	b := &fakeBackend{traced: tracedPackets(), traceGoesOn: true}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	for filter, want := range map[string][]director.Traced{
		"":                b.traced,
		"verdict tx":      b.traced[:1],
		"proto udp":       nil,
		"src 0.0.0.0/0":   b.traced[:1],
		"interface eth0 ": b.traced,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var got []director.Traced
		begun := 0
		err := client.Trace(ctx, filter, 64, func(line *director.TraceLine) error {
			switch {
			case line.Packet != nil:
				got = append(got, *line.Packet)
			case line.Lost == 3: // the last line of the fake's
				cancel()
			case line.Lost == 0:
				begun++
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) || begun != 1 || !reflect.DeepEqual(got, want) || b.tracedBytes != 64 {
			t.Errorf("%q: begun %d times, %d bytes, %v, got\n%+v\nwant\n%+v", filter, begun, b.tracedBytes, err, got, want)
		}
		cancel()
	}
}

// TestTraceEnds: where the daemon ends a trace, it says why.
func TestTraceEnds(t *testing.T) {
	b := &fakeBackend{traceGoesOn: true}
	path, stop := start(t, b, ServerOptions{})
	client := newClient(t, path)
	err := client.Trace(t.Context(), "", 0, func(line *director.TraceLine) error {
		if line.Lost == 3 {
			go stop()
		}
		return nil
	})
	wantError(t, err, "the daemon stops")
}

func TestTraceMistakes(t *testing.T) {
	b := &fakeBackend{traceErr: &Error{Status: http.StatusUnprocessableEntity, Message: `there is no service "wbe"`}}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	never := func(*director.TraceLine) error {
		t.Error("a line of a trace that is refused")
		return nil
	}
	err := client.Trace(t.Context(), "service wbe", 0, never)
	wantStatus(t, err, http.StatusUnprocessableEntity)
	wantError(t, err, `there is no service "wbe"`)
	err = client.Trace(t.Context(), "state established", 0, never)
	wantStatus(t, err, http.StatusBadRequest)
	wantError(t, err, `filter: column 1: unknown word "state" (known: src, dst, `)
	for _, bytes := range []int{-1, director.TracedBytes + 1} {
		err = client.Trace(t.Context(), "", bytes, never)
		wantStatus(t, err, http.StatusBadRequest)
		wantError(t, err, "parameter bytes is a number up to 4096")
	}
}

// TestReplay: the answer comes while the capture is still being sent, and an error behind it is its last line.
func TestReplay(t *testing.T) {
	b := &fakeBackend{}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	var numbers []uint64
	count := func(line *director.TraceLine) error {
		numbers = append(numbers, line.Packet.Number)
		return nil
	}
	if err := client.Replay(t.Context(), strings.NewReader("abc"), "eth1", count); err != nil || !slices.Equal(numbers, []uint64{1, 2, 3}) || b.replayed != "eth1" {
		t.Errorf("%v, packets %v by %q", err, numbers, b.replayed)
	}
	const many = 100_000 // more than fits the buffers on the way
	numbers = nil
	b.replayErr = &Error{Status: http.StatusUnprocessableEntity, Message: "packet 100001: the capture is cut off"}
	err := client.Replay(t.Context(), strings.NewReader(strings.Repeat("x", many)), "", count)
	wantError(t, err, "packet 100001: the capture is cut off")
	if len(numbers) != many {
		t.Errorf("%d packets", len(numbers))
	}
	err = client.Replay(t.Context(), strings.NewReader(""), "", count)
	wantStatus(t, err, http.StatusUnprocessableEntity)
}
