// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
)

// medium tables hold what randomDesired makes, and are nearly full at times.
var medium = bpf.Sizes{Conns4: 256, Conns6: 256, Overflow: 1, Services: 24, Reals: 96, Plans: 4096, CPUs: 2}

// mixed are the schedulers of random states. Two are left out: mh for the size of
// its table, twos because it is random itself.
var mixed = []string{"rr", "wrr", "rr", "wrr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "sh", "dh", "lblc", "lblcr"}

// randomDesired is a state out of few services and real servers, so that two
// have a lot in common.
func randomDesired(random *rand.Rand) Desired {
	want := Desired{Timeouts: randomTimeouts(random)}
	for _, name := range []string{"eth0", "eth1", "eth2"} {
		if random.IntN(2) == 0 {
			want.Interfaces = append(want.Interfaces, Interface{name, randomOf(random, AttachAuto, AttachNative, AttachGeneric)})
		}
	}
	for i := range 6 {
		if random.IntN(3) > 0 {
			want.Services = append(want.Services, randomService(random, i))
		}
	}
	random.Shuffle(len(want.Services), func(i, j int) {
		want.Services[i], want.Services[j] = want.Services[j], want.Services[i]
	})
	return want
}

// randomTimeouts has one that is not IPVS's, and none that ends a connection before expire does.
func randomTimeouts(random *rand.Rand) (t Timeouts) {
	must(t.Set(randomOf(random, TimeoutNames()...), time.Duration(1+random.IntN(900))*time.Second))
	return t
}

func randomOf[T any](random *rand.Rand, of ...T) T { return of[random.IntN(len(of))] }

func randomService(random *rand.Rand, i int) Service {
	s := Service{Name: fmt.Sprint("s", i), Key: ServiceKey{Protocol: TCP, Addr: addr(fmt.Sprint("192.0.2.", i%2+1)), Port: uint16(80 + i)}, Scheduler: randomOf(random, mixed...)}
	if i%3 == 1 {
		s.Key.Protocol, s.OnePacket = UDP, random.IntN(2) == 0
	}
	if i%3 == 2 {
		s.Key.Addr = addr(fmt.Sprint("2001:db8::", i+1))
	}
	s.Conns = ConnPolicy{OnRemove: randomOf(random, FateKeep, FateReschedule, FateReset, FateDrop), OnDown: randomOf(random, FateKeep, FateReschedule, FateReset),
		Reuse: randomOf(random, ReuseClosing, ReuseClosed, ReuseNever), ExpireNodest: random.IntN(2) == 0, Sloppy: s.Key.Protocol == TCP && random.IntN(2) == 0}
	s.Answer = randomOf(random, AnswerUnreachable, AnswerDrop, AnswerPass)
	for n := range 8 {
		if random.IntN(2) == 0 {
			checked := random.IntN(2) == 0
			s.Reals = append(s.Reals, RealServer{
				Checked: checked, InhibitOnFailure: checked && random.IntN(2) == 0,
				Name: randomOf(random, "", "a", "b"), Key: RealKey{randomAddr(s.Key.Addr.Is4(), n), s.Key.Port},
				Method: DirectRouting, Weight: uint32(random.IntN(4) * (1 + random.IntN(10)*random.IntN(2))),
			})
			if random.IntN(3) == 0 {
				r := &s.Reals[len(s.Reals)-1]
				r.Upper = uint32(1 + random.IntN(9))
				r.Lower = uint32(random.IntN(int(r.Upper) + 1))
			}
		}
	}
	for n := range 8 {
		a := randomAddr(s.Key.Addr.Is4(), n)
		if i < 2 && random.IntN(6) == 0 && !slices.ContainsFunc(s.Reals, func(r RealServer) bool { return r.Key.Addr == a }) {
			s.Sorry = append(s.Sorry, RealServer{Key: RealKey{a, s.Key.Port}, Method: DirectRouting, Weight: uint32(random.IntN(3))})
		}
	}
	random.Shuffle(len(s.Reals), func(i, j int) { s.Reals[i], s.Reals[j] = s.Reals[j], s.Reals[i] })
	return s
}

func randomAddr(is4 bool, n int) netip.Addr {
	if is4 {
		return addr(fmt.Sprint("10.0.0.", n+1))
	}
	return addr(fmt.Sprint("fd00::", n+1))
}

// randomHealth is of half of randomDesired's real servers.
func randomHealth(random *rand.Rand) map[HealthKey]Health {
	all := map[HealthKey]Health{}
	for range 20 {
		s := randomService(random, random.IntN(6))
		for _, r := range s.Reals {
			health := Health{Condition: randomOf(random, Unknown, Up, Up, Draining, Down)}
			if health.Condition == Up {
				health.Factor = 100
			}
			all[HealthKey{s.Key, r.Key}] = health
		}
	}
	return all
}

func randomHops(random *rand.Rand) map[netip.Addr]NextHop {
	hops := map[netip.Addr]NextHop{}
	for n := range 16 {
		a := randomAddr(n%2 == 0, n/2)
		switch hop := hopFor(a); random.IntN(5) {
		case 0:
			hops[a] = NextHop{Reason: "no answer"}
		case 1:
		case 2:
			hop.Link, hop.VLAN, hop.TPID = 3, []uint16{uint16(n)}, []uint16{0x8100}
			hops[a] = hop
		default:
			hops[a] = hop
		}
	}
	return hops
}

// form is everything in the tables but for what a history may leave different:
// ids, generations, cursors, counts, and where plans lie and begin.
func (w *world) form() string {
	var out []string
	for _, e := range storedKeys(w.tables) {
		if isVIPKey(e.Key) {
			out = append(out, fmt.Sprint("address ", e.Key.Addr))
			continue
		}
		out = append(out, fmt.Sprint("service ", e.Key, w.formOf(&w.tables.Services[e.Service])))
	}
	slices.Sort(out)
	out = append(out, fmt.Sprint("timeouts ", w.tables.Settings.Timeout), "attached "+w.plane.attached())
	return strings.Join(out, "\n")
}

func (w *world) formOf(s *bpf.Service) string {
	plan := s.Plan[s.Current&1]
	lines := []string{fmt.Sprint(" flags ", s.Flags, " answer ", s.Answer, " protocol ", s.Protocol),
		"plan " + w.formOfPlan(s, plan),
		"flow " + w.formOfSlots(w.tables.Plans[s.Flow.Base:][:s.Flow.Length])}
	var reals []string
	for id := range w.tables.Reals {
		if row := &w.tables.Reals[id]; row.Addr != [16]byte{} && row.Service == s.Id {
			hop := w.d.realAt(uint32(id)).writtenHop()
			reals = append(reals, fmt.Sprint("real ", row.Addr, row.Port, " weight ", row.Weight, " flags ", row.Flags, " method ", row.Method, " thresholds ", row.Upper, row.Lower,
				" hop ", hop, w.plane.ports[row.TxPort]*int32(row.Flags&bpf.RealNextHop)))
		}
	}
	slices.Sort(reals)
	return strings.Join(append(lines, reals...), "\n  ")
}

// formOfPlan is a hash plan as it is, and a sequence without its beginning. A plan
// that follows the connections begins with those that there are, and grows with
// its history: it is its first choices.
func (w *world) formOfPlan(s *bpf.Service, p bpf.Plan) string {
	slots := w.tables.Plans[p.Base:][:p.Length]
	switch {
	case p.Kind != bpf.PlanSequence:
		return fmt.Sprint(p.Kind, " ", w.formOfSlots(slots))
	case w.serviceAt(s.Id).aware() && len(slots) > 0:
		var first []uint32
		for i := range awareFirst {
			for i >= len(slots) {
				i -= len(slots) - int(p.Loop)
			}
			first = append(first, slots[i])
		}
		return w.formOfSlots(first)
	default:
		return w.formOfLoop(slots[p.Loop:])
	}
}

func (w *world) serviceAt(id uint32) *service {
	for _, s := range w.d.services {
		if s.id == id {
			return s
		}
	}
	w.t.Fatalf("no service has row %d", id)
	return nil
}

func (w *world) formOfSlots(ids []uint32) string {
	var names []string
	for _, id := range ids {
		if id == bpf.NoReal {
			names = append(names, "-")
			continue
		}
		names = append(names, fmt.Sprintf("%x", w.tables.Reals[id].Addr[14:]))
	}
	return strings.Join(names, " ")
}

// formOfLoop is the least of the loop's rotations: where it begins is history.
func (w *world) formOfLoop(ids []uint32) string {
	best := ""
	for i := range ids {
		turned := w.formOfSlots(append(slices.Clone(ids[i:]), ids[:i]...))
		if best == "" || turned < best {
			best = turned
		}
	}
	return best
}

// TestAnyHistoryEndsAlike: any sequence of desired states, next hops, connections,
// restarts, failures and refusals ends in the rows that a fresh start with the last
// state makes, and after every step everything holds.
func TestAnyHistoryEndsAlike(t *testing.T) {
	random := seeded(t)
	for range 15 {
		history(t, random, 50)
	}
}

func history(t *testing.T, random *rand.Rand, steps int) {
	w := newWorld(t, medium)
	var last Desired
	begun := false // the process has accepted a state
	for range steps {
		switch random.IntN(10) {
		case 0, 1, 2:
			want := randomDesired(random)
			if err := w.d.apply(want); err != nil {
				if !errors.Is(err, bpf.ErrFull) {
					t.Fatal(err)
				}
				break // removed real servers take the rows
			}
			last, begun = want, true
		case 3:
			w.hops = randomHops(random)
			w.d.setHops(w.hops)
		case 9:
			w.d.setHealth(randomHealth(random))
		case 4:
			connectSome(w, random)
		case 5:
			w.expire()
		case 6:
			w.d.reap()
		case 8:
			w.sweepOnce(newSweeper(w.d))
		case 7:
			if random.IntN(4) == 0 {
				health := w.d.health
				w.restart()
				w.d.setHealth(health)
				begun = false
			}
			if random.IntN(4) == 0 {
				failSome(w, random)
			}
		}
		if begun {
			w.mustHold()
		}
	}
	w.expire()
	w.d.reap()
	w.d.reap()
	if err := w.d.apply(last); err != nil {
		t.Fatal(err)
	}
	for n := range 16 { // in the end something is known of all, as the resolver sees to
		if a := randomAddr(n%2 == 0, n/2); w.hops[a].equal(NextHop{}) {
			w.hops = maps.Clone(w.hops)
			w.hops[a] = NextHop{Reason: "no answer"}
		}
	}
	w.d.setHops(w.hops)
	w.d.reap()
	w.d.reap()
	w.follow()
	w.mustHold()
	compareWithFresh(t, w, last)
}

func compareWithFresh(t *testing.T, w *world, last Desired) {
	t.Helper()
	fresh := newWorld(t, medium)
	for i, w := range last.Interfaces { // "auto" keeps the mode that there is
		if w.Mode == AttachAuto {
			last.Interfaces[i].Mode = AttachNative
		}
	}
	if err := w.d.apply(last); err != nil {
		t.Fatal(err)
	}
	fresh.d.setHealth(w.d.health)
	fresh.mustWant(last)
	fresh.setHops(w.hops)
	if got, want := w.form(), fresh.form(); got != want {
		t.Fatalf("where the history and a fresh start differ:\n%s", difference(got, want, "\n"))
	}
}

func connectSome(w *world, random *rand.Rand) {
	for key := range w.d.services {
		for range random.IntN(5) {
			from := client(random.IntN(1000))
			if key.Addr.Is6() {
				from = client6(random.IntN(1000))
			}
			if free := slices.ContainsFunc(w.tables.Conns4, func(c bpf.Conn4) bool { return c.C.Tag&3 == 0 }); free {
				w.connect(key, from)
			}
		}
	}
}

// failSome lets a third of all calls fail for one state and one set of next hops,
// then heals.
func failSome(w *world, random *rand.Rand) {
	w.plane.fault = func(what string) error {
		if random.IntN(3) == 0 {
			return errors.New("injected failure of " + what)
		}
		return nil
	}
	_ = w.d.apply(randomDesired(random))
	w.d.setHops(randomHops(random))
	w.plane.fault = nil
	w.d.setHops(w.hops)
}

// TestRefusalChangesNothing: whatever is refused, for whatever reason, all rows
// are what they were to the byte, and so is what is attached.
func TestRefusalChangesNothing(t *testing.T) {
	random := seeded(t)
	refusals := map[string]int{}
	for range 25 {
		w := newWorld(t, bpf.Sizes{Conns4: 64, Conns6: 64, Overflow: 1, Services: 4, Reals: 16, Plans: 512, CPUs: 1})
		for range 20 {
			want := randomDesired(random)
			spoil(w, random, &want)
			before := w.everything()
			err := w.d.apply(want)
			w.plane.fault = nil
			if err == nil {
				w.mustHold()
				continue
			}
			refusals[strings.Fields(err.Error())[0]]++
			if after := w.everything(); before != after {
				t.Fatalf("%v\nhas changed:\n%s", err, difference(before, after, " "))
			}
			if random.IntN(4) == 0 {
				w.d.setHops(randomHops(random))
			}
		}
	}
	t.Logf("refusals by first word: %v", refusals)
	if len(refusals) < 5 {
		t.Error("too few kinds of refusal: the test does not test")
	}
}

// spoil makes a state wrong in one way, sometimes.
func spoil(w *world, random *rand.Rand, want *Desired) {
	switch random.IntN(7) {
	case 0:
		want.Interfaces = append(want.Interfaces, Interface{Name: "eth9"})
	case 1:
		if n := len(want.Services); n > 0 {
			want.Services = append(want.Services, want.Services[0])
		}
	case 2:
		if n := len(want.Services); n > 0 {
			want.Services[n-1].Scheduler = "best"
		}
	case 3:
		if n := len(want.Services); n > 0 {
			want.Services[n-1].Reals = append(slices.Clone(want.Services[n-1].Reals), RealServer{})
		}
	case 4:
		failed := false
		w.plane.fault = func(what string) error {
			if !failed && strings.HasPrefix(what, "attach 4") {
				failed = true
				return errors.New("injected failure")
			}
			return nil
		}
	case 5:
		if n := len(want.Services); n > 0 {
			want.Services[0].Scheduler = "wrr"
			want.Services[0].Reals = []RealServer{{Key: RealKey{randomAddr(want.Services[0].Key.Addr.Is4(), 1), want.Services[0].Key.Port}, Method: DirectRouting, Weight: 60000},
				{Key: RealKey{randomAddr(want.Services[0].Key.Addr.Is4(), 2), want.Services[0].Key.Port}, Method: DirectRouting, Weight: 1}}
		}
	}
}

// difference is where two texts differ first, and a little of what follows.
func difference(a, b, separator string) string {
	was, is := strings.Split(a, separator), strings.Split(b, separator)
	for i := range was {
		if i >= len(is) || was[i] != is[i] {
			end := func(list []string) string {
				return strings.Join(list[min(i, len(list)):min(i+8, len(list))], separator)
			}
			return fmt.Sprintf("item %d:\n%s\nand\n%s", i, end(was), end(is))
		}
	}
	return "the second goes on"
}

// everything is the tables and what is attached, byte by byte.
func (w *world) everything() string {
	return fmt.Sprint(*w.tables.Settings, w.filterSum(), w.tables.Services, sortedKeys(w.tables), w.tables.Plans, w.tables.Reals, w.tables.Counts,
		w.plane.attached(), *w.plane.ports, w.d.generation, maps.Collect(maps.All(w.d.watched)), w.d.reserved, w.d.arena.used)
}

func (w *world) filterSum() (sum uint64) {
	for i, word := range w.tables.Filter {
		sum += word * uint64(2*i+1)
	}
	return sum
}
