// SPDX-License-Identifier: Apache-2.0

package nexthop

import "time"

// probe asks the neighbours that are due.
func (e *engine) probe(now time.Time) {
	for n := e.probes.next(now); n != nil; n = e.probes.next(now) {
		l := e.links[n.key.link]
		if _, _, fault := e.links.below(l); fault != "" || l.noARP {
			e.probes.rest(n, now)
			continue
		}
		e.probes.expire(n, now)
		if err := e.question(n, l, now); err != nil {
			e.probes.unasked(n, err, now)
			continue
		}
		e.probes.asked(n, now)
	}
}

// question asks for a neighbour's address.
func (e *engine) question(n *neighbor, l link, now time.Time) error {
	from, err := e.addresses.source(n.key, n.from)
	if err != nil {
		return err
	}
	p, err := e.ports.get(n, l, now)
	if err != nil {
		return err
	}
	return p.ask(question{from: from, mac: l.mac, target: n.key.addr, to: n.recipient()})
}
