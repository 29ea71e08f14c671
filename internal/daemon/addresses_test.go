// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net/netip"
	"testing"

	"xdplvs/internal/arpnd"
	"xdplvs/internal/nexthop"
	"xdplvs/internal/vip"
)

// TestWhoHas: a host is named by its link-layer address as the real server that it is, or leads to.
func TestWhoHas(t *testing.T) {
	addr := netip.MustParseAddr
	own, router, dead := arpnd.MAC{2, 1}, arpnd.MAC{2, 2}, arpnd.MAC{2, 3}
	hop := func(mac arpnd.MAC, gateway string) nexthop.Hop {
		return nexthop.Hop{Resolved: true, DstMAC: mac, Gateway: addr(gateway)}
	}
	hops := map[netip.Addr]nexthop.Hop{
		addr("10.0.0.1"): hop(own, "10.0.0.1"),
		addr("10.0.0.2"): hop(arpnd.MAC{2, 4}, "10.0.0.2"),
		addr("10.9.0.1"): hop(router, "10.0.0.254"),
		addr("10.9.0.2"): hop(router, "10.0.0.254"),
		addr("10.0.0.3"): {DstMAC: dead, Gateway: addr("10.0.0.3")},
	}
	names := map[netip.Addr]string{addr("10.0.0.1"): "web1 ", addr("10.9.0.1"): "web9 "}
	for mac, want := range map[arpnd.MAC]string{
		own:    "real server web1 (10.0.0.1)",
		{2, 4}: "real server (10.0.0.2)",
		router: "the gateway to real server web9 (10.9.0.1)",
		dead:   "",
		{2, 9}: "",
	} {
		if got := whoHas(mac, hops, names); got != want {
			t.Errorf("%v is %q, want %q", mac, got, want)
		}
	}
}

// noAnswers is a table of addresses without a data plane, in which nothing is.
type noAnswers struct{}

func (noAnswers) Answered() (map[vip.Place]arpnd.MAC, error) { return nil, nil }
func (noAnswers) SetAnswered(vip.Place, arpnd.MAC) error     { return nil }
func (noAnswers) DeleteAnswered(vip.Place) error             { return nil }

// TestReloadAddresses: the file's addresses are those that are to be held, unless it is refused.
func TestReloadAddresses(t *testing.T) {
	h := newHalf(t, weighing(1))
	owned := weighing(1) + "addresses: [{address: 192.0.2.1, mode: none}]\n"
	for _, step := range []struct {
		config string
		fine   bool
		want   int
	}{{owned, true, 1}, {owned + "nonsense: 1\n", false, 1}, {weighing(2), true, 0}} {
		h.write(step.config)
		if err := h.reload(t.Context()); (err == nil) != step.fine {
			t.Fatalf("reload: %v", err)
		}
		if list := h.backend().Addresses(); len(list.Addresses) != step.want || list.Time.IsZero() {
			t.Errorf("addresses are %+v, want %d", list, step.want)
		}
	}
}
