// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math/rand/v2"
	"net/netip"

	"xdplvs/bpf"
)

// everybodysList is the number of the list of prefixes.
const everybodysList = 1

// deny makes a list of so many prefixes, of which the client has one, a /24; 0: none are denied. Its lengths
// are as in published lists: mostly /32 and /24, and some of all from /12 on.
func (p *plane) deny(prefixes int) error {
	if prefixes == 0 {
		p.data.Tables.Settings.Defending, p.data.Tables.Guards[0].List = 0, 0
		return nil
	}
	random := rand.New(rand.NewPCG(1, 2))
	list := bpf.PrefixList{Deny: []netip.Prefix{netip.PrefixFrom(client4, 24).Masked()}}
	for len(list.Deny) < prefixes {
		bits := []int{32, 32, 32, 24, 24, 12 + random.IntN(20)}[random.IntN(6)]
		a := random.Uint32()
		addr := netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
		if prefix := netip.PrefixFrom(addr, bits).Masked(); !prefix.Contains(client4) {
			list.Deny = append(list.Deny, prefix)
		}
	}
	ready, err := bpf.NewPrefixes(map[uint32]bpf.PrefixList{everybodysList: list}, p.data.Tables)
	if err != nil {
		return err
	}
	p.data.Tables.SetPrefixes(ready)
	p.data.Tables.Guards[0].List = everybodysList
	p.data.Tables.Settings.Defending = bpf.DefendGuard | bpf.DefendSample
	return nil
}
