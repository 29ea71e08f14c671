// SPDX-License-Identifier: Apache-2.0

package director

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// markAt is a rule of one address and port.
func markAt(mark uint32, dest string, ports ...PortRange) MarkRule {
	return MarkRule{Mark: mark, Protocol: TCP, Dest: netip.MustParsePrefix(dest), DestPorts: ports}
}

func TestMarkPairs(t *testing.T) {
	web := PortRange{80, 80}
	from := markAt(2, "192.0.2.0/24")
	from.Source = netip.MustParsePrefix("198.51.100.0/24")
	for name, c := range map[string]struct {
		rules []MarkRule
		want  string
	}{
		"apart":                   {[]MarkRule{markAt(1, "192.0.2.1/32"), markAt(2, "192.0.2.2/32")}, "[] []"},
		"of two families":         {[]MarkRule{markAt(1, "0.0.0.0/0"), markAt(2, "::/0")}, "[] []"},
		"shadowed":                {[]MarkRule{markAt(1, "192.0.2.0/24"), markAt(2, "192.0.2.2/32", web)}, "[{0 1}] []"},
		"a special case first":    {[]MarkRule{markAt(1, "192.0.2.2/32", web), markAt(2, "192.0.2.0/24")}, "[] []"},
		"crossing":                {[]MarkRule{markAt(1, "192.0.2.1/32"), from}, "[] [{0 1}]"},
		"crossing with one mark":  {[]MarkRule{markAt(2, "192.0.2.1/32"), from}, "[] []"},
		"crossing ports":          {[]MarkRule{markAt(1, "192.0.2.1/32", PortRange{80, 90}), markAt(2, "192.0.2.1/32", PortRange{85, 99})}, "[] [{0 1}]"},
		"ports between the other": {[]MarkRule{markAt(1, "192.0.2.1/32", PortRange{1, 2}, PortRange{9, 9}), markAt(2, "192.0.2.1/32", PortRange{5, 6})}, "[] []"},
		"crossing and shadowed":   {[]MarkRule{from, markAt(1, "192.0.2.1/32"), markAt(3, "192.0.2.1/32", web)}, "[{1 2}] [{0 1}]"},
	} {
		shadowed, crossing := MarkPairs(c.rules)
		if got := fmt.Sprint(shadowed, crossing); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestMarkPairsAgree: what is called apart shares no packet, and the rest is what comparing all says.
func TestMarkPairsAgree(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		rules := make([]MarkRule, 12)
		for i := range rules {
			rules[i] = randomMark(random)
		}
		shadowed, _ := MarkPairs(rules)
		var want []MarkPair
		for i := range rules {
			for j := range i {
				if rules[j].Covers(&rules[i]) {
					want = append(want, MarkPair{j, i})
					break
				}
			}
		}
		if fmt.Sprint(shadowed) != fmt.Sprint(want) {
			t.Fatalf("shadowed %v, want %v of %v", shadowed, want, rules)
		}
	}
}

func randomMark(random *rand.Rand) MarkRule {
	r := MarkRule{Mark: 1 + random.Uint32N(3), Protocol: []Protocol{0, TCP, UDP}[random.IntN(3)], Interface: []string{"", "", "eth0", "eth1"}[random.IntN(4)]}
	if random.IntN(3) == 0 {
		r.DSCP = new(uint8(random.IntN(2)))
	}
	prefix := func() (p netip.Prefix) {
		switch random.IntN(3) {
		case 0:
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(4))}), 28+random.IntN(5)).Masked()
		case 1:
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 7: byte(random.IntN(2)), 15: byte(random.IntN(4))}), 62+random.IntN(67)).Masked()
		}
		return p
	}
	ports := func() (list []PortRange) {
		for range random.IntN(3) {
			first := uint16(random.IntN(6))
			list = append(list, PortRange{first, first + uint16(random.IntN(3))})
		}
		return list
	}
	if r.Dest = prefix(); random.IntN(2) == 0 {
		r.Source = prefix()
		if r.Source.IsValid() && r.Dest.IsValid() && r.Source.Addr().Is4() != r.Dest.Addr().Is4() {
			r.Source = netip.Prefix{}
		}
	}
	r.DestPorts, r.SourcePorts = ports(), ports()
	return r
}
