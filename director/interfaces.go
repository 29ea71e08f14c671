// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"slices"
)

// attached is an interface that the program is on.
type attached struct {
	want    Interface
	index   int
	on      Attachment
	problem string // why it is not on it any more
}

func (a attached) state() InterfaceState {
	return InterfaceState{Name: a.want.Name, Index: a.index, Mode: a.on.AttachedMode(), Error: a.problem}
}

// followInterfaces attaches again where an interface was deleted, and made anew
// under its name.
func (d *Director) followInterfaces() {
	for i := range d.interfaces {
		a := &d.interfaces[i]
		index, err := d.links(a.want.Name)
		if err == nil && index != a.index {
			err = d.attachAgain(a, index)
		}
		switch {
		case err == nil:
			a.problem = ""
		case a.problem != err.Error():
			a.problem = err.Error()
			d.log.Warn("interface is not attached", "event", "detached", "interface", a.want.Name, "reason", a.problem)
		}
	}
}

func (d *Director) attachAgain(a *attached, index int) error {
	on, err := d.plane.Attach(index, a.want.Mode)
	if err != nil {
		return err
	}
	if err := d.plane.Detach(a.on); err != nil { // the kernel has done it with the interface
		d.log.Warn("detach from the former interface", "event", "detach_failed", "interface", a.want.Name, "error", err)
	}
	a.index, a.on = index, on
	d.logAttached(*a)
	return nil
}

func (d *Director) logAttached(a attached) {
	d.log.Info("attached", "event", "attached", "interface", a.want.Name, "mode", a.on.AttachedMode().String())
}

// attaching is a change of the interfaces: what is new works before what is old
// goes, so that traffic can move from one to the other.
type attaching struct {
	d       *Director
	now     []attached
	fresh   []attached // of those, attached by this change
	swapped []attached // taken off to be attached in another mode
}

// attachInterfaces attaches what is wanted. If one cannot be, all is as before,
// and the error says which.
func (d *Director) attachInterfaces(want []Interface) (*attaching, error) {
	a := &attaching{d: d}
	var errs []error
	for _, w := range want {
		if err := a.add(w); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", w.Name, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, a.undo())...)
	}
	return a, nil
}

func (a *attaching) add(w Interface) error {
	index, err := a.d.links(w.Name)
	if err != nil {
		return err
	}
	same := func(x attached) bool { return x.index == index }
	if i := slices.IndexFunc(a.now, same); i >= 0 {
		return fmt.Errorf("is interface %s again", a.now[i].want.Name)
	}
	if i := slices.IndexFunc(a.d.interfaces, same); i >= 0 {
		old := a.d.interfaces[i]
		if w.Mode == AttachAuto || w.Mode == old.on.AttachedMode() {
			a.now = append(a.now, attached{want: w, index: index, on: old.on})
			return nil
		}
		// The kernel has one mode at a time: for a moment no packet is seen.
		if err := a.d.plane.Detach(old.on); err != nil {
			return fmt.Errorf("change mode: %w", err)
		}
		a.swapped = append(a.swapped, old)
	}
	on, err := a.d.plane.Attach(index, w.Mode)
	if err != nil {
		return err
	}
	x := attached{want: w, index: index, on: on}
	a.now, a.fresh = append(a.now, x), append(a.fresh, x)
	return nil
}

// undo takes off what was attached, and attaches again what was taken off. What a
// former process may have attached stays: a daemon that refuses its first
// configuration is no reason to stop traffic.
func (a *attaching) undo() error {
	var errs []error
	for _, x := range a.fresh {
		if a.d.inherited {
			a.d.interfaces = append(a.d.interfaces, x)
		} else if err := a.d.plane.Detach(x.on); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: detach again: %w", x.want.Name, err))
			a.d.interfaces = append(a.d.interfaces, x) // the next change sees to it
		}
	}
	for _, old := range a.swapped {
		on, err := a.d.plane.Attach(old.index, old.on.AttachedMode())
		i := slices.Index(a.d.interfaces, old)
		if err != nil {
			errs = append(errs, fmt.Errorf("interface %s: attach again: %w", old.want.Name, err))
			a.d.interfaces = slices.Delete(a.d.interfaces, i, i+1)
			continue
		}
		a.d.interfaces[i].on = on
	}
	return errors.Join(errs...)
}

// finish takes off what is not wanted any more. That is too late to refuse
// anything: what does not come off is tried again with the next change.
func (a *attaching) finish() {
	keep := map[int]bool{}
	for _, x := range a.now {
		keep[x.index] = true
	}
	for _, x := range a.fresh {
		a.d.logAttached(x)
	}
	var stuck []attached
	for _, old := range a.d.interfaces {
		if keep[old.index] {
			continue
		}
		if err := a.d.plane.Detach(old.on); err != nil {
			a.d.log.Error("detach", "event", "detach_failed", "interface", old.want.Name, "error", err)
			stuck = append(stuck, old)
		}
	}
	a.d.interfaces = a.now
	if err := a.d.plane.DetachOthers(keep); err != nil { // which else does it, too
		a.d.log.Error("detach what is not wanted", "event", "detach_failed", "error", err)
		a.d.interfaces = append(a.d.interfaces, stuck...)
	}
}
