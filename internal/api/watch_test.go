// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
)

var errEnough = errors.New("enough")

// watched are so many events, without those that nothing has happened, from a position on.
func watched(t *testing.T, c *Client, since string, n int) (events []director.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := c.Watch(ctx, since, func(e *director.Event) error {
		if e.Kind != director.EventAlive {
			events = append(events, *e)
		}
		if len(events) == n {
			return errEnough
		}
		return nil
	})
	if err != errEnough {
		t.Fatalf("%d events, %v", len(events), err)
	}
	return events
}

func add(j *Journal, names ...string) {
	for _, name := range names {
		j.Add(director.Event{Kind: director.EventServiceAdded, Name: name})
	}
}

func namesOf(events []director.Event) string {
	var names []string
	for _, e := range events {
		if e.Kind == director.EventLost {
			names = append(names, "lost")
		}
		names = append(names, e.Name)
	}
	return strings.Join(names, " ")
}

// TestWatch: a watcher gets what happens, goes on where it was, and is told what is lost.
func TestWatch(t *testing.T) {
	j := NewJournal(4)
	path, _ := start(t, anyBackend(), ServerOptions{Journal: j})
	client := newClient(t, path)
	add(j, "before")
	got := make(chan []director.Event, 1)
	begun := make(chan struct{})
	go func() {
		var events []director.Event
		_ = client.Watch(t.Context(), "", func(e *director.Event) error {
			if e.Kind == director.EventAlive {
				close(begun)
				return nil
			}
			if events = append(events, *e); len(events) == 2 {
				return errEnough
			}
			return nil
		})
		got <- events
	}()
	<-begun
	add(j, "a", "b")
	events := <-got
	if namesOf(events) != "a b" {
		t.Errorf("a watcher from now on got %+v", events)
	}
	add(j, "c")
	if again := watched(t, client, events[0].Position, 2); namesOf(again) != "b c" {
		t.Errorf("behind a: %+v", again)
	}
	add(j, "d", "e", "f")
	again := watched(t, client, events[0].Position, 5)
	if namesOf(again) != "lost  c d e f" || again[0].Lost != 1 {
		t.Errorf("too late: %+v", again)
	}
	if last := watched(t, client, again[0].Position, 1); namesOf(last) != "c" {
		t.Errorf("behind what is lost: %+v", last)
	}
	if other := watched(t, client, "another-7", 6); namesOf(other) != "lost  lost  c d e f" {
		t.Errorf("from another run: %+v", other)
	}
	for since, want := range map[string]string{"x": `"x" is no position of an event`, j.epoch + "-99": "is in the future"} {
		err := client.Watch(t.Context(), since, func(*director.Event) error { return nil })
		wantStatus(t, err, http.StatusBadRequest)
		wantError(t, err, want)
	}
}

// TestServerSentEvents is for browsers, which send the newest position themselves.
func TestServerSentEvents(t *testing.T) {
	j := NewJournal(4)
	path, _ := start(t, anyBackend(), ServerOptions{Journal: j})
	client := newClient(t, path)
	add(j, "a", "b")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://director"+pathWatch, nil)
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Last-Event-ID", j.position(1))
	answer, err := client.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	var text []string
	for lines.Scan() && len(text) < 7 {
		text = append(text, lines.Text())
	}
	if answer.Header.Get("Content-Type") != "text/event-stream" || text[1] != "event: alive" || text[4] != "id: "+j.position(2) ||
		text[5] != "event: service_added" || !strings.HasPrefix(text[6], `data: {"position":`) {
		t.Errorf("%s\n%s", answer.Header.Get("Content-Type"), strings.Join(text, "\n"))
	}
}

// TestSlowWatcher: one who reads nothing keeps nobody from telling, and takes no memory.
func TestSlowWatcher(t *testing.T) {
	j := NewJournal(16)
	path, _ := start(t, anyBackend(), ServerOptions{Journal: j})
	begun, slow := make(chan struct{}, 1), make(chan struct{})
	lost := make(chan uint64, 1)
	go func() {
		_ = newClient(t, path).Watch(t.Context(), "", func(e *director.Event) error {
			select {
			case begun <- struct{}{}:
			default:
			}
			<-slow
			if e.Kind == director.EventLost {
				lost <- e.Lost
				return errEnough
			}
			return nil
		})
	}()
	<-begun
	long := strings.Repeat("x", 1000)
	for range 10_000 {
		j.Add(director.Event{Kind: director.EventRealChanged, Evidence: long})
	}
	close(slow)
	add(j, "the last")
	select {
	case n := <-lost:
		if n == 0 || n > 10_000 {
			t.Errorf("%d are lost", n)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody said that events were lost")
	}
}

// TestTooManyWatchers: they leave connections for others.
func TestTooManyWatchers(t *testing.T) {
	path, _ := start(t, anyBackend(), ServerOptions{Journal: NewJournal(4)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range mostWatchers + 1 {
		begun := make(chan error, 1)
		client := newClient(t, path)
		go func() {
			begun <- client.Watch(ctx, "", func(*director.Event) error { begun <- nil; <-ctx.Done(); return ctx.Err() })
		}()
		if err := <-begun; (err != nil) != (i == mostWatchers) {
			t.Fatalf("watcher %d: %v", i, err)
		} else if err != nil {
			wantStatus(t, err, http.StatusServiceUnavailable)
		}
	}
	if _, err := newClient(t, path).Version(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNoJournal(t *testing.T) {
	path, _ := start(t, anyBackend(), ServerOptions{})
	err := newClient(t, path).Watch(t.Context(), "", func(*director.Event) error { return nil })
	wantStatus(t, err, http.StatusNotFound)
}
