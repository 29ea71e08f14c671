// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"xdplvs/director"
)

const (
	aliveEvery   = 15 * time.Second // a watcher that nothing happens to hears so
	mostWatchers = 32               // so that there are connections left
	longestEvent = 1 << 20          // bytes
)

// watcher is who gets events as they come.
type watcher struct {
	*stream
	journal *Journal
	seen    uint64
	sse     bool // Server-Sent Events, in the place of a value a line
}

// watch streams events until the reader or the daemon goes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) error {
	j := s.opts.Journal
	if j == nil {
		return failure(http.StatusNotFound, "this daemon keeps no journal")
	}
	since := r.URL.Query().Get("since")
	if id := r.Header.Get("Last-Event-ID"); since == "" {
		since = id
	}
	seen, known, err := j.seen(since)
	if err != nil {
		return failure(http.StatusBadRequest, "%s", err)
	}
	defer s.watchers.Add(-1)
	if s.watchers.Add(1) > mostWatchers {
		return failure(http.StatusServiceUnavailable, "%d are watching, which is the limit", mostWatchers)
	}
	one := &watcher{s.newStream(w), j, seen, strings.Contains(r.Header.Get("Accept"), "text/event-stream")}
	if one.sse {
		one.kind = "text/event-stream"
	}
	if err := one.run(r.Context(), known); err != nil {
		s.log.Debug("api watcher", "error", err)
	}
	return nil
}

// run tells a watcher where he is, then whatever happens.
func (o *watcher) run(ctx context.Context, known bool) error {
	first := director.Event{Kind: director.EventAlive}
	if !known {
		first.Kind = director.EventLost
	}
	if err := o.tell(first); err != nil {
		return err
	}
	for {
		events, lost, next := o.journal.after(o.seen)
		if len(events) > 0 {
			if err := o.pass(events, lost); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		case <-time.After(aliveEvery):
			if err := o.tell(director.Event{Kind: director.EventAlive}); err != nil {
				return err
			}
		}
	}
}

// pass tells of events, and first of those that are lost.
func (o *watcher) pass(events []director.Event, lost uint64) error {
	if lost > 0 {
		o.seen += lost
		if err := o.tell(director.Event{Kind: director.EventLost, Lost: lost}); err != nil {
			return err
		}
	}
	for i := range events {
		o.write(&events[i])
		o.seen++
	}
	return o.send()
}

// tell sends what is of no time and no place in the journal.
func (o *watcher) tell(e director.Event) error {
	e.Time, e.Position = time.Now(), o.journal.position(o.seen)
	o.write(&e)
	return o.send()
}

func (o *watcher) write(e *director.Event) {
	text, err := json.Marshal(e)
	if err != nil {
		panic(err) // texts, numbers and a time
	}
	if o.sse {
		o.buf = fmt.Appendf(o.buf, "id: %s\nevent: %s\ndata: %s\n\n", e.Position, e.Kind, text)
		return
	}
	o.buf = append(append(o.buf, text...), '\n')
}

// send passes on what is written, at once.
func (o *watcher) send() error {
	if err := o.flush(); err != nil {
		return err
	}
	return o.rc.Flush()
}

// Watch calls yield for each event behind a position, or from now on if that is empty, until ctx ends or yield returns an
// error. Events alive and lost are among them.
func (c *Client) Watch(ctx context.Context, since string, yield func(*director.Event) error) error {
	var query url.Values
	if since != "" {
		query = url.Values{"since": {since}}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(3*aliveEvery, func() { cancel(errors.New("the daemon is silent")) })
	defer silent.Stop()
	resp, err := c.do(ctx, http.MethodGet, pathWatch, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, longestEvent)
	for lines.Scan() {
		silent.Reset(3 * aliveEvery)
		var e director.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		if err := yield(&e); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errors.New("the daemon has ended the stream"), lines.Err())
}
