// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"reflect"
	"testing"

	"xdplvs/director"
)

func noFault(context.Context) error { return nil }

func question() director.Question {
	return director.Question{Protocol: director.TCP, Client: netip.MustParseAddrPort("198.51.100.7:40000"),
		Virtual: netip.MustParseAddrPort("192.0.2.1:443"), Mark: 7, Interface: "eth0", Segment: "ack"}
}

func TestExplain(t *testing.T) {
	b := &fakeBackend{explanation: director.Explanation{
		Verdict: "tx_new", Action: "transmit", Reals: []director.Candidate{{RealState: director.RealState{Weight: 3}, Excluded: "why", Chosen: true}},
		FrameBefore: []byte{1, 2}, FrameAfter: []byte{3},
	}}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	got, err := client.Explain(t.Context(), question())
	if err != nil {
		t.Fatal(err)
	}
	want := b.explanation
	want.Question = question()
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}

	b.explainErr = &Error{Status: http.StatusUnprocessableEntity, Message: "no such interface"}
	_, err = client.Explain(t.Context(), question())
	wantStatus(t, err, http.StatusUnprocessableEntity)
	wantError(t, err, "no such interface")
	b.explainErr = errors.New("out of memory")
	_, err = client.Explain(t.Context(), question())
	wantStatus(t, err, http.StatusInternalServerError)

	q := question()
	q.Client = netip.MustParseAddrPort("[2001:db8::7]:1")
	_, err = client.Explain(t.Context(), q)
	wantStatus(t, err, http.StatusUnprocessableEntity)
	wantError(t, err, "are of different families")
}
