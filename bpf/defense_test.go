// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// The defenses: what packets have to get past that would begin a connection.
var defenseTests = []programTest{
	{name: "drop_packet: the first, and then each third", setup: dropRate(3), steps: []step{
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: tcp(syn), want: begins("a")},
		{send: udp(), want: begins("d")}, // one counter for all services
		{send: tcp(ack), want: known("a")},
		{send: tcp(syn, from(40001)), want: untouched("drop_packet")},
		{send: udp(), want: known("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 2", "c:40000>vip:80 ESTABLISHED a 2"}},
	{name: "drop_packet: only what would be scheduled counts", setup: dropRate(2), steps: []step{
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: tcp(ack), want: untouched("pass_no_connection")},
		{send: tcp(syn, elsewhere), want: untouched("pass_no_service")},
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, from(40001)), want: untouched("drop_packet")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "drop_packet: with persistence each packet counts once", setup: both2(persistent("web"), dropRate(2)), steps: []step{
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, from(40001)), want: untouched("drop_packet")},
		{send: tcp(syn, from(40001)), want: begins("a")},
	}, conns: []string{"c:0>vip:80 template a", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV a 1"}},
	{name: "drop_packet: one-packet scheduling", setup: both2(flagged("dns", ServiceOnePacket), dropRate(2)), steps: []step{
		{send: udp(), want: untouched("drop_packet")},
		{send: udp(), want: onePacket("d")},
		{send: udp(), want: untouched("drop_packet")},
	}},
	{name: "drop_packet: below 0 all are dropped", setup: dropRate(-1), steps: []step{
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: tcp(syn), want: untouched("drop_packet")},
		{send: udp(), want: untouched("drop_packet")},
	}},
}

// What is no service's, but for an address that has closed ports.
var closedTests = []programTest{
	{name: "closed ports: reset", setup: closed(ClosedReset), steps: []step{
		{send: tcp(syn, to(113), noData), want: reset(0, 1001, rst|ack)},
		{send: tcp(syn, to(113), options, tag(0x8100, 5)), want: reset(0, 1006, rst|ack)},
		{send: udp(to(113)), want: unreachable},
		{send: tcp(syn), want: begins("a")},
		{send: tcp(ack, to(113)), want: untouched("pass_no_service")}, // it may be of a connection of this host
		{send: tcp(syn|ack, to(113)), want: untouched("pass_no_service")},
		{send: tcp(rst, to(113)), want: untouched("pass_no_service")},
		{send: tcp(syn, elsewhere), want: untouched("pass_no_service")},
		{send: raw(47, []byte{0, 0, 8, 0, 1, 2, 3, 4}), want: untouched("pass_no_service")},
	}, conns: []string{"c:40000>vip:80 SYN_RECV a 1"}},
	{name: "closed ports: drop", setup: closed(ClosedDrop), steps: []step{
		{send: tcp(syn, to(113)), want: untouched("drop_closed")},
		{send: udp(to(113)), want: untouched("drop_closed")},
		{send: tcp(ack, to(113)), want: untouched("pass_no_service")},
		{send: udp(), want: begins("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 1"}},
	{name: "closed ports: of another address", setup: closedAt(ClosedReset, "192.0.2.99", "2001:db8::99"), steps: []step{
		{send: tcp(syn, to(113)), want: untouched("pass_no_service")},
	}},
}

func closed(says uint32) func(*rig) {
	return func(r *rig) { closedAt(says, r.f.vip.String(), r.f.vip.String())(r) }
}

func closedAt(says uint32, v4, v6 string) func(*rig) {
	return func(r *rig) {
		r.Settings.ClosedPorts = 1
		if err := r.plane.SetClosed(map[netip.Addr]uint32{addr(both(r.f, v4, v6)): says}); err != nil {
			panic(err)
		}
	}
}

// Guards: who may begin connections, and how many.
var guardTests = []programTest{
	{name: "guard: denied, by everybody's list", setup: denied(0, "198.51.100.6/31", "2001:db8:7::6/127"), steps: []step{
		{send: tcp(syn), want: untouched("drop_denied")},
		{send: udp(), want: untouched("drop_denied")},
		{send: tcp(syn, second), want: begins("a")},
	}, conns: []string{"c2:40000>vip:80 SYN_RECV a 1"}},
	{name: "guard: denied, by the service's list", setup: denied(3, "198.51.100.6/31", "2001:db8:7::6/127"), steps: []step{
		{send: tcp(syn), want: untouched("drop_denied")},
		{send: udp(), want: begins("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 1"}},
	{name: "guard: known connections are not asked", steps: []step{
		{send: tcp(syn), want: begins("a")},
		{before: denied(0, "0.0.0.0/0", "::/0"), send: tcp(ack), want: known("a")},
		{send: tcp(syn, from(40001)), want: untouched("drop_denied")},
		{send: tcp(syn), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 3"}},
	{name: "guard: a budget for each client, paid back in time", setup: guarded(0, Guard{BudgetCost: 1, BudgetBurst: 2}), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: udp(), want: begins("d")},
		{send: tcp(syn, from(40001)), want: untouched("drop_budget")},
		{send: tcp(syn, second), want: begins("b")},
		{send: tcp(ack), want: known("a")},
		{before: payBack(0, 1), send: tcp(syn, from(40002)), want: begins("c")},
		{send: tcp(syn, from(40003)), want: untouched("drop_budget")},
	}, conns: []string{"c2:40000>vip:80 SYN_RECV b 1", "c:40000>vip:53 UDP d 1", "c:40000>vip:80 ESTABLISHED a 2", "c:40002>vip:80 SYN_RECV c 1"}},
	{name: "guard: a service's budget is its own", setup: guarded(3, Guard{BudgetCost: 1, BudgetBurst: 1}), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: udp(), want: begins("d")},
		{send: udp(from(40001)), want: begins("e")},
		{send: tcp(syn, from(40001)), want: untouched("drop_budget")},
	}, conns: []string{"c:40000>vip:53 UDP d 1", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:53 UDP e 1"}},
	{name: "guard: a ceiling for all clients of a service", setup: guarded(3, Guard{CeilingCost: 1, CeilingBurst: 2}), steps: []step{
		{send: tcp(syn), want: begins("a")},
		{send: tcp(syn, second), want: begins("b")},
		{send: tcp(syn, from(40001)), want: untouched("drop_ceiling")},
		{send: udp(), want: begins("d")},
		{before: payBack(3, 1), send: tcp(syn, from(40001)), want: begins("c")},
	}, conns: []string{"c2:40000>vip:80 SYN_RECV b 1", "c:40000>vip:53 UDP d 1", "c:40000>vip:80 SYN_RECV a 1", "c:40001>vip:80 SYN_RECV c 1"}},
	{name: "guard: a refused packet spends nothing of the ceiling", setup: both2(denied(0, "198.51.100.6/31", "2001:db8:7::6/127"), guarded(3, Guard{CeilingCost: 1, CeilingBurst: 1})), steps: []step{
		{send: tcp(syn), want: untouched("drop_denied")},
		{send: tcp(syn, second), want: begins("a")},
		{send: tcp(syn, second, from(40001)), want: untouched("drop_ceiling")},
	}, conns: []string{"c2:40000>vip:80 SYN_RECV a 1"}},
}

// guardRow is that of everybody, or of a service by its id, which is not 0 in these tests.
func (r *rig) guardRow(service uint32) *Guard {
	if service == 0 {
		return &r.Guards[0]
	}
	return &r.Guards[service+1]
}

// unitsOfBudget are hours: nothing is paid back while a test runs.
const unitsOfBudget = uint64(3600)

func (r *rig) budgetUnit() uint64 { return unitsOfBudget * uint64(r.Settings.Hz) << 20 }

// guarded sets limits whose costs are in hours.
func guarded(service uint32, g Guard) func(*rig) {
	return func(r *rig) {
		row, unit := r.guardRow(service), r.budgetUnit()
		g.List, g.Prefix4, g.Prefix6 = row.List, 32, 128
		*row = g
		row.BudgetCost, row.BudgetBurst = g.BudgetCost*unit, g.BudgetBurst*unit
		row.CeilingCost, row.CeilingBurst = g.CeilingCost*unit, g.CeilingBurst*unit
		r.Settings.Defending |= DefendGuard
	}
}

// payBack lets the time of so many connections pass.
func payBack(service uint32, conns uint64) func(*rig) {
	return func(r *rig) {
		back := func(paid *uint64) {
			if *paid != 0 {
				*paid -= conns * r.budgetUnit()
			}
		}
		back(&r.guardRow(service).CeilingPaid)
		for i := range r.Budgets {
			for j := range r.Budgets[i].Budget {
				back(&r.Budgets[i].Budget[j].Paid)
			}
		}
	}
}

// denied is a list of one prefix.
func denied(service uint32, v4, v6 string) func(*rig) {
	return func(r *rig) {
		r.setPrefixes(map[uint32]PrefixList{7: {Deny: []netip.Prefix{netip.MustParsePrefix(v4), netip.MustParsePrefix(v6)}}})
		r.guardRow(service).List = 7
		r.Settings.Defending |= DefendGuard
	}
}

func (r *rig) setPrefixes(lists map[uint32]PrefixList) {
	p, err := NewPrefixes(lists, r.Tables)
	if err != nil {
		panic(err)
	}
	r.SetPrefixes(p)
}

// TestPrefixesAgree compares who is denied with what all prefixes of random lists, looked
// through one by one, say. The lists of a service and of everybody change while it goes on.
func TestPrefixesAgree(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			r.Settings.Defending = DefendGuard
			r.Guards[0].List, r.Guards[4].List = 1, 2 // everybody's, and web's
			for round := range 20 {
				all, web := randomList(random, f, round), randomList(random, f, round)
				r.setPrefixes(map[uint32]PrefixList{1: all, 2: web})
				for range 200 {
					src := nearby(random, f, append(all.Deny, web.Deny...))
					want := web.says(src)
					if want == "" {
						want = all.says(src)
					}
					frame := tcp(syn, func(m *message) { m.src = src })(f)
					got := need(r.plane.Run(frame, ingress))(t)
					if denied := got.Action == xdpDrop; denied != (want == "deny") {
						t.Fatalf("%s: XDP action %d, want %q of %+v and %+v", src, got.Action, want, web, all)
					}
				}
				r.forgetConns()
			}
		})
	}
}

// says is what the longest prefix says that the address has.
func (l PrefixList) says(a netip.Addr) (says string) {
	longest := -1
	for what, prefixes := range map[string][]netip.Prefix{"allow": l.Allow, "deny": l.Deny} {
		for _, p := range prefixes {
			if p.Contains(a) && (p.Bits() > longest || p.Bits() == longest && what == "deny") {
				says, longest = what, p.Bits()
			}
		}
	}
	return says
}

// randomList has prefixes one inside another, since their addresses differ in few bits.
func randomList(random *rand.Rand, f family, round int) (l PrefixList) {
	bits := f.client.BitLen()
	step, odd := bits/32, random.IntN(bits/32) // a list has no more than 63 lengths
	for range 1 + random.IntN(20*(round+1)) {
		p := netip.PrefixFrom(nearby(random, f, nil), min(bits, random.IntN(33)*step+odd)).Masked()
		if round%2 == 0 && p.Bits() < 8 { // or one of them would decide about all
			continue
		}
		if random.IntN(3) == 0 {
			l.Allow = append(l.Allow, p)
		} else {
			l.Deny = append(l.Deny, p)
		}
	}
	return l
}

// nearby is an address like the client's, or like one of the prefixes: some bits of it are others.
func nearby(random *rand.Rand, f family, prefixes []netip.Prefix) netip.Addr {
	a := f.client.AsSlice()
	if len(prefixes) > 0 && random.IntN(2) == 0 {
		a = prefixes[random.IntN(len(prefixes))].Addr().AsSlice()
	}
	for range random.IntN(6) {
		bit := random.IntN(8 * len(a))
		a[bit/8] ^= 1 << (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(a)
	return addr
}

// TestPrefixesRoom: lists that do not fit are refused, and those in force stay.
func TestPrefixesRoom(t *testing.T) {
	tables := need(NewMemoryTables(Sizes{Conns4: 8, Conns6: 8, Overflow: 1, Services: 1, Reals: 1, Plans: 16, CPUs: 1, Prefixes: 64}))(t)
	var l PrefixList
	for i := range 65 {
		l.Deny = append(l.Deny, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24))
	}
	if _, err := NewPrefixes(map[uint32]PrefixList{1: l}, tables); err == nil {
		t.Error("65 prefixes found room for 64")
	}
	l.Deny = l.Deny[:64]
	p := need(NewPrefixes(map[uint32]PrefixList{1: l}, tables))(t)
	tables.SetPrefixes(p)
	l.Deny = nil
	for i := range 129 {
		l.Deny = append(l.Deny, netip.PrefixFrom(netip.MustParseAddr("2001:db8::1"), i))
	}
	if _, err := NewPrefixes(map[uint32]PrefixList{1: l}, tables); err == nil {
		t.Error("a list of 129 lengths found room")
	}
}

// TestSamples: what the defenses see can be read, with what became of it.
func TestSamples(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			denied(0, "198.51.100.6/31", "2001:db8:7::6/127")(r)
			r.Settings.Defending |= DefendSample
			for _, send := range []send{tcp(syn), tcp(syn, second), tcp(ack, second)} {
				need(r.plane.Run(send(f), ingress))(t)
			}
			var got []Sample
			count := r.ReadSamples(make([]uint64, r.CPUs), func(s Sample, _ uint64) { got = append(got, s) })
			want := []Sample{{f.client, 3, "drop_denied"}, {f.second, 3, ""}}
			if count != 2 || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
				t.Errorf("%d samples, %+v, want %+v", count, got, want)
			}
		})
	}
}

// TestBudgetRate: over a second so many connections begin as the rate and the burst say.
func TestBudgetRate(t *testing.T) {
	r := smallRig(t, families[0])
	cost := uint64(r.Settings.Hz) << 20 / 200
	r.Guards[0] = Guard{BudgetCost: cost, BudgetBurst: 50 * cost, Prefix4: 32, Prefix6: 64}
	r.Settings.Defending = DefendGuard
	frame, begun, start := udp()(r.f), 0, time.Now()
	const full = 250 * time.Millisecond // then the burst is whole again, and what comes on top is lost
	lost, last := time.Duration(0), start
	for time.Since(start) < time.Second {
		lost += max(0, time.Since(last)-full)
		last = time.Now()
		if got := need(r.plane.Run(frame, ingress))(t); got.Action == xdpTx {
			begun++
		}
		r.forgetConns()
	}
	// The loop may have been held up, near its end, too.
	most, least := 50+200*time.Since(start).Seconds()+2, 200-200*lost.Seconds()
	if float64(begun) > most || float64(begun) < least {
		t.Errorf("%d connections began in %s, of which %s do not count, want %.0f to %.0f", begun, time.Since(start), lost, least, most)
	}
}

func dropRate(rate int32) func(*rig) {
	return func(r *rig) {
		*r.Defense = DefenseState{}
		r.Settings.Defending, r.Settings.DropRate = DefendRate, rate
	}
}

// TestAdmittedOnce: where the short way has asked the defense, and leaves the rest to the long way, the packet
// counts once.
func TestAdmittedOnce(t *testing.T) {
	for _, f := range families {
		r, _ := fullWeb(t, f, 100) // full-NAT has no short way
		dropRate(3)(r)
		for i, want := range []string{"drop_packet", "tx_new", "tx_new", "drop_packet", "tx_new", "tx_new"} {
			mustVerdict(t, fmt.Sprint(f.name, ", packet ", i), r.send(t, tcp(syn, from(uint16(1000+i)))(f)), want)
		}
		r.check(t)
	}
}
