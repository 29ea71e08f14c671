// SPDX-License-Identifier: Apache-2.0

package defense

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func client(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}

// TestHitters: among a hundred thousand that send once each, those that send much are known, with
// what became of it; memory stays bounded.
func TestHitters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hitters
		for i := range 100_000 {
			h.Add(client(i), "drop_budget", 1, time.Now())
			if i%100 == 0 {
				h.Add(client(-1), "", 3, time.Now())
				h.Add(client(-1), "drop_denied", 2, time.Now())
				h.Add(client(-2), "", 2, time.Now())
				h.Add(client(-2), "tx_cookie", 1, time.Now())
			}
			if len(h.now) > mostHitters {
				t.Fatalf("%d prefixes are remembered", len(h.now))
			}
		}
		r := h.Report(2, time.Now())
		if len(r.Hitters) != 2 || r.Hitters[0].Prefix != client(-1) || r.Hitters[0].Admitted != 3000 || r.Hitters[0].Dropped["drop_denied"] != 2000 {
			t.Errorf("hitters are %+v", r.Hitters)
		}
		if r.Hitters[1].Prefix != client(-2) || r.Hitters[1].All() != 3000 || r.Hitters[1].Cookies != 1000 {
			t.Errorf("the second is %+v", r.Hitters[1])
		}
		if r.Total.Admitted != 5000 || r.Total.Dropped["drop_budget"] != 100_000 || r.Total.Cookies != 1000 || r.Total.All() != 108_000 {
			t.Errorf("total %+v", r.Total)
		}
	})
}

// TestHittersAge: what was sent one to two minutes ago is forgotten.
func TestHittersAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hitters
		h.Add(client(1), "", 5, time.Now())
		time.Sleep(hitterPeriod)
		h.Add(client(1), "", 1, time.Now())
		if r := h.Report(9, time.Now()); len(r.Hitters) != 1 || r.Hitters[0].Admitted != 6 || r.Total.Admitted != 6 {
			t.Errorf("after one period: %+v", r)
		}
		time.Sleep(hitterPeriod)
		if r := h.Report(9, time.Now()); len(r.Hitters) != 1 || r.Hitters[0].Admitted != 1 || time.Since(r.Since) != hitterPeriod {
			t.Errorf("after two: %+v", r)
		}
		time.Sleep(time.Hour)
		if r := h.Report(9, time.Now()); len(r.Hitters) != 0 || r.Total.All() != 0 {
			t.Errorf("after an hour: %+v", r)
		}
	})
}
