// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"container/heap"
	"time"
)

// An agenda orders neighbours by when they are due. Neighbours know their place in it.
type agenda struct{ list dueList }

// first gives the neighbour that is due next, or nil.
func (a *agenda) first() *neighbor {
	if len(a.list) == 0 {
		return nil
	}
	return a.list[0]
}

// set makes n due at t, in whatever state it was.
func (a *agenda) set(n *neighbor, t time.Time) {
	n.due = t
	if n.place < 0 {
		heap.Push(&a.list, n)
		return
	}
	heap.Fix(&a.list, n.place)
}

// drop takes n off the agenda.
func (a *agenda) drop(n *neighbor) {
	if n.place >= 0 {
		heap.Remove(&a.list, n.place)
	}
}

// dueList is the heap.Interface below an agenda.
type dueList []*neighbor

func (l dueList) Len() int           { return len(l) }
func (l dueList) Less(i, j int) bool { return l[i].due.Before(l[j].due) }

func (l dueList) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i, j
}

func (l *dueList) Push(x any) {
	n := x.(*neighbor)
	n.place = len(*l)
	*l = append(*l, n)
}

func (l *dueList) Pop() any {
	last := len(*l) - 1
	n := (*l)[last]
	(*l)[last], n.place = nil, -1
	*l = (*l)[:last]
	return n
}

// paceBurst is what share of a second's probes may be sent at once: enough to wake up a hundred
// times per second instead of for each probe.
const paceBurst = time.Second / 50

// A pace bounds a rate (the generic cell rate algorithm, a leaky bucket as a meter).
type pace struct {
	each time.Duration
	next time.Time // when the next one would be on time
}

func newPace(perSecond int) pace { return pace{each: time.Second / time.Duration(perSecond)} }

// allow tells whether one more may happen now, and counts it.
func (p *pace) allow(now time.Time) bool {
	if p.next.After(now) {
		return false
	}
	if earliest := now.Add(-paceBurst); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(p.each)
	return true
}

// ready tells when to try again after allow has refused: with some room for a batch.
func (p *pace) ready() time.Time { return p.next.Add(paceBurst / 2) }
