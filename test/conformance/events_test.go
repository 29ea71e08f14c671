// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/packet"
	"xdplvs/scheduler"
)

// history is a service to which things happen, on a node and as the scheduler
// alone sees it. Counts and the mark of a threshold are the node's, since those
// are compared elsewhere; the choices are the scheduler's.
type history struct {
	*node
	random  *rand.Rand
	draw    family
	service director.Service
	targets []netip.Addr // that packets find the service by
	addrs   []netip.Addr // of the real servers, by number
	reached map[int]bool
	sched   scheduler.Scheduler
	servers []scheduler.Server
	apology apology
	log     []string
}

const (
	historiesEach = 3
	eventsEach    = 150
)

// TestEvents: whatever happens to a service, the data plane picks what the
// scheduler would, if the director has seen the last event.
func TestEvents(t *testing.T) {
	plane, random := loadPlane(t), seeded(t)
	for _, name := range director.SchedulerNames() {
		if name == "twos" {
			continue // is random: TestTwos
		}
		flags := hashSchedulers[name]
		if flags == nil {
			flags = []scheduler.Flags{0}
		}
		for familyName, draw := range families {
			t.Run(name+"/"+familyName, func(t *testing.T) {
				for i := range historiesEach {
					synctest.Test(t, func(t *testing.T) {
						h := newHistory(t, plane, random, draw, template{
							scheduler: name, flags: flags[random.IntN(len(flags))], light: i%2 == 0,
							protocol: [...]director.Protocol{director.TCP, director.UDP}[random.IntN(2)],
						})
						h.apologize()
						for range eventsEach {
							h.event()
						}
					})
				}
			})
		}
	}
}

func newHistory(t *testing.T, p *bpf.DataPlane, random *rand.Rand, draw family, want template) *history {
	t.Helper()
	h := &history{node: startNode(t, p), random: random, draw: draw, reached: map[int]bool{}}
	h.passes = true
	h.service = director.Service{
		Key:       director.ServiceKey{Protocol: want.protocol, Addr: draw(random), Port: 80},
		Scheduler: want.scheduler, Flags: want.flags, Answer: director.AnswerPass,
		OnePacket: want.protocol == director.UDP && random.IntN(4) == 0,
		Conns:     director.IPVSConnPolicy(false),
	}
	var err error
	if h.sched, err = scheduler.New(want.scheduler, scheduler.Options{Flags: want.flags}); err != nil {
		t.Fatal(err)
	}
	for i := range 1 + random.IntN(7) {
		h.addrs = append(h.addrs, draw(random))
		h.reached[i] = true
	}
	h.reachAll()
	for i := range h.addrs {
		h.add(i, h.weight(want))
	}
	h.share()
	return h
}

// weight is small for light ones, so that servers are often at their limits.
func (h *history) weight(want template) uint32 {
	return want.weight(h.random, h.random.IntN(4) > 0)
}

// share lets packets find the service under several addresses.
func (h *history) share() {
	h.t.Helper()
	var more []netip.AddrPort
	for range 5 {
		more = append(more, netip.AddrPortFrom(h.draw(h.random), h.service.Key.Port))
	}
	h.alias(h.service.Key, more...)
	h.targets = []netip.Addr{h.service.Key.Addr}
	for _, a := range more {
		h.targets = append(h.targets, a.Addr())
	}
}

func (h *history) event() {
	h.t.Helper()
	switch i := h.random.IntN(len(h.addrs)); h.random.IntN(13) {
	case 0:
		h.edit(i, h.weight(template{light: h.random.IntN(3) > 0}))
	case 1:
		h.remove(i)
	case 2:
		h.add(i, h.weight(template{light: true}))
	case 3:
		h.limit(i, uint32(h.random.IntN(5)))
	case 4:
		h.reached[i] = h.random.IntN(2) == 0
		h.log = append(h.log, fmt.Sprintf("%d reached: %v", i, h.reached[i]))
		h.reachAll()
	case 5:
		h.waver()
	default:
		h.connect()
	}
}

// place is where a server stands in the list, -1 if it does not.
func (h *history) place(number int) int {
	return slices.IndexFunc(h.servers, func(s scheduler.Server) bool { return s.ID == uint32(number) })
}

func (h *history) add(number int, weight uint32) {
	if h.place(number) >= 0 {
		return
	}
	h.log = append(h.log, fmt.Sprintf("add %d weight %d", number, weight))
	h.service.Reals = append(slices.Clone(h.service.Reals), director.RealServer{
		Key: director.RealKey{Addr: h.addrs[number], Port: 80}, Method: director.DirectRouting, Weight: weight,
	})
	h.servers = slices.Insert(h.servers, 0, scheduler.Server{
		ID: uint32(number), Addr: h.addrs[number], Port: 80, Weight: weight, LastWeight: weight,
	})
	h.edited()
}

func (h *history) remove(number int) {
	i := h.place(number)
	if i < 0 {
		return
	}
	h.log = append(h.log, fmt.Sprint("remove ", number))
	h.service.Reals = slices.Delete(slices.Clone(h.service.Reals), h.wanted(i), h.wanted(i)+1)
	h.servers = slices.Delete(h.servers, i, i+1)
	h.edited()
}

// wanted is the place in the configuration, whose last comes first in the list.
func (h *history) wanted(i int) int { return len(h.servers) - 1 - i }

func (h *history) edit(number int, weight uint32) {
	i := h.place(number)
	if i < 0 || h.servers[i].Weight == weight {
		return // to the director, no change is none
	}
	h.log = append(h.log, fmt.Sprintf("%d weight %d", number, weight))
	h.service.Reals = slices.Clone(h.service.Reals)
	h.service.Reals[h.wanted(i)].Weight = weight
	h.servers[i].Weight = weight
	if weight > 0 {
		h.servers[i].LastWeight = weight
	}
	h.edited()
}

func (h *history) limit(number int, upper uint32) {
	i := h.place(number)
	if i < 0 || h.servers[i].Upper == upper {
		return
	}
	h.log = append(h.log, fmt.Sprintf("%d upper %d", number, upper))
	h.service.Reals = slices.Clone(h.service.Reals)
	h.service.Reals[h.wanted(i)].Upper = upper
	h.servers[i].Upper = upper
	h.edited()
}

func (h *history) edited() {
	h.t.Helper()
	if err := h.set(h.service); err != nil {
		h.t.Fatal(err)
	}
	h.refresh()
	h.sched.Edit(h.servers)
}

// refresh takes over what the node has counted. A server that cannot be reached
// gets nothing; to lblc and lblcr it is as if it were quiesced, or they would
// leave a busy one for it again and again.
func (h *history) refresh() {
	h.t.Helper()
	h.settle()
	state := h.snapshot().Services[0]
	h.refreshSorry(state.Sorry)
	for _, r := range state.Reals {
		i := slices.IndexFunc(h.servers, func(s scheduler.Server) bool { return s.Addr == r.Key.Addr })
		s := &h.servers[i]
		s.Active, s.Inactive, s.Overloaded = r.Active, r.Inactive, r.Overloaded || !r.Reachable
		s.Weight = r.Weight
		if _, based := h.sched.(scheduler.Based); based && !r.Reachable {
			s.Weight = 0
		}
	}
}

func (h *history) reachAll() {
	h.t.Helper()
	hops := map[netip.Addr]director.NextHop{}
	hop := func(i int, addr netip.Addr) {
		hops[addr] = director.NextHop{Reason: "the test says so"}
		if h.reached[i] {
			hops[addr] = hopTo(i, h.loopback)
		}
	}
	for i, addr := range h.addrs {
		hop(i, addr)
	}
	for i, r := range h.service.Sorry {
		hop(firstSorry+i, r.Key.Addr)
	}
	h.director.SetNextHops(hops)
	h.settle()
}

// connect lets a client come, and perhaps go.
func (h *history) connect() {
	h.t.Helper()
	h.refresh()
	f := flow{
		netip.AddrPortFrom(h.draw(h.random), uint16(1024+h.random.IntN(1<<16-1024))),
		netip.AddrPortFrom(h.targets[h.random.IntN(len(h.targets))], h.service.Key.Port),
	}
	want := h.wantedFor(scheduler.Packet{Src: f.client.Addr(), SrcPort: f.client.Port(), Dst: f.target.Addr()})
	got, err := h.send(f.frame(h.service.Key.Protocol, packet.SYN))
	if err != nil {
		h.t.Fatal(err)
	}
	h.log = append(h.log, fmt.Sprintf("%s to %s: %d", f.client, f.target, got))
	if got != want {
		h.t.Fatalf("%s %s: want %d of %+v, sorry %+v after %q", h.service.Scheduler, h.service.Flags, want, h.servers, h.apology.servers, h.log)
	}
	if got != refused && h.service.Key.Protocol == director.TCP && h.random.IntN(2) == 0 {
		if err := h.abort(f); err != nil {
			h.t.Fatal(err)
		}
	}
}
