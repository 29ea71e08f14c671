// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// guardRow is that of a service, or of everybody.
func (w *world) guardRow(key ServiceKey) *bpf.Guard {
	if key == (ServiceKey{}) {
		return &w.tables.Guards[0]
	}
	return &w.tables.Guards[w.d.services[key].id+1]
}

// TestGuards: limits and lists reach the rows of their owners, and go with them.
func TestGuards(t *testing.T) {
	w := newWorld(t, sizesWithPrefixes(64))
	second := uint64(w.clock.Jiffies(1e9)) << 20
	want := one("rr", real4(1, 1))
	want.Defense.Guard = Guard{Deny: prefixes("10.0.0.0/8"), Budget: Budget{Limit: Limit{Rate: 10, Burst: 20}, Prefix4: 24}}
	want.Services[0].Guard = Guard{Allow: prefixes("10.1.0.0/16"), Ceiling: Limit{Rate: 100, Burst: 1}}
	w.mustWant(want)
	all, web := w.guardRow(ServiceKey{}), w.guardRow(key4(1))
	expect(t, "what new connections are asked", w.tables.Settings.Defending, bpf.DefendGuard|bpf.DefendSample)
	expect(t, "everybody's budget", all.BudgetCost, second/10)
	expect(t, "and burst", all.BudgetBurst, second/10*20)
	expect(t, "prefixes", [2]uint8{all.Prefix4, all.Prefix6}, [2]uint8{24, 64})
	expect(t, "the service's ceiling", web.CeilingCost, second/100)
	if all.List == 0 || web.List == 0 || all.List == web.List {
		t.Errorf("lists %d and %d", all.List, web.List)
	}
	set, numbers := w.tables.Settings.PrefixSet, [2]uint32{all.List, web.List}
	w.mustWant(want)
	expect(t, "set after the same lists", w.tables.Settings.PrefixSet, set)
	want.Services[0].Guard.Allow = prefixes("10.2.0.0/16")
	w.mustWant(want)
	expect(t, "set after another list", w.tables.Settings.PrefixSet, 1-set)
	expect(t, "numbers of the lists", [2]uint32{all.List, web.List}, numbers)

	many := want
	many.Defense.Guard.Deny = nil
	for i := range 65 {
		many.Defense.Guard.Deny = append(many.Defense.Guard.Deny, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16))
	}
	if err := w.d.apply(many); !errors.Is(err, bpf.ErrFull) || !strings.Contains(err.Error(), "raise limits.prefixes") {
		t.Errorf("too many prefixes: %v", err)
	}
	expect(t, "set after a refusal", w.tables.Settings.PrefixSet, 1-set)
	w.mustWant(one("rr", real4(1, 1)))
	expect(t, "what is asked in the end", w.tables.Settings.Defending, 0)
	expect(t, "lists in the end", [2]uint32{all.List, web.List}, [2]uint32{})
	expect(t, "costs in the end", [2]uint64{all.BudgetCost, web.CeilingCost}, [2]uint64{})
}

func sizesWithPrefixes(n uint32) bpf.Sizes {
	sizes := small
	sizes.Prefixes = n
	return sizes
}

func TestGuardMistakes(t *testing.T) {
	for text, g := range map[string]Guard{
		"budget: rate 0 is not between 1 and 1000000":          {Budget: Budget{Limit: Limit{Burst: 1}}},
		"budget: rate 1000001 is not between 1 and 1000000":    {Budget: Budget{Limit: Limit{Rate: MaxRate + 1, Burst: 1}}},
		"ceiling: burst 0 is not between 1 and 1000000":        {Ceiling: Limit{Rate: 1}},
		"budget: prefix lengths 33 and 0 are above 32 and 128": {Budget: Budget{Prefix4: 33}},
		"::ffff:10.0.0.0/104 is no prefix":                     {Deny: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}},
	} {
		w := newWorld(t, small)
		want := one("rr", real4(1, 1))
		want.Services[0].Guard = g
		if err := w.d.apply(want); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %s", err, text)
		}
		want = one("rr", real4(1, 1))
		want.Defense.Guard = g
		if err := w.d.apply(want); err == nil || !strings.Contains(err.Error(), "defense: "+text) {
			t.Errorf("got %v, want %s", err, text)
		}
	}
}

// TestClosedPorts: what could not be written is tried again.
func TestClosedPorts(t *testing.T) {
	w := newWorld(t, small)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	want := one("rr", real4(1, 1))
	want.Closed = map[netip.Addr]ClosedPorts{a: ClosedReset, b: ClosedPass}
	w.plane.fault = func(what string) error {
		if strings.HasPrefix(what, "closed") {
			return errors.New("no memory")
		}
		return nil
	}
	w.mustWant(want)
	expect(t, "closed ports after the failure", w.tables.Settings.ClosedPorts, 0)
	if !strings.Contains(w.log.String(), "event=closed_failed") {
		t.Errorf("the log has no failure:\n%s", w.log)
	}
	w.plane.fault = nil
	w.d.followClosed()
	expect(t, "closed ports", w.tables.Settings.ClosedPorts, 1)
	if len(w.plane.closed) != 1 || w.plane.closed[a] != bpf.ClosedReset {
		t.Errorf("closed ports of %v", w.plane.closed)
	}
	w.mustWant(one("rr", real4(1, 1)))
	expect(t, "closed ports in the end", w.tables.Settings.ClosedPorts, 0)
}

// TestDefenseReport: samples of the data plane are counted by prefix, and those that were not kept are
// stood for by the others.
func TestDefenseReport(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	ring := &w.tables.Samples[1]
	for i := range ring.Sample {
		ring.Sample[i].Addr, ring.Sample[i].Verdict = netip.MustParseAddr("2001:db8::1").As16(), uint32(len(bpf.VerdictNames()))
		if i%2 == 0 {
			ring.Sample[i].Addr, ring.Sample[i].Verdict = netip.MustParseAddr("192.0.2.1").As16(), uint32(slices.Index(bpf.VerdictNames(), "drop_denied"))
		}
	}
	ring.Count = uint64(4 * len(ring.Sample))
	w.d.countSenders()
	w.d.countSenders()
	r := w.d.senders.hitters.Report(9, time.Now())
	if len(r.Hitters) != 2 || r.Total.All() != ring.Count {
		t.Fatalf("report %+v", r)
	}
	for _, h := range r.Hitters {
		switch h.Prefix.String() {
		case "192.0.2.1/32":
			expect(t, "denied", h.Dropped["drop_denied"], ring.Count/2)
		case "2001:db8::/64":
			expect(t, "let in", h.Admitted, ring.Count/2)
		default:
			t.Errorf("prefix %s", h.Prefix)
		}
	}
}
