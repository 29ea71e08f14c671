// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/packet"
	"xdplvs/scheduler"
)

var seedFlag = flag.Uint64("seed", 0, "seed of random tests, as a former run has logged it")

// newRandom is a source whose seed the log tells.
func newRandom(t testing.TB) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %#x", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// oneOf draws from a list.
func oneOf[T any](random *rand.Rand, list ...T) T { return list[random.IntN(len(list))] }

// keyWorld is a set of services, in the tables and in a Go map. Each service
// has one real server with its own id, by which a packet tells who had it.
type keyWorld struct {
	r      *rig
	random *rand.Rand
	keys   map[Key]uint32
}

// Few addresses and ports, so that most packets come near a service.
var (
	keyAddrs = []netip.Addr{
		addr("192.0.2.10"), addr("192.0.2.11"), addr("10.2.0.192"), addr("0.0.0.1"), addr("255.255.255.254"),
		addr("2001:db8::1"), addr("2001:db8::2"), addr("2001:db8:0:1::1"), addr("::1:0:0:1"), addr("fe80::1"),
	}
	keyPorts = []uint16{0, 20, 21, 80, 443, 1023, 1024, 5000, 20480, 65535}
)

func TestKeysAgree(t *testing.T) {
	random := newRandom(t)
	r := smallRig(t, families[0])
	w := &keyWorld{r, random, map[Key]uint32{}}
	for round := range 40 {
		r.reset(families[0])
		for _, e := range r.keys.All() {
			r.keys.Delete(e.Key)
		}
		clear(w.keys)
		for range 1 + random.IntN(2*(round+1)) {
			w.edit(t)
		}
		w.tell()
		if round%8 == 0 { // a process that starts anew finds the same
			r.keys = NewKeyTable(r.Tables)
		}
		w.compareAll(t)
		for range 200 {
			w.compare(t)
		}
	}
}

func (w *keyWorld) randomKey() Key {
	return Key{Addr: oneOf(w.random, keyAddrs...), Port: oneOf(w.random, keyPorts...), Protocol: oneOf[uint8](w.random, tcpProto, udpProto),
		Sorry: w.random.IntN(5) == 0}
}

// edit stores, changes or removes a key.
func (w *keyWorld) edit(t *testing.T) {
	k := w.randomKey()
	if w.random.IntN(4) == 0 {
		w.r.keys.Delete(k)
		delete(w.keys, k)
		return
	}
	id := uint32(w.random.IntN(len(w.r.Services)-4)) + 4
	if k.Sorry { // several keys may name one service
		id %= 4
	}
	if len(w.keys) >= len(w.r.Services) {
		return
	}
	if err := w.r.keys.Set(k, id); err != nil {
		t.Logf("with %d keys of at most %d: %v", len(w.keys), len(w.r.Services), err)
		return
	}
	w.keys[k] = id
	w.r.Services[id] = Service{Id: id, Flags: ServiceOnePacket | ServiceSloppy, Plan: [2]Plan{{Base: id * PlanAlign, Length: 1}}}
	if k.Sorry {
		w.r.Services[id].Flags |= ServiceSorry
	}
	w.r.Plans[id*PlanAlign] = id
	w.r.Reals[id] = Real{Flags: RealUsable | RealNextHop, Method: uint8(directorForwardMethodMETHOD_DR), Ifindex: ingress, Mtu: 1500, Service: id, Mac: [12]uint8{2, 0, 0, 0, 0, uint8(id)}}
}

// tell sets what the look-up order depends on.
func (w *keyWorld) tell() {
	s := w.r.Settings
	s.Port0, s.Ftp = 0, 0
	for k := range w.keys {
		if k.Port == 0 {
			s.Port0 = 1
		}
		if k.Port == 21 && k.Protocol == tcpProto {
			s.Ftp = 1
		}
	}
}

// compareAll finds every key that is stored, and no other in the table.
func (w *keyWorld) compareAll(t *testing.T) {
	stored := w.r.keys.All()
	if len(stored) != len(w.keys) {
		t.Errorf("%d keys are stored, not %d", len(stored), len(w.keys))
	}
	for _, e := range stored {
		if id, ok := w.keys[e.Key]; !ok || id != e.Service {
			t.Errorf("%v is stored for service %d, not %d, %v", e.Key, e.Service, id, ok)
		}
		if e.Key.Port != 0 {
			w.comparePacket(t, e.Key)
		}
	}
}

func (w *keyWorld) compare(t *testing.T) {
	k := w.randomKey()
	if w.random.IntN(4) == 0 {
		k.Port = uint16(w.random.Uint32())
	}
	w.comparePacket(t, k)
}

func (w *keyWorld) comparePacket(t *testing.T, k Key) {
	t.Helper()
	frame := keyFrame(k, 1024|uint16(w.random.Uint32()))
	got, err := w.r.run(frame)
	must(t, err)
	id, known := w.find(k)
	switch {
	case !known && got.action != xdpPass:
		t.Errorf("packet to %v, no service's: action %d, %x", k, got.action, got.out[:6])
	case known && (got.action != xdpTx || got.out[5] != uint8(id)):
		t.Errorf("packet to %v, service %d's: action %d, %x", k, id, got.action, got.out[:6])
	}
}

// find is IPVS's look-up (IPVS.md section 1.2).
func (w *keyWorld) find(k Key) (uint32, bool) {
	tries := []uint16{k.Port}
	if k.Protocol == tcpProto && (k.Port == 20 || k.Port >= 1024) {
		tries = append(tries, 21)
	}
	for _, port := range append(tries, 0) {
		if id, ok := w.keys[Key{Addr: k.Addr, Port: port, Protocol: k.Protocol}]; ok {
			return id, true
		}
	}
	return 0, false
}

func keyFrame(k Key, sport uint16) []byte {
	transport := packet.Layer(packet.UDP{SrcPort: sport, DstPort: k.Port})
	if k.Protocol == tcpProto {
		transport = packet.TCP{SrcPort: sport, DstPort: k.Port, Flags: syn}
	}
	f := families[0]
	if k.Addr.Is6() {
		f = families[1]
	}
	network := both[packet.Layer](f, packet.IPv4{Src: f.client, Dst: k.Addr}, packet.IPv6{Src: f.client, Dst: k.Addr})
	return packet.Build(packet.Ethernet{Dst: directorMAC, Src: routerMAC}, network, transport)
}

// TestPlansAgree takes positions of random plans, wherever the cursor stands.
func TestPlansAgree(t *testing.T) {
	random := newRandom(t)
	r := smallRig(t, families[0])
	s := r.service("dns")
	s.Flags = ServiceOnePacket
	for id := range uint32(50) {
		r.Reals[id] = Real{Flags: RealUsable | RealNextHop, Ifindex: ingress, Mtu: 1500, Service: s.Id, Mac: [12]uint8{2, 0, 0, 0, 0, uint8(id)}}
	}
	for range 60 {
		p := randomPlan(random)
		s.Plan[0] = Plan{Base: 64, Length: uint32(len(p.Slots)), Loop: uint32(p.Loop), Kind: PlanSequence}
		copy(r.Plans[64:], p.Slots)
		start := oneOf(random, 0, uint64(random.IntN(1000)), 1<<32-5, 1<<32+uint64(p.Loop)-5, 1<<63-5, random.Uint64()>>1)
		s.Cursor[0] = start
		for n := range uint64(30) {
			got, err := r.run(udp()(r.f))
			must(t, err)
			if want := p.At(start + n); got.action != xdpTx || uint32(got.out[5]) != want {
				t.Fatalf("plan of %d slots, loop %d, position %d: action %d, real server %d, want %d",
					len(p.Slots), p.Loop, start+n, got.action, got.out[5], want)
			}
		}
		if s.Cursor[0] != start+30 {
			t.Errorf("the cursor went from %d to %d in 30 steps", start, s.Cursor[0])
		}
	}
}

func randomPlan(random *rand.Rand) scheduler.Plan {
	p := scheduler.Plan{Slots: make([]uint32, 1+random.IntN(oneOf(random, 3, 40, 900)))}
	for i := range p.Slots {
		p.Slots[i] = uint32(random.IntN(50))
	}
	p.Loop = random.IntN(len(p.Slots))
	return p
}

// traffic draws packets of few flows, and lets time go by.
type traffic struct {
	r      *rig
	random *rand.Rand
}

// TestCountsAgree sends random traffic through a small table, with sweeps by Go
// in between. Whatever freed an entry, the counts are those of a recount.
func TestCountsAgree(t *testing.T) {
	r := newRig(t, Sizes{Conns4: 32, Conns6: 16, Overflow: 6, Services: 32, Reals: 64, Plans: 1024})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r.reset(f)
			w := &traffic{r, newRandom(t)}
			w.settings()
			for round := range 300 {
				for range 40 {
					if _, err := r.run(w.frame()); err != nil {
						t.Fatal(err)
					}
				}
				if err := r.audit(); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				w.happen(t)
			}
			r.drain(t)
		})
	}
}

func (w *traffic) settings() {
	w.r.service("web").Flags = ServiceSloppy | ServiceReuse
	w.r.threshold("a", 5)
	w.r.flowPlan("web", "c")
	w.r.real("b").Method = uint8(directorForwardMethodMETHOD_NAT)
}

// frame is a packet of one of some 60 flows.
func (w *traffic) frame() []byte {
	port := from(uint16(1024 + w.random.IntN(30)))
	if w.random.IntN(3) == 0 {
		return udp(port)(w.r.f)
	}
	return tcp(oneOf[uint8](w.random, syn, syn, ack, ack, ack, fin|ack, rst, 0, syn|ack), port)(w.r.f)
}

// happen is what happens to the tables between packets.
func (w *traffic) happen(t *testing.T) {
	r := w.r
	switch w.random.IntN(7) {
	case 0:
		r.sweep(t)
	case 1:
		r.pass(time.Duration(w.random.IntN(130)) * time.Second)
	case 2:
		r.pass(time.Duration(w.random.IntN(1000)) * time.Second)
	case 3:
		r.Settings.SecureTcp ^= 1
	case 4:
		r.real(oneOf(w.random, "a", "b", "c")).Flags ^= RealUsable
	case 5:
		name := oneOf(w.random, "a", "b", "c", "d")
		r.real(name).Generation++
		r.real(name).Stale = oneOf(w.random, StaleReschedule, StaleDrop, StaleReset)
	case 6:
		r.service("web").Flags ^= oneOf(w.random, ServiceSloppy, ServiceReuse, ServiceReuseFin, ServiceExpireNodest)
	}
	if n := int32(r.Counts[r.reals["a"]].Conns); n < 0 {
		t.Fatalf("active connections of a: %d", n)
	}
}

// TestHashKeyMatters finds every connection where Go's flowHash puts it, and in
// other places with another key.
func TestHashKeyMatters(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		var before, after []string
		for _, list := range []*[]string{&before, &after} {
			r.forget()
			for port := range uint16(20) {
				r.send(t, tcp(syn, from(port+1))(f))
			}
			r.check(t)
			for _, e := range r.entries() {
				*list = append(*list, fmt.Sprint(e.where, e.key))
			}
			r.Settings.HashKey = newHashKey()
		}
		if fmt.Sprint(before) == fmt.Sprint(after) {
			t.Errorf("%s: another key makes no difference", f.name)
		}
	}
}

// TestServiceHash spreads keys that differ in one byte, wherever it is.
func TestServiceHash(t *testing.T) {
	buckets, filter := map[uint64]int{}, map[uint64]int{}
	for i := range 4096 {
		a := binary.BigEndian.AppendUint32(nil, 0x0a000000|uint32(i))
		h := Key{Addr: netip.AddrFrom4([4]byte(a)), Port: 80, Protocol: tcpProto}.hash()
		buckets[h&1023]++
		filter[filterBit(h)]++
	}
	for b, n := range buckets {
		if n > 20 {
			t.Errorf("bucket %d has %d of 4096 keys in 1024 buckets", b, n)
		}
	}
	if len(filter) < 4000 {
		t.Errorf("4096 keys share %d bits of the filter", len(filter))
	}
}

// TestHashPlansAgree compares the data plane's choices by hash plans with those
// of the schedulers, packet by packet, whatever is usable.
func TestHashPlansAgree(t *testing.T) {
	for _, f := range families {
		for _, flags := range []string{"dh", "sh", "sh sh-port", "sh sh-fallback", "sh sh-fallback,sh-port", "mh", "mh mh-port", "mh mh-fallback", "mh mh-fallback,mh-port"} {
			t.Run(f.name+"/"+flags, func(t *testing.T) {
				h := newHashWorld(t, f, flags)
				for range 4 {
					h.change()
					for range 20 {
						h.compare(t)
					}
				}
			})
		}
	}
}

// hashWorld is the dns service with a hash scheduler and some real servers.
type hashWorld struct {
	r       *rig
	random  *rand.Rand
	sched   scheduler.Scheduler
	servers []scheduler.Server
	vips    []netip.Addr
}

func newHashWorld(t *testing.T, f family, config string) *hashWorld {
	name, flags, _ := strings.Cut(config, " ")
	h := &hashWorld{r: smallRig(t, f), random: newRandom(t)}
	for range 16 {
		h.vips = append(h.vips, h.addr())
		h.r.setKey(Key{Addr: h.vips[len(h.vips)-1], Port: dnsPort, Protocol: udpProto}, h.r.services["dns"])
	}
	h.sched = need(scheduler.New(name, scheduler.Options{Flags: need(scheduler.ParseFlags(flags))(t)}))(t)
	for id := range uint32(1 + h.random.IntN(10)) {
		h.servers = append([]scheduler.Server{{
			ID:     20 + id,
			Addr:   netip.AddrFrom4([4]byte{10, 0, byte(h.random.Uint32()), byte(id)}),
			Port:   uint16(h.random.Uint32()),
			Weight: uint32(h.random.IntN(4)),
		}}, h.servers...)
		h.sched.Edit(h.servers)
	}
	s := h.r.service("dns")
	s.Flags = ServiceOnePacket
	if strings.Contains(flags, "port") {
		s.Flags |= uint32(directorServiceFlagSERVICE_HASH_PORT)
	}
	if strings.Contains(flags, "fallback") {
		s.Flags |= uint32(directorServiceFlagSERVICE_FALLBACK)
	}
	table := h.sched.(scheduler.Tabled).Table(h.servers)
	s.Plan[0] = Plan{Base: 1024, Length: uint32(len(table)), Kind: map[string]uint32{
		"dh": uint32(directorPlanKindPLAN_DH), "sh": uint32(directorPlanKindPLAN_SH), "mh": uint32(directorPlanKindPLAN_MH),
	}[name]}
	copy(h.r.Plans[1024:], table)
	return h
}

func (h *hashWorld) addr() netip.Addr {
	raw := binary.NativeEndian.AppendUint64(nil, h.random.Uint64())
	raw = binary.NativeEndian.AppendUint64(raw, h.random.Uint64())
	return both(h.r.f, netip.AddrFrom4([4]byte(raw)), netip.AddrFrom16([16]byte(raw)))
}

// change makes other real servers unusable.
func (h *hashWorld) change() {
	for i := range h.servers {
		s := &h.servers[i]
		s.Overloaded = h.random.IntN(3) == 0
		row := Real{Flags: RealNextHop, Ifindex: ingress, Mtu: 1500, Service: h.r.services["dns"], Mac: [12]uint8{2, 0, 0, 0, 0, uint8(s.ID)}}
		if s.Weight > 0 {
			row.Flags |= RealUsable
		}
		if s.Overloaded {
			row.Flags |= RealOverloaded
		}
		h.r.Reals[s.ID] = row
	}
}

func (h *hashWorld) compare(t *testing.T) {
	t.Helper()
	port := 1024 | uint16(h.random.Uint32())
	src, dst := h.addr(), oneOf(h.random, h.vips...)
	got, err := h.r.run(udp(from(port), func(m *message) { m.src, m.dst = src, dst })(h.r.f))
	must(t, err)
	i := h.sched.Pick(scheduler.Packet{Src: src, Dst: dst, SrcPort: port}, h.servers)
	switch {
	case i < 0 && got.action != xdpDrop:
		t.Errorf("packet from %v:%d to %v: action %d to %d, the scheduler refuses", src, port, dst, got.action, got.out[5])
	case i >= 0 && (got.action != xdpTx || uint32(got.out[5]) != h.servers[i].ID):
		t.Errorf("packet from %v:%d to %v: action %d to %d, the scheduler chooses %d", src, port, dst, got.action, got.out[5], h.servers[i].ID)
	}
}

// TestFlowHashSpreads: whatever the key, flows in order (address after address, port after port) fill sets as
// chance would: the fullest of 1,024 sets, with four entries each on average, has less than three times its places.
func TestFlowHashSpreads(t *testing.T) {
	const sets, flows, keys = 1 << 10, 4 << 10, 300
	base := flow{netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("192.0.2.1"), 5000, 80, tcpProto}
	orders := map[string]func(*flow, int){
		"addresses":           func(k *flow, i int) { k.src = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) },
		"networks":            func(k *flow, i int) { k.src = netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}) },
		"ports":               func(k *flow, i int) { k.sport = uint16(1024 + i) },
		"addresses and ports": func(k *flow, i int) { k.sport, k.src = uint16(1024+i), netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) },
	}
	for name, order := range orders {
		for range keys {
			key, load, fullest := newHashKey(), [sets]int{}, 0
			for i := range flows {
				k := base
				order(&k, i)
				set := uint32(flowHash(key, k)) % sets
				load[set]++
				fullest = max(fullest, load[set])
			}
			if fullest > 3*int(ways) {
				t.Fatalf("%s: with key %v, a set of %d places has %d flows", name, key, ways, fullest)
			}
		}
	}
}
