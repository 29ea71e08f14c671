// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"xdplvs/bpf"
	"xdplvs/internal/genl"
	"xdplvs/internal/nexthop"
	"xdplvs/internal/offload"
)

// readLinks reads the devices. What a device does not tell is left out.
func (f *Facts) readLinks() error {
	rows, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list interfaces: %w", err)
	}
	netdev, noNetdev := genl.Find("netdev")
	own := f.ownPrograms()
	for _, row := range rows {
		l := linkFrom(row)
		if noNetdev == nil {
			l.readFeatures(netdev)
		}
		l.Program = programFrom(row, own)
		l.readDriver()
		l.readInterrupts()
		l.readAddresses(row)
		f.Links = append(f.Links, l)
	}
	return nil
}

// readEntrances finds out where the interfaces of the configuration are seen. That one is not there is told elsewhere.
func (f *Facts) readEntrances() {
	f.Entrances, f.Unseen = map[string]nexthop.Entrance{}, map[string]string{}
	for _, want := range f.attached() {
		if _, there := f.named(want.Name); !there {
			continue
		}
		e, err := nexthop.FindEntrance(want.Name)
		if f.Entrances[want.Name] = e; err != nil {
			f.Unseen[want.Name] = err.Error()
		}
	}
}

func linkFrom(row netlink.Link) Link {
	a := row.Attrs()
	l := Link{
		Index: a.Index, Parent: a.ParentIndex, Master: a.MasterIndex, Name: a.Name, Kind: row.Type(), MTU: a.MTU,
		Loopback: a.RawFlags&unix.IFF_LOOPBACK != 0, Up: a.RawFlags&unix.IFF_UP != 0, Carrier: a.RawFlags&unix.IFF_RUNNING != 0,
	}
	l.Ethernet = a.EncapType == "ether" && len(a.HardwareAddr) == len(l.MAC)
	copy(l.MAC[:], a.HardwareAddr)
	switch row := row.(type) {
	case *netlink.Device: // what drives it is told by ethtool
		l.Kind = ""
	case *netlink.Vlan:
		l.VLAN = row.VlanId
	case *netlink.Bond:
		l.BondMode = row.Mode.String()
	case *netlink.Veth:
		if a.NetNsID < 0 { // else the index is one of another namespace
			l.PeerIndex = a.ParentIndex
		}
	}
	return l
}

// ownPrograms are the director's, by interface.
func (f *Facts) ownPrograms() map[int]uint32 {
	if f.Config == nil {
		return nil
	}
	own, err := bpf.PinnedPrograms(f.Config.StateDir)
	if err != nil { // without the privilege to look; then what is attached is taken for another's
		return nil
	}
	return own
}

func programFrom(row netlink.Link, own map[int]uint32) (p Program) {
	xdp := row.Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return p
	}
	p = Program{ID: xdp.ProgId, Native: xdp.AttachMode != nl.XDP_ATTACHED_SKB}
	p.Own = p.ID != 0 && own[row.Attrs().Index] == p.ID
	p.Name, _ = bpf.ProgramName(p.ID) // without the privilege it has no name
	return p
}

// Numbers of the generic netlink family "netdev" (linux/netdev.h).
const (
	netdevVersion  = 1
	netdevGet      = 1
	netdevIndex    = 1
	netdevFeatures = 3
)

// readFeatures asks what the driver's XDP can do; kernels before Linux 6.3 do not tell. One device at
// a time: a dump of them all is not consistent while devices come and go.
func (l *Link) readFeatures(netdev genl.Family) {
	answers, err := netdev.Ask(netdevGet, netdevVersion, 0, nl.NewRtAttr(netdevIndex, nl.Uint32Attr(uint32(l.Index))))
	if err == nil && len(answers) == 1 {
		l.Features, l.FeaturesKnown = featuresFrom(answers[0])
	}
}

func featuresFrom(answer []byte) (features uint64, ok bool) {
	value, err := genl.Within(answer, netdevFeatures)
	if err != nil || len(value) < 8 {
		return 0, false
	}
	return binary.NativeEndian.Uint64(value), true
}

// readDriver reads what the driver is, and what it does. A device without hardware has the driver of its kind.
func (l *Link) readDriver() {
	if l.Loopback || !l.Ethernet {
		return
	}
	l.Driver = l.Kind
	if path, err := os.Readlink(filepath.Join("/sys/class/net", l.Name, "device/driver")); err == nil {
		l.Driver = filepath.Base(path)
	}
	l.Offloads, _ = offload.Active(l.Index)
	l.Merging, _ = offload.Merging(l.Index)
	l.Queues, l.MaxQueues, _ = offload.Queues(l.Index)
}

// readInterrupts finds the CPUs that serve the device's interrupts.
func (l *Link) readInterrupts() {
	irqs, _ := filepath.Glob(filepath.Join("/sys/class/net", l.Name, "device/msi_irqs/*")) // fails on a bad pattern only
	for _, irq := range irqs {
		text, err := os.ReadFile(filepath.Join("/proc/irq", filepath.Base(irq), "effective_affinity_list"))
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), ",")
		if cpu, bad := strconv.Atoi(first); err == nil && bad == nil {
			l.IRQCPUs = append(l.IRQCPUs, cpu)
		}
	}
}

func (l *Link) readAddresses(row netlink.Link) {
	addrs, _ := netlink.AddrList(row, netlink.FAMILY_ALL) // of a device that is just going there are none
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if ok {
			l.Addresses = append(l.Addresses, Address{
				Prefix: netip.PrefixFrom(ip.Unmap(), bits),
				Failed: a.Flags&unix.IFA_F_DADFAILED != 0, Tentative: a.Flags&unix.IFA_F_TENTATIVE != 0,
			})
		}
	}
}
