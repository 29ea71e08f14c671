// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"sync"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/health"
)

// keptEvents is how many events watchers can catch up on.
const keptEvents = 4096

// watched is what watchers are told. What became of a configuration is found out apart from its change, which thus takes
// no longer.
type watched struct {
	journal *api.Journal
	signal  chan struct{}

	mu      sync.Mutex
	pending []transition
}

// transition is from one document to another.
type transition struct{ before, after document }

func newWatched() *watched {
	return &watched{journal: api.NewJournal(keptEvents), signal: make(chan struct{}, 1)}
}

// mostPending bounds what waits: of more, the last ones are one.
const mostPending = 16

// changed notes that another document is in force.
func (w *watched) changed(before, after *document) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.pending); n == mostPending {
		w.pending[n-1].after = *after
	} else {
		w.pending = append(w.pending, transition{*before, *after})
	}
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// take is what was noted since the last time.
func (w *watched) take() []transition {
	w.mu.Lock()
	defer w.mu.Unlock()
	pending := w.pending
	w.pending = nil
	return pending
}

// feedWatchers tells what documents have changed.
func (d *daemon) feedWatchers(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.watched.signal:
		}
		for _, t := range d.watched.take() {
			d.watched.tell(&t)
		}
		if n, err := d.director.Generation(ctx); err == nil {
			d.watched.journal.Add(director.Event{Kind: director.EventConfiguration, Generation: n})
		}
	}
}

// eventsOf are the kinds of differences, of services and of real servers.
var eventsOf = map[director.PreviewOp][2]director.EventKind{
	director.PreviewAdd:    {director.EventServiceAdded, director.EventRealAdded},
	director.PreviewRemove: {director.EventServiceRemoved, director.EventRealRemoved},
	director.PreviewChange: {director.EventServiceChanged, director.EventRealChanged},
}

// tell adds what differs between two documents. Of a service that is added or removed as a whole, the real servers are not
// told one by one.
func (w *watched) tell(t *transition) {
	difference := outline(&t.before, &t.after)
	for i := range difference.Services {
		s := &difference.Services[i]
		e := director.Event{Kind: eventsOf[s.Op][0], Service: s.Key.String(), Name: s.Name, Keys: s.Keys}
		if s.Op != director.PreviewInside {
			w.journal.Add(e)
		}
		for _, r := range s.Reals {
			e.Kind, e.Real, e.RealName, e.Keys = eventsOf[r.Op][1], r.Key.String(), r.Name, r.Keys
			w.journal.Add(e)
		}
	}
}

// tellHealth tells everybody of an event of the checks.
func (d *daemon) tellHealth(e health.Event) {
	d.notifier.Notify(e)
	told := director.Event{Time: e.Time, Kind: director.EventKind(e.Kind), Service: e.Service.String(), Name: e.ServiceName,
		RealName: e.RealName, Evidence: e.Evidence}
	if e.Real != (director.RealKey{}) {
		told.Real = e.Real.String()
	}
	d.watched.journal.Add(told)
}

// tellDefense tells watchers that a strategy begins to act, or ends.
func (d *daemon) tellDefense(strategy string, active bool, cause string) {
	kind := director.EventDefenseEnds
	if active {
		kind = director.EventDefenseBegins
	}
	d.watched.journal.Add(director.Event{Kind: kind, Strategy: strategy, Cause: cause})
}

// tellSet tells watchers what was set at run time, if it was.
func (d *daemon) tellSet(kind director.EventKind, keys []director.KeyChange, err error) {
	if err == nil && len(keys) > 0 {
		d.watched.journal.Add(director.Event{Kind: kind, Keys: keys})
	}
}
