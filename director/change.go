// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"slices"

	"xdplvs/bpf"
)

// change is what there is to do to come from what is to what is wanted.
type change struct {
	want    Desired
	removed []*service
	edited  []*Service // wanted ones that exist, and are other ones now
	added   []*Service
	marks   *bpf.Marks
	lists   *preparedLists
	round   uint64 // services with this number are wanted
}

// compare finds the difference and whether it can be: if not, nothing was
// changed. What it lets pass cannot fail for want of room.
func (d *Director) compare(want Desired) (*change, error) {
	d.round++
	want, err := want.apart()
	errs := []error{err}
	c := &change{want: want, round: d.round}
	added := map[ServiceKey]bool{}
	for i := range want.Services {
		w := &want.Services[i]
		s := d.services[w.Key]
		if added[w.Key] || s != nil && s.seen == d.round {
			errs = append(errs, fmt.Errorf("service %s twice", w.Key))
			continue
		}
		switch {
		case s == nil:
			added[w.Key] = true
			c.added = append(c.added, w)
		case !s.want.equal(w):
			c.edited = append(c.edited, w)
		}
		if s != nil {
			s.seen = d.round
		}
	}
	for _, s := range d.services {
		if s.seen != d.round {
			c.removed = append(c.removed, s)
		}
	}
	c.marks, err = d.prepareMarks(&want)
	errs = append(errs, err)
	c.lists, err = d.prepareLists(&want)
	errs = append(errs, c.validate(), d.checkRoom(c), d.checkLocal(want.Services), err)
	return c, errors.Join(errs...)
}

// validate looks at what is new, and at what is not a service's.
func (c *change) validate() error {
	errs := []error{c.want.Timeouts.validate(), c.want.Locals.validate(), c.want.Defense.validate()}
	for i, w := range c.want.Interfaces {
		if slices.ContainsFunc(c.want.Interfaces[:i], func(x Interface) bool { return x.Name == w.Name }) {
			errs = append(errs, fmt.Errorf("interface %s twice", w.Name))
		}
	}
	for _, list := range [][]*Service{c.edited, c.added} {
		for _, w := range list {
			if !w.Key.Sorry { // its service has said what is wrong
				errs = append(errs, w.Validate())
			}
		}
	}
	return errors.Join(errs...)
}

// checkRoom finds out whether the rows and plans fit. Rows of what is removed are
// free when its last connection is gone.
func (d *Director) checkRoom(c *change) error {
	services, reals, slots := 0, 0, d.reserved
	left := d.leavers()
	for _, s := range c.removed {
		slots -= s.needs.total()
	}
	for _, w := range c.edited {
		slots += needsOf(w).total() - d.services[w.Key].needs.total()
		reals += d.missingReals(w, left)
	}
	for _, w := range c.added {
		slots += needsOf(w).total()
		reals += d.missingReals(w, left)
		if !d.known(w.Key) {
			services++
		}
	}
	const later = "as removed ones count until their connections end"
	var errs []error
	if free := d.serviceIDs.free(); services > free {
		errs = append(errs, fmt.Errorf("%d new services, room for %d, %s (raise limits.services): %w", services, free, later, bpf.ErrFull))
	}
	if free := d.realIDs.free(); reals > free {
		errs = append(errs, fmt.Errorf("%d new real servers, room for %d, %s (raise limits.real_servers): %w", reals, free, later, bpf.ErrFull))
	}
	if end := uint64(d.arena.end); slots > end {
		errs = append(errs, fmt.Errorf("plans need %d slots, room for %d (raise limits.plan_slots): %w", slots, end, bpf.ErrFull))
	}
	return errors.Join(errs...)
}

// known reports whether a service that is not in force has a row still.
func (d *Director) known(key ServiceKey) bool {
	_, left := d.heritage.services[key]
	return left || d.ending[key] != nil
}

// leaver is what a removed real server is known by that may come back.
type leaver struct {
	service uint32
	key     RealKey
	method  Method
}

func (d *Director) leavers() map[leaver]bool {
	left := make(map[leaver]bool, len(d.leaving))
	for _, r := range d.leaving {
		left[leaver{r.row.Service, r.want.Key, r.want.Method}] = true
	}
	return left
}

// missingReals counts the real servers of the wanted service that have no row.
func (d *Director) missingReals(want *Service, left map[leaver]bool) int {
	have := map[RealKey]*real{}
	var id uint32
	if s := d.services[want.Key]; s != nil {
		id, have = s.id, s.byKey()
	} else if s := d.ending[want.Key]; s != nil {
		id = s.id
	} else if former, ok := d.heritage.services[want.Key]; ok {
		id, have = former, d.heritage.reals[former]
	} else {
		return len(want.Reals)
	}
	n := 0
	for i := range want.Reals {
		w := &want.Reals[i]
		r := have[w.Key]
		if (r == nil || r.want.Method != w.Method) && !left[leaver{id, w.Key, w.Method}] {
			n++
		}
	}
	return n
}

func (s *service) byKey() map[RealKey]*real {
	have := make(map[RealKey]*real, len(s.reals))
	for _, r := range s.reals {
		have[r.want.Key] = r
	}
	return have
}

// reserveKeys makes sure that the keys of new services have a place. They name a
// service that there is not, so packets do not find them.
func (d *Director) reserveKeys(c *change) (undo func(), err error) {
	var keys, vips []bpf.Key
	undo = func() {
		for _, k := range keys {
			d.keys.Delete(k)
		}
		for _, k := range vips {
			d.keys.Delete(k)
			delete(d.vips, k)
		}
	}
	for _, w := range c.added {
		if !d.known(w.Key) {
			if err := d.keys.Set(w.Key.row(), noService); err != nil {
				undo()
				return nil, fmt.Errorf("service %s (raise limits.services): %w", w.Key, err)
			}
			keys = append(keys, w.Key.row())
		}
	}
	for _, w := range slices.Concat(c.added, c.edited) {
		for _, a := range w.Addresses(nil) {
			k := vipKey(a)
			if d.vips[k] {
				continue
			}
			if err := d.keys.Set(k, 0); err != nil {
				undo()
				return nil, fmt.Errorf("address %s (raise limits.services): %w", a, err)
			}
			d.vips[k] = true
			vips = append(vips, k)
		}
	}
	return undo, nil
}
