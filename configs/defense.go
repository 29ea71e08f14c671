// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"math"

	"xdplvs/director"
)

// defense is director.Defense as written.
type defense struct {
	dropEntry  setting[director.DefenseMode]
	dropPacket setting[director.DefenseMode]
	secureTCP  setting[director.DefenseMode]
	dropRate   setting[uint32]
	memThresh  setting[uint32]
	occupancy  setting[uint32]
	synCookies setting[director.DefenseMode]
	halfOpen   setting[uint32]
	guard      guard
}

var defenseObject = object[defense]{
	what: "a mapping of strategies",
	fields: []field[defense]{
		key("drop_entry", defenseMode(), func(d *defense) *setting[director.DefenseMode] { return &d.dropEntry },
			"IPVS's: end half-open connections at random, some 3 % of them each second; off if absent."),
		key("drop_packet", defenseMode(), func(d *defense) *setting[director.DefenseMode] { return &d.dropPacket },
			"IPVS's: drop one of so many packets that would begin a connection: of am_droprate with always, of as many as the pressure says with auto; off if absent."),
		key("secure_tcp", defenseMode(), func(d *defense) *setting[director.DefenseMode] { return &d.secureTCP },
			"IPVS's: the state machine of TCP that believes the server's packets only; off if absent."),
		key("syn_cookies", defenseMode(), func(d *defense) *setting[director.DefenseMode] { return &d.synCookies },
			"Answer SYNs with cookies, so that nothing is stored before a client has proven itself: of services whose real servers are all by nat or fullnat; auto: in a flood of SYNs; off if absent."),
		key("am_droprate", number(0, math.MaxInt32), func(d *defense) *setting[uint32] { return &d.dropRate },
			"IPVS's: drop_packet always on drops one of so many new connections, 0 none; 10 if absent."),
		key("amemthresh", number(0, math.MaxInt32), func(d *defense) *setting[uint32] { return &d.memThresh },
			"IPVS's: with fewer pages of memory available than that automatic strategies act; 1024 if absent."),
		key("allow", prefixes(), func(d *defense) *setting[list[source]] { return &d.guard.allow }, allowDoc),
		key("deny", prefixes(), func(d *defense) *setting[list[source]] { return &d.guard.deny }, denyDoc),
		key("budget", budgetObject.kind(), func(d *defense) *setting[budget] { return &d.guard.budget }, budgetDoc),
		key("ceiling", ceilingKind(), func(d *defense) *setting[rate] { return &d.guard.ceiling }, ceilingDoc),
		key("occupancy", number(0, director.MostOccupancy), func(d *defense) *setting[uint32] { return &d.occupancy },
			"With more percent of a connection table in use automatic strategies act, too; 0: never; 90 if absent."),
		key("half_open", number(0, director.MostHalfOpen), func(d *defense) *setting[uint32] { return &d.halfOpen },
			"With more percent of a connection table half-open, or kept from it by cookies, a flood of SYNs is on; 0: never; 10 if absent."),
	},
}

// defenseMode is a word, or the number that the sysctl has.
func defenseMode() kind[director.DefenseMode] {
	const what = "off, auto or always (or a sysctl's 0, 1 or 2, 3)"
	s := schema{"anyOf": []schema{{"type": "integer", "minimum": 0, "maximum": 3}, {"enum": []string{"off", "auto", "always"}}}}
	return parsed(what, s, func(text string) (director.DefenseMode, string, bool) {
		m, err := director.ParseDefenseMode(text)
		return m, "", err == nil
	})
}

func (b *builder) defense(d defense) {
	s := &b.config.Desired.Defense.Strategies
	s.DropEntry = d.dropEntry.or(s.DropEntry)
	s.DropPacket = d.dropPacket.or(s.DropPacket)
	s.SecureTCP = d.secureTCP.or(s.SecureTCP)
	s.SynCookies = d.synCookies.or(s.SynCookies)
	s.HalfOpen = uint8(d.halfOpen.or(uint32(s.HalfOpen)))
	s.DropRate = int32(d.dropRate.or(uint32(s.DropRate)))
	s.MemThresh = int32(d.memThresh.or(uint32(s.MemThresh)))
	s.Occupancy = uint8(d.occupancy.or(uint32(s.Occupancy)))
	b.config.Desired.Defense.Guard = d.guard.build()
	b.listFiles(everybody, &d.guard)
}
