// SPDX-License-Identifier: Apache-2.0

package director

// Device is a network device that the program can be attached to.
type Device struct {
	Index int
	Name  string
}

// Entrance is where the frames that come in by an interface are seen. It is comparable.
type Entrance struct {
	Native  Device // by a program in the driver
	Generic Device // by one in the network stack
	Blind   bool   // one there cannot see VLAN tags, and there are VLANs
	Why     string // what the interface is when it is not Native itself
}

// LinkByName finds an interface's entrance; the error is shown to the user.
type LinkByName func(name string) (Entrance, error)

// ShowTags has frames that come in by a device keep their VLAN tags, which cards take
// off; the error says why they do not. It is called again and again.
type ShowTags func(index int) error

// FindMerging names the devices that merge segments before a device in generic mode gets them.
type FindMerging func(index int) ([]string, error)

// place is a device and the mode to attach in.
type place struct {
	Device
	mode AttachMode
}

// places are where the program can be attached in a mode, the best first.
func (e Entrance) places(mode AttachMode) []place {
	native, generic := place{e.Native, AttachNative}, place{e.Generic, AttachGeneric}
	switch {
	case mode == AttachNative:
		return []place{native}
	case mode == AttachGeneric:
		return []place{generic}
	case e.Native.Index == e.Generic.Index:
		return []place{{e.Native, AttachAuto}}
	}
	return []place{native, generic}
}

// deviceOf is the device for a mode that is native or generic.
func (e Entrance) deviceOf(mode AttachMode) Device {
	if mode == AttachNative {
		return e.Native
	}
	return e.Generic
}

// fits reports whether what is attached is what is wanted at the place.
func (p place) fits(on Attachment) bool {
	return p.mode == AttachAuto || p.mode == on.AttachedMode()
}
