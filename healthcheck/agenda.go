// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"container/heap"
	"time"
)

// agenda orders shared probes by when they are due. A probe is on one at most.
type agenda struct{ list dueList }

// first is the probe that is due next, or nil.
func (a *agenda) first() *shared {
	if len(a.list) == 0 {
		return nil
	}
	return a.list[0]
}

// set makes s due at t, wherever it was.
func (a *agenda) set(s *shared, t time.Time) {
	s.due = t
	if s.place < 0 {
		heap.Push(&a.list, s)
		return
	}
	heap.Fix(&a.list, s.place)
}

// drop takes s off the agenda.
func (a *agenda) drop(s *shared) {
	if s.place >= 0 {
		heap.Remove(&a.list, s.place)
	}
}

// dueList is the heap.Interface below an agenda.
type dueList []*shared

func (l dueList) Len() int           { return len(l) }
func (l dueList) Less(i, j int) bool { return l[i].due.Before(l[j].due) }
func (l dueList) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i, j
}

func (l *dueList) Push(x any) {
	s := x.(*shared)
	s.place = len(*l)
	*l = append(*l, s)
}

func (l *dueList) Pop() any {
	last := len(*l) - 1
	s := (*l)[last]
	(*l)[last], s.place = nil, -1
	*l = (*l)[:last]
	return s
}
