// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"

	"xdplvs/bpf"
)

// manyPrefixes are denied where defenses are measured.
const manyPrefixes = 100_000

// cookies are the flags of a service that answers SYNs with cookies.
const cookies = bpf.ServiceCookies | bpf.ServiceProofs

// defend puts every defense in force, or none. What has to get past them has leave enough; but a list denies the client.
func (p *plane) defend(on bool) error {
	if on == p.defended {
		return nil
	}
	p.defended = on
	t, prefixes := p.data.Tables, 0
	t.Guards[0], t.Settings.DropRate, t.Settings.SecureTcp = bpf.Guard{}, 0, 0
	if on {
		prefixes = manyPrefixes
		t.Guards[0] = bpf.Guard{BudgetCost: 1, BudgetBurst: math.MaxInt64, CeilingCost: 1, CeilingBurst: math.MaxInt64, Prefix4: 32, Prefix6: 64}
		t.Settings.DropRate, t.Settings.SecureTcp = math.MaxInt32, 1
	}
	if err := p.deny(prefixes); err != nil {
		return err
	}
	for _, id := range p.proxied {
		if t.Services[id].Flags &^= cookies; on {
			t.Services[id].Flags |= cookies
		}
	}
	if on {
		t.Settings.Defending |= bpf.DefendRate
	}
	return nil
}

// byDefense is a figure of a known connection: what defenses make it cost more, if they do.
func byDefense(key string, s scenario) scenario {
	s.key, s.what, s.limit = key, s.what+", with every defense on, more than without", 3
	s.baseline, s.beside, s.defended = bpf.TargetDirector, s.dst, true
	return s
}

// spliced is a figure of a connection that a cookie began.
func spliced(key string, reply bool, what string) scenario {
	s := byNAT(key, nat4, reply, 0, what)
	s.spliced = true
	return s
}
