// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"log/slog"
	"time"
)

// linesPerSecond bounds the log lines about single next hops: when a switch dies, ten names and a
// number tell as much as a thousand names.
const linesPerSecond = 10

// A lineBudget counts lines of the present second.
type lineBudget struct {
	since   time.Time
	written int
	omitted int // since the last line
}

// allow tells whether a line may be written, and how many were not before it.
func (b *lineBudget) allow(now time.Time) (ok bool, omitted int) {
	if now.Sub(b.since) >= time.Second {
		b.since, b.written = now, 0
	}
	if b.written >= linesPerSecond {
		b.omitted++
		return false, 0
	}
	b.written++
	omitted, b.omitted = b.omitted, 0
	return true, omitted
}

// tell logs something about a neighbour, within the budget.
func (p *prober) tell(level slog.Level, n *neighbor, now time.Time, msg string, args ...any) {
	if !p.log.Enabled(context.Background(), level) {
		return
	}
	ok, omitted := p.lines.allow(now)
	if !ok {
		return
	}
	args = append(args, "address", n.key.addr, "link", n.where)
	if omitted > 0 {
		args = append(args, "lines_omitted", omitted)
	}
	p.log.Log(context.Background(), level, msg, args...)
}

// tellResolved logs that a neighbour has a new address: quietly when it is the first.
func (p *prober) tellResolved(n *neighbor, m mac, source string, now time.Time) {
	switch {
	case n.known:
		p.tell(slog.LevelInfo, n, now, "next hop moved", "mac", m, "replaces", n.mac, "source", source)
	case n.settled:
		p.tell(slog.LevelInfo, n, now, "next hop answers again", "mac", m, "source", source)
	default:
		p.tell(slog.LevelDebug, n, now, "next hop resolved", "mac", m, "source", source)
	}
}
