// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
	"xdplvs/internal/doctor"
	"xdplvs/internal/netlab"
)

// finding is one of director doctor's.
type finding struct{ Level, Check, Subject, Text, Advice string }

// String is the line that director doctor prints.
func (f finding) String() string {
	line := fmt.Sprintf("%-8s %-12s %s", f.Level, f.Check, f.Text)
	if f.Advice != "" {
		line += "; " + f.Advice
	}
	return line
}

// ofMachine are checks of the machine that runs the tests, which may have its faults.
var ofMachine = []string{"clock", "limits", "memory", "cpus", "conntrack", "program"}

// complaints are what director doctor has to say but for the machine, and its exit code must fit.
func (f *farm) complaints() (lines []string) {
	f.t.Helper()
	start := time.Now()
	r := f.run("doctor", "-c", f.configFile(), "--json", "--timeout", (slowness() * doctor.DefaultTimeout).String())
	if took := time.Since(start); took > slowness()*10*time.Second {
		f.t.Errorf("doctor took %v", took)
	}
	var report struct {
		Failures int
		Findings []finding
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.stderr != "" {
		f.t.Fatalf("%v: %s%s", err, r.stderr, r.stdout)
	}
	if want := min(report.Failures, 1); r.code != want {
		f.t.Errorf("exit %d with %d failures", r.code, report.Failures)
	}
	for _, found := range report.Findings {
		if found.Level != "ok" && !slices.Contains(ofMachine, found.Check) {
			lines = append(lines, found.String())
		}
	}
	return lines
}

// mustComplain fails unless director doctor says exactly this.
func (f *farm) mustComplain(want ...string) {
	f.t.Helper()
	if got := f.complaints(); !slices.Equal(got, want) {
		f.t.Errorf("doctor says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// virtualHere gives the director the virtual addresses.
func (f *farm) virtualHere() {
	f.t.Helper()
	for _, family := range families {
		must(f.t, f.director.AddAddr("eth0", netip.PrefixFrom(family.vip, family.vip.BitLen())))
	}
}

// A breakage is something that is wrong with a farm, and what director doctor says of it.
type breakage struct {
	name       string
	breakIt    func()
	mend       func()
	complaints []string
}

// A farm as it should be has no complaints, before the director runs and while it does; then each
// thing is broken, and exactly that is said.
func TestDoctor(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.virtualHere()
	f.configure(standard("rr", 1, 1)...)
	f.mustComplain()
	f.start()
	f.mustComplain()
	for _, c := range slices.Concat(f.rivals(), f.wrongWays(), f.lostAddresses()) {
		t.Run(c.name, func(t *testing.T) {
			c.breakIt()
			f.on(t).mustComplain(c.complaints...)
			c.mend()
		})
	}
	eventually(t, patience, func() error { // addresses and neighbours settle
		if got := f.complaints(); len(got) > 0 {
			return fmt.Errorf("mended, doctor still says %q", got)
		}
		return nil
	})
}

// rivals are hosts that have addresses of others.
func (f *farm) rivals() []breakage {
	t, rs2 := f.t, f.reals[1]
	mac := rs2.eth0.MAC.String()
	return []breakage{
		{
			"a real server answers ARP",
			func() { must(t, rs2.Sysctl("net.ipv4.conf.all.arp_ignore", "0")) },
			func() { must(t, rs2.Sysctl("net.ipv4.conf.all.arp_ignore", "1")) },
			[]string{"failure  arp          192.0.2.10 is also answered by " + mac + " on eth0, which is real server rs2 10.0.0.12; " +
				"set arp_ignore=1 and arp_announce=2 there, or run there: director realserver dr --vip 192.0.2.10 --apply"},
		},
		{
			"a real server answers neighbour solicitations",
			func() { must(t, rs2.AddAddr("eth0", netip.PrefixFrom(vip6, 128))) },
			func() { must(t, rs2.DelAddr("eth0", netip.PrefixFrom(vip6, 128))) },
			[]string{"failure  arp          2001:db8:1::10 is also answered by " + mac + " on eth0, which is real server rs2 10.0.0.12; " +
				"take the address off that interface there and put it on lo, or run there: director realserver dr --vip 2001:db8:1::10 --apply"},
		},
		{
			"a stranger has a virtual address",
			func() { must(t, f.client.AddAddr("eth0", netip.PrefixFrom(vip4, 32))) },
			func() { must(t, f.client.DelAddr("eth0", netip.PrefixFrom(vip4, 32))) },
			[]string{"failure  arp          192.0.2.10 is also answered by " + f.clientEnd.MAC.String() + " on eth0, which is no real server: " +
				"the address is there twice, or a router answers for others (proxy ARP); find that host, and take the address off it"},
		},
		{
			"a real server has the director's address",
			func() { must(t, rs2.AddAddr("eth0", netip.PrefixFrom(director4, 24))) },
			func() { must(t, rs2.DelAddr("eth0", netip.PrefixFrom(director4, 24))) },
			[]string{
				"failure  neighbour    real server rs2 10.0.0.12 cannot be reached: no answer to ARP for 10.0.0.12 on eth0; is it up, and in this network or VLAN?",
				"failure  duplicate    10.0.0.2 of eth0 is also answered by " + mac + " on eth0, which is real server rs2 10.0.0.12; give one of both another address",
			},
		},
		{
			"a stranger has a real server's address",
			func() { must(t, f.client.AddAddr("eth0", netip.PrefixFrom(rs2.addr4, 24))) },
			func() { must(t, f.client.DelAddr("eth0", netip.PrefixFrom(rs2.addr4, 24))) },
			[]string{"failure  duplicate    real server rs2 10.0.0.12 is answered by " + inOrder(mac, f.clientEnd.MAC.String()) +
				": two hosts have the address, or one has two interfaces in this network; give one of both another address; if it is one host, set arp_ignore=1 there"},
		},
	}
}

// wrongWays are ways to a real server that lead elsewhere.
func (f *farm) wrongWays() []breakage {
	t, rs2 := f.t, f.reals[1]
	return []breakage{
		{
			"a real server is down",
			func() { must(t, rs2.eth0.SetUp(false)) },
			func() { must(t, rs2.eth0.SetUp(true)) },
			[]string{
				"failure  neighbour    real server rs2 10.0.0.12 cannot be reached: no answer to ARP for 10.0.0.12 on eth0; is it up, and in this network or VLAN?",
				"failure  neighbour    real server rs2 fd00::12 cannot be reached: no answer to ND for fd00::12 on eth0; is it up, and in this network or VLAN?",
			},
		},
		{
			"a route leads to a router",
			func() { f.ip(f.director, "route add 10.0.0.12/32 via 10.0.0.11") },
			func() { f.ip(f.director, "route del 10.0.0.12/32 via 10.0.0.11") },
			[]string{"failure  route        real server rs2 10.0.0.12 is behind the router 10.0.0.11: by dr, packets would go to that; use tun or nat, or put both into one network"},
		},
		{
			"a route is missing",
			func() { f.ip(f.director, "route add unreachable 10.0.0.12/32") },
			func() { f.ip(f.director, "route del unreachable 10.0.0.12/32") },
			[]string{"failure  route        real server rs2 10.0.0.12 cannot be reached: unreachable route to 10.0.0.12"},
		},
		{
			"a real server is the director",
			func() { must(t, f.director.AddAddr("lo", netip.PrefixFrom(rs2.addr4, 32))) },
			func() { must(t, f.director.DelAddr("lo", netip.PrefixFrom(rs2.addr4, 32))) },
			[]string{"failure  route        real server rs2 10.0.0.12 is this host itself; remove it, or method: local"},
		},
		{
			"a way is narrower than what comes in",
			func() { f.ip(f.director, "route add 10.0.0.12/32 dev eth0 mtu 1400") },
			func() { f.ip(f.director, "route del 10.0.0.12/32 dev eth0") },
			[]string{"warning  mtu          the way to real server rs2 10.0.0.12 by eth0 has MTU 1400: with up to 1500 from eth0, larger packets are answered with \"too big\"; " +
				"ip link set eth0 mtu 1500, if its network can"},
		},
	}
}

// lostAddresses are virtual addresses that are not where they should be.
func (f *farm) lostAddresses() []breakage {
	t := f.t
	return []breakage{
		{
			"nobody has a virtual address in the network",
			func() {
				must(t, f.director.DelAddr("eth0", netip.PrefixFrom(vip4, 32)))
				must(t, f.director.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")))
			},
			func() {
				must(t, f.director.DelAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")))
				must(t, f.director.AddAddr("eth0", netip.PrefixFrom(vip4, 32)))
			},
			[]string{"warning  vip          192.0.2.10 is in the network of eth0, but nobody answers for it; ip address add 192.0.2.10/32 dev eth0, unless this is a standby"},
		},
		{
			"another director has the virtual address",
			func() {
				must(t, f.director.DelAddr("eth0", netip.PrefixFrom(vip4, 32)))
				must(t, f.client.AddAddr("eth0", netip.PrefixFrom(vip4, 32)))
			},
			func() {
				must(t, f.client.DelAddr("eth0", netip.PrefixFrom(vip4, 32)))
				must(t, f.director.AddAddr("eth0", netip.PrefixFrom(vip4, 32)))
			},
			[]string{"warning  arp          192.0.2.10 is answered by " + f.clientEnd.MAC.String() + " on eth0, which is no real server: another director, or a router that answers for others (proxy ARP)"},
		},
	}
}

// inOrder joins two MAC addresses as doctor does.
func inOrder(macs ...string) string {
	slices.Sort(macs)
	return strings.Join(macs, " and ")
}

// doctorFarm has two networks, nothing to complain of, and a director that does not run.
func doctorFarm(t *testing.T) *farm {
	t.Helper()
	f := newLab(t)
	viaRouter(f)
	f.virtualHere()
	f.configureOn("eth0, eth1", standard("rr", 1, 1, 1)...)
	f.mustComplain()
	return f
}

// What is wrong with the configuration's interfaces, addresses and files.
func TestDoctorConfiguration(t *testing.T) {
	t.Parallel()
	f := doctorFarm(t)
	t.Run("strict rp_filter", func(t *testing.T) {
		f := f.on(t)
		must(t, f.director.Sysctl("net.ipv4.conf.eth1.rp_filter", "1"))
		f.mustComplain("warning  rp_filter    eth1 filters by reverse path, strictly: packets for the stack are dropped if the way back is by another interface; " +
			"sysctl -w net.ipv4.conf.eth1.rp_filter=2")
		must(t, f.director.Sysctl("net.ipv4.conf.all.rp_filter", "2")) // the higher one counts
		f.mustComplain()
		must(t, f.director.Sysctl("net.ipv4.conf.all.rp_filter", "0"))
		must(t, f.director.Sysctl("net.ipv4.conf.eth1.rp_filter", "0"))
	})
	t.Run("no such interface", func(t *testing.T) {
		f := f.on(t)
		f.configureOn("eth0, eth1, eth7", standard("rr", 1, 1, 1)...)
		f.mustComplain("failure  interface    there is no interface eth7 (there are lo, eth0, eth1); correct the configuration")
	})
	t.Run("jumbo frames", func(t *testing.T) {
		f := f.on(t)
		f.configureOn("eth0, {name: eth1, mode: native}", standard("rr", 1, 1, 1)...)
		for _, name := range []string{"eth0", "eth1"} {
			f.ip(f.director, "link set "+name+" mtu 9000")
		}
		f.mustComplain(
			"warning  mtu          eth0 has MTU 9000: the driver will refuse native mode, generic is several times as slow; ip link set eth0 mtu 3498, or less (i40e, ice and ixgbe: 3046)",
			"failure  mtu          eth1 has MTU 9000: the driver will refuse native mode; ip link set eth1 mtu 3498, or less (i40e, ice and ixgbe: 3046)")
		for _, name := range []string{"eth0", "eth1"} {
			f.ip(f.director, "link set "+name+" mtu 1500")
		}
	})
	t.Run("only the virtual address", func(t *testing.T) {
		f := f.on(t)
		f.writeConfig(f.config("eth0, eth1") + "  - {virtual: 10.0.0.2:80, reals: [10.0.0.11]}\n")
		f.mustComplain("failure  source       the only address of eth1 in the network of real server 10.0.0.11 is a virtual one: it has that itself, and answers nobody who asks from it; " +
			"add an address that is not virtual")
	})
	t.Run("pins", func(t *testing.T) {
		f := f.on(t)
		text := strings.Replace(f.config("eth0, eth1", standard("rr", 1, 1, 1)...), "state_dir: "+f.stateDir(), "state_dir: /var/lib/director", 1)
		f.writeConfig(text)
		f.mustComplain("failure  bpffs        state_dir /var/lib/director is not on a bpffs: nothing can be pinned; name a directory below /sys/fs/bpf")
	})
}

// In VLANs doctor looks at the device that has the program, and asks in each VLAN who is there.
func TestVLANDoctor(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	f.sw = get(f.lab.Switch("sw"))(t)
	f.plug(f.client, "eth0")
	f.plug(f.director, "eth0")
	f.serveAlone(2)
	f.split(lan{"eth0", []uint16{100}}, lan{"eth0", []uint16{200}})
	f.configureOn("eth0.100, eth0.200", standard("rr", 1, 1)...)
	f.mustComplain()
	rs2 := f.reals[1]
	must(t, rs2.Sysctl("net.ipv4.conf.all.arp_ignore", "0"))
	f.mustComplain("failure  arp          192.0.2.10 is answered by " + macOf(t, rs2.Host, "eth0.200") + " on eth0.200, which is real server rs2 10.0.0.12; " +
		"set arp_ignore=1 and arp_announce=2 there, or run there: director realserver dr --vip 192.0.2.10 --apply")
	must(t, rs2.Sysctl("net.ipv4.conf.all.arp_ignore", "1"))
	must(t, f.client.AddVLAN("eth0", "eth0.200", 200, false, netip.PrefixFrom(rs2.addr4, 24)))
	f.mustComplain("failure  duplicate    real server rs2 10.0.0.12 is answered by " + inOrder(macOf(t, rs2.Host, "eth0.200"), macOf(t, f.client, "eth0.200")) +
		": two hosts have the address, or one has two interfaces in this network; give one of both another address; if it is one host, set arp_ignore=1 there")
}

// macOf is the MAC address of a host's interface.
func macOf(t *testing.T, h *netlab.Host, device string) (mac string) {
	t.Helper()
	must(t, h.Do(func() error {
		i, err := net.InterfaceByName(device)
		if err == nil {
			mac = i.HardwareAddr.String()
		}
		return err
	}))
	return mac
}

// What is wrong with the devices.
func TestDoctorDevices(t *testing.T) {
	t.Parallel()
	f := doctorFarm(t)
	t.Run("down", func(t *testing.T) {
		f := f.on(t)
		f.ip(f.director, "link add eth8 type veth peer name eth9")
		f.configureOn("eth0, eth1, eth8, eth9", standard("rr", 1, 1, 1)...)
		f.ip(f.director, "link set eth9 up")
		f.mustComplain("failure  interface    eth8 is down; ip link set eth8 up",
			"failure  interface    eth9 has no carrier; look at the cable, or the other end",
			"warning  offload      eth9, the peer of eth8, leaves checksums unfinished: what the director forwards of it is damaged; ethtool -K eth9 tx off",
			"warning  offload      eth8, the peer of eth9, leaves checksums unfinished: what the director forwards of it is damaged; ethtool -K eth8 tx off")
		f.ip(f.director, "link del eth8")
	})
	t.Run("no native mode", func(t *testing.T) {
		f := f.on(t)
		const merging = "warning  offload      GRO of eth1 merges segments before macvlan0 gets them in generic mode: what clients send is slow; ethtool -K eth1 gro off"
		f.ip(f.director, "link add link eth1 name macvlan0 up type macvlan mode bridge")
		f.configureOn("eth0, eth1, macvlan0", standard("rr", 1, 1, 1)...)
		f.mustComplain("warning  xdp          macvlan0 (macvlan): generic mode, several times as slow, because the driver offers no native XDP; another driver or device", merging)
		f.configureOn("eth0, eth1, {name: macvlan0, mode: native}", standard("rr", 1, 1, 1)...)
		f.mustComplain("failure  xdp          macvlan0 (macvlan): the configuration wants native mode, but the driver offers no native XDP; mode: auto, or another driver or device", merging)
		f.configureOn("eth0, eth1, {name: macvlan0, mode: generic}", standard("rr", 1, 1, 1)...)
		f.mustComplain(merging)
		f.ip(f.director, "link del macvlan0")
	})
	t.Run("port of a bridge", func(t *testing.T) { // which has the program, as it has the frames
		f := f.on(t)
		near := f.host("near")
		f.ip(f.director, "link add br7 up type bridge")
		f.ip(f.director, "link add eth7 type veth peer name eth0 netns "+near.NSName())
		f.ip(f.director, "link set eth7 up master br7")
		f.ip(near, "link set eth0 up")
		f.configureOn("eth0, eth1, eth7", standard("rr", 1, 1, 1)...)
		f.mustComplain("warning  xdp          br7 (bridge): generic mode, several times as slow, because the driver offers no native XDP; another driver or device")
		f.ip(f.director, "link del eth7")
		f.ip(f.director, "link del br7")
	})
	t.Run("foreign program", func(t *testing.T) {
		f := f.on(t)
		f.configureOn("eth0, eth1", standard("rr", 1, 1, 1)...)
		var foreign io.Closer
		must(t, f.director.Do(func() (err error) {
			eth1 := get(net.InterfaceByName("eth1"))(t)
			foreign, err = bpf.AttachPass(eth1.Index)
			return err
		}))
		got := f.complaints()
		must(t, foreign.Close())
		want := regexp.MustCompile(`^\[failure  foreign-xdp  eth1 has another XDP program, "pass" of id \d+: there is room for one; ` +
			`ip link set eth1 xdp off, or bpftool net detach, after asking whose it is\]$`)
		if !want.MatchString(fmt.Sprint(got)) {
			t.Errorf("doctor says %q, want %s", got, want)
		}
	})
	t.Run("deaf peer", func(t *testing.T) { // which a veth device of one's own making has
		f := f.on(t)
		far := f.host("far")
		f.ip(f.director, "link add eth5 type veth peer name eth0 netns "+far.NSName())
		f.ip(f.director, "address add 10.5.0.2/24 dev eth5")
		f.ip(f.director, "link set eth5 up")
		f.ip(far, "address add 10.5.0.11/24 dev eth0")
		f.ip(far, "link set eth0 up")
		f.writeConfig(f.config("eth0, eth1, eth5") + "  - {virtual: 192.0.2.10:80, reals: [10.5.0.11]}\n")
		if strings.Contains(f.run("doctor", "-c", f.configFile()).stdout, "which this kernel does not tell") {
			t.Skip("needs Linux 6.3, which tells what a device's XDP can do")
		}
		f.mustComplain("failure  redirect     eth5 drops frames from XDP: its peer has neither an XDP program nor GRO; " +
			"attach an XDP program to its peer, or turn on GRO there (ethtool -K PEER gro on)")
		f.ip(f.director, "link del eth5")
	})
}

// By nat the director is its real servers' router, and must see their answers.
func TestDoctorNAT(t *testing.T) {
	t.Parallel()
	f := newLab(t)
	f.addOutside()
	f.addInside()
	for _, r := range f.reals {
		f.defaultRoute(r.Host, director4.String(), director6.String())
	}
	f.forwarding(f.director)
	for _, name := range []string{"all", "eth0", "eth1"} {
		must(t, f.director.Sysctl("net.ipv4.conf."+name+".send_redirects", "0"))
	}
	f.writeConfig(f.config("eth0, eth1", byMethod("nat", "rr", 1, 1, 1)...))
	f.mustComplain()

	must(t, f.director.Sysctl("net.ipv4.conf.eth1.send_redirects", "1"))
	f.mustComplain("warning  redirects    eth1 sends ICMP redirects: real servers by nat in a network with clients would answer around the director; " +
		"sysctl -w net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth1.send_redirects=0")
	must(t, f.director.Sysctl("net.ipv4.ip_forward", "0"))
	f.mustComplain("warning  forwarding   IPv4 is not forwarded: real servers by nat get no further than the director for anything but answers; sysctl -w net.ipv4.ip_forward=1")
	f.forwarding(f.director)
	must(t, f.director.Sysctl("net.ipv4.conf.eth1.send_redirects", "0"))

	// A virtual address on a real server by nat.
	must(t, f.reals[0].Sysctl("net.ipv4.conf.all.arp_ignore", "0"))
	f.mustComplain("failure  arp          192.0.2.10 is answered by " + f.reals[0].eth0.MAC.String() + " on eth1, which is real server rs1 10.0.0.11; " +
		"take the address off it: by nat a real server must not have it")
	must(t, f.reals[0].Sysctl("net.ipv4.conf.all.arp_ignore", "1"))

	f.writeConfig(f.config("eth0", byMethod("nat", "rr", 1)...))
	var want []string
	for _, addr := range []string{"10.0.0.11", "fd00::11"} {
		want = append(want, "failure  route        real server rs1 "+addr+" is by nat behind eth1, which the director is not attached to: its answers stay as they are; add eth1 to interfaces")
	}
	f.mustComplain(want...)
}

// Without a configuration, or with a wrong one; and what is printed for people.
func TestDoctorCommand(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	r := f.run("doctor")
	if r.code != 0 || r.stderr != "" || !strings.Contains(r.stdout, "ok       interface    eth0 is up\n") || strings.Contains(r.stdout, "192.0.2.10") {
		t.Errorf("without a configuration: exit %d\n%s%s", r.code, r.stderr, r.stdout)
	}
	f.writeConfig("interfaces: [eth0]\nservices: [{virtual: 192.0.2.10}]\n")
	r = f.run("doctor", "-c", f.configFile())
	if r.code != 1 || r.stdout != "" || !strings.HasPrefix(r.stderr, f.configFile()+":2:") {
		t.Errorf("with mistakes: exit %d, %s%s", r.code, r.stderr, r.stdout)
	}
	f.configure(both("web", "tcp", webPort, "rr", 1, 1)...) // the second is not there
	r = f.run("doctor", "-c", f.configFile())
	if want := "failure  neighbour    real server rs2 10.0.0.12 cannot be reached: "; r.code != 1 || !strings.Contains(r.stdout, "\n"+want) || strings.Contains(r.stdout, "\x1b") {
		t.Errorf("exit %d\n%s%s\nwant a line %s", r.code, r.stderr, r.stdout, want)
	}
	start := time.Now()
	r = f.run("doctor", "-c", f.configFile(), "--timeout", "300ms")
	if took := time.Since(start); took > 5*time.Second || r.code != 1 {
		t.Errorf("300 ms took %v, exit %d: %s", took, r.code, r.stdout)
	}
}
