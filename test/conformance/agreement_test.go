// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/packet"
	"xdplvs/scheduler"
)

// farm is a random set of real servers behind random services that differ in
// their addresses only, on a node and as the scheduler alone sees them.
type farm struct {
	*node
	services []director.Service
	servers  []scheduler.Server // ids are those of realMAC
	sched    scheduler.Scheduler
}

// family draws addresses of hosts.
type family func(*rand.Rand) netip.Addr

func randomIPv4(r *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(1 + r.IntN(126)), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
}

func randomIPv6(r *rand.Rand) netip.Addr {
	a := [16]byte{byte(0x20 + r.IntN(0x20))}
	for i := 1; i < len(a); i++ {
		a[i] = byte(r.Uint32())
	}
	return netip.AddrFrom16(a)
}

var families = map[string]family{"IPv4": randomIPv4, "IPv6": randomIPv6}

// template is the part of a service that a test decides on.
type template struct {
	scheduler string
	flags     scheduler.Flags
	protocol  director.Protocol
	onePacket bool
	vips      int
	light     bool // weights are small
}

// newFarm brings up a farm of which at least one real server is usable. Refused
// packets pass, since the answers that a data plane gives are limited.
func newFarm(t *testing.T, p *bpf.DataPlane, random *rand.Rand, draw family, want template) *farm {
	t.Helper()
	f := &farm{node: startNode(t, p)}
	f.passes = true
	port := uint16(1024 + random.IntN(1<<16-1024))
	for range want.vips {
		f.services = append(f.services, director.Service{
			Key:       director.ServiceKey{Protocol: want.protocol, Addr: draw(random), Port: port},
			Scheduler: want.scheduler, Flags: want.flags, OnePacket: want.onePacket, Answer: director.AnswerPass,
		})
	}
	var err error
	if f.sched, err = scheduler.New(want.scheduler, scheduler.Options{Flags: want.flags}); err != nil {
		t.Fatal(err)
	}
	n := 1 + random.IntN(12)
	addrs := make([]netip.Addr, n)
	for i := range addrs {
		addrs[i] = draw(random)
	}
	f.reach(addrs[:n-random.IntN(1+n/3)]...)
	for i, addr := range addrs {
		f.add(scheduler.Server{ID: uint32(i), Addr: addr, Port: port, Weight: want.weight(random, i == 0)})
	}
	f.shareReachability()
	return f
}

func (t template) weight(random *rand.Rand, positive bool) uint32 {
	w := uint32(random.IntN(4))
	if !t.light {
		w = [...]uint32{0, 1, w, uint32(random.IntN(300)), director.MaxWeight}[random.IntN(5)]
	}
	if positive {
		w = max(w, 1)
	}
	return w
}

// add is one command, for the node and for the scheduler.
func (f *farm) add(s scheduler.Server) {
	f.t.Helper()
	for i := range f.services {
		f.services[i].Reals = append(slices.Clone(f.services[i].Reals), director.RealServer{
			Key: director.RealKey{Addr: s.Addr, Port: s.Port}, Method: director.DirectRouting, Weight: s.Weight,
		})
	}
	if err := f.set(f.services...); err != nil {
		f.t.Fatal(err)
	}
	s.LastWeight = s.Weight
	f.servers = slices.Insert(f.servers, 0, s)
	f.sched.Edit(f.servers)
}

// shareReachability: a real server without a next hop is as good as overloaded.
func (f *farm) shareReachability() {
	f.t.Helper()
	for i, r := range f.snapshot().Services[0].Reals {
		if r.Key.Addr != f.servers[i].Addr {
			f.t.Fatalf("real server %d is %s, want %s", i, r.Key, f.servers[i].Addr)
		}
		f.servers[i].Overloaded = !r.Reachable
	}
}

func (f *farm) String() string {
	text := ""
	for _, s := range f.servers {
		text += fmt.Sprintf(" %d=%s weight %d", s.ID, netip.AddrPortFrom(s.Addr, s.Port), s.Weight)
		if s.Overloaded {
			text += " unreachable"
		}
	}
	return text
}

// flow is a random client's, with a service of the farm.
func (f *farm) flow(random *rand.Rand, draw family) (flow, director.Protocol) {
	key := f.services[random.IntN(len(f.services))*random.IntN(2)].Key // often the first: it has the least ids
	client := netip.AddrPortFrom(draw(random), uint16(1024+random.IntN(1<<16-1024)))
	return flow{client, netip.AddrPortFrom(key.Addr, key.Port)}, key.Protocol
}

const (
	farmsEach   = 4
	packetsEach = 200
)

// hashSchedulers are the schedulers whose plans are indexed by a hash, with all
// combinations of their flags.
var hashSchedulers = map[string][]scheduler.Flags{
	"dh": {0},
	"sh": {0, scheduler.SHPort, scheduler.SHFallback, scheduler.SHPort | scheduler.SHFallback},
	"mh": {0, scheduler.MHPort, scheduler.MHFallback, scheduler.MHPort | scheduler.MHFallback},
}

// TestHashPlans: what the data plane finds in a hash plan is what the scheduler picks.
func TestHashPlans(t *testing.T) {
	plane, random := loadPlane(t), seeded(t)
	differences := 0
	for name, flags := range hashSchedulers {
		for _, flag := range flags {
			for familyName, draw := range families {
				want := template{scheduler: name, flags: flag, protocol: director.UDP, onePacket: true, vips: 1}
				if name == "dh" {
					want.vips = packetsEach / 2
				}
				t.Run(fmt.Sprintf("%s/%s/%s", name, flag, familyName), func(t *testing.T) {
					for range farmsEach {
						synctest.Test(t, func(t *testing.T) {
							differences += newFarm(t, plane, random, draw, want).compareHash(random, draw)
						})
					}
				})
			}
		}
	}
	if reason := knownDifference("TestHashPlans/refused"); reason != "" && differences == 0 {
		t.Errorf("agrees now, but is listed as different: %s", reason)
	}
}

// compareHash returns in how many cases a known difference was seen.
func (f *farm) compareHash(random *rand.Rand, draw family) (differences int) {
	f.t.Helper()
	known := knownDifference("TestHashPlans/refused") != ""
	for range packetsEach {
		fl, protocol := f.flow(random, draw)
		want := refused
		p := scheduler.Packet{Src: fl.client.Addr(), SrcPort: fl.client.Port(), Dst: fl.target.Addr()}
		if i := f.sched.Pick(p, f.servers); i >= 0 {
			want = int(f.servers[i].ID)
		}
		got := f.choice(fl, protocol)
		if got != want && want == refused && known {
			differences++
		} else if got != want {
			f.t.Fatalf("%s to %s went to %d, want %d of%s", fl.client, fl.target, got, want, f)
		}
	}
	return differences
}

// choice is where a new connection's packet goes.
func (f *farm) choice(fl flow, protocol director.Protocol) int {
	f.t.Helper()
	got, err := f.send(fl.frame(protocol, packet.SYN))
	if err != nil {
		f.t.Fatal(err)
	}
	return got
}

// TestSequencePlans: the data plane takes the slots of a sequence plan in order
// and goes round as Plan.At does, also when its cursor has run far; and the plan
// is the one that the scheduler makes.
func TestSequencePlans(t *testing.T) {
	plane, random := loadPlane(t), seeded(t)
	for _, name := range director.SchedulerNames() {
		if !isSequence(t, name) {
			continue
		}
		for familyName, draw := range families {
			t.Run(name+"/"+familyName, func(t *testing.T) {
				for _, want := range []template{
					{scheduler: name, protocol: director.TCP, vips: 1},
					{scheduler: name, protocol: director.TCP, vips: 1, light: true},
					{scheduler: name, protocol: director.UDP, vips: 1},
					{scheduler: name, protocol: director.UDP, onePacket: true, vips: 1},
				} {
					synctest.Test(t, func(t *testing.T) {
						newFarm(t, plane, random, draw, want).compareSequence(random, draw)
					})
				}
			})
		}
	}
}

func (f *farm) compareSequence(random *rand.Rand, draw family) {
	f.t.Helper()
	plan, cursor := f.writtenPlan()
	f.comparePlan(plan)
	if knownDifference("TestSequencePlans/refused") != "" && slices.Contains(plan.Slots, scheduler.NoServer) {
		return
	}
	end := uint64(len(plan.Slots))
	starts := []uint64{
		0, end - 1, 2*end - uint64(plan.Loop) - 1, math.MaxUint32 - 1, math.MaxUint32 + end - 1,
		random.Uint64N(1 << 32), random.Uint64N(1 << 48), random.Uint64N(1 << 63),
	}
	for _, start := range starts {
		atomic.StoreUint64(cursor, start)
		for position := start; position < start+30; position++ {
			fl, protocol := f.flow(random, draw)
			if got, want := f.choice(fl, protocol), int(int32(plan.At(position))); got != want {
				f.t.Fatalf("position %d went to %d, want %d of%s", position, got, want, f)
			}
		}
	}
}

// comparePlan compares the plan that was written with one made here. A plan of
// counts that goes on for ever is written to some length only; that of twos is
// another each time.
func (f *farm) comparePlan(written scheduler.Plan) {
	f.t.Helper()
	if f.sched.Name() == "twos" {
		return
	}
	s := f.services[0]
	counting := scheduler.CountInactive
	if s.OnePacket {
		counting = scheduler.CountNothing
	} else if s.Key.Protocol == director.TCP {
		counting = scheduler.CountActive
	}
	made := scheduler.Forward(f.sched, f.servers, counting, 1<<16)
	for position := range uint64(len(written.Slots)) {
		if got, want := written.At(position), made.At(position); got != want {
			f.t.Fatalf("slot %d is %d, want %d of%s", position, int32(got), int32(want), f)
		}
	}
	if written.Loop != made.Loop && len(written.Slots) == len(made.Slots) {
		f.t.Fatalf("goes round to slot %d, want %d", written.Loop, made.Loop)
	}
}

// writtenPlan is the plan in force of the only service, with the numbers of the
// real servers, and its cursor.
func (f *farm) writtenPlan() (p scheduler.Plan, cursor *uint64) {
	f.t.Helper()
	tables := f.plane.Tables
	i := slices.IndexFunc(tables.Services, func(s bpf.Service) bool { return s.Plan[s.Current&1].Length > 0 })
	if i < 0 {
		f.t.Fatal("no service has a plan")
	}
	row := &tables.Services[i]
	current := row.Current & 1
	written := row.Plan[current]
	p.Loop = int(written.Loop)
	for _, id := range tables.Plans[written.Base : written.Base+written.Length] {
		if id != bpf.NoReal {
			mac := tables.Reals[id].Mac
			id = uint32(mac[4])<<8 | uint32(mac[5])
		}
		p.Slots = append(p.Slots, id)
	}
	return p, &row.Cursor[current]
}
