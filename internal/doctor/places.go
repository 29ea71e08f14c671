// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"slices"

	"xdplvs/director"
	"xdplvs/internal/nexthop"
)

// A place is where the program is, or will be, for an interface of the configuration.
type place struct {
	link   *Link // the interface
	stack  *Link // that the kernel's own packets come by: of a bond's slave or a bridge's port, the bond or bridge
	below  *Link // that a program in the driver is on
	device *Link // that has the program
	native bool  // in its driver
	blind  bool  // it cannot see VLAN tags there, and there are VLANs
	mode   director.AttachMode
	why    string // what the interface is, when it does not have the program itself
}

// places are those of the interfaces that are there.
func (f *Facts) places() []place {
	if f.placeList == nil {
		for _, want := range f.attached() {
			if l, ok := f.named(want.Name); ok && f.Unseen[want.Name] == "" {
				f.placeList = append(f.placeList, f.place(l, want.Mode))
			}
		}
	}
	return f.placeList
}

func (f *Facts) place(l *Link, mode director.AttachMode) place {
	e := f.Entrances[l.Name]
	native, generic := f.indexedOr(e.Native.Index, l), f.indexedOr(e.Generic.Index, l)
	p := place{link: l, stack: generic, below: native, device: native, native: true, mode: mode, why: e.Why}
	switch {
	case native.Program.Own && native.Program.Native:
	case generic.Program.Own && !generic.Program.Native, mode == director.AttachGeneric, mode == director.AttachAuto && !f.canNative(native):
		p.device, p.native, p.blind = generic, false, e.Blind
	default:
		p.native = f.canNative(native)
	}
	return p
}

// fronts are the devices that the kernel's own packets of the interfaces come by.
func (f *Facts) fronts() (list []*Link) {
	for _, p := range f.places() {
		list = appendNew(list, p.stack)
	}
	return list
}

// indexedOr finds a device, or else is the other one.
func (f *Facts) indexedOr(index int, other *Link) *Link {
	if l, ok := f.indexed(index); ok {
		return l
	}
	return other
}

// holds tells whether the program is, or will be, on one of the devices.
func (f *Facts) holds(devices ...*Link) bool {
	return slices.ContainsFunc(f.places(), func(p place) bool { return slices.Contains(devices, p.device) })
}

// joining are the kinds of devices whose frames are those of their slaves or ports.
var joining = []string{bond, "bridge", "team"}

// cards are the devices that receive for a device: itself, or its slaves or ports.
func (f *Facts) cards(l *Link) (list []*Link) {
	for i := range f.Links {
		if f.Links[i].Master == l.Index && slices.Contains(joining, l.Kind) {
			list = append(list, &f.Links[i])
		}
	}
	if list == nil {
		list = []*Link{l}
	}
	return list
}

// way are the devices that frames of a way pass, from the card, or the bond, up to the device that the route names.
func (f *Facts) way(hop nexthop.Hop) (list []*Link) {
	l, ok := f.indexed(hop.Link)
	if !ok {
		return nil
	}
	if master, is := f.indexed(l.Master); is && master.Kind == bond { // of which the way names the active slave
		list, l = append(list, l), master
	}
	list = append(list, l)
	for _, id := range hop.VLAN {
		if l, ok = f.find(func(on *Link) bool { return on.Kind == vlan && on.Parent == l.Index && on.VLAN == int(id) }); !ok {
			break // just gone
		}
		list = append(list, l)
	}
	return list
}

// routed is the device that the route of a way names; nil: there is none.
func (f *Facts) routed(hop nexthop.Hop) *Link {
	if way := f.way(hop); len(way) > 0 {
		return way[len(way)-1]
	}
	return nil
}
