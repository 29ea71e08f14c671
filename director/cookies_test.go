// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/bpf"
	"xdplvs/defense"
)

// replying is a real server whose replies pass the director.
func replying(i int, m Method) RealServer {
	r := real4(i, 1)
	r.Method = m
	return r
}

// cookieFlagsOf are those that packets of the service see.
func (w *defending) cookieFlagsOf(key ServiceKey) (flags uint32) {
	w.t.Helper()
	if err := w.d.do(w.ctx, func() { flags = w.d.services[key].row.Flags & bothCookieFlags }); err != nil {
		w.t.Fatal(err)
	}
	return flags
}

// answer lets packets have got so many cookies, of which some came back.
func (w *defending) answer(cookies, proven uint64) {
	w.t.Helper()
	err := w.d.do(w.ctx, func() {
		w.plane.verdicts = map[string]uint64{"tx_cookie": cookies}
		w.tables.Defense.Proven = proven
	})
	if err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(2 * defendTick)
}

// TestCookiesFollowFlood: automatic cookies are given as long as the flood lasts, which is known by those that do not come
// back; cookies that do are no flood. The log has each change once.
func TestCookiesFollowFlood(t *testing.T) {
	for name, own := range map[string]CookieMode{"of all": {}, "its own": {true, defense.Waiting}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				want := one("rr", replying(1, NAT), replying(2, FullNAT))
				want.Services[0].Guard.Cookies = own
				want.Defense.Strategies = DefenseSettings{HalfOpen: 10}
				if !own.Own {
					want.Defense.Strategies.SynCookies = defense.Waiting
				}
				w := startDefending(t, want)
				w.mustFollowFlood(t)
			})
		})
	}
}

func (w *defending) mustFollowFlood(t *testing.T) {
	told := func(active string) int {
		return strings.Count(w.log.String(), "event=defense strategy=syn_cookies active="+active)
	}
	expect(t, "flags at first", w.cookieFlagsOf(key4(1)), bpf.ServiceProofs)
	w.answer(10_000, 10_000)
	expect(t, "flags where all cookies come back", w.cookieFlagsOf(key4(1)), bpf.ServiceProofs)
	w.answer(20_000, 10_000)
	expect(t, "flags in a flood", w.cookieFlagsOf(key4(1)), bothCookieFlags)
	expect(t, "changes", told("true"), 1)
	expect(t, "services that give cookies", w.state().Cookies.Services, 1)
	w.answer(30_000, 10_000)
	expect(t, "changes later", told("true")+told("false"), 1)
	time.Sleep((floodSeconds + 1) * time.Second)
	expect(t, "flags when it is over", w.cookieFlagsOf(key4(1)), bpf.ServiceProofs)
	expect(t, "changes then", told("false"), 1)
	expect(t, "what is told", w.state().Cookies, CookieState{Services: 0, Able: 1, Answered: 30_000, Proven: 10_000})
}

// TestHalfOpenAmongWaysBack: what half-open connections have left in the table does not make them fewer.
func TestHalfOpenAmongWaysBack(t *testing.T) {
	w := newWorld(t, small)
	places := int64(len(w.tables.Conns4))
	w.d.swept.entries4 = bpf.Entries{1: 1, stateSynRecv: 5, 49: 9} // ESTABLISHED, REPLY_PROVEN
	w.d.defenses.used[0] = 15
	p := w.d.pressure()
	expect(t, "half-open", p.HalfOpen, 5)
	expect(t, "places for connections", p.HalfPlaces, places-9)
	w.d.defenses.used[0] = int(places) // and the rest was swept
	expect(t, "places then", w.d.pressure().HalfPlaces, 6)
}

// TestCookiesOfWhom: the mode of all is for services whose replies all pass the director; a service's own goes before it.
func TestCookiesOfWhom(t *testing.T) {
	nat, dr := replying(1, NAT), replying(2, DirectRouting)
	for _, test := range []struct {
		name  string
		own   CookieMode
		reals []RealServer
		sorry []RealServer
		want  uint32
	}{
		{"by nat", CookieMode{}, []RealServer{nat}, nil, bothCookieFlags},
		{"with dr", CookieMode{}, []RealServer{nat, dr}, nil, 0},
		{"with a sorry server by dr", CookieMode{}, []RealServer{nat}, []RealServer{dr}, 0},
		{"with its own mode", CookieMode{Own: true}, []RealServer{nat}, nil, 0},
		{"without real servers", CookieMode{}, nil, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				want := one("rr", test.reals...)
				want.Services[0].Sorry, want.Services[0].Guard.Cookies = test.sorry, test.own
				want.Defense.Strategies.SynCookies = defense.Always
				w := startDefending(t, want)
				expect(t, "flags", w.cookieFlagsOf(key4(1)), test.want)
				asked := map[bool]uint32{true: bpf.DefendSample}[test.want != 0]
				expect(t, "what new connections are asked, so that it is known who sends", w.tables.Settings.Defending, asked)
			})
		})
	}
}

// TestCookieMSS is that of the way to the real servers, and Ethernet's at most.
func TestCookieMSS(t *testing.T) {
	for mtu, want := range map[uint16][2]uint16{0: {1460, 1440}, 1500: {1460, 1440}, 9000: {1460, 1440}, 1400: {1360, 1340}} {
		for i, addr := range []string{"192.0.2.1", "2001:db8::1"} {
			s := &service{want: Service{Key: ServiceKey{Addr: netip.MustParseAddr(addr)}}, reals: []*real{{row: &bpf.Real{}}, {row: &bpf.Real{Mtu: mtu}}}}
			expect(t, "MSS", s.cookieMSS(), want[i])
		}
	}
}

// TestDropEntryOverflow: connections outside the tables go as those inside.
func TestDropEntryOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := one("rr", real4(1, 1))
		want.Defense.Strategies = DefenseSettings{DropEntry: defense.Always}
		w := startDefending(t, want)
		const all = 3000
		err := w.d.do(w.ctx, func() {
			for i := range all {
				c := bpf.Conn{Word: 3, LastUse: w.clock.now.Load()}
				if i%2 == 1 {
					c.Word = 1 // established, and used just now
				}
				w.plane.overflow = append(w.plane.overflow, overflowed{bpf.ConnKey{Ports: uint32(i)}, c})
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(32 * defendTick)
		halfOpen, established := 0, 0
		err = w.d.do(w.ctx, func() {
			for _, o := range w.plane.overflow {
				if o.conn.Word == 3 {
					halfOpen++
				} else {
					established++
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		// e^-1 of 1500 are 552; five standard deviations are 93.
		if halfOpen < 440 || halfOpen > 670 || established != all/2 {
			t.Errorf("after 32 s there are %d half-open connections of %d, and %d established", halfOpen, all/2, established)
		}
	})
}
