// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"xdplvs/internal/packet"
)

// persistent makes a service one with persistence for five minutes.
func persistent(names ...string) func(*rig) {
	return func(r *rig) {
		for _, name := range names {
			r.persist(name, 300)
		}
	}
}

func (r *rig) persist(name string, seconds uint32) {
	s := r.service(name)
	s.Persistent, s.TemplatePort = seconds, s.Port
	s.ClientMask = [2]uint64{^uint64(0), ^uint64(0)}
}

// netmask lets clients share a template whose addresses begin alike.
func netmask(name string, ones4, ones6 int) func(*rig) {
	return func(r *rig) {
		r.persist(name, 300)
		addr := netip.AddrFrom16([16]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		mask := netip.PrefixFrom(addr, ones6).Masked().Addr().As16()
		first := binary.NativeEndian.Uint64(mask[:])
		if r.f.vip.Is4() {
			first = uint64(bits.ReverseBytes32(^uint32(0) << (32 - ones4)))
		}
		r.service(name).ClientMask = [2]uint64{first, binary.NativeEndian.Uint64(mask[8:])}
	}
}

func flagged(name string, flags uint32) func(*rig) {
	return func(r *rig) { r.service(name).Flags |= flags }
}

func both2(first, second func(*rig)) func(*rig) {
	return func(r *rig) { first(r); second(r) }
}

// Persistence: who follows a template, and what makes one worth nothing.
var persistTests = []programTest{
	{name: "persistence: a client's connections go to one real server", setup: persistent("web"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, from(40001)), want: begins("a")},
		{send: tcp(syn, second), want: begins("b")},
		{send: tcp(syn, from(40002)), want: begins("a")},
		{send: tcp(ack, from(40001)), want: known("a")},
	}, conns: []string{
		"c2:0>vip:80 template b", "c2:40000>vip:80 SYN_RECV b 1",
		"c:0>vip:80 ASSURED template a", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 ESTABLISHED a 2", "c:40002>vip:80 SYN_RECV a 1",
	}},
	{name: "persistence: services are apart", setup: persistent("web", "dns"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: udp(), want: begins("d")},
		{send: udp(from(40001)), want: begins("d")},
	}, conns: []string{"c:0>vip:53 template d", "c:0>vip:80 template a", "c:40000>vip:53 UDP d 1", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:53 UDP d 1"}},
	{name: "persistence: a template lives on while it is used", setup: persistent("web"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: later(299 * time.Second), send: tcp(syn, from(40001)), want: begins("a")},
		{before: later(299 * time.Second), send: tcp(syn, from(40002)), want: begins("a")},
	}, conns: []string{"c:0>vip:80 template a", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV a 1", "c:40002>vip:80 SYN_RECV a 1"}},
	{name: "persistence: forgotten when its time is over and nothing is left", setup: persistent("web"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.pass(301 * time.Second); r.free(r.webFlow(40000)) }, send: tcp(syn, from(40001)), want: begins("b")},
	}, conns: []string{"c:0>vip:80 template b", "c:40001>vip:80 SYN_RECV b 1"}},
	{name: "persistence: held by a connection", setup: persistent("web"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack), want: known("a")},
		{before: later(301 * time.Second), send: tcp(syn, from(40001)), want: begins("a")},
		{before: later(59 * time.Second), send: tcp(syn, from(40002)), want: begins("a")},
	}, conns: []string{"c:0>vip:80 ASSURED template a", "c:40000>vip:80 ESTABLISHED a 2", "c:40001>vip:80 SYN_RECV a 1", "c:40002>vip:80 SYN_RECV a 1"}},
	{name: "persistence: weight 0 and thresholds do not count", setup: persistent("web"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags &^= RealUsable }, send: tcp(syn, from(40001)), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags |= RealUsable | RealOverloaded }, send: tcp(syn, from(40002)), want: begins("a")},
	}, conns: []string{"c:0>vip:80 template a", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV a 1", "c:40002>vip:80 SYN_RECV a 1"}},
	{name: "persistence: expire_quiescent_template", setup: both2(persistent("web"), flagged("web", ServiceExpireQuiescent)), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags &^= RealUsable }, send: tcp(syn, from(40001)), want: begins("b")},
		{before: func(r *rig) { r.real("a").Flags |= RealUsable }, send: tcp(syn, from(40002)), want: begins("b")},
	}, conns: []string{"c:0>vip:80 template b", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV b 1", "c:40002>vip:80 SYN_RECV b 1"}},
	{name: "persistence: a real server that is down", setup: persistent("web"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags &^= RealNextHop }, send: tcp(syn, from(40001)), want: begins("b")},
	}, conns: []string{"c:0>vip:80 template b", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV b 1"}},
	{name: "persistence: one that is down for a moment", setup: both2(persistent("web"), flagged("web", ServiceKeepDown)), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags &^= RealNextHop }, send: tcp(syn, from(40001)), want: begins("a").ended("drop_no_next_hop", nil)},
	}, conns: []string{"c:0>vip:80 template a", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV a 1"}},
	{name: "persistence: a real server that is dead", setup: persistent("web"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags = r.real("a").Flags&^RealUsable | RealDown }, send: tcp(syn, from(40001)), want: begins("b")},
	}, conns: []string{"c:0>vip:80 template b", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV b 1"}},
	{name: "persistence: a removed real server", setup: persistent("web"), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.real("a").Flags |= RealRemoved }, send: tcp(syn, from(40001)), want: begins("b")},
		{before: func(r *rig) { r.real("b").Generation++ }, send: tcp(syn, from(40002)), want: begins("c")},
	}, conns: []string{"c:0>vip:80 template c", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV b 1", "c:40002>vip:80 SYN_RECV c 1"}},
	{name: "persistence: netmask", only: "IPv4", setup: netmask("web", 16, 64), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, second), want: begins("a")},
	}, conns: []string{"198.51.0.0:0>vip:80 template a", "c2:40000>vip:80 SYN_RECV a 1", "c:40000>vip:80 SYN_RECV a 1"}},
	{name: "persistence: netmask", only: "IPv6", setup: netmask("web", 16, 64), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, second), want: begins("a")},
	}, conns: []string{"2001:db8:7:::0>vip:80 template a", "c2:40000>vip:80 SYN_RECV a 1", "c:40000>vip:80 SYN_RECV a 1"}},
	{name: "persistence: no real server", setup: both2(persistent("web"), func(r *rig) { r.plan("web", 0) }), steps: []step{
		{send: tcp(syn), want: untouched("drop_no_real")},
	}},
	{name: "persistence: one packet", setup: both2(persistent("dns"), flagged("dns", ServiceOnePacket)), steps: []step{
		{send: udp(), want: onePacket("d")},
		{send: udp(), want: onePacket("d")},
		{send: udp(second), want: onePacket("e")},
	}, conns: []string{"c2:0>vip:53 template e", "c:0>vip:53 template d"}},
	{name: "persistence: strays make no template", setup: persistent("web"), steps: []step{
		{send: tcp(ack), want: untouched("pass_no_connection")},
		{send: tcp(fin | ack), want: untouched("pass_no_connection")},
		{send: tcp(rst), want: untouched("pass_no_connection")},
	}},
	{name: "persistence: a SYN is not scheduled anew", setup: both2(persistent("web"), flagged("web", ServiceReuse)), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: func(r *rig) { r.setState(40000, "TIME_WAIT") }, send: tcp(syn), want: known("a")},
	}, conns: []string{"c:0>vip:80 template a", "c:40000>vip:80 SYN_RECV a 2"}},
	{name: "an FTP service's data connections", setup: func(r *rig) {
		r.persist("web", 300)
		s := r.service("web")
		r.setKey(Key{Addr: r.f.vip, Port: 21, Protocol: tcpProto}, s.Id)
		r.Settings.Ftp, s.Port, s.TemplatePort = 1, 21<<8, 0
	}, steps: []step{
		{send: tcp(syn, to(21)), want: begins("a")},
		{send: tcp(syn, to(30000)), want: begins("a")},
		{send: tcp(syn, to(20)), want: begins("a")},
		{send: tcp(syn, to(1023)), want: untouched("pass_no_service")},
		{send: tcp(syn, to(21), from(20)), want: untouched("pass_no_connection")}, // from an FTP server's own data port
	}, conns: []string{"c:0>vip:0 template a", "c:40000>vip:20 SYN_RECV a 1", "c:40000>vip:21 SYN_RECV a 1", "c:40000>vip:30000 SYN_RECV a 1"}},
	{name: "an FTP service without persistence", setup: func(r *rig) {
		s := r.service("web")
		r.setKey(Key{Addr: r.f.vip, Port: 21, Protocol: tcpProto}, s.Id)
		r.Settings.Ftp, s.Port = 1, 21<<8
	}, steps: []step{
		{send: tcp(syn, to(21)), want: begins("a")},
		{send: tcp(syn, to(30000)), want: untouched("pass_no_connection")},
	}, conns: []string{"c:40000>vip:21 SYN_RECV a 1"}},
	{name: "a service of every port", setup: func(r *rig) {
		r.persist("web", 300)
		s := r.service("web")
		r.setKey(Key{Addr: r.f.vip, Protocol: tcpProto}, s.Id)
		r.Settings.Port0, s.Port, s.TemplatePort = 1, 0, 0
	}, steps: []step{
		{send: tcp(syn, to(1)), want: begins("a")},
		{send: tcp(syn, to(65535)), want: begins("a")},
		{send: tcp(syn, to(1), second), want: begins("b")},
	}, check: func(t *testing.T, r *rig) { r.templates(t, 2) }, conns: []string{
		"c2:0>vip:0 template b", "c2:40000>vip:1 SYN_RECV b 1",
		"c:0>vip:0 template a", "c:40000>vip:1 SYN_RECV a 1", "c:40000>vip:65535 SYN_RECV a 1",
	}},
	{name: "a removed service hides none that is asked later", setup: func(r *rig) {
		s := r.service("web")
		r.addService("all", 11, Key{Addr: r.f.vip, Protocol: tcpProto}, "g")
		r.Settings.Port0, s.Flags = 1, ServiceRemoved
	}, steps: []step{{send: tcp(syn), want: begins("g")}}, conns: []string{"c:40000>vip:80 SYN_RECV g 1"}},
}

// TestPersistICMP: what an error quotes can be of any protocol, so none of them may find a template.
func TestPersistICMP(t *testing.T) {
	f := families[0]
	r := smallRig(t, f)
	persistent("web")(r)
	r.send(t, tcp(syn)(f))
	quoted := packet.Build(packet.IPv4{Src: f.vip, Dst: f.client, Protocol: new(uint8(tcpProto | templateProtocol))}, packet.Data(make([]byte, 64)))
	binary.BigEndian.PutUint16(quoted[20:], webPort) // from the service's port to port 0
	frame := packet.Build(packet.Ethernet{Dst: packet.MAC{2}, Src: packet.MAC{2, 1}}, packet.IPv4{Src: f.client, Dst: f.vip},
		packet.ICMP{Type: 3, Code: 4}, packet.Data(quoted))
	mustVerdict(t, "quoting a template's key", r.send(t, frame), "pass_icmp")
}

// free ends a connection as the sweep would.
func (r *rig) free(k flow) {
	e := r.find(k)
	if e == nil || !e.free(r) {
		panic(fmt.Sprint("no connection ", k))
	}
}

func (e *entry) free(r *rig) bool {
	if e.v6 {
		return r.Tables.Free6(e.slot, &e.conn)
	}
	return r.Tables.Free4(e.slot, &e.conn)
}

func (r *rig) setState(sport uint16, name string) {
	e := r.find(r.webFlow(sport))
	r.setWord(e, e.conn.Word&0xffff00|uint32(stateNumber(name)))
}

// templates fails unless there are so many.
func (r *rig) templates(t *testing.T, want int) {
	t.Helper()
	n := 0
	for _, e := range r.entries() {
		if IsTemplate(&e.conn) {
			n++
		}
	}
	if n != want {
		t.Errorf("%d templates, want %d", n, want)
	}
}

// auditTemplates recounts what templates control, and the templates of each real server.
func (r *rig) auditTemplates(all []*entry) error {
	var errs []error
	controls, ofReal := map[*Conn]uint32{}, make([]uint32, len(r.Counts))
	for _, e := range all {
		if IsTemplate(&e.conn) && int(e.conn.Real) < len(ofReal) {
			ofReal[e.conn.Real]++
		}
		if e.conn.Word&connControlled == 0 {
			continue
		}
		if t := r.Tables.template(e.conn.Link); t != nil {
			controls[t]++
		}
	}
	for _, e := range all {
		if !IsTemplate(&e.conn) {
			continue
		}
		row := r.rowOf(e)
		if row.Link>>templateVersion != row.Tag>>16&0xffff {
			errs = append(errs, fmt.Errorf("%s, %v: version %d of tag %#x", e.where, e.key, row.Link>>templateVersion, row.Tag))
		}
		if got := TemplateControls(row); got != controls[row] {
			errs = append(errs, fmt.Errorf("%s, %v: controls %d connections, has %d", e.where, e.key, got, controls[row]))
		}
	}
	for id, n := range r.Counts {
		if n.Templates != ofReal[id] {
			errs = append(errs, fmt.Errorf("real server %d %q: counted %d templates, has %d", id, r.names[uint32(id)], n.Templates, ofReal[id]))
		}
	}
	return errors.Join(errs...)
}

// rowOf is the entry itself.
func (r *rig) rowOf(e *entry) *Conn {
	if e.v6 {
		return &r.Conns6[e.slot].C
	}
	return &r.Conns4[e.slot].C
}

// sweepAll is a pass over both tables, with the recount at its end.
func sweepAll(r *rig, recount *Recount, sweeps ...*Sweep) {
	for _, s := range sweeps {
		s.Next(r.now(), 1<<30)
	}
	recount.Pass(nil)
}

// TestTemplateSweep: a template whose time is over goes, lives a minute more while
// it controls connections, and is not fooled by connections that there are not.
func TestTemplateSweep(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		persistent("web")(r)
		s4, s6 := NewSweep4(r.Tables), NewSweep6(r.Tables)
		recount := NewRecount(r.Tables, s4, s6)
		pass := func(d time.Duration) { r.pass(d); sweepAll(r, recount, s4, s6); r.check(t) }
		r.send(t, tcp(syn)(f))
		r.send(t, tcp(ack)(f))
		pass(299 * time.Second)
		r.templates(t, 1)
		pass(2 * time.Second) // 301 s: it fires, and lives on for its connection
		r.templates(t, 1)
		if e := r.template(t); TemplateSeconds(&e.conn) != 60 || TemplateControls(&e.conn) != 1 {
			t.Errorf("%s: %d s, controls %d", f.name, TemplateSeconds(&e.conn), TemplateControls(&e.conn))
		}
		r.free(r.webFlow(40000))
		pass(58 * time.Second)
		r.templates(t, 1)
		pass(2 * time.Second)
		r.templates(t, 0)

		// One connection more is counted than there is: it was ended by a process that did not live to say so.
		r.send(t, tcp(syn)(f))
		e := r.template(t)
		e.conn.Link += 1 << templateControls
		e.store()
		r.free(r.webFlow(40000))
		r.pass(301 * time.Second)
		sweepAll(r, recount, s4, s6) // it fires
		sweepAll(r, recount, s4, s6) // and nobody is found
		r.templates(t, 1)
		pass(61 * time.Second)
		r.templates(t, 0)
		r.check(t)
	}
}

// template is the one that there is.
func (r *rig) template(t *testing.T) *entry {
	t.Helper()
	for _, e := range r.entries() {
		if IsTemplate(&e.conn) {
			return e
		}
	}
	t.Fatal("no template")
	return nil
}

// TestPersistStress: whatever CPU a client's connections begin on, and whatever ends
// beside them, they go to one real server; templates count right in the end.
func TestPersistStress(t *testing.T) {
	for _, f := range families {
		r := newRig(t, Sizes{Conns4: 4096, Conns6: 4096, Overflow: 64, Services: 32, Reals: 64, Plans: 1024})
		r.reset(f)
		persistent("web")(r)
		var went [8]atomic.Uint32 // where each client's connections go
		var found findings
		end := time.Now().Add(stressTime() / 4)
		var group sync.WaitGroup
		for cpu := range runtime.NumCPU() {
			onCPU(&group, cpu, func() {
				random := rand.New(rand.NewPCG(uint64(cpu), 1))
				for time.Now().Before(end) {
					client := random.IntN(len(went))
					frame := tcp(oneOf[uint8](random, syn, syn, ack, rst), from(uint16(1024+random.IntN(512))), fromClient(client))(f)
					got, err := r.runAlone(frame)
					if err != nil {
						found.add("run: %v", err)
						return
					}
					if got.action != xdpTx {
						continue
					}
					real := uint32(got.out[5])
					if !went[client].CompareAndSwap(0, real) && went[client].Load() != real {
						found.add("client %d went to %c, and to %c", client, went[client].Load(), real)
					}
				}
			})
		}
		group.Go(func() { // connections end all the time; templates stay
			for time.Now().Before(end) {
				r.endConns()
			}
		})
		group.Wait()
		found.report(t)
		r.check(t)
		r.templates(t, len(went))
	}
}

// fromClient sends from one of some addresses.
func fromClient(n int) change {
	return func(m *message) {
		b := m.src.AsSlice()
		b[len(b)-1] = 100 + byte(n)
		m.src, _ = netip.AddrFromSlice(b)
	}
}

// endConns frees every connection that it finds, and no template.
func (r *rig) endConns() {
	for i := range r.Conns4 {
		if c, ok := ReadConn4(&r.Conns4[i]); ok && !IsTemplate(&c.C) {
			r.Tables.Free4(i, &c.C)
		}
	}
	for i := range r.Conns6 {
		if c, ok := ReadConn6(&r.Conns6[i]); ok && !IsTemplate(&c.C) {
			r.Tables.Free6(i, &c.C)
		}
	}
}
