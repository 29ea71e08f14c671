// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// somePages say which of them answered.
func somePages() []Page {
	say := func(word string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, word, " ", r.URL.Path) })
	}
	return []Page{
		{Path: "/metrics", Handler: say("metrics")},
		{Path: "/debug/", Admin: true, Handler: say("debug")},
	}
}

// wants are what a server answers to "METHOD PATH".
type wants map[string]struct {
	status int
	text   string
}

func (all wants) check(t *testing.T, client *http.Client, base string) {
	t.Helper()
	for what, want := range all {
		method, path, _ := strings.Cut(what, " ")
		body := io.Reader(nil)
		if method == http.MethodPost {
			body = strings.NewReader("a body")
		}
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, body)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != want.status || !strings.Contains(string(text), want.text) {
			t.Errorf("%s: %d %q (%v), want %d %q", what, answer.StatusCode, text, err, want.status, want.text)
		}
	}
}

func TestPagesBesideRoutes(t *testing.T) {
	path, _ := start(t, &fakeBackend{}, ServerOptions{Pages: somePages()})
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	defer client.CloseIdleConnections()
	wants{
		"GET /metrics":     {200, "metrics /metrics"},
		"HEAD /metrics":    {200, ""},
		"POST /metrics":    {405, "/metrics wants GET, not POST"},
		"GET /metrics/":    {404, `unknown path \"/metrics/\"`},
		"GET /debug/a":     {200, "debug /debug/a"},
		"GET /debug":       {404, "unknown path"},
		"GET /v1/version":  {200, "v1.2.3"},
		"GET /metrics?a=b": {200, "metrics"},
	}.check(t, client, "http://director")
}

// servePages listens for anybody until the test ends.
func servePages(t *testing.T, opts ServerOptions) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewPageServer(discard(), opts).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// TestPageServer: who listens for anybody offers neither the API nor what is for administrators.
func TestPageServer(t *testing.T) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	wants{
		"GET /metrics":    {200, "metrics /metrics"},
		"POST /metrics":   {405, "wants GET"},
		"GET /debug/a":    {404, `unknown path \"/debug/a\" (known: /metrics)`},
		"GET /v1/version": {404, "unknown path"},
		"POST /v1/reload": {404, "unknown path"},
	}.check(t, client, "http://"+servePages(t, ServerOptions{Pages: somePages()}))
}

// TestPageServerIsFull: connections beyond the limit are told so.
func TestPageServerIsFull(t *testing.T) {
	address := servePages(t, ServerOptions{Pages: somePages(), MaxConns: 1})
	held, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	wants{"GET /metrics": {503, "1 connections to the daemon are open, which is the limit"}}.check(t, client, "http://"+address)
}

// TestPagesAreRefused: a stranger gets no page, a reader none that is for administrators.
func TestPagesAreRefused(t *testing.T) {
	s := NewServer(discard(), &fakeBackend{}, ServerOptions{AdminGroup: 54310, ReadGroup: 54320, Pages: somePages()})
	for _, c := range []struct {
		groups []uint32
		page   int
		text   string // of the refusal; empty: there is none
	}{
		{nil, 0, "uid 54000 may not read"},
		{[]uint32{54320}, 0, ""},
		{[]uint32{54320}, 1, "uid 54000 may not change"},
		{[]uint32{54310}, 1, ""},
	} {
		got := ""
		r, w := httptest.NewRequest(http.MethodGet, "/metrics", nil), httptest.NewRecorder()
		r = r.WithContext(context.WithValue(t.Context(), connKey{}, &connInfo{peer: &peer{uid: 54000, groups: c.groups}}))
		r.URL.Path = s.opts.Pages[c.page].Path
		if err := s.dispatch(w, r); err != nil {
			got = err.Error()
		}
		if (c.text == "") != (got == "") || !strings.Contains(got, c.text) {
			t.Errorf("groups %v, page %s: %q, want %q", c.groups, s.opts.Pages[c.page].Path, got, c.text)
		}
	}
}
