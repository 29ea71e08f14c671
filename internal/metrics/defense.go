// SPDX-License-Identifier: Apache-2.0

package metrics

import "xdplvs/director"

var (
	defenseMode   = gauge("defense_mode", "Mode of a strategy, as IPVS's sysctls number them: 0 off, 1 automatic and waiting, 2 automatic and acting, 3 always.", "strategy")
	defenseActive = gauge("defense_active", "Whether the strategy acts.", "strategy")
	defenseRate   = gauge("defense_drop_rate", "drop_packet drops one of so many new connections now; 0: none, below 0: all.")
	defenseEnded  = counter("defense_dropped_entries_total", "Entries of the connection tables that drop_entry has ended.")
	defenseGuards = gauge("defense_guards", "Services that have prefix lists, a budget or a ceiling of their own, and those of all, as one.")
	halfOpen      = gauge("half_open_connections", "Half-open connections of the fullest table, and those that SYN cookies have kept from it.")

	cookiesProven  = counter("syn_cookies_proven_total", "Connections that began with a cookie that came back.")
	cookieServices = gauge("syn_cookie_services", "Services that answer SYNs with cookies now.")
)

func putDefense(s sink, d *director.DefenseState) {
	for name, mode := range map[string]director.DefenseMode{
		"drop_entry": d.DropEntry, "drop_packet": d.DropPacket, "secure_tcp": d.SecureTCP, "syn_cookies": d.SynCookies,
	} {
		s.put(defenseMode, float64(mode), name)
		s.truth(defenseActive, mode.Active(), name)
	}
	s.put(defenseRate, float64(d.Rate))
	s.count(defenseEnded, d.Evicted)
	s.put(defenseGuards, float64(d.Guards))
	s.put(halfOpen, float64(d.Pressure.HalfOpen))
	s.count(cookiesProven, d.Cookies.Proven)
	s.put(cookieServices, float64(d.Cookies.Services))
}
