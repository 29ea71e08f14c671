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

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"xdplvs/bpf"
	"xdplvs/internal/offload"
)

// readLinks reads the devices. What a device does not tell is left out.
func (f *Facts) readLinks() error {
	rows, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list interfaces: %w", err)
	}
	eth, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer eth.Close()
	family, err := netlink.GenlFamilyGet("netdev")
	if err != nil {
		family = nil
	}
	own := f.ownPrograms()
	for _, row := range rows {
		l := linkFrom(row)
		l.readFeatures(family)
		l.Program = programFrom(row, own)
		l.readEthtool(eth)
		l.readInterrupts()
		l.readAddresses(row)
		f.Links = append(f.Links, l)
	}
	return nil
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
	netdevGet      = 1
	netdevIndex    = 1
	netdevFeatures = 3
)

// readFeatures asks what the driver's XDP can do; kernels before Linux 6.3 do not tell. One device at
// a time: a dump of them all is not consistent while devices come and go.
func (l *Link) readFeatures(family *netlink.GenlFamily) {
	if family == nil {
		return
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(&nl.Genlmsg{Command: netdevGet, Version: uint8(family.Version)})
	req.AddData(nl.NewRtAttr(netdevIndex, nl.Uint32Attr(uint32(l.Index))))
	messages, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err == nil && len(messages) == 1 {
		l.Features, l.FeaturesKnown = featuresFrom(messages[0])
	}
}

// featuresFrom reads an answer: the generic header, then attributes.
func featuresFrom(message []byte) (features uint64, ok bool) {
	if len(message) < nl.SizeofGenlmsg {
		return 0, false
	}
	attrs, err := nl.ParseRouteAttr(message[nl.SizeofGenlmsg:])
	if err != nil {
		return 0, false
	}
	for _, a := range attrs {
		if a.Attr.Type == netdevFeatures && len(a.Value) >= 8 {
			return binary.NativeEndian.Uint64(a.Value), true
		}
	}
	return 0, false
}

func (l *Link) readEthtool(eth *ethtool.Ethtool) {
	if l.Loopback || !l.Ethernet {
		return
	}
	l.Driver, _ = eth.DriverName(l.Name)
	l.Offloads, _ = offload.Active(l.Index)
	if c, err := eth.GetChannels(l.Name); err == nil {
		l.Queues, l.MaxQueues = int(c.RxCount+c.CombinedCount), int(max(c.MaxRx, c.MaxCombined))
	}
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
