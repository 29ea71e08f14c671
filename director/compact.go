// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// compact moves plans to lower places until none fits lower. Then at most one
// region of each size is free, so that one of a size is, if so many slots are.
// (Were two of a size free, a plan of the pair that the higher one belongs to
// would fit into the lower one.) Plans that have grown beyond what their
// services need are made small before.
func (d *Director) compact() {
	for _, s := range d.services {
		d.dropSpare(s)
	}
	for d.compactOnce() {
	}
	for _, s := range d.services {
		d.shrink(s)
	}
	for d.compactOnce() {
	}
	for _, s := range d.services {
		if s.seal.is {
			d.seal(s)
		}
	}
}

// placed is a plan that packets read, and how to move it.
type placed struct {
	region
	move func(to region)
}

// compactOnce tries every plan, the highest first; false: none was moved.
func (d *Director) compactOnce() (moved bool) {
	var plans []placed
	for _, s := range d.services {
		plans = append(plans,
			placed{s.regions[s.inForce()], func(to region) { d.movePlan(s, to) }},
			placed{s.flow, func(to region) { d.moveFlow(s, to) }})
	}
	slices.SortFunc(plans, func(a, b placed) int { return cmp.Compare(b.base, a.base) })
	for _, p := range plans {
		if p.size == 0 {
			continue
		}
		if to, ok := d.arena.takeBelow(p.base, p.size); ok {
			p.move(to)
			moved = true
		}
	}
	return moved
}

// shrink cuts a plan that has grown down to what its service needs: it follows the
// connections, and so is made anew in some milliseconds anyway.
func (d *Director) shrink(s *service) {
	at, row := &s.regions[s.inForce()], &s.row.Plan[s.inForce()]
	if at.size <= s.needs.plan || !s.aware() {
		return
	}
	atomic.StoreUint32(&row.Loop, 0)
	atomic.StoreUint32(&row.Length, min(row.Length, s.needs.plan-uint32(s.want.planHead())))
	for at.size > s.needs.plan {
		at.size /= 2
		d.arena.give(region{at.base + at.size, at.size})
	}
}

// movePlan lets the plan in force go on elsewhere: as the other of the two plans,
// with the same cursor.
func (d *Director) movePlan(s *service, to region) {
	from := s.inForce()
	row := s.row.Plan[from]
	at := s.regions[from].base
	copy(d.tables.Plans[to.base:], d.tables.Plans[at:row.Base+row.Length])
	row.Base += to.base - at
	s.row.Plan[1-from] = row
	s.regions[1-from] = to
	handed := atomic.LoadUint64(&s.row.Cursor[from])
	atomic.StoreUint64(&s.row.Cursor[1-from], handed)
	atomic.StoreUint32(&s.row.Current, 1-from)
	atomic.AddUint64(&s.row.Cursor[1-from], atomic.LoadUint64(&s.row.Cursor[from])-handed)
	d.dropSpare(s)
}

func (d *Director) moveFlow(s *service, to region) {
	copy(d.tables.Plans[to.base:], d.tables.Plans[s.flow.base:][:s.row.Flow.Length])
	atomic.StoreUint32(&s.row.Flow.Base, to.base)
	d.arena.give(s.flow)
	s.flow = to
}
