// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"slices"
	"strings"

	"xdplvs/director"
)

// checkInterfaces looks at the interfaces that the director is attached to.
func checkInterfaces(f *Facts, r *Report) {
	for _, want := range f.attached() {
		l, ok := f.named(want.Name)
		if !ok {
			r.topic("interface", want.Name).fail("correct the configuration", "there is no interface %s (there are %s)", want.Name, f.linkNames())
			continue
		}
		checkState(l, r)
		checkKind(f, l, r)
		checkMode(f, l, want.Mode, r)
		checkForeign(l, r)
		checkMTU(f, l, want.Mode, r)
		checkOffloads(f, l, r)
		checkMerging(l, want.Mode, r)
		checkQueues(f, l, r)
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

// bondModes are those that XDP works on (bond_xdp_check in drivers/net/bonding).
var bondModes = []string{"balance-rr", "active-backup", "balance-xor", "802.3ad"}

// checkKind tells of devices on top of others. Frames are seen where they come in.
func checkKind(f *Facts, l *Link, r *Report) {
	if master, ok := f.indexed(l.Master); ok {
		switch master.Kind {
		case "bond":
			r.topic("bond", l.Name).fail("name "+master.Name, "%s belongs to the bond %s, which holds its frames", l.Name, master.Name)
		case "bridge":
			r.topic("bridge", l.Name).warn("", "%s is a port of the bridge %s, which does not see what the director takes", l.Name, master.Name)
		}
	}
	switch parent, known := f.indexed(l.Parent); {
	case l.Kind == "vlan" && known:
		r.topic("vlan", l.Name).warn("name "+parent.Name, "%s is VLAN %d of %s: drivers have native XDP on %s only", l.Name, l.VLAN, parent.Name, parent.Name)
	case l.Kind == "bond" && !slices.Contains(bondModes, l.BondMode):
		r.topic("bond", l.Name).fail("use "+strings.Join(bondModes, ", "), "%s is a bond of mode %s, which has no native XDP", l.Name, l.BondMode)
	case l.Kind == "bond":
		r.topic("bond", l.Name).ok("%s is a bond of mode %s, which XDP works on", l.Name, l.BondMode)
	}
}

// nativeDrivers have native XDP in Linux 6.1, which does not tell: those with ndo_bpf, by the names that
// they have in /sys.
var nativeDrivers = []string{
	"atlantic", "bnxt_en", "cpsw", "cpsw-switch", "ena", "fsl_dpa", "fsl_dpaa2_eth", "fsl_enetc", "gve", "hv_netvsc", "i40e", "ice", "igb", "igc",
	"ixgbe", "ixgbevf", "lan966x-switch", "mana", "mlx4_core", "mlx5_core", "mvneta", "mvpp2", "netsec", "nfp", "qede", "sfc", "tuntap", "veth", "vif",
	"virtio_net", "vmxnet3",
}

// native tells whether the program can be attached to the driver.
func (l *Link) native() bool {
	if l.FeaturesKnown {
		return l.Features&xdpBasic != 0
	}
	return slices.Contains(nativeDrivers, l.Driver) || l.Kind == "bond" && slices.Contains(bondModes, l.BondMode)
}

// runsNative tells whether the program is, or will be, attached to the driver.
func (l *Link) runsNative(mode director.AttachMode) bool {
	if l.Program.Own {
		return l.Program.Native
	}
	return mode != director.AttachGeneric && l.native()
}

func checkMode(f *Facts, l *Link, mode director.AttachMode, r *Report) {
	if !l.Ethernet {
		return
	}
	t, driver := r.topic("xdp", l.Name), l.Driver
	if driver == "" {
		driver = l.Kind
	}
	switch why := l.whyGeneric(); {
	case l.Program.Own && !l.Program.Native && mode != director.AttachGeneric:
		t.warn("restart the director when the cause is gone", "%s (%s): the program runs in generic mode, several times as slow", l.Name, driver)
	case l.native() && mode != director.AttachGeneric:
		t.ok("%s (%s): native mode", l.Name, driver)
	case mode == director.AttachNative:
		t.fail("mode: auto, or another driver", "%s (%s): the configuration wants native mode, but %s", l.Name, driver, why)
	case mode == director.AttachGeneric:
		t.ok("%s (%s): generic mode, as configured", l.Name, driver)
	default:
		t.warn("another driver or device", "%s (%s): generic mode, several times as slow, because %s", l.Name, driver, why)
	}
}

// whyGeneric says why there is no native mode.
func (l *Link) whyGeneric() string {
	if l.Kind == "veth" && l.FeaturesKnown {
		return "its peer has more transmit queues than it has receive queues"
	}
	return "the driver offers no native XDP"
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

func checkMTU(f *Facts, l *Link, mode director.AttachMode, r *Report) {
	t := r.topic("mtu", l.Name)
	if l.MTU <= maxFrame || !l.Ethernet || l.Program.Own || !l.runsNative(mode) {
		return
	}
	advice := fmt.Sprintf("ip link set %s mtu %d, or less (i40e, ice and ixgbe: 3046)", l.Name, maxFrame)
	if mode == director.AttachNative {
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
	if l.Offloads["rx-vlan-hw-parse"] && f.tagged(l) && l.Kind != "bond" {
		found = true
		t.warn(fmt.Sprintf("ethtool -K %s rxvlan off", l.Name), "%s takes VLAN tags off frames before XDP sees them", l.Name)
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
func checkMerging(l *Link, mode director.AttachMode, r *Report) {
	if len(l.Merging) == 0 || l.runsNative(mode) {
		return
	}
	for _, name := range l.Merging {
		r.topic("offload", l.Name).warn(fmt.Sprintf("ethtool -K %s gro off", name),
			"GRO of %s merges segments before %s gets them in generic mode: what clients send is slow", name, l.Name)
	}
}

// tagged tells whether VLANs are used on a device: there are VLAN devices on it.
func (f *Facts) tagged(l *Link) bool {
	_, ok := f.find(func(o *Link) bool { return o.Kind == "vlan" && o.Parent == l.Index })
	return ok
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
