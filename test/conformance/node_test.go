// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/packet"
)

// plane is the data plane as the director wants it: attached to nothing.
type plane struct{ *bpf.DataPlane }

func (plane) Attach(index int, _ director.AttachMode) (director.Attachment, error) {
	return nil, fmt.Errorf("attach to interface %d: this data plane is given its packets", index)
}

func (plane) Detach(director.Attachment) error { return nil }

func (plane) Repair(director.Attachment) (bool, error) { return false, nil }

// node is a director at work on an empty data plane. All that it does by the
// clock it does by that of its bubble, if there is one (testing/synctest), in
// which a pause takes microseconds.
type node struct {
	t        *testing.T
	plane    *bpf.DataPlane
	director *director.Director
	ctx      context.Context
	stop     func() // ends the director
	loopback int
	passes   bool          // services let pass what finds no real server
	limited  uint64        // answers that the data plane held back
	pages    atomic.Int64  // of available memory, as the director sees it
	aliases  []func() bool // see alias
}

// tick is how often the director looks whether connections have moved.
const tick = 10 * time.Millisecond

func startNode(t *testing.T, p *bpf.DataPlane) *node {
	t.Helper()
	clock, err := p.Clock()
	if err != nil {
		t.Fatal(err)
	}
	emptyTables(p.Tables)
	forgetAll(t, p)
	n := &node{t: t, plane: p, loopback: loopback(t)}
	n.pages.Store(director.UnknownPages)
	n.start(clock)
	t.Cleanup(func() { n.stop() })
	n.limited = n.heldBack()
	return n
}

// start lets a director begin on the tables as they are.
func (n *node) start(clock director.Clock) {
	ctx, cancel := context.WithCancel(context.Background())
	n.ctx = ctx
	n.director = director.New(director.Options{
		Log:    slog.New(failOnError{n.t}),
		Tables: n.plane.Tables,
		Plane:  plane{n.plane},
		Clock:  clock,
		Memory: func() (int64, error) { return n.pages.Load(), nil },
	})
	stopped := make(chan error)
	go func() { stopped <- n.director.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-stopped; err != nil {
			n.t.Error(err)
		}
	}
	time.Sleep(tick / 2) // in a bubble, pauses begin and end between two ticks
}

// restart ends the director, and lets another one begin on its tables.
func (n *node) restart() {
	n.t.Helper()
	clock, err := n.plane.Clock()
	if err != nil {
		n.t.Fatal(err)
	}
	n.stop()
	n.start(clock)
}

// settle waits until the director has seen what the connections are now, and
// its plans follow.
func (n *node) settle() { time.Sleep(2 * tick) }

func (n *node) set(services ...director.Service) error {
	return n.director.Set(n.ctx, director.Desired{Services: services, Marks: marksOf(services), Timeouts: director.DefaultTimeouts})
}

// marksOf are the rules for services of a firewall mark: in the recordings a
// packet's mark is the second octet of its destination.
func marksOf(services []director.Service) (rules []director.MarkRule) {
	for _, s := range services {
		if s.Key.Mark != 0 {
			dest := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(s.Key.Mark)}), 16)
			rules = append(rules, director.MarkRule{Mark: s.Key.Mark, Dest: dest})
		}
	}
	return rules
}

func (n *node) snapshot() *director.Snapshot {
	n.t.Helper()
	s, err := n.director.Snapshot(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

var (
	directorMAC = packet.MAC{0x02, 0xd1}
	clientMAC   = packet.MAC{0x02, 0xc1}
)

// realMAC is the link-layer address of the nth real server.
func realMAC(n int) packet.MAC { return packet.MAC{0x02, 0x5e, 4: byte(n >> 8), 5: byte(n)} }

// reach tells how the real servers are reached: the nth at realMAC(n).
func (n *node) reach(addrs ...netip.Addr) {
	hops := map[netip.Addr]director.NextHop{}
	for i, addr := range addrs {
		hops[addr] = hopTo(i, n.loopback)
	}
	n.director.SetNextHops(hops)
	n.settle()
}

// hopTo is how the nth real server is reached.
func hopTo(n, link int) director.NextHop {
	return director.NextHop{Resolved: true, Link: link, SrcMAC: directorMAC, DstMAC: realMAC(n), MTU: 1500}
}

// allReachable is an error until the director knows the way to all real servers.
func (n *node) allReachable() error {
	for _, s := range n.snapshot().Services {
		for _, r := range s.Reals {
			if !r.Reachable {
				return fmt.Errorf("real server %s is not reachable: %s", r.Key, r.Unreachable)
			}
		}
	}
	return nil
}

// flow is a client's address and the one it connects to.
type flow struct{ client, target netip.AddrPort }

// frame is what the client sends; flags are TCP's.
func (f flow) frame(protocol director.Protocol, flags uint8) []byte {
	var ip, transport packet.Layer
	ip = packet.IPv4{Src: f.client.Addr(), Dst: f.target.Addr()}
	if f.client.Addr().Is6() {
		ip = packet.IPv6{Src: f.client.Addr(), Dst: f.target.Addr()}
	}
	transport = packet.UDP{SrcPort: f.client.Port(), DstPort: f.target.Port()}
	if protocol == director.TCP {
		transport = packet.TCP{SrcPort: f.client.Port(), DstPort: f.target.Port(), Flags: flags}
	}
	return packet.Build(packet.Ethernet{Dst: directorMAC, Src: clientMAC}, ip, transport, packet.Data("conformance"))
}

// XDP actions: linux/bpf.h.
const (
	xdpDrop = 1
	xdpPass = 2
	xdpTx   = 3
)

// send gives the client's packet to the data plane, and returns the number of
// the real server that it left to, or refused.
func (n *node) send(frame []byte) (int, error) {
	r, err := n.plane.Run(frame, n.loopback)
	for err == nil && r.Action == xdpDrop && n.wasLimited() {
		sleepReally(20 * time.Millisecond) // the data plane's clock is the kernel's
		r, err = n.plane.Run(frame, n.loopback)
	}
	if err == nil && r.Action == xdpPass && n.aliasAgain() {
		r, err = n.plane.Run(frame, n.loopback)
	}
	if err != nil {
		return 0, err
	}
	return n.choice(r)
}

// aliasAgain puts aliases in force that the director has taken out, and tells whether there were any.
func (n *node) aliasAgain() (any bool) {
	for _, again := range n.aliases {
		any = again() || any
	}
	return any
}

// choice is the number of the real server that a packet left to, or refused.
func (n *node) choice(r bpf.Result) (int, error) {
	if r.Action == xdpPass && n.passes {
		return refused, nil
	}
	if r.Action != xdpTx {
		return 0, fmt.Errorf("went to nobody: XDP action %d", r.Action)
	}
	to := packet.MAC(r.Frame[:6])
	switch {
	case to == clientMAC && isPortUnreachable(r.Frame):
		return refused, nil
	case slices.Equal(to[:4], realMACPrefix):
		return int(to[4])<<8 | int(to[5]), nil
	}
	return 0, fmt.Errorf("went to %x, which is nobody's address", to)
}

// alias lets packets find a service under more addresses and ports than its own, as they find one of a firewall
// mark, but in both families. The director knows nothing of that, and takes them for damage.
func (n *node) alias(service director.ServiceKey, more ...netip.AddrPort) {
	n.t.Helper()
	n.aliases = append(n.aliases, func() bool { return n.nameToo(service, more) })
	n.aliasAgain()
}

// nameToo tells whether it had to do anything.
func (n *node) nameToo(service director.ServiceKey, more []netip.AddrPort) bool {
	n.t.Helper()
	keys := bpf.NewKeyTable(n.plane.Tables)
	key := bpf.Key{Addr: service.Addr, Port: service.Port, Protocol: uint8(service.Protocol)}
	named := keys.All()
	has := func(key bpf.Key) int {
		return slices.IndexFunc(named, func(e bpf.KeyEntry) bool { return e.Key == key })
	}
	i := has(key)
	if i < 0 {
		n.t.Fatalf("service %s has no key", service)
	}
	key.Addr, key.Port = more[0].Addr(), more[0].Port()
	if has(key) >= 0 {
		return false
	}
	for _, a := range more {
		key.Addr, key.Port = a.Addr(), a.Port()
		if err := keys.Set(key, named[i].Service); err != nil {
			n.t.Fatal(err)
		}
	}
	return true
}

// abort establishes a TCP connection that has begun, and resets it: it is inactive then.
func (n *node) abort(f flow) error {
	_, err := n.send(f.frame(director.TCP, packet.ACK))
	if err == nil {
		_, err = n.send(f.frame(director.TCP, packet.RST))
	}
	return err
}

var realMACPrefix = []byte{0x02, 0x5e, 0, 0}

// isPortUnreachable: type 3 code 3 (RFC 792), or type 1 code 4 (RFC 4443).
func isPortUnreachable(frame []byte) bool {
	const ethernet = 14
	if frame[12] == 0x08 {
		const ip = ethernet + 20
		return frame[ethernet+9] == packet.ProtoICMP && frame[ip] == 3 && frame[ip+1] == 3
	}
	const ip = ethernet + 40
	return frame[ethernet+6] == packet.ProtoICMPv6 && frame[ip] == 1 && frame[ip+1] == 4
}

// heldBack is how many answers were due when too many had been sent already.
func (n *node) heldBack() uint64 {
	n.t.Helper()
	verdicts, err := n.plane.Verdicts()
	if err != nil {
		n.t.Fatal(err)
	}
	count, ok := verdicts["drop_rate"]
	if !ok {
		n.t.Fatalf("no verdict drop_rate in %v", verdicts)
	}
	return count
}

// wasLimited reports whether the last packet's answer was held back.
func (n *node) wasLimited() bool {
	before := n.limited
	n.limited = n.heldBack()
	return n.limited != before
}

// sleepReally sleeps by the kernel's clock, in a bubble too.
func sleepReally(d time.Duration) {
	rest := syscall.NsecToTimespec(int64(d))
	for syscall.Nanosleep(&rest, &rest) == syscall.EINTR {
	}
}

// failOnError is a log in which an error fails the test.
type failOnError struct{ t *testing.T }

func (failOnError) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (h failOnError) WithAttrs([]slog.Attr) slog.Handler             { return h }
func (h failOnError) WithGroup(string) slog.Handler                  { return h }

func (h failOnError) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	h.t.Error("the director logged:", text)
	return nil
}
