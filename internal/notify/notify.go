// SPDX-License-Identifier: Apache-2.0

// Package notify tells others what happens to real servers and services: by webhook, mail, command, and
// lines in a FIFO as keepalived writes them.
//
// Each target has a queue and a sender of its own, so that none waits for another, and nobody who
// tells of an event ever waits. What is too much for a queue is counted and logged.
package notify

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"xdplvs/internal/health"
)

// Target is somebody who is told. One of Webhook, Mail, Command and FIFO is set.
type Target struct {
	Events  []health.Kind // that are told of; none: all but those of real servers that are unknown
	Timeout time.Duration // of one attempt; 0: 10 s
	Webhook *Webhook
	Mail    *Mail
	Command *Command
	FIFO    string // path
}

// The bounds of a target's queue, and of what is told at once.
const (
	queued   = 1024
	together = 64
)

// DefaultTimeout is that of a Target that has none.
const DefaultTimeout = 10 * time.Second

// Attempts to send, and the time after the first; it is four times as long after the second.
const (
	attempts   = 3
	firstPause = time.Second
)

// channel is a way to tell somebody.
type channel interface {
	send(ctx context.Context, events []health.Event) error
	name() string
	// gather is how long an event waits for others, to be told of together. 0: each is told of by
	// itself, and only once.
	gather() time.Duration
}

func (t *Target) channel() channel {
	switch {
	case t.Webhook != nil:
		return t.Webhook
	case t.Mail != nil:
		return t.Mail
	case t.Command != nil:
		return t.Command
	default:
		return &fifo{path: t.FIFO}
	}
}

func (t *Target) wants(k health.Kind) bool {
	if len(t.Events) == 0 {
		return k != health.RealUnknown
	}
	return slices.Contains(t.Events, k)
}

// Notifier tells its targets. Its methods may be called from any goroutine.
type Notifier struct {
	log     *slog.Logger
	mu      sync.Mutex
	senders []*sender
	waiting []*sender       // for Run to begin
	ctx     context.Context // Run's; nil before it runs
	running sync.WaitGroup
}

// New makes a notifier without targets. nil: nothing is logged.
func New(log *slog.Logger) *Notifier {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Notifier{log: log}
}

// sender is a target with what it is still to be told.
type sender struct {
	target Target
	channel
	log   *slog.Logger
	queue chan health.Event // closed when the target is no more
	lost  int               // under the notifier's lock: events that found the queue full since it was not
}

// Set makes these the targets. One that was there goes on, one that is not any more is told what it
// is to be told still.
func (n *Notifier) Set(targets []Target) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.senders
	n.senders = nil
	for _, t := range targets {
		i := slices.IndexFunc(old, func(s *sender) bool { return reflect.DeepEqual(s.target, t) })
		if i >= 0 {
			n.senders = append(n.senders, old[i])
			old = slices.Delete(slices.Clone(old), i, i+1)
			continue
		}
		c := t.channel()
		s := &sender{target: t, channel: c, log: n.log.With("target", c.name()), queue: make(chan health.Event, queued)}
		n.senders = append(n.senders, s)
		n.start(s)
	}
	for _, s := range old {
		close(s.queue)
	}
}

// start lets a sender work, as soon as Run has begun.
func (n *Notifier) start(s *sender) {
	if n.ctx == nil {
		n.waiting = append(n.waiting, s)
		return
	}
	ctx := n.ctx
	n.running.Go(func() { s.run(ctx) })
}

// Notify tells of an event. It does not wait.
func (n *Notifier) Notify(e health.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.senders {
		if s.target.wants(e.Kind) {
			s.put(e)
		}
	}
}

// put logs the first of those that find the queue full, and how many they were.
func (s *sender) put(e health.Event) {
	select {
	case s.queue <- e:
		if s.lost > 0 {
			s.log.Warn("notifications were lost", "event", "notify_lost", "lost", s.lost)
			s.lost = 0
		}
	default:
		if s.lost++; s.lost == 1 {
			s.log.Warn("notifications are lost: the target does not take them", "event", "notify_full", "queued", queued)
		}
	}
}

// Run tells the targets until ctx ends. What is not told by then is not told.
func (n *Notifier) Run(ctx context.Context) error {
	n.mu.Lock()
	n.ctx = ctx
	for _, s := range n.waiting {
		n.start(s)
	}
	n.waiting = nil
	n.mu.Unlock()
	<-ctx.Done()
	n.mu.Lock()
	n.ctx = nil // whom to tell from now on there is nobody
	n.mu.Unlock()
	n.running.Wait()
	return ctx.Err()
}

func (s *sender) run(ctx context.Context) {
	if c, ok := s.channel.(io.Closer); ok {
		defer c.Close()
	}
	for {
		events := s.take(ctx)
		if len(events) == 0 {
			return
		}
		if err := s.deliver(ctx, events); err != nil && ctx.Err() == nil {
			s.log.Error("notification failed", "event", "notify_failed", "events", len(events), "error", err)
		}
	}
}

// take waits for an event, and gives those that come soon after with it; none: it is over.
func (s *sender) take(ctx context.Context) (events []health.Event) {
	select {
	case e, ok := <-s.queue:
		if !ok {
			return nil
		}
		events = append(events, e)
	case <-ctx.Done():
		return nil
	}
	if s.gather() == 0 {
		return events
	}
	late := time.NewTimer(s.gather())
	defer late.Stop()
	for len(events) < together {
		select {
		case e, ok := <-s.queue:
			if !ok {
				return events
			}
			events = append(events, e)
		case <-late.C:
			return events
		case <-ctx.Done():
			return nil
		}
	}
	return events
}

// deliver tries again a few times.
func (s *sender) deliver(ctx context.Context, events []health.Event) (err error) {
	timeout := s.target.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	for pause, i := firstPause, 1; ; i++ {
		attempt, cancel := context.WithTimeout(ctx, timeout)
		err = s.send(attempt, events)
		cancel()
		if err == nil || s.gather() == 0 {
			return err
		}
		if i == attempts {
			return fmt.Errorf("%d attempts: %w", attempts, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause *= 4
	}
}
