// SPDX-License-Identifier: Apache-2.0

// Package agenda orders things by when they are due. One goroutine at a time may use an agenda.
package agenda

import (
	"container/heap"
	"time"
)

// A Place is where a thing lies on an agenda, and is embedded in it. The zero Place is on none. A thing is on one
// agenda at most.
type Place struct {
	due    time.Time
	number int // in the heap, counted from 1; 0: not there
}

func (p *Place) place() *Place { return p }

// Due is when the thing is due, or was when it was on an agenda.
func (p *Place) Due() time.Time { return p.due }

// Listed tells whether the thing is on an agenda.
func (p *Place) Listed() bool { return p.number > 0 }

// Entry is a pointer to a thing with a Place.
type Entry interface{ place() *Place }

// Of is an agenda. The zero value has nothing on it.
type Of[E Entry] struct{ list dueList[E] }

// First is what is due next, or the zero E.
func (a *Of[E]) First() (first E) {
	if len(a.list) == 0 {
		return first
	}
	return a.list[0]
}

// Set makes e due at t, whether it was on this agenda or on none.
func (a *Of[E]) Set(e E, t time.Time) {
	p := e.place()
	p.due = t
	if !p.Listed() {
		heap.Push(&a.list, e)
		return
	}
	heap.Fix(&a.list, p.number-1)
}

// Drop takes e off the agenda, if it is there.
func (a *Of[E]) Drop(e E) {
	if p := e.place(); p.Listed() {
		heap.Remove(&a.list, p.number-1)
	}
}

// dueList is the heap.Interface below an agenda.
type dueList[E Entry] []E

func (l dueList[E]) Len() int           { return len(l) }
func (l dueList[E]) Less(i, j int) bool { return l[i].place().due.Before(l[j].place().due) }
func (l dueList[E]) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place().number, l[j].place().number = i+1, j+1
}

func (l *dueList[E]) Push(x any) {
	e := x.(E)
	*l = append(*l, e)
	e.place().number = len(*l)
}

func (l *dueList[E]) Pop() any {
	var none E
	last := len(*l) - 1
	e := (*l)[last]
	e.place().number = 0
	(*l)[last] = none // or it would not be collected
	*l = (*l)[:last]
	return e
}

// Due tells whether the time for something has come; the zero time never comes.
func Due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// Earliest gives the first of the times that are not zero.
func Earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
