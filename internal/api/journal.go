// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"xdplvs/director"
)

// Journal keeps the newest events for all who watch. Watchers have a position in it and nothing else: one who is slow finds
// that events are lost, and nobody waits for him. Its methods may be called from several goroutines at once.
type Journal struct {
	epoch string // of this run: positions of others mean nothing

	mu     sync.Mutex
	ring   []director.Event
	count  uint64        // events so far; the newest is at count-1
	change chan struct{} // closed with the next event
}

// NewJournal makes a journal that keeps so many events.
func NewJournal(keep int) *Journal {
	return &Journal{epoch: strconv.FormatInt(time.Now().UnixNano(), 36), ring: make([]director.Event, keep), change: make(chan struct{})}
}

// Add tells everybody of an event, whose position and, if it is 0, time it sets. It never waits.
func (j *Journal) Add(e director.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	j.ring[j.count%uint64(len(j.ring))] = e
	j.count++
	j.ring[(j.count-1)%uint64(len(j.ring))].Position = j.position(j.count)
	close(j.change)
	j.change = make(chan struct{})
}

// position is that of who has seen the first n events.
func (j *Journal) position(n uint64) string { return fmt.Sprintf("%s-%d", j.epoch, n) }

// seen is how many events were seen at a position; of another run none. The empty position is now.
func (j *Journal) seen(position string) (n uint64, known bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if position == "" {
		return j.count, true, nil
	}
	epoch, text, _ := strings.Cut(position, "-")
	n, err = strconv.ParseUint(text, 10, 64)
	switch {
	case err != nil, epoch == "":
		return 0, false, fmt.Errorf("%q is no position of an event", position)
	case epoch != j.epoch:
		return 0, false, nil
	case n > j.count:
		return 0, false, fmt.Errorf("position %s is in the future", position)
	}
	return n, true, nil
}

// after are the events behind the first n, and how many of them are lost; when there is none, next tells of one.
func (j *Journal) after(n uint64) (events []director.Event, lost uint64, next <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if kept := uint64(len(j.ring)); j.count > n+kept {
		lost = j.count - n - kept
		n += lost
	}
	for ; n < j.count; n++ {
		events = append(events, j.ring[n%uint64(len(j.ring))])
	}
	return events, lost, j.change
}
