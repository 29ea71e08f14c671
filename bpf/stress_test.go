// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stressTime is how long each of the tests below keeps all CPUs busy.
func stressTime() time.Duration {
	if testing.Short() {
		return 2 * time.Second
	}
	return 3 * time.Second
}

// onCPU runs f on a thread of its own that stays on one CPU, and dies with it.
func onCPU(group *sync.WaitGroup, cpu int, f func()) {
	group.Go(func() {
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(cpu)
		// Where the test may not use that CPU it goes on anywhere.
		_ = unix.SchedSetaffinity(0, &set)
		f()
	})
}

// findings collects what is wrong, from any goroutine, but not for ever.
type findings struct {
	mu   sync.Mutex
	list []string
	n    int
}

func (f *findings) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; len(f.list) < 10 {
		f.list = append(f.list, fmt.Sprintf(format, args...))
	}
}

func (f *findings) report(t *testing.T) {
	t.Helper()
	for _, s := range f.list {
		t.Error(s)
	}
	if f.n > len(f.list) {
		t.Errorf("and %d more", f.n-len(f.list))
	}
}

// stress is one run: packets of overlapping flows on all CPUs, sweeps and
// checks beside them.
type stress struct {
	r       *rig
	end     time.Time
	found   findings
	packets atomic.Uint64
	replies atomic.Uint64
	kinds   [5]atomic.Uint64 // by XDP action
}

// stressSizes make sets run full all the time.
var stressSizes = Sizes{Conns4: 32, Conns6: 16, Overflow: 4, Services: 32, Reals: 64, Plans: 1024}

// TestConnStress lets several threads on each CPU send packets of the same
// flows while a sweeper frees entries. No packet may reach a real server of
// another service, an established connection never changes its real server, no
// key is stored twice; in the end everything is counted right.
func TestConnStress(t *testing.T) {
	r := newRig(t, stressSizes)
	bothWorlds(r)
	for _, name := range []string{"b", "c"} {
		wantTags(r.real(name), 0)
	}
	r.service("web").Flags = ServiceReuse
	r.quicken("NONE", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "UDP")
	s := &stress{r: r, end: time.Now().Add(stressTime())}
	var group sync.WaitGroup
	for cpu := range runtime.NumCPU() {
		onCPU(&group, cpu, func() { s.shared(uint64(cpu)) })
		onCPU(&group, cpu, func() { s.churn(t, uint32(cpu)) })
		onCPU(&group, cpu, func() { s.own(uint16(60000 + cpu)) })
	}
	group.Go(s.sweep)
	group.Go(s.watch)
	group.Wait()
	s.found.report(t)
	r.check(t)
	t.Logf("%d packets, by action %d, verdicts %v", s.packets.Load(), s.actions(), nonZero(need(r.plane.Verdicts())(t)))
	r.drain(t)
}

// TestLocalStress lets connections by full-NAT begin and end on all CPUs, in sets that are full and with
// fewer local ports than there are clients. An established one keeps its local end, and what the real
// server sends there reaches this client and no other; in the end each local end is one connection's.
func TestLocalStress(t *testing.T) {
	r := newRig(t, stressSizes)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r.reset(f)
			fullWorld(r)
			r.quicken("NONE", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK")
			s := &stress{r: r, end: time.Now().Add(stressTime())}
			var group sync.WaitGroup
			for cpu := range runtime.NumCPU() {
				onCPU(&group, cpu, func() { s.churnFlows(t, uint32(cpu), 1<<10, []family{f}) })
				for i := range 2 {
					onCPU(&group, cpu, func() { s.ownLocal(f, uint16(60000+2*cpu+i)) })
				}
			}
			group.Go(s.sweep)
			group.Go(s.watch)
			group.Wait()
			s.found.report(t)
			r.check(t)
			t.Logf("%d packets, %d replies to established connections, verdicts %v", s.packets.Load(), s.replies.Load(), nonZero(need(r.plane.Verdicts())(t)))
			if s.replies.Load() == 0 {
				t.Error("no connection was established")
			}
		})
	}
}

// fullWorld has web servers a and b by fullnat, with few local ports.
func fullWorld(r *rig) {
	r.plan("web", 0, "a", "b")
	for _, name := range []string{"a", "b"} {
		r.natReal(name, "web", 8080)
		r.byFullNAT(name, 1)
	}
	r.service("web").Flags = ServiceReuse
	r.Settings.LocalPorts = LocalPorts(firstLocal, 4)
}

// ownLocal keeps a connection from a port of its own, one after the other.
func (s *stress) ownLocal(f family, port uint16) {
	for !s.over() {
		s.keepLocal(f, port, 50)
	}
}

func (s *stress) keepLocal(f family, port uint16, packets int) {
	send := func(frame []byte) (result, [2]netip.AddrPort) {
		got, err := s.r.runAlone(frame)
		s.packets.Add(1)
		ends, e := endsOf(got.out)
		if err = errors.Join(err, e); err != nil {
			s.found.add("run %x: %v", frame, err)
		}
		return got, ends
	}
	first, ends := send(tcp(syn, from(port))(f))
	send(tcp(ack, from(port))(f))
	if first.action != xdpTx || !s.r.isEstablished(f, port) {
		return // no port, no room, or replaced while it was half open
	}
	if _, again := send(tcp(ack, from(port))(f)); again != ends {
		ends = again // it was replaced by one that the ACK found
	}
	for range packets {
		if got, now := send(tcp(ack, from(port))(f)); got.action != xdpTx || now != ends {
			s.found.add("%s: an established connection went between %v, then action %d between %v", f.name, ends, got.action, now)
			return
		}
		got, now := send(tcp(ack, between(ends[1], ends[0]))(f))
		if want := [2]netip.AddrPort{netip.AddrPortFrom(f.vip, webPort), netip.AddrPortFrom(f.client, port)}; got.action != xdpTx || now != want {
			s.found.add("%s: a reply to %v got action %d between %v, want %v", f.name, ends[0], got.action, now, want)
			return
		}
		s.replies.Add(1)
	}
	send(tcp(rst, from(port))(f))
}

// between gives a message its ends.
func between(src, dst netip.AddrPort) change {
	return func(m *message) {
		m.src, m.dst = src.Addr(), dst.Addr()
		ports(func(sport, dport *uint16) { *sport, *dport = src.Port(), dst.Port() })(m)
	}
}

// endsOf are a frame's source and destination.
func endsOf(frame []byte) (ends [2]netip.AddrPort, err error) {
	p, err := look(frame)
	if err != nil {
		return ends, err
	}
	l4 := frame[p.l4:]
	return [2]netip.AddrPort{
		netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(l4[2:])),
	}, nil
}

func nonZero(counts map[string]uint64) map[string]uint64 {
	for name, n := range counts {
		if n == 0 {
			delete(counts, name)
		}
	}
	return counts
}

func (s *stress) actions() (n []uint64) {
	for i := range s.kinds {
		n = append(n, s.kinds[i].Load())
	}
	return n
}

// quicken lets connections in these states expire at once.
func (r *rig) quicken(states ...string) {
	for _, name := range states {
		r.Settings.Timeout[stateNumber(name)] = 1
	}
}

func (s *stress) over() bool { return time.Now().After(s.end) }

// send runs one packet and looks at where it goes.
func (s *stress) send(f family, service string, frame []byte) result {
	got, err := s.r.runAlone(frame)
	if err != nil {
		s.found.add("run %x: %v", frame, err)
		return got
	}
	s.packets.Add(1)
	s.kinds[got.action].Add(1)
	if got.action != xdpTx {
		return got
	}
	name := string(got.out[5])
	if s.r.reals[name] == 0 || s.r.real(name).Service != s.r.services[service] {
		s.found.add("%s: a packet for %s goes to %x", f.name, service, got.out[:12])
		return got
	}
	if want, err := forwarded(frame, s.r.real(name)); err != nil || !bytes.Equal(got.out, want) {
		s.found.add("%s: a packet for %s left as\n%x, not\n%x (%v)", f.name, service, got.out, want, err)
	}
	return got
}

// shared sends packets of flows that all threads have in common.
func (s *stress) shared(seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	for !s.over() {
		f := families[random.IntN(2)]
		port := from(uint16(1 + random.IntN(24)))
		for range 1 + random.IntN(4) {
			if random.IntN(3) == 0 {
				s.send(f, "dns", udp(port)(f))
				continue
			}
			s.send(f, "web", tcp(oneOf[uint8](random, syn, syn, ack, fin|ack, rst, rst), port)(f))
		}
	}
}

// churn runs many packets in each call, all in the kernel: this is where CPUs
// really meet.
func (s *stress) churn(t *testing.T, cpu uint32) { s.churnFlows(t, cpu, 32, families) }

func (s *stress) churnFlows(t *testing.T, cpu, flows uint32, families []family) {
	bench, err := NewBench(s.r.plane, TargetDirector)
	if err != nil {
		s.found.add("%v", err)
		return
	}
	defer bench.Close()
	for i := cpu; !s.over(); i++ {
		f := families[int(i)%len(families)]
		frame := tcp([]uint8{syn, rst, syn, fin | ack}[int(i)/len(families)%4])(f)
		if _, _, err := bench.Run(frame, Flows{Count: flows, Undo: true}, 2000); err != nil {
			s.found.add("churn: %v", err)
			return
		}
		s.packets.Add(2000)
	}
}

// own keeps one established connection, which nobody else touches, alive: it
// must stay where it is, whatever happens around it.
func (s *stress) own(port uint16) {
	for i := 0; !s.over(); i++ {
		f := families[i%2]
		s.keep(f, port, 300)
	}
}

// keep establishes a connection, uses it, and closes it.
func (s *stress) keep(f family, port uint16, packets int) {
	begin, more, end := tcp(syn, from(port))(f), tcp(ack, from(port))(f), tcp(rst, from(port))(f)
	s.send(f, "web", begin)
	first := s.send(f, "web", more)
	if first.action != xdpTx || !s.r.isEstablished(f, port) {
		return // untracked, or replaced while it was half open
	}
	for range packets {
		got := s.send(f, "web", more)
		if got.action != xdpTx || !bytes.Equal(got.out[:12], first.out[:12]) {
			s.found.add("%s: an established connection went to %x, then action %d, %x", f.name, first.out[:6], got.action, got.out[:6])
			return
		}
	}
	s.send(f, "web", end)
}

// isEstablished looks for a connection from a port in the table, while others
// change it.
func (r *rig) isEstablished(f family, port uint16) bool {
	established := func(c *Conn) bool {
		tag := atomic.LoadUint64(&c.Tag)
		return tag&tagMask == tagUsed && ConnProtocol(c) == tcpProto && uint16(atomic.LoadUint32(&c.Ports)) == be16(port) &&
			atomic.LoadUint32(&c.Word)&(connDead|0x7f) == uint32(stateNumber("ESTABLISHED")) && atomic.LoadUint64(&c.Tag) == tag
	}
	if f.v6() {
		return slices.ContainsFunc(pointers(r.Conns6), func(c *Conn6) bool { return established(&c.C) })
	}
	return slices.ContainsFunc(pointers(r.Conns4), func(c *Conn4) bool { return established(&c.C) })
}

func pointers[T any](rows []T) (all []*T) {
	for i := range rows {
		all = append(all, &rows[i])
	}
	return all
}

// sweep frees what has expired. Each pass is a sweeper of its own: on a table
// this small two passes follow so quickly that an entry that a packet is just
// freeing would look as if it had been left behind.
func (s *stress) sweep() {
	for !s.over() {
		now, err := s.r.clock.Now()
		if err != nil {
			s.found.add("%v", err)
			return
		}
		NewSweep4(s.r.Tables).Next(now, 1<<20)
		NewSweep6(s.r.Tables).Next(now, 1<<20)
		if err := s.r.plane.SweepOverflow(); err != nil {
			s.found.add("%v", err)
			return
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// watch looks for keys that are stored twice.
func (s *stress) watch() {
	for !s.over() {
		if twice := s.r.storedTwice(); twice != "" {
			s.found.add("%s", twice)
			return
		}
		runtime.Gosched()
	}
}

// slotKey is the key of an IPv4 slot, if it was in use all the time.
type slotKey struct {
	tag         uint64
	src, dst    uint32
	ports, slot uint32
}

// storedTwice finds a key in two IPv4 slots that are in use at the same time:
// the first is unchanged after the second was read.
func (r *rig) storedTwice() string {
	seen := map[[4]uint32]slotKey{}
	for i := range r.Conns4 {
		b, ok := r.readKey(i)
		if !ok {
			continue
		}
		key := [4]uint32{b.src, b.dst, b.ports, uint32(b.tag>>8) & 0xff}
		a, twice := seen[key]
		seen[key] = b
		if !twice {
			continue
		}
		if again, ok := r.readKey(int(a.slot)); ok && again == a {
			return fmt.Sprintf("one key in slots %d and %d at once: %+v, %+v", a.slot, b.slot, a, b)
		}
	}
	return ""
}

func (r *rig) readKey(i int) (k slotKey, ok bool) {
	c := &r.Conns4[i]
	k.tag = atomic.LoadUint64(&c.C.Tag)
	if k.tag&tagMask != tagUsed {
		return k, false
	}
	k.src, k.dst, k.ports = atomic.LoadUint32(&c.Saddr), atomic.LoadUint32(&c.Daddr), atomic.LoadUint32(&c.C.Ports)
	k.slot = uint32(i)
	return k, atomic.LoadUint64(&c.C.Tag) == k.tag
}

// lockstep lets two CPUs each send a frame of one flow at the same moment, again and again.
type lockstep struct {
	r      *rig
	frames [2][]byte // an ACK may be of no connection
	before func(*rig)
	look   func(*lockstep)
	random *rand.Rand
	round  atomic.Int64 // the follower takes part in each once; -1: the end
	done   atomic.Int64 // the last one that it took part in
	out    [2]result
	err    [2]error
	found  findings
	// Meetings at which one gave up waiting for the other, which is allowed but rare.
	untracked uint64
}

// TestConnLockstep lets two packets of one flow meet: both begin it, both find
// it expired, both find it closed. One connection comes of it, and both packets
// go where that is.
func TestConnLockstep(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	for _, f := range families {
		for _, meet := range []struct {
			name   string
			frames [2]send
			before func(*rig)
		}{
			{"absent", [2]send{tcp(syn), tcp(syn)}, (*rig).forgetConns},
			{"expired", [2]send{tcp(syn), tcp(syn)}, (*rig).expireAll},
			{"expired, and an ACK", [2]send{tcp(syn), tcp(ack)}, (*rig).expireAll},
			{"expired datagram", [2]send{udp(), udp()}, (*rig).expireAll},
			{"closed", [2]send{tcp(syn), tcp(syn)}, (*rig).closeAll},
			{"stale", [2]send{udp(), udp()}, (*rig).renewAll},
			{"stale, and an ACK", [2]send{tcp(syn), tcp(ack)}, (*rig).renewAll},
		} {
			t.Run(f.name+"/"+meet.name, func(t *testing.T) {
				r := smallRig(t, f)
				r.service("web").Flags = ServiceReuse
				l := &lockstep{r: r, frames: [2][]byte{meet.frames[0](f), meet.frames[1](f)}, before: meet.before, look: (*lockstep).oneConn, random: newRandom(t)}
				l.run(t)
			})
		}
	}
}

func (r *rig) each(f func(*Conn)) {
	for i := range r.Conns4 {
		if r.Conns4[i].C.Tag != 0 {
			f(&r.Conns4[i].C)
		}
	}
	for i := range r.Conns6 {
		if r.Conns6[i].C.Tag != 0 {
			f(&r.Conns6[i].C)
		}
	}
}

func (r *rig) expireAll() {
	ticks := r.clock.Jiffies(time.Hour)
	r.each(func(c *Conn) { c.LastUse -= ticks })
}

func (r *rig) closeAll() {
	for _, e := range r.entries() {
		r.setWord(e, uint32(stateNumber("CLOSE"))|noOutput)
	}
}

func (r *rig) renewAll() {
	for name := range r.reals {
		r.real(name).Generation++
	}
}

// run repeats a meeting until the time is over.
func (l *lockstep) run(t *testing.T) {
	var group sync.WaitGroup
	onCPU(&group, 0, l.lead)
	onCPU(&group, 1, l.follow)
	group.Wait()
	l.r.counted = nil
	l.found.report(t)
	l.r.check(t)
	t.Logf("%d meetings, at %d one gave up", l.done.Load(), l.untracked)
	if l.untracked > 5+uint64(l.done.Load())/50 {
		t.Error("it is not rare that one gives up")
	}
}

// lead prepares each round and takes part in it.
func (l *lockstep) lead() {
	end := time.Now().Add(stressTime() / 10)
	for round := int64(1); time.Now().Before(end) && l.found.n < 3; round++ {
		l.before(l.r)
		l.round.Store(round)
		// The follower sees it some hundred nanoseconds later, or else.
		for range l.random.IntN(400) {
			l.done.Load()
		}
		l.out[0], l.err[0] = l.r.runAlone(bytes.Clone(l.frames[0]))
		for l.done.Load() != round {
			runtime.Gosched()
		}
		l.look(l)
	}
	l.round.Store(-1)
}

func (l *lockstep) follow() {
	for last := int64(0); ; {
		round := l.round.Load()
		if round < 0 {
			return
		}
		if round == last {
			continue
		}
		last = round
		l.out[1], l.err[1] = l.r.runAlone(bytes.Clone(l.frames[1]))
		l.done.Store(round)
	}
}

// oneConn finds one connection, and both packets at its real server.
func (l *lockstep) oneConn() {
	used, conn := 0, Conn{}
	l.r.each(func(c *Conn) {
		if c.Tag&tagMask == tagUsed {
			used++
			conn = *c
		}
	})
	if used != 1 {
		l.found.add("%d connections are stored of one flow", used)
		return
	}
	if n := l.r.service("web").Untracked + l.r.service("dns").Untracked; n > l.untracked {
		l.untracked = n
		return
	}
	for i, got := range l.out {
		if got.action == xdpPass && !bytes.Equal(l.frames[0], l.frames[1]) && i == 1 {
			continue
		}
		if l.err[i] != nil || got.action != xdpTx || l.r.reals[string(got.out[5])] != conn.Real {
			l.found.add("CPU %d: action %d to %x, %v; the connection's real server is %s", i, got.action, got.out[:6], l.err[i], l.r.names[conn.Real])
		}
	}
}

// TestConnReplaced lets a packet of a known connection meet one that takes its
// slot. Whoever is faster, no packet goes to a real server of the other's
// service, and no connection gets what was meant for the other.
func TestConnReplaced(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	r := newRig(t, oneSet)
	for _, f := range families {
		for _, meet := range []struct {
			name   string
			last   send // begins the connection that can be replaced
			frames [2]send
		}{
			{"a datagram's by a SYN", udp(), [2]send{udp(), tcp(syn, from(9))}},
			{"a half-open one by a datagram", tcp(syn, from(8)), [2]send{tcp(ack, from(8)), udp()}},
			{"a half-open one by another", tcp(syn, from(8)), [2]send{tcp(ack, from(8)), tcp(syn, from(9))}},
		} {
			t.Run(f.name+"/"+meet.name, func(t *testing.T) {
				r.reset(f)
				r.fill(t, meet.last)
				full4, full6, counts := slices.Clone(r.Conns4), slices.Clone(r.Conns6), slices.Clone(r.Counts)
				l := &lockstep{r: r, frames: [2][]byte{meet.frames[0](f), meet.frames[1](f)}, look: (*lockstep).ownReals, random: newRandom(t)}
				l.before = func(r *rig) {
					r.forget()
					copy(r.Conns4, full4)
					copy(r.Conns6, full6)
					copy(r.Counts, counts)
				}
				l.run(t)
			})
		}
	}
}

// TestReplyReplaced lets a reply meet another client's datagram, which takes the slot of the reply's
// connection, and a local end of its own. The reply goes to its client, or to nobody.
func TestReplyReplaced(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	r := newRig(t, oneSet)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r.reset(f)
			r.plan("dns", 0, "d")
			server := r.natReal("d", "dns", 5353)
			r.byFullNAT("d", 1)
			r.Settings.LocalPorts = LocalPorts(firstLocal, 2)
			for port := range uint16(6) {
				r.send(t, tcp(syn, from(port+1))(f))
				r.send(t, tcp(ack, from(port+1))(f))
			}
			r.send(t, udp(dataOf(64))(f)) // alone, so it may be replaced
			r.check(t)
			full4, full6, counts := slices.Clone(r.Conns4), slices.Clone(r.Conns6), slices.Clone(r.Counts)
			back := between(netip.AddrPortFrom(server, 5353), r.local(t, r.flowOf(transports[1])))
			l := &lockstep{r: r, look: (*lockstep).ownClient, random: newRandom(t), frames: [2][]byte{
				udp(dataOf(64), back)(f), udp(second, from(r.otherEnd()))(f),
			}}
			l.before = func(r *rig) {
				r.forget()
				copy(r.Conns4, full4)
				copy(r.Conns6, full6)
				copy(r.Counts, counts)
			}
			l.run(t)
		})
	}
}

// otherEnd is a port from which the second client's datagram takes the other one of two local ends.
func (r *rig) otherEnd() uint16 {
	first := r.flowHash(r.flowOf(transports[1])) >> 32
	for port := uint16(1); ; port++ {
		if r.flowHash(flow{r.f.second, r.f.vip, port, dnsPort, udpProto})>>32%2 != first%2 {
			return port
		}
	}
}

// ownClient finds the reply at its client, if anywhere.
func (l *lockstep) ownClient() {
	got := l.out[0]
	if got.action == xdpPass && l.err[0] == nil {
		return // its connection is gone
	}
	ends, err := endsOf(got.out)
	if want := netip.AddrPortFrom(l.r.f.client, clientPort); err != nil || l.err[0] != nil || got.action != xdpTx || ends[1] != want {
		l.found.add("the reply: action %d, to %v, %v %v", got.action, ends[1], err, l.err[0])
	}
}

// fill takes all places of a set but one with established connections, and that
// with something less.
func (r *rig) fill(t *testing.T, last send) {
	for port := range uint16(7) {
		r.send(t, tcp(syn, from(port+1))(r.f))
		r.send(t, tcp(ack, from(port+1))(r.f))
	}
	r.send(t, last(r.f))
	r.check(t)
}

// ownReals finds each packet at a real server of its own service, and each
// connection in a state that its packets have led to.
func (l *lockstep) ownReals() {
	for i, got := range l.out {
		if l.err[i] != nil {
			l.found.add("CPU %d: %v", i, l.err[i])
			continue
		}
		if got.action == xdpPass && i == 0 {
			continue // an ACK that came too late
		}
		service := "web"
		if p, err := look(l.frames[i]); err == nil && p.protocol == udpProto {
			service = "dns"
		}
		real, ok := l.r.reals[string(got.out[5])]
		if got.action != xdpTx || !ok || l.r.Reals[real].Service != l.r.services[service] {
			l.found.add("CPU %d, packet for %s: action %d to %x", i, service, got.action, got.out[:6])
		}
	}
	l.r.each(func(c *Conn) {
		if c.Tag&tagMask != tagUsed {
			return
		}
		port := be16(uint16(c.Ports))
		switch state := stateNames[ConnState(c)]; {
		case ConnProtocol(c) == udpProto && state != "UDP",
			ConnProtocol(c) == tcpProto && port == 9 && state != "SYN_RECV":
			l.found.add("the new connection from port %d is in state %s", port, state)
		}
	})
}
