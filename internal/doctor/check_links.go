// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"xdplvs/director"
)

// checkInterfaces looks at the interfaces of the configuration, then at the devices that have the program for them.
func checkInterfaces(f *Facts, r *Report) {
	for _, want := range f.attached() {
		l, ok := f.named(want.Name)
		if !ok {
			r.topic("interface", want.Name).fail("correct the configuration", "there is no interface %s (there are %s)", want.Name, f.linkNames())
			continue
		}
		checkState(l, r)
		if why := f.Unseen[want.Name]; why != "" {
			r.topic("interface", want.Name).fail("name another interface", "the program cannot be attached for %s: %s", want.Name, why)
		}
	}
	var seen []*Link
	for _, p := range f.places() {
		checkEntrance(p, r)
		if !slices.Contains(seen, p.device) { // several VLANs have one
			seen = append(seen, p.device)
			checkDevice(f, p, r)
		}
	}
}

func checkDevice(f *Facts, p place, r *Report) {
	checkMode(f, p, r)
	checkForeign(p.device, r)
	checkMTU(p, r)
	checkMerging(p, r)
	for _, card := range f.cards(p.device) {
		if card != p.device && p.native {
			checkForeign(card, r)
		}
		checkOffloads(f, card, r)
		checkQueues(f, card, r)
	}
}

func (f *Facts) linkNames() string {
	var names []string
	for i := range f.Links {
		names = append(names, f.Links[i].Name)
	}
	return strings.Join(names, ", ")
}

func checkState(l *Link, r *Report) {
	t := r.topic("interface", l.Name)
	switch {
	case l.Loopback || !l.Ethernet:
		t.fail("name an Ethernet interface", "%s is no Ethernet interface", l.Name)
	case !l.Up:
		t.fail("ip link set "+l.Name+" up", "%s is down", l.Name)
	case !l.Carrier:
		t.fail("look at the cable, or the other end", "%s has no carrier", l.Name)
	default:
		t.ok("%s is up", l.Name)
	}
}

// The kinds of devices on top of others, as rtnetlink has them.
const (
	bond = "bond"
	vlan = "vlan"
)

// bondModes are those that XDP works on (bond_xdp_check in drivers/net/bonding).
var bondModes = []string{"balance-rr", "active-backup", "balance-xor", "802.3ad"}

// checkEntrance tells which device has the program for an interface on top of another, or below.
func checkEntrance(p place, r *Report) {
	t := r.topic("interface", p.link.Name)
	if p.why != "" {
		t.ok("%s: %s has the program", p.why, p.device.Name)
	}
	if p.blind {
		t.warn("name the VLAN devices on it, and not "+p.link.Name, "in generic mode VLAN tags are out of sight on %s: frames with tags are forwarded wrongly", p.device.Name)
	}
}

// nativeDrivers have native XDP in Linux 6.1, which does not tell: those with ndo_bpf, by the names that
// they have in /sys.
var nativeDrivers = []string{
	"atlantic", "bnxt_en", "cpsw", "cpsw-switch", "ena", "fsl_dpa", "fsl_dpaa2_eth", "fsl_enetc", "gve", "hv_netvsc", "i40e", "ice", "igb", "igc",
	"ixgbe", "ixgbevf", "lan966x-switch", "mana", "mlx4_core", "mlx5_core", "mvneta", "mvpp2", "netsec", "nfp", "qede", "sfc", "tuntap", "veth", "vif",
	"virtio_net", "vmxnet3",
}

// canNative tells whether the program can be attached to the driver; of a bond, to those of all its slaves.
func (f *Facts) canNative(l *Link) bool {
	switch {
	case l.FeaturesKnown:
		return l.Features&xdpBasic != 0
	case l.Kind == bond:
		return slices.Contains(bondModes, l.BondMode) && f.weakSlave(l) == nil
	}
	return slices.Contains(nativeDrivers, l.Driver)
}

// weakSlave is a slave of a bond whose driver has no native XDP; nil: there is none.
func (f *Facts) weakSlave(l *Link) *Link {
	for _, slave := range f.cards(l) {
		if slave != l && l.Kind == bond && !f.canNative(slave) {
			return slave
		}
	}
	return nil
}

func checkMode(f *Facts, p place, r *Report) {
	l := p.device
	if !l.Ethernet {
		return
	}
	t, who := r.topic("xdp", l.Name), l.Name+" ("+l.drivenBy()+")"
	switch why, advice := f.whyGeneric(p); {
	case p.native:
		t.ok("%s: native mode", who)
	case p.mode == director.AttachNative:
		t.fail("mode: auto, or "+advice, "%s: the configuration wants native mode, but %s", who, why)
	case p.mode == director.AttachGeneric:
		t.ok("%s: generic mode, as configured", who)
	case why == "":
		t.warn("restart the director when the cause is gone", "%s: the program runs in generic mode, several times as slow", who)
	default:
		t.warn(advice, "%s: generic mode, several times as slow, because %s", who, why)
	}
}

// drivenBy is what drives a device: "ice", "bond, 802.3ad".
func (l *Link) drivenBy() string {
	if l.Kind == bond {
		return bond + ", " + l.BondMode
	}
	return cmp.Or(l.Driver, l.Kind)
}

// whyGeneric says why there is no native mode, and what to do about that; "": there could be.
func (f *Facts) whyGeneric(p place) (why, advice string) {
	l := p.below
	weak := f.weakSlave(l)
	advice = "another driver or device"
	switch {
	case f.canNative(l):
		return "", ""
	case l.Kind == bond && !slices.Contains(bondModes, l.BondMode):
		return fmt.Sprintf("%s, a bond of mode %s, has no native XDP", l.Name, l.BondMode), "one of the modes " + strings.Join(bondModes, ", ")
	case weak != nil:
		return fmt.Sprintf("%s (%s), a slave of %s, offers no native XDP", weak.Name, weak.drivenBy(), l.Name), advice
	case l.Kind == "veth" && l.FeaturesKnown:
		return "its peer has more transmit queues than it has receive queues", advice
	case l != p.device:
		return fmt.Sprintf("%s (%s) offers no native XDP", l.Name, l.drivenBy()), advice
	}
	return "the driver offers no native XDP", advice
}

func checkForeign(l *Link, r *Report) {
	p := l.Program
	if p.ID == 0 || p.Own {
		return
	}
	how := "ip link set " + l.Name + " xdp off, or bpftool net detach, after asking whose it is"
	if strings.HasPrefix(p.Name, "xdp_dispatcher") {
		how = "xdp-loader unload " + l.Name + " --all"
	}
	r.topic("foreign-xdp", l.Name).fail(how, "%s has another XDP program, %q of id %d: there is room for one", l.Name, p.Name, p.ID)
}

// maxFrame is the largest MTU, in bytes, of a frame that lies in one page with what XDP keeps around
// it: 4096 less 256 before, 320 after, the Ethernet header and a VLAN tag; 3 % less where
// drivers count more. The director's programs do not take frames of several pages.
const maxFrame = 3498

func checkMTU(p place, r *Report) {
	l := p.device
	t := r.topic("mtu", l.Name)
	if l.MTU <= maxFrame || !l.Ethernet || l.Program.Own || !p.native {
		return
	}
	advice := fmt.Sprintf("ip link set %s mtu %d, or less (i40e, ice and ixgbe: 3046)", l.Name, maxFrame)
	if p.mode == director.AttachNative {
		t.fail(advice, "%s has MTU %d: the driver will refuse native mode", l.Name, l.MTU)
		return
	}
	t.warn(advice, "%s has MTU %d: the driver will refuse native mode, generic is several times as slow", l.Name, l.MTU)
}

// checkOffloads tells of work that the device does with frames before XDP sees them, and of work
// that a peer leaves to a device that does not do it.
func checkOffloads(f *Facts, l *Link, r *Report) {
	t := r.topic("offload", l.Name)
	found := false
	for _, o := range []struct{ feature, name string }{{"rx-lro", "lro"}, {"rx-gro-hw", "rx-gro-hw"}} {
		if l.Offloads[o.feature] {
			found = true
			t.warn(fmt.Sprintf("ethtool -K %s %s off", l.Name, o.name), "%s merges frames in hardware (%s): XDP sees frames that no wire can take", l.Name, o.name)
		}
	}
	if l.Offloads["rx-vlan-hw-parse"] && f.tagged(l) {
		found = true
		f.tellTags(l, t)
	}
	if peer, ok := f.indexed(l.PeerIndex); ok && peer.Offloads["tx-checksum-ip-generic"] {
		found = true
		t.warn(fmt.Sprintf("ethtool -K %s tx off", peer.Name), "%s, the peer of %s, leaves checksums unfinished: what the director forwards of it is damaged", peer.Name, l.Name)
	}
	switch {
	case found || len(l.Offloads) == 0:
	case l.Kind == "veth" && l.PeerIndex == 0:
		t.ok("%s hands over frames as its peer sends them, which is in another namespace: tx offloads should be off there", l.Name)
	default:
		t.ok("%s hands over frames as they were on the wire", l.Name)
	}
}

// checkMerging: on its own device the kernel does not merge for a program in generic mode, on those below it does.
func checkMerging(p place, r *Report) {
	if p.native {
		return
	}
	for _, name := range p.device.Merging {
		r.topic("offload", p.device.Name).warn(fmt.Sprintf("ethtool -K %s gro off", name),
			"GRO of %s merges segments before %s gets them in generic mode: what clients send is slow", name, p.device.Name)
	}
}

// tagged tells whether VLANs are used on a device: there are VLAN devices on it, or on the bond that it is a slave of.
func (f *Facts) tagged(l *Link) bool {
	below := []int{l.Index}
	if master, ok := f.indexed(l.Master); ok && master.Kind == bond {
		below = append(below, master.Index)
	}
	_, ok := f.find(func(o *Link) bool { return o.Kind == vlan && slices.Contains(below, o.Parent) })
	return ok
}

// tellTags: the director tells cards to leave tags in the frames. What still takes them off while it runs cannot be told.
func (f *Facts) tellTags(l *Link, t topic) {
	if f.started() {
		t.warn(fmt.Sprintf("ethtool -K %s rxvlan off; or mode: generic on the VLAN devices", l.Name), "%s takes VLAN tags off frames before XDP sees them", l.Name)
		return
	}
	t.ok("%s takes VLAN tags off frames: the director will tell it to leave them (ethtool -K %s rxvlan off)", l.Name, l.Name)
}

func checkQueues(f *Facts, l *Link, r *Report) {
	t, best := r.topic("queues", l.Name), min(l.MaxQueues, f.Machine.CPUs)
	slices.Sort(l.IRQCPUs)
	cpus := slices.Compact(slices.Clone(l.IRQCPUs))
	switch {
	case l.Kind != "" || l.Queues == 0:
	case l.Queues < best:
		t.warn(fmt.Sprintf("ethtool -L %s combined %d (or rx %[2]d)", l.Name, best), "%s has %s for %s", l.Name, plural(l.Queues, "receive queue"), plural(f.Machine.CPUs, "CPU"))
	case len(l.IRQCPUs) > 1 && len(cpus) == 1 && f.Machine.CPUs > 1:
		t.warn("run irqbalance, or set /proc/irq/*/smp_affinity_list", "all interrupts of %s are CPU %d's", l.Name, cpus[0])
	default:
		t.ok("%s has %s for %s", l.Name, plural(l.Queues, "receive queue"), plural(f.Machine.CPUs, "CPU"))
	}
}
