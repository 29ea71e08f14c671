// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"slices"
)

// attached is an interface that the program is on.
type attached struct {
	want  Interface
	index int
	on    Attachment
}

func (a attached) state() InterfaceState {
	return InterfaceState{Name: a.want.Name, Index: a.index, Mode: a.on.AttachedMode()}
}

// applyInterfaces attaches what is wanted, then detaches what is not: while
// traffic moves from one interface to another, both work. If one cannot be
// attached, those attached by this call are detached again and the error says
// which.
func (d *Director) applyInterfaces(want []Interface) error {
	var now, fresh []attached
	var errs []error
	keep := map[int]bool{}
	for _, w := range want {
		if i := slices.IndexFunc(d.interfaces, func(a attached) bool { return a.want == w }); i >= 0 && d.stillThere(d.interfaces[i]) {
			now = append(now, d.interfaces[i])
			keep[d.interfaces[i].index] = true
			continue
		}
		a, err := d.attach(w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		now, fresh = append(now, a), append(fresh, a)
		keep[a.index] = true
	}
	if len(errs) > 0 {
		for _, a := range fresh {
			errs = append(errs, d.plane.Detach(a.on))
		}
		return errors.Join(errs...)
	}
	for _, a := range d.interfaces {
		if !slices.Contains(now, a) && !keep[a.index] {
			errs = append(errs, d.plane.Detach(a.on))
		}
	}
	d.interfaces = now
	return errors.Join(append(errs, d.plane.DetachOthers(keep))...)
}

// stillThere reports whether the name is the same interface as when it was attached.
func (d *Director) stillThere(a attached) bool {
	index, err := d.links(a.want.Name)
	return err == nil && index == a.index
}

func (d *Director) attach(w Interface) (attached, error) {
	index, err := d.links(w.Name)
	if err != nil {
		return attached{}, fmt.Errorf("interface %s: %w", w.Name, err)
	}
	if i := slices.IndexFunc(d.interfaces, func(a attached) bool { return a.index == index }); i >= 0 {
		return d.changeMode(i, w)
	}
	on, err := d.plane.Attach(index, w.Mode)
	if err != nil {
		return attached{}, fmt.Errorf("interface %s: %w", w.Name, err)
	}
	d.logAttached(w, on)
	return attached{w, index, on}, nil
}

// changeMode attaches in another mode. The kernel allows one mode at a time, so
// for a moment packets pass the program by. If the new mode fails, the old one
// comes back.
func (d *Director) changeMode(i int, w Interface) (attached, error) {
	old := d.interfaces[i]
	if err := d.plane.Detach(old.on); err != nil {
		return attached{}, fmt.Errorf("interface %s: %w", w.Name, err)
	}
	on, err := d.plane.Attach(old.index, w.Mode)
	if err == nil {
		d.interfaces = slices.Delete(slices.Clone(d.interfaces), i, i+1)
		d.logAttached(w, on)
		return attached{w, old.index, on}, nil
	}
	err = fmt.Errorf("interface %s: %w", w.Name, err)
	back, again := d.plane.Attach(old.index, old.want.Mode)
	if again != nil {
		d.interfaces = slices.Delete(slices.Clone(d.interfaces), i, i+1)
		return attached{}, errors.Join(err, fmt.Errorf("interface %s is not attached any more: %w", w.Name, again))
	}
	d.interfaces[i].on = back
	return attached{}, err
}

func (d *Director) logAttached(w Interface, on Attachment) {
	d.log.Info("attached", "event", "attached", "interface", w.Name, "mode", on.AttachedMode().String())
}
