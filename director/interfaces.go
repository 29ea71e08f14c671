// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// attached is an interface that is wanted, and where the program is for it. Several
// may have one device, and one attachment then.
type attached struct {
	want    Interface
	at      Entrance
	device  Device
	on      Attachment // nil: on none
	problem string     // why it is on none, or not found any more
	warning string     // what it does not see there
}

func (a *attached) state() InterfaceState {
	s := InterfaceState{Name: a.want.Name, Mode: a.want.Mode, Warning: a.warning, Error: a.problem}
	if a.on == nil {
		return s
	}
	s.Device, s.Index, s.Mode = a.device.Name, a.device.Index, a.on.AttachedMode()
	if s.Device != s.Name {
		s.Why = a.at.Why
	}
	return s
}

// isOn reports whether the program is on the device for this interface.
func (a *attached) isOn(index int) bool { return a.on != nil && a.device.Index == index }

// find is the first of the list whose program is on the device.
func find(list []attached, index int) int {
	return slices.IndexFunc(list, func(a attached) bool { return a.isOn(index) })
}

// taken is what the list has at the place already; an error if it is there in
// another mode, as the kernel has one at a time.
func taken(list []attached, p place) (Attachment, error) {
	i := find(list, p.Index)
	if i < 0 {
		return nil, nil
	}
	if !p.fits(list[i].on) {
		return nil, fmt.Errorf("%s mode: %s is attached in %s mode, for %s", p.mode, p.Name, list[i].on.AttachedMode(), list[i].want.Name)
	}
	return list[i].on, nil
}

// followInterfaces attaches again where an interface was deleted and made anew
// under its name, or became another device's: a slave of a bond, a VLAN elsewhere.
func (d *Director) followInterfaces() {
	problems := make([]error, len(d.interfaces))
	var moved []int
	for i := range d.interfaces {
		a := &d.interfaces[i]
		at, err := d.links(a.want.Name)
		if problems[i] = err; err != nil {
			continue
		}
		if a.at = at; a.on != nil && at.deviceOf(a.on.AttachedMode()).Index == a.device.Index {
			problems[i] = d.repairAttachment(a)
		}
		if a.on == nil || at.deviceOf(a.on.AttachedMode()).Index != a.device.Index {
			moved = append(moved, i)
		}
	}
	// All leave first: as long as a slave has a program of its own its bond cannot have one.
	for _, i := range moved {
		d.leave(&d.interfaces[i])
	}
	for _, i := range moved {
		problems[i] = d.attachAgain(&d.interfaces[i])
	}
	for i := range d.interfaces {
		d.noteProblem(&d.interfaces[i], problems[i])
	}
}

func (d *Director) noteProblem(a *attached, err error) {
	if err == nil {
		a.problem = ""
		d.lookAtFrames(a)
	} else if a.problem != err.Error() {
		a.problem = err.Error()
		d.log.Warn("interface is not attached", "event", "detached", "interface", a.want.Name, "reason", a.problem)
	}
}

// leave takes the program off the interface's device, if no other interface has
// it there.
func (d *Director) leave(a *attached) {
	on, index := a.on, a.device.Index
	a.on = nil
	if on == nil || find(d.interfaces, index) >= 0 {
		return
	}
	if err := d.plane.Detach(on); err != nil { // the kernel has done it with the device
		d.log.Warn("detach from the former interface", "event", "detach_failed", "interface", a.want.Name, "error", err)
	}
}

func (d *Director) attachAgain(a *attached) error {
	var errs []error
	for _, p := range a.at.places(a.want.Mode) {
		on, err := taken(d.interfaces, p)
		if on == nil && err == nil {
			on, err = d.plane.Attach(p.Index, p.mode)
		}
		if err == nil {
			a.device, a.on = p.Device, on
			d.logAttached(a)
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lookAtFrames sees to it that the program gets frames as they were on the wire, and warns where it does not.
func (d *Director) lookAtFrames(a *attached) {
	before := a.warning
	if a.warning = d.showTags(a); a.warning == "" {
		a.warning = d.merged(a, before)
	}
	if a.warning != "" && a.warning != before {
		d.log.Warn("frames are not seen as they were on the wire", "event", "frames_differ", "interface", a.want.Name, "reason", a.warning)
	}
}

// showTags lets the program see VLAN tags, and says if it cannot and there are some. That cards
// take them off matters where it is on behalf of a VLAN device, whose frames are known by them.
func (d *Director) showTags(a *attached) (warning string) {
	if a.at.Blind && a.device == a.at.Generic && a.on.AttachedMode() == AttachGeneric {
		return fmt.Sprintf("in generic mode VLAN tags are out of sight on %s, and frames with tags are forwarded wrongly: "+
			"name its VLAN devices, and not %s", a.device.Name, a.want.Name)
	}
	if d.tags == nil {
		return ""
	}
	err := d.tags(a.device.Index)
	if err != nil && a.at.Native != a.at.Generic && a.device == a.at.Native {
		return err.Error()
	}
	return ""
}

// merged says who merges segments before the program gets them. What is too long for the way out is answered, so
// clients send again, in ever shorter segments: uploads are slow.
func (d *Director) merged(a *attached, before string) (warning string) {
	if d.merges == nil || a.on.AttachedMode() != AttachGeneric {
		return ""
	}
	names, err := d.merges(a.device.Index)
	if err != nil {
		return before // it is asked again soon
	}
	if len(names) == 0 {
		return ""
	}
	commands := make([]string, len(names))
	for i, name := range names {
		commands[i] = "ethtool -K " + name + " gro off"
	}
	return fmt.Sprintf("GRO of %s merges segments before %s gets them in generic mode, and what clients send is slow: %s",
		strings.Join(names, ", "), a.device.Name, strings.Join(commands, "; "))
}

func (d *Director) logAttached(a *attached) {
	s := a.state()
	args := []any{"event", "attached", "interface", s.Name, "mode", s.Mode.String()}
	if s.Device != s.Name {
		args = append(args, "device", s.Device, "because", s.Why)
	}
	d.log.Info("attached", args...)
}

// attaching is a change of the interfaces: what is new works before what is old
// goes, so that traffic can move from one to the other.
type attaching struct {
	d       *Director
	now     []attached
	fresh   []attached // of those, attached by this change; each device once
	swapped []attached // taken off to be attached in another mode
	lost    []error    // of those, why they could not be put back
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
	at, err := a.d.links(w.Name)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range at.places(w.Mode) {
		x := attached{want: w, at: at, device: p.Device}
		if err := a.attach(&x, p); err != nil {
			errs = append(errs, err)
			continue
		}
		a.now = append(a.now, x)
		return nil
	}
	return errors.Join(errs...)
}

// attach sees to it that the program is at the place, which may be for another
// interface or from before.
func (a *attaching) attach(x *attached, p place) (err error) {
	if x.on, err = taken(a.now, p); x.on != nil || err != nil {
		return err
	}
	if x.on, err = taken(a.d.interfaces, p); x.on != nil {
		return nil
	}
	if err == nil {
		if x.on, err = a.d.plane.Attach(p.Index, p.mode); err == nil {
			a.fresh = append(a.fresh, *x)
			return nil
		}
	}
	return a.replace(x, p, err)
}

// replace attaches in the stead of what hinders it: the same device in another mode, or
// what is on the interface's other device, as the kernel has no program below one. For a
// moment no packet is seen. refused is why it could not be before.
func (a *attaching) replace(x *attached, p place, refused error) error {
	i := find(a.d.interfaces, p.Index)
	if i < 0 {
		i = slices.IndexFunc(a.d.interfaces, func(o attached) bool { return o.want.Name == x.want.Name && o.on != nil })
	}
	if i < 0 || find(a.now, a.d.interfaces[i].device.Index) >= 0 {
		return refused
	}
	old := a.d.interfaces[i]
	if err := a.d.plane.Detach(old.on); err != nil {
		return fmt.Errorf("change mode: %w", err)
	}
	a.setOn(old.device, nil)
	on, err := a.d.plane.Attach(p.Index, p.mode)
	if err != nil {
		a.putBack(old)
		return err
	}
	x.on = on
	a.fresh, a.swapped = append(a.fresh, *x), append(a.swapped, old)
	return nil
}

// setOn notes what is on a device.
func (a *attaching) setOn(device Device, on Attachment) {
	for i := range a.d.interfaces {
		if x := &a.d.interfaces[i]; x.device.Index == device.Index {
			x.on = on
		}
	}
}

// putBack attaches again what was taken off.
func (a *attaching) putBack(old attached) {
	on, err := a.d.plane.Attach(old.device.Index, old.on.AttachedMode())
	if err == nil {
		a.setOn(old.device, on)
		return
	}
	a.lost = append(a.lost, fmt.Errorf("interface %s: attach again: %w", old.want.Name, err))
	a.d.interfaces = slices.DeleteFunc(a.d.interfaces, func(x attached) bool { return x.device.Index == old.device.Index })
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
		a.putBack(old)
	}
	return errors.Join(append(errs, a.lost...)...)
}

// finish takes off what is not wanted any more. That is too late to refuse
// anything: what does not come off is tried again with the next change.
func (a *attaching) finish() {
	keep := map[int]bool{}
	for i := range a.now {
		keep[a.now[i].device.Index] = true
		a.d.lookAtFrames(&a.now[i])
	}
	for i := range a.now {
		if find(a.d.interfaces, a.now[i].device.Index) < 0 || find(a.fresh, a.now[i].device.Index) >= 0 {
			a.d.logAttached(&a.now[i])
		}
	}
	var stuck []attached
	for i, old := range a.d.interfaces {
		if old.on == nil || keep[old.device.Index] || find(a.d.interfaces, old.device.Index) < i {
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
