// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"net/netip"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/nexthop"
	"xdplvs/internal/offload"
)

// overflowShare is how many places of the tables stand behind one entry of the
// overflow map.
const overflowShare = 64

func sizes(l director.Limits) bpf.Sizes {
	return bpf.Sizes{
		Conns4:   l.Connections4,
		Conns6:   l.Connections6,
		Overflow: max(1, (l.Connections4+l.Connections6)/overflowShare),
		Services: l.Services,
		Reals:    l.RealServers,
		Plans:    l.PlanSlots,
		Marks:    l.MarkEntries,
		Prefixes: l.Prefixes,

		Destinations: l.Destinations,
	}
}

// planeOf is the data plane as the director wants it.
type planeOf struct{ *bpf.DataPlane }

// Repair implements director.Plane.
func (p planeOf) Repair(a director.Attachment) (bool, error) {
	return p.DataPlane.Repair(a.(attachment).Attachment)
}

type attachment struct{ *bpf.Attachment }

// AttachedMode implements director.Attachment.
func (a attachment) AttachedMode() director.AttachMode {
	if a.Mode == bpf.Native {
		return director.AttachNative
	}
	return director.AttachGeneric
}

// Attach implements director.Plane.
func (p planeOf) Attach(index int, mode director.AttachMode) (director.Attachment, error) {
	modes := map[director.AttachMode]bpf.Mode{
		director.AttachAuto: bpf.Auto, director.AttachNative: bpf.Native, director.AttachGeneric: bpf.Generic,
	}
	a, err := p.DataPlane.Attach(index, modes[mode])
	if err != nil {
		return nil, err
	}
	return attachment{a}, nil
}

// Detach implements director.Plane.
func (p planeOf) Detach(a director.Attachment) error {
	own, ok := a.(attachment)
	if !ok {
		return fmt.Errorf("detach %T: not attached by this data plane", a)
	}
	return p.DataPlane.Detach(own.Attachment)
}

// keepTags implements director.ShowTags.
func (d *daemon) keepTags(index int) error {
	changed, err := offload.KeepTags(index)
	for _, device := range changed {
		d.log.Info("VLAN tags stay in the frames, where XDP sees them", "event", "tags_kept", "device", device,
			"undo", "ethtool -K "+device+" rxvlan on")
	}
	return err
}

// findEntrance implements director.LinkByName.
func findEntrance(name string) (director.Entrance, error) {
	e, err := nexthop.FindEntrance(name)
	return director.Entrance{Native: director.Device(e.Native), Generic: director.Device(e.Generic), Blind: e.Blind, Why: e.Why}, err
}

func convertHops(hops map[netip.Addr]nexthop.Hop) map[netip.Addr]director.NextHop {
	out := make(map[netip.Addr]director.NextHop, len(hops))
	for addr, h := range hops {
		out[addr] = director.NextHop{
			Resolved: h.Resolved,
			Reason:   h.Reason,
			Pending:  h.Pending,
			Local:    h.Local,
			Link:     h.Link,
			SrcMAC:   h.SrcMAC,
			DstMAC:   h.DstMAC,
			VLAN:     h.VLAN,
			TPID:     h.TPID,
			MTU:      h.MTU,
			Source:   h.Source,
		}
	}
	return out
}
