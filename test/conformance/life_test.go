// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/packet"
)

// life is a scenario of connections on its way through a node: every frame, the
// states, the times and the counts are those of the recording.
type life struct {
	*node
	scenario
	services   []director.Service
	removed    map[director.ServiceKey]director.Service // as they were then
	servers    []netip.Addr                             // all real servers that are spoken of
	target     netip.AddrPort                           // of the last packet to the service
	timeouts   director.Timeouts
	strategies director.DefenseSettings
}

// lifeReplayed is how many scenarios were replayed, by recording, when this was written; less is a regression.
var lifeReplayed = map[string]int{"reuse": 38, "nodest": 8, "lookup": 4, "persist": 23, "timeouts": 4, "estimator": 1, "thresholds": 8}

// TestLives replays what a Linux kernel's IPVS did with connections.
func TestLives(t *testing.T) {
	plane := loadPlane(t)
	left, done := map[string][]string{}, map[string]int{}
	for _, s := range slices.Concat(scenariosIn(t, connRecordings, "*"), scenariosIn(t, recordings, "thresholds")) {
		if reason := s.otherLife(); reason != "" {
			left[reason] = append(left[reason], s.String())
			continue
		}
		done[s.file]++
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if err := newLife(startNode(t, plane), s).play(); err != nil {
					t.Error(err)
				}
			})
		})
	}
	for reason, names := range left {
		t.Logf("not replayed: %d scenarios: %s: %q", len(names), reason, names)
	}
	for file, want := range lifeReplayed {
		if done[file] < want {
			t.Errorf("%s: only %d scenarios were replayed, there were %d", file, done[file], want)
		}
	}
}

// otherLife is the reason why a scenario is not replayed, "" if it is.
func (s scenario) otherLife() string {
	switch {
	case s.Fwd == "-g" && slices.ContainsFunc(s.Steps, func(st step) bool { return strings.HasPrefix(st.Pkt, "out ") }):
		return "replies that pass the director are not tracked with direct routing: docs/conformance.md"
	}
	return ""
}

func newLife(n *node, s scenario) *life {
	l := &life{node: n, scenario: s, timeouts: director.DefaultTimeouts, target: s.VIP, removed: map[director.ServiceKey]director.Service{}}
	l.strategies.SecureTCP = director.DefenseMode(l.sysctl("secure_tcp", 0))
	return l
}

func (l *life) sysctl(name string, otherwise uint32) uint32 {
	v, err := strconv.ParseUint(l.Sysctl[name], 10, 32)
	if err != nil {
		return otherwise
	}
	return uint32(v)
}

func (l *life) method() director.Method {
	switch {
	case l.Fwd == "-m":
		return director.NAT
	case strings.HasPrefix(l.Fwd, "-i"):
		return director.Tunnel
	default:
		return director.DirectRouting
	}
}

// tunnel are ipvsadm's options of method -i. remcsum is csum: its option is only for
// packets whose checksum the sender's card was to fill in, and no such packet is routed.
func (l *life) tunnel() (o director.TunnelOptions) {
	words := strings.Fields(l.Fwd)
	for i, word := range words {
		switch word {
		case "--tun-type":
			if err := o.Type.UnmarshalText([]byte(words[i+1])); err != nil {
				l.t.Fatal(err)
			}
		case "--tun-port":
			port, err := strconv.ParseUint(words[i+1], 10, 16)
			if err != nil {
				l.t.Fatal(err)
			}
			o.Port = uint16(port)
		case "--tun-csum", "--tun-remcsum":
			o.Checksum = true
		}
	}
	return o
}

// policy is IPVS's with the sysctls of the scenario.
func (l *life) policy() director.ConnPolicy {
	p := director.IPVSConnPolicy(l.sysctl("expire_nodest_conn", 0) != 0)
	p.Reuse = director.ReuseOfMode(l.sysctl("conn_reuse_mode", 1))
	p.Sloppy = l.sysctl("sloppy_tcp", 0) != 0
	return p
}

// apply puts the services in force as they are.
func (l *life) apply() error {
	want := director.Desired{Timeouts: l.timeouts, Services: l.services, Marks: marksOf(l.services),
		Defense: director.Defense{Strategies: l.strategies}}
	if err := l.director.Set(l.ctx, want); err != nil {
		return err
	}
	l.settle()
	return nil
}

func (l *life) play() error {
	service, err := l.scenario.service()
	if err != nil {
		return err
	}
	l.add(service)
	l.servers = l.allServers()
	l.reach(l.servers...)
	for _, d := range l.Dests {
		if err := l.command(fmt.Sprintf("ipvsadm -a %s -r %s -w %d -x %d -y %d", l.option(), d.Addr, d.Weight, d.Upper, d.Lower)); err != nil {
			return err
		}
	}
	if err := l.apply(); err != nil {
		return err
	}
	for i, st := range l.Steps {
		if strings.HasPrefix(st.Cmd, "ip ") {
			return nil // from here on it is about the kernel's routing: docs/conformance.md
		}
		if err := l.step(st); err != nil {
			return fmt.Errorf("step %d (%s%s): %w", i, st, st.Pkt, err)
		}
	}
	return nil
}

// add adds a service with the scenario's policy.
func (l *life) add(s director.Service) {
	s.Conns = l.policy()
	s.Persistence.ExpireQuiescent = l.sysctl("expire_quiescent_template", 0) != 0
	l.services = append(l.services, s)
}

// option is the one by which ipvsadm knows the scenario's service.
func (l *life) option() string {
	switch {
	case l.Fwmark != 0:
		return fmt.Sprintf("-f %d", l.Fwmark)
	case l.Proto == "udp":
		return "-u " + l.VIP.String()
	default:
		return "-t " + l.VIP.String()
	}
}

// allServers are the scenario's real servers, and those that its commands add.
func (l *life) allServers() (all []netip.Addr) {
	for _, d := range l.Dests {
		all = append(all, d.Addr.Addr())
	}
	for _, st := range l.Steps {
		words := strings.Fields(st.Cmd)
		if i := slices.Index(words, "-r"); i > 0 {
			if a := netip.MustParseAddrPort(words[i+1]).Addr(); !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	return all
}

func (l *life) step(st step) error {
	switch st.Op {
	case "run":
		return l.run(st)
	case "cmd":
		err := l.command(st.Cmd)
		if (err != nil) != (st.Err != "") {
			return fmt.Errorf("%v, the kernel said %q", err, st.Err)
		}
		return nil
	case "pkt":
		return l.packet(st)
	case "idle":
		l.pass(time.Duration(st.MS)*time.Millisecond, st.Keep)
	case "note":
		return l.note(st)
	}
	st.buryDying()
	return errors.Join(l.compareTable(st.Table), l.compareConns(st))
}

// buryDying takes out of a dump what the kernel has ended, and only not yet
// freed, whether the list of connections still has it or not: here a connection
// that makes room is gone in the same packet.
func (st *step) buryDying() {
	if st.Conns == nil {
		return
	}
	st.Table = slices.Clone(st.Table)
	st.Conns = slices.DeleteFunc(slices.Clone(st.Conns), func(c conn) bool {
		isTemplate := c.Client.Port() == 0
		return c.Expires == 0 && !isTemplate && c.State != "UDP" || isTemplate && c.Virtual.Port() == rekeyed
	})
	for i := range st.Table {
		r := &st.Table[i]
		for r.Inact > 0 && int(r.Active+r.Inact) > st.listed(r.Addr) {
			r.Inact-- // those that are reused are closing, or closed
		}
	}
}

// rekeyed is the port of templates that the kernel has given up: docs/conformance.md.
const rekeyed = 65535

// listed is how many connections of a real server the dump lists. One of several
// ports has connections with each.
func (st *step) listed(real netip.AddrPort) (n int) {
	for _, c := range st.Conns {
		if c.Client.Port() != 0 && (c.Dest == real || real.Port() == 0 && c.Dest.Addr() == real.Addr()) {
			n++
		}
	}
	return n
}

// note compares what ipvsadm printed of timeouts and rates.
func (l *life) note(st step) error {
	if line, ok := strings.CutPrefix(st.Note, "Timeout (tcp tcpfin udp): "); ok {
		have := fmt.Sprintf("%.0f %.0f %.0f\n", l.timeouts.Get("tcp").Seconds(), l.timeouts.Get("tcpfin").Seconds(), l.timeouts.Get("udp").Seconds())
		if have != line {
			return fmt.Errorf("timeouts are %q", have)
		}
		return nil
	}
	return l.rates(st)
}

// run makes connections, one after another.
func (l *life) run(st step) error {
	for i, client := range st.Clients {
		if st.Targets != nil {
			l.target = st.Targets[i]
		}
		got, err := l.connect(flow{client, l.target}, st.Pattern)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if got != st.Choices[i] {
			return fmt.Errorf("connection %d: real server %d, want %d", i, got, st.Choices[i])
		}
	}
	return l.compareTable(st.Table)
}

// With nat the director sees the server's packets, too: a capital letter.
var natPatterns = map[string][]string{
	"syn": {"S"}, "open": {"S", "out SA", "A"}, "fin": {"S", "out SA", "A", "FA", "out FA", "A"},
	"rst": {"S", "out SA", "A", "R"}, "udp": {""}, "udp-ops": {""},
}

func (l *life) connect(f flow, pattern string) (int, error) {
	segments := natPatterns[pattern]
	if segments == nil {
		return 0, fmt.Errorf("unknown pattern %q", pattern)
	}
	protocol := l.Proto
	if strings.HasPrefix(pattern, "udp") {
		protocol = "udp"
	}
	choice, err := l.begin(f.frame(protocols[protocol], flagsOf(segments[0])))
	if err != nil || choice < 0 {
		return choice, err
	}
	for _, segment := range segments[1:] {
		flags, out := strings.CutPrefix(segment, "out ")
		switch {
		case !out:
			got, err := l.send(f.frame(protocols[protocol], flagsOf(flags)))
			if err != nil || got != choice {
				return got, cmp.Or(err, fmt.Errorf("%s to real server %d, the connection's is %d", segment, got, choice))
			}
		case l.method() == director.NAT:
			if _, err := l.deliver(fmt.Sprintf("out %s %s > %s %s", protocol, l.at(choice), f.client, flags)); err != nil {
				return 0, err
			}
		}
	}
	return choice, nil
}

// passed is the choice of a packet that was left to the local stack.
const passed = -3

func (l *life) begin(frame []byte) (int, error) {
	r, err := l.plane.Run(frame, l.loopback)
	if err != nil {
		return 0, err
	}
	if r.Action == xdpPass {
		return passed, nil
	}
	return l.choice(r)
}

// at is where a real server takes the packets of the last target.
func (l *life) at(choice int) netip.AddrPort {
	at := netip.AddrPortFrom(l.servers[choice], l.target.Port())
	if choice < len(l.Dests) && l.Dests[choice].Addr.Port() != 0 && l.target == l.VIP {
		at = l.Dests[choice].Addr
	}
	return at
}

func flagsOf(letters string) (flags uint8) {
	for _, letter := range letters {
		flags |= map[rune]uint8{'S': packet.SYN, 'A': packet.ACK, 'F': packet.FIN, 'R': packet.RST, 'P': packet.PSH}[letter]
	}
	return flags
}

// packet sends one packet and compares all that leaves.
func (l *life) packet(st step) error {
	got, err := l.deliver(st.Pkt)
	if err != nil {
		return err
	}
	want := make([]string, len(st.Out))
	for i, o := range st.Out {
		want[i] = o.String()
		if want[i] == "icmp" && strings.HasPrefix(st.Pkt, "udp to the TCP service") {
			want[i] = "stack" // which has no such socket: the packet is no service's
		}
	}
	if len(l.services) == 0 && l.policy().OnRemove == director.FateDrop {
		want = []string{} // docs/conformance.md, removed services
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%q left, want %q", got, want)
	}
	if st.State != nil {
		return l.compareConns(step{Conns: []conn{*st.State}})
	}
	return nil
}

// String is what deliver calls such a frame.
func (o left) String() string {
	switch {
	case o.Side == "server":
		return strings.TrimSpace(o.Via + " " + o.Dest)
	case strings.Contains(o.Desc, " ttl 63 "):
		return "reply" // the recording calls a server's reset rst, as it does the stack's
	case o.Via == "rst":
		return "stack" // it resets: the director has let the packet pass
	default:
		return o.Via
	}
}

// deliver sends a packet as a recording writes it and tells what left: "dr
// ADDRESS", "nat ADDRESS:PORT", "reply", "icmp", "stack", or nothing.
func (l *life) deliver(text string) ([]string, error) {
	frame, reply, err := l.frame(text)
	if err != nil {
		return nil, err
	}
	r, err := l.plane.Run(frame, l.loopback)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Action == xdpDrop:
		return []string{}, nil
	case r.Action == xdpPass && isReset(frame):
		return []string{}, nil // the stack answers no reset
	case r.Action == xdpPass:
		return []string{"stack"}, nil
	case reply:
		return []string{"reply"}, l.fromVIP(r.Frame)
	case isPortUnreachable(r.Frame):
		return []string{"icmp"}, nil
	}
	return []string{l.reached(r.Frame)}, nil
}

func isReset(frame []byte) bool {
	return frame[14+9] == packet.ProtoTCP && frame[14+20+13]&packet.RST != 0
}

// frame builds "in tcp A > B FLAGS", "out tcp ...", or "udp", which is any datagram to the service.
func (l *life) frame(text string) (frame []byte, reply bool, err error) {
	words := strings.Fields(text)
	if words[0] == "udp" {
		return flow{netip.MustParseAddrPort("172.29.0.1:4999"), l.target}.frame(director.UDP, 0), false, nil
	}
	if len(words) < 5 {
		return nil, false, fmt.Errorf("no packet: %q", text)
	}
	from, err1 := netip.ParseAddrPort(words[2])
	to, err2 := netip.ParseAddrPort(words[4])
	flags := strings.Join(words[5:], "")
	if words[0] == "in" {
		l.target = to
	}
	return flow{from, to}.frame(protocols[words[1]], flagsOf(flags)), words[0] == "out", errors.Join(err1, err2)
}

// fromVIP is an error unless the frame is the service's, for the client's side.
func (l *life) fromVIP(frame []byte) error {
	if from := endpoint(frame, 12); from != l.target || packet.MAC(frame[:6]) != clientMAC {
		return fmt.Errorf("reply from %s to %x", from, frame[:6])
	}
	return nil
}

// endpoint is an address of an IPv4 frame, at 12 or 16 of its header, with its port.
func endpoint(frame []byte, at int) netip.AddrPort {
	ip := frame[14:]
	port := ip[20+(at-12)/2:]
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[at:])), uint16(port[0])<<8|uint16(port[1]))
}

// reached is where a frame goes.
func (l *life) reached(frame []byte) string {
	i := int(frame[4])<<8 | int(frame[5])
	if !slices.Equal(frame[:4], realMACPrefix) || i >= len(l.servers) {
		return fmt.Sprintf("frame to %x", frame[:6])
	}
	to := endpoint(frame, 16)
	if to == l.target {
		return "dr " + l.servers[i].String()
	}
	return "nat " + to.String()
}

// pass lets time go by for all connections but those that are refreshed, which
// the data plane's clock, the kernel's, would take its time for.
func (l *life) pass(d time.Duration, keep []netip.AddrPort) {
	l.age(d, func(c *bpf.Conn) bool {
		client := uint16(c.Ports)<<8 | uint16(c.Ports)>>8
		return !slices.ContainsFunc(keep, func(a netip.AddrPort) bool { return a.Port() == client })
	})
	time.Sleep(5 * time.Second) // in the bubble: two sweeps
}

// age makes connections so much older by the data plane's clock.
func (n *node) age(d time.Duration, which func(*bpf.Conn) bool) {
	clock, err := n.plane.Clock()
	if err != nil {
		n.t.Fatal(err)
	}
	ticks := clock.Jiffies(d)
	for i := range n.plane.Tables.Conns4 {
		if c := &n.plane.Tables.Conns4[i].C; which(c) {
			c.LastUse -= ticks
		}
	}
}

// command is an ipvsadm command; it changes nothing if it is refused.
func (l *life) command(line string) error {
	words := strings.Fields(line)
	was, timeouts := slices.Clone(l.services), l.timeouts
	err := l.edit(words)
	if err == nil {
		err = l.apply()
	}
	if err != nil {
		l.services, l.timeouts = was, timeouts
	}
	return err
}

func (l *life) edit(words []string) error {
	switch words[1] {
	case "--set":
		for i, name := range []string{"tcp", "tcpfin", "udp"} {
			seconds, err := strconv.Atoi(words[2+i])
			if err != nil {
				return err
			}
			if seconds > 0 {
				if err := l.timeouts.Set(name, time.Duration(seconds)*time.Second); err != nil {
					return err
				}
			}
		}
		return nil
	case "-Z":
		return nil // the totals after it are compared with what they were
	}
	key, err := keyOf(words[2:])
	if err != nil {
		return err
	}
	i := slices.IndexFunc(l.services, func(s director.Service) bool { return s.Key == key })
	switch {
	case words[1] == "-A" && i < 0:
		s, err := edited(director.Service{Key: key}, words[4:])
		l.add(s)
		return err
	case i < 0:
		return fmt.Errorf("no service %s", key)
	case words[1] == "-D":
		l.services = slices.Delete(l.services, i, i+1)
		return nil
	}
	service, err := command(l.services[i], strings.Join(words, " "))
	for i := range service.Reals {
		service.Reals[i].Method, service.Reals[i].Tunnel = l.method(), l.tunnel()
	}
	l.services[i] = service
	return err
}

func (l *life) compareTable(want []row) error {
	if want == nil {
		return nil
	}
	var got []row
	for _, s := range l.snapshot().Services {
		got = append(got, rowsOf(s)...)
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			return fmt.Errorf("table %v, want %v", got, want)
		}
	}
	if len(got) != len(want) && len(l.services) == 1 {
		return fmt.Errorf("table %v, want %v", got, want)
	}
	return nil
}

// compareConns wants each connection of the recording, in its state, with its
// time to live but for some seconds, and no others if it is a dump.
func (l *life) compareConns(st step) error {
	var got []conn
	add := func(c *director.Conn) error {
		got = append(got, conn{strings.ToUpper(c.Protocol.String()), c.Client, c.Virtual, c.Real, c.State, int(c.Expires / time.Second)})
		return nil
	}
	if err := errors.Join(l.director.Connections(l.ctx, add), l.director.Templates(l.ctx, add)); err != nil {
		return err
	}
	for _, want := range st.Conns {
		i := slices.IndexFunc(got, func(c conn) bool { return c.like(want) })
		if i < 0 {
			return fmt.Errorf("no connection %v among %v", want, got)
		}
	}
	if st.Op == "dump" && st.Conns != nil && len(got) != len(st.Conns) {
		return fmt.Errorf("%d connections, want %d: %v, want %v", len(got), len(st.Conns), got, st.Conns)
	}
	return nil
}

func (c conn) like(want conn) bool {
	late := want.Expires - c.Expires
	c.Expires, want.Expires = 0, 0
	return c == want && late >= -3 && late <= 3
}
