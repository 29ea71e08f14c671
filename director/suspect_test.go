// SPDX-License-Identifier: Apache-2.0

package director

import (
	"testing"
	"time"
)

// TestGrowth: only many connections of one packet each are a sign, soon, and then not again for a while.
func TestGrowth(t *testing.T) {
	for name, c := range map[string]struct {
		perTick, packets uint64 // in a tick: connections, and packets for ten of them
		within           time.Duration
	}{
		"100 a second, silent":        {10, 10, 100 * time.Millisecond},
		"40 a second, silent":         {4, 10, 200 * time.Millisecond},
		"20 a second: too few":        {2, 10, 0},
		"100 a second, taken":         {10, 20, 0},
		"one in three is not served":  {10, 17, 0},
		"four of five are not served": {10, 12, 100 * time.Millisecond},
	} {
		g, signs := &growth{}, []time.Duration{}
		conns, packets := uint64(1000), uint64(9000)
		g.shows(conns, packets)
		for tick := 1; tick <= 40; tick++ {
			conns += c.perTick
			packets += c.perTick * c.packets / 10
			if g.shows(conns, packets) {
				signs = append(signs, time.Duration(tick)*suspectTick)
			}
		}
		switch {
		case c.within == 0 && len(signs) > 0:
			t.Errorf("%s: signs after %v", name, signs)
		case c.within > 0 && (len(signs) == 0 || signs[0] > c.within):
			t.Errorf("%s: signs after %v, want one within %v", name, signs, c.within)
		case c.within > 0 && (len(signs) < 2 || signs[1]-signs[0] < suspectPeriod):
			t.Errorf("%s: signs after %v", name, signs)
		}
	}
}

// TestSuspects: only real servers that are checked and in use are named, each once until it is taken.
func TestSuspects(t *testing.T) {
	w := newWorld(t, small)
	reals := append(checked(real4(1, 1), real4(2, 1), real4(3, 1)), real4(4, 1))
	w.mustWant(one("rr", reals...))
	w.setHealth(Up, Up, Down)
	count := func(n, packets uint64) {
		for _, r := range w.d.services[key4(1)].reals {
			last := r.want.Key.Addr.As4()[3]
			r.stats[0].N.Conns += n
			r.stats[1].N.InPackets += packets * map[bool]uint64{true: 1, false: 3}[last != 2]
		}
	}
	for range 2 * suspectTicks {
		w.d.suspect()
		count(5, 5)
	}
	w.d.suspect()
	got := <-w.d.Suspects()
	if len(got) != 1 || got[0] != (HealthKey{key4(1), real4(1, 1).Key}) {
		t.Errorf("suspected are %v", got)
	}
	select {
	case again := <-w.d.Suspects():
		t.Errorf("and again %v", again)
	default:
	}
}
