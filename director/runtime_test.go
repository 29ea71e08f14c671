// SPDX-License-Identifier: Apache-2.0

package director

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// randomServices are some of five services, each with some of five real servers, in any order.
func randomServices(rng *rand.Rand) (services []Service) {
	for _, i := range rng.Perm(5)[:rng.IntN(6)] {
		s := Service{Key: MarkKey(uint32(i+1), false), Scheduler: []string{"rr", "wlc"}[rng.IntN(2)]}
		if rng.IntN(4) == 0 {
			s.Sources = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 9})}
		}
		for _, j := range rng.Perm(5)[:rng.IntN(6)] {
			s.Reals = append(s.Reals, RealServer{Key: RealKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(j)})}, Weight: uint32(rng.IntN(2)),
				Name: fmt.Sprintf("rs%d", j), Method: NAT})
		}
		services = append(services, s)
	}
	return services
}

// inOrder sorts services and real servers: where they stand in lists is not the question.
func inOrder(services []Service) []Service {
	sorted := slices.Clone(services)
	slices.SortFunc(sorted, func(a, b Service) int { return a.Key.Compare(b.Key) })
	for i := range sorted {
		sorted[i].Reals = slices.Clone(sorted[i].Reals)
		slices.SortFunc(sorted[i].Reals, func(a, b RealServer) int { return a.Key.Addr.Compare(b.Key.Addr) })
	}
	return sorted
}

// TestChangesRoundTrip: the changes between two lists, written down and read again, make the one of
// the other; the result stands in an order that making the changes again keeps.
func TestChangesRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		file, want := randomServices(rng), randomServices(rng)
		text, err := json.Marshal(Diff(file, want))
		var changes Changes
		if err == nil {
			err = json.Unmarshal(text, &changes)
		}
		if err != nil {
			t.Fatal(err)
		}
		before := inOrder(file)
		got := changes.Apply(file)
		if !reflect.DeepEqual(inOrder(got), inOrder(want)) {
			t.Fatalf("file %+v\nwant %+v\ngot  %+v\nby   %s", file, want, got, text)
		}
		if again := Diff(file, got).Apply(file); !reflect.DeepEqual(again, got) {
			t.Fatalf("once %+v\nthen %+v", got, again)
		}
		if !reflect.DeepEqual(inOrder(file), before) {
			t.Fatalf("the file's services were changed: %+v", file)
		}
	}
}

// TestChangesOverReload: the rule that says what becomes of run-time changes when the file changes.
func TestChangesOverReload(t *testing.T) {
	real := func(n byte, weight uint32) RealServer {
		return RealServer{Key: RealKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, n})}, Weight: weight}
	}
	service := func(mark uint32, sched string, reals ...RealServer) Service {
		return Service{Key: MarkKey(mark, false), Scheduler: sched, Reals: reals}
	}
	file := []Service{service(1, "rr", real(1, 1), real(2, 1)), service(2, "rr", real(1, 1)), service(3, "rr")}
	changed := []Service{service(1, "rr", real(1, 0), real(3, 5)), service(2, "wlc", real(1, 1)), service(9, "sh", real(1, 1))}
	changes := Diff(file, changed)
	for name, c := range map[string]struct{ file, want []Service }{
		"the same file": {file, changed},
		"other things change": {
			[]Service{service(1, "lc", real(1, 1), real(2, 1), real(4, 1)), service(2, "rr", real(1, 9)), service(3, "rr"), service(4, "rr")},
			[]Service{service(1, "lc", real(1, 0), real(4, 1), real(3, 5)), service(2, "wlc", real(1, 9)), service(4, "rr"), service(9, "sh", real(1, 1))},
		},
		"the same things change": {
			[]Service{service(1, "rr", real(1, 7), real(2, 7)), service(2, "sed", real(1, 1)), service(9, "rr", real(1, 3), real(2, 3))},
			[]Service{service(1, "rr", real(1, 0), real(3, 5)), service(2, "wlc", real(1, 1)), service(9, "sh", real(1, 1), real(2, 3))},
		},
		"what was changed is gone": {
			[]Service{service(1, "rr", real(2, 1))},
			[]Service{service(1, "rr", real(3, 5)), service(9, "sh", real(1, 1))},
		},
	} {
		if got := changes.Apply(c.file); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, c.want)
		}
	}
	if left := Diff(changed, changes.Apply(changed)); !left.Empty() {
		t.Errorf("the file says the same now, and these changes are left: %+v", left)
	}
}

// TestParseServiceKey: what String writes is read again.
func TestParseServiceKey(t *testing.T) {
	for _, text := range []string{"tcp 192.0.2.1:80", "udp [2001:db8::1]:53", "sctp 192.0.2.1:0", "fwmark 7", "fwmark 4294967295 ipv6"} {
		if k, err := ParseServiceKey(text); err != nil || k.String() != text {
			t.Errorf("%s: %v, %v", text, k, err)
		}
	}
	for _, text := range []string{"", "web", "192.0.2.1:80", "ip 192.0.2.1:80", "tcp 192.0.2.1", "tcp 192.0.2.1:80 x", "fwmark", "fwmark 0", "fwmark x", "fwmark 7 ipv4", "fwmark 4294967296"} {
		if k, err := ParseServiceKey(text); err == nil {
			t.Errorf("%q is %v", text, k)
		}
	}
}
