// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"xdplvs/director"
	"xdplvs/internal/arpnd"
)

// places are where questions for an address that come in by a link may be seen by the program: there,
// without a tag, and on the devices below it, with the tags that they have there.
func places(links map[int]link, l link, a netip.Addr) []Place {
	list := []Place{{Addr: a, Link: l.index}}
	var tags [2]uint16
	for range tags {
		parent, ok := links[l.parent]
		if l.vlan == 0 || !ok {
			break
		}
		tags[0], tags[1] = l.vlan, tags[0] // the lower a device, the further out its tag
		list = append(list, Place{Addr: a, Link: parent.index, VLAN: tags})
		l = parent
	}
	return list
}

// needs is what must be on interfaces for a holding: the address itself, or the group that
// solicitations for it go to.
func (h *holding) needs() (p netip.Prefix, ok bool) {
	switch {
	case h.want.Mode == director.AddressInterface:
		return h.prefix(), true
	case h.want.Addr.Is6():
		return group(h.want.Addr), true
	}
	return p, false
}

// complete tells whether all that a holding needs is there.
func (e *engine) complete(h *holding) bool {
	if p, ok := h.needs(); ok && !e.present(h.link.index, p) {
		return false
	}
	if h.want.Mode == director.AddressAnswer {
		for _, p := range places(e.links, h.link, h.want.Addr) {
			if e.table[p] != h.link.mac {
				return false
			}
		}
	}
	return true
}

// present tells whether an address is on a link. Somebody else's may have another length.
func (e *engine) present(link int, p netip.Prefix) bool {
	s := spot{link, p.Addr()}
	if p.Addr().IsMulticast() {
		return e.groups[s]
	}
	for _, a := range e.addresses[s] {
		if a.prefix == p || !e.ours(a) {
			return true
		}
	}
	return false
}

// ours tells whether the director added an address.
func (e *engine) ours(a address) bool { return a.marked && e.record.added[added{a.link, a.prefix}] }

// foreign tells whether the address is on its interface by somebody else's will.
func (e *engine) foreign(h *holding) bool {
	return h.want.Mode == director.AddressInterface && !slices.ContainsFunc(e.addresses[h.spot()], e.ours)
}

// take takes addresses: what is to be done is written down before anything is.
func (e *engine) take(list []*holding, now time.Time) {
	if len(list) == 0 {
		return
	}
	err := e.record.change(func(r *record) {
		for _, h := range list {
			e.plan(h, r)
		}
	})
	for _, h := range list {
		failure := err
		if failure == nil {
			failure = e.establish(h)
		}
		if failure != nil {
			e.failed(h, failure, now)
			continue
		}
		e.taken(h, now)
	}
}

// plan notes what a holding will add. An address that is there with our mark was added by a former
// process whose record is lost.
func (e *engine) plan(h *holding, r *record) {
	if h.want.Mode == director.AddressAnswer {
		r.answered[h.spot()] = true
	}
	p, ok := h.needs()
	if !ok {
		return
	}
	marked := false
	for _, a := range e.addresses[spot{h.link.index, p.Addr()}] {
		marked = marked || a.marked && a.prefix == p
	}
	if marked || !e.present(h.link.index, p) {
		r.added[added{h.link.index, p}] = true
	}
}

// establish makes a holding complete.
func (e *engine) establish(h *holding) error {
	if p, ok := h.needs(); ok && !e.present(h.link.index, p) {
		if err := e.put(h.link.index, p); err != nil {
			return err
		}
	}
	if h.want.Mode != director.AddressAnswer {
		return nil
	}
	for _, p := range places(e.links, h.link, h.want.Addr) {
		if e.table[p] == h.link.mac {
			continue
		}
		if err := e.opts.Answers.SetAnswered(p, h.link.mac); err != nil {
			return err
		}
		e.table[p] = h.link.mac
	}
	return nil
}

// put adds an address to a link, in the place of one of ours with another length.
func (e *engine) put(link int, p netip.Prefix) error {
	s := spot{link, p.Addr()}
	for _, a := range e.addresses[s] {
		if err := e.withdraw(added{link, a.prefix}); err != nil {
			return err
		}
	}
	if err := e.k.add(link, p); err != nil {
		return err
	}
	e.addresses[s] = []address{{link, p, true}}
	if p.Addr().IsMulticast() {
		e.groups[s] = true
	}
	return nil
}

// failed leaves a holding until later.
func (e *engine) failed(h *holding, err error, now time.Time) {
	h.due = now.Add(e.opts.Retry)
	if e.status(h, director.AddressFailed, err.Error(), now) {
		e.log.Error("cannot take a virtual address", note(h, "address_failed", "error", err)...)
	}
}

// taken notes that a holding is complete.
func (e *engine) taken(h *holding, now time.Time) {
	if h.status == director.AddressHeld {
		h.repaired++
		h.repairedAt = now
		e.log.Warn("virtual address was taken away, and is there again", note(h, "address_repaired", "times", h.repaired)...)
	} else {
		e.log.Info("virtual address is held", note(h, "address_held")...)
	}
	if !h.taken {
		h.rival = arpnd.MAC{}
	}
	h.due, h.taken, h.foreign, e.dirty = time.Time{}, true, e.foreign(h), true
	e.status(h, director.AddressHeld, "", now)
	h.announce(e.announce.Burst, now)
}

// giveUpOthers removes what the director took and nobody wants any more. What could not be removed is
// tried again.
func (e *engine) giveUpOthers(now time.Time) {
	if e.given == 0 || now.Before(e.strayAt) {
		return
	}
	e.strayAt = time.Time{}
	if err := e.giveUp(e.wanted()); err != nil {
		e.strayAt = now.Add(e.opts.Resync)
		e.log.Error("cannot give up a virtual address", "event", "address_stuck", "error", err)
	}
}

// wants is what is not to be given up.
type wants struct {
	added    map[added]bool
	answered map[spot]bool
	places   map[Place]bool
	open     map[netip.Addr]bool // it is not decided yet where they will be
}

func (e *engine) wanted() wants {
	w := wants{map[added]bool{}, map[spot]bool{}, map[Place]bool{}, map[netip.Addr]bool{}}
	for _, h := range e.holdings {
		if p, ok := h.needs(); ok {
			w.added[added{h.link.index, p}] = true
		}
		if h.want.Mode == director.AddressAnswer && h.status != director.AddressConflict {
			w.answered[h.spot()] = true
			for _, p := range places(e.links, h.link, h.want.Addr) {
				w.places[p] = true
			}
		}
		if !h.settled() {
			w.open[h.want.Addr] = true
		}
	}
	return w
}

// giveUp removes what is not wanted.
func (e *engine) giveUp(w wants) error {
	var errs []error
	for p := range e.table {
		if w.places[p] || w.open[p.Addr] {
			continue
		}
		if err := e.opts.Answers.DeleteAnswered(p); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(e.table, p)
		e.log.Info("virtual address is no longer answered for", "event", "address_released", "address", p.Addr, "link", p.Link)
	}
	for a := range maps.Keys(e.record.added) {
		if !w.added[a] && !w.open[a.prefix.Addr()] {
			errs = append(errs, e.withdraw(a))
		}
	}
	errs = append(errs, e.record.change(func(r *record) {
		maps.DeleteFunc(r.answered, func(s spot, _ bool) bool { return !w.answered[s] && !w.open[s.addr] })
	}))
	return errors.Join(errs...)
}

// withdraw removes an address that the director added, if it is still that one, and forgets it.
func (e *engine) withdraw(a added) error {
	s := spot{a.link, a.prefix.Addr()}
	var rest []address
	for _, there := range e.addresses[s] {
		if there.prefix != a.prefix || !e.ours(there) {
			rest = append(rest, there)
			continue
		}
		if err := e.remove(a); err != nil {
			return err
		}
		e.log.Info("address is removed", "event", "address_released", "address", a.prefix, "link", e.links[a.link].name)
	}
	e.addresses[s] = rest
	delete(e.groups, s) // if others are members, the next reading tells
	return e.record.change(func(r *record) { delete(r.added, a) })
}

func (e *engine) remove(a added) error {
	others, err := e.k.takesAlong(a.link, a.prefix)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return fmt.Errorf("%s stays on %s: with it the kernel would remove %v, which the director did not add"+
			" (sysctl net.ipv4.conf.%s.promote_secondaries=1 keeps them)", a.prefix, e.links[a.link].name, others, e.links[a.link].name)
	}
	return e.k.remove(a.link, a.prefix)
}

// releaseAll gives up everything.
func (e *engine) releaseAll() error {
	if err := e.giveUp(wants{}); err != nil {
		return err
	}
	return e.record.remove()
}
