// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"xdplvs/director"
)

// FuzzRequest holds that whatever is asked, by whomever: the answer is JSON, or a stream of it, or a file, with an error in it
// unless the status is 200; and that a stranger gets nothing else, a reader changes nothing.
func FuzzRequest(f *testing.F) {
	for i := range routes {
		body := ""
		if of := operations[routes[i].method+" "+routes[i].path]; of.body != nil {
			text, _ := json.Marshal(of.body)
			body = string(text)
		}
		f.Add(routes[i].method, routes[i].path, "filter=src+10.0.0.1&all=true&confirm=1s", body, uint8(i%3))
	}
	f.Add("PATCH", pathTimeouts, "", `{"tcp": "10m", "udp": -3}`, uint8(2))
	f.Add("POST", pathExplain, "", `{"protocol": "tcp", "client": "10.0.0.1:1", "virtual": "192.0.2.1:80"}`, uint8(2))
	f.Fuzz(func(t *testing.T, method, path, query, body string, who uint8) {
		have := role(who % 3)
		r, err := http.NewRequest(method, (&url.URL{Scheme: "http", Host: "director", Path: path, RawQuery: query}).String(), strings.NewReader(body))
		if err != nil {
			t.Skipf("no request: %v", err)
		}
		b := anyBackend()
		b.conns = 10
		b.reload = func(context.Context) error { b.applied = append(b.applied, "reload"); return nil }
		s := NewServer(discard(), b, ServerOptions{Pages: somePages()})
		s.identify = func(http.ResponseWriter, *http.Request, *connInfo) (*caller, error) {
			return &caller{have: have, refusal: func(need role) string { return "not " + need.verb() }}, nil
		}
		w := httptest.NewRecorder()
		s.serveHTTP(w, r.WithContext(context.WithValue(t.Context(), connKey{}, &connInfo{from: netip.IPv6Loopback()})))
		mustAnswer(t, w)
		if have == nobody && w.Code != http.StatusForbidden {
			t.Errorf("a stranger gets %d for %s %s", w.Code, method, path)
		}
		if have < admin && (b.changed() || b.timeouts != director.DefaultTimeouts) {
			t.Errorf("a reader changes something by %s %s?%s %q", method, path, query, body)
		}
	})
}

// changed tells whether anybody was asked to change something.
func (b *fakeBackend) changed() bool {
	return len(b.applied)+len(b.edits)+len(b.zeroed) > 0 || b.order != director.HealthOrder{}
}

func mustAnswer(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	switch kind := w.Header().Get("Content-Type"); {
	case kind == "application/json" || kind == "application/x-ndjson":
		for line := range bytes.Lines(w.Body.Bytes()) {
			if !json.Valid(line) {
				t.Errorf("%d with %q", w.Code, line)
			}
		}
	case w.Code != http.StatusOK:
		t.Errorf("%d with %s: %q", w.Code, kind, w.Body)
	}
}
