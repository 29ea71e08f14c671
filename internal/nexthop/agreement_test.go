// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestAgreesWithKernel changes routing tables, rules, links and addresses at random and compares
// what the Resolver keeps, by the rules of engine.apply, with what the kernel answers afresh, by the
// netlink package. The periodic resync is off: only notifications can keep it true.
func TestAgreesWithKernel(t *testing.T) {
	agree(t, watchBuffer)
}

// TestAgreesWithKernelThroughLoss is the same with a buffer for notifications that holds next to
// none.
func TestAgreesWithKernelThroughLoss(t *testing.T) {
	agree(t, 1)
}

func agree(t *testing.T, buffer int) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := newRig(t)
	w := &world{rig: r, rnd: rand.New(rand.NewPCG(seed, 0))}
	for i := range 3 {
		r.connect(r.dir, fmt.Sprintf("x%d", i), fmt.Sprintf("10.%d.0.1/24", i+1), fmt.Sprintf("fd00:%d::1/64", i+1))
	}
	var targets []netip.Addr
	for range 300 {
		targets = append(targets, w.address(4), w.address(6))
	}
	log := &lossCounter{}
	res := New(slog.New(slog.NewTextHandler(log, nil)), Options{Resync: time.Hour, ProbeRate: 1000})
	res.SetTargets(targets)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- r.dir.Do(func() error {
			k, err := openKernel(buffer)
			if err != nil {
				return err
			}
			return res.run(ctx, k)
		})
	}()
	defer func() { cancel(); r.must(<-done) }()
	rounds := 120
	if raceDetector {
		rounds = 40
	}
	for round := range rounds {
		w.stir(1 + w.rnd.IntN(4)) // few, lest one change hide that another was missed
		w.compare(res, targets, round)
	}
	t.Logf("%d changes, %d of them refused, %d subscriptions lost", w.changes, w.refused, log.losses.Load())
	if w.refused > w.changes*3/4 {
		t.Error("the kernel refused most changes: the test tests little")
	}
	if buffer == 1 && log.losses.Load() == 0 {
		t.Error("no notification was lost: the test tests nothing")
	}
}

// world is a director whose tables change.
type world struct {
	*rig
	rnd     *rand.Rand
	routes  []string // commands that made them
	steps   []string // all commands
	changes int
	refused int
}

// address draws one out of few enough subnets that prefixes meet targets.
func (w *world) address(family int) netip.Addr {
	n := w.rnd.IntN
	if family == 4 {
		return netip.AddrFrom4([4]byte{10, byte(n(6)), byte(n(4)), byte(1 + n(8))})
	}
	b := [16]byte{0: 0xfd, 3: byte(n(6)), 5: byte(n(4)), 15: byte(1 + n(8))}
	return netip.AddrFrom16(b)
}

// prefix draws one that may hold targets.
func (w *world) prefix(family int) netip.Prefix {
	lengths := map[int][]int{4: {0, 8, 14, 16, 24, 29, 32}, 6: {0, 8, 31, 32, 48, 125, 128}}[family]
	return netip.PrefixFrom(w.address(family), lengths[w.rnd.IntN(len(lengths))]).Masked()
}

// stir makes n changes, some of which the kernel refuses, such as deleting what is not there.
func (w *world) stir(n int) {
	w.t.Helper()
	for range n {
		step := w.step()
		if _, err := w.dir.Run(context.Background(), "ip", strings.Fields(step)...); err != nil {
			w.refused++
			step += " (refused)"
		}
		w.steps = append(w.steps, step)
	}
	w.changes += n
}

// step draws one change: the arguments of iproute2.
func (w *world) step() string {
	family, i := 4+2*w.rnd.IntN(2), w.rnd.IntN(3)
	flag, p, table, hop := fmt.Sprintf("-%d ", family), w.prefix(family), w.table(), w.nexthop(family, i)
	switch w.rnd.IntN(20) {
	case 0:
		return fmt.Sprintf("link set x%d %s", i, []string{"up", "up", "up", "down"}[w.rnd.IntN(4)])
	case 1:
		return flag + fmt.Sprintf("route replace %s %s src %s", p, hop, w.own(family, w.rnd.IntN(3)))
	case 2:
		return flag + fmt.Sprintf("rule add to %s lookup %d pref %d", p, table, 10+w.rnd.IntN(5))
	case 3:
		return flag + fmt.Sprintf("rule del pref %d", 10+w.rnd.IntN(5))
	case 4:
		return fmt.Sprintf("address add %s/%d dev x%d", w.address(family), p.Bits(), i)
	case 5:
		do := []string{"add", "add", "del"}[w.rnd.IntN(3)]
		return fmt.Sprintf("address %s %s/%d dev x%d", do, w.own(family, i), map[int]int{4: 24, 6: 64}[family], i)
	case 6, 7, 8:
		return w.deletion()
	case 9:
		kind := []string{"blackhole", "unreachable", "prohibit", "throw"}[w.rnd.IntN(4)]
		return flag + fmt.Sprintf("route replace %s %s table %d metric %d", kind, p, table, 1+w.rnd.IntN(3))
	case 10:
		return flag + fmt.Sprintf("route replace %s table %d nexthop %s nexthop %s", p, table, hop, w.nexthop(family, (i+1)%3))
	case 11, 12:
		return flag + fmt.Sprintf("nexthop replace id %d %s", family*10+w.rnd.IntN(2), hop)
	case 13:
		return flag + fmt.Sprintf("route replace %s table %d nhid %d", p, table, family*10+w.rnd.IntN(2))
	case 14:
		return flag + fmt.Sprintf("route replace %s dev x%d table %d mtu %d", p, i, table, 1300+w.rnd.IntN(100))
	}
	route := flag + fmt.Sprintf("route replace %s %s table %d metric %d", p, hop, table, 1+w.rnd.IntN(3))
	w.routes = append(w.routes, route)
	return route
}

// deletion draws the removal of a route that step made, and that may be there still.
func (w *world) deletion() string {
	if len(w.routes) == 0 {
		return "link set x0 up"
	}
	i := w.rnd.IntN(len(w.routes))
	route := w.routes[i]
	w.routes = slices.Delete(w.routes, i, i+1)
	return strings.Replace(route, "replace", "del", 1)
}

func (w *world) table() int { return []int{254, 254, 100, 101}[w.rnd.IntN(4)] }

// own is the address that the director began with on interface xi.
func (w *world) own(family, i int) string {
	if family == 4 {
		return fmt.Sprintf("10.%d.0.1", i+1)
	}
	return fmt.Sprintf("fd00:%d::1", i+1)
}

// nexthop draws a gateway on interface xi.
func (w *world) nexthop(family, i int) string {
	if family == 4 {
		return fmt.Sprintf("via 10.%d.0.%d dev x%d", i+1, 100+w.rnd.IntN(3), i)
	}
	return fmt.Sprintf("via fd00:%d::%d dev x%d", i+1, 100+w.rnd.IntN(3), i)
}

// compare waits until every hop agrees with fresh answers of the kernel's. It asks again from time to
// time: in IPv6 they may depend on a neighbour that the kernel is about to give up.
func (w *world) compare(res *Resolver, targets []netip.Addr, round int) {
	w.t.Helper()
	handle, err := w.dir.Netlink()
	w.must(err)
	var wrong []string
	for range 5 {
		want := make([]answered, len(targets))
		for i, a := range targets {
			want[i] = w.fresh(handle, a)
		}
		for begin := time.Now(); time.Since(begin) < time.Second; time.Sleep(5 * time.Millisecond) {
			if wrong = disagreeing(res.Hops(), targets, want); len(wrong) == 0 {
				return
			}
		}
	}
	w.t.Fatalf("round %d: %d of %d hops do not agree:\n%s\nafter: %s", round, len(wrong), len(targets), wrong[0],
		strings.Join(w.steps[max(0, len(w.steps)-8):], "\n       "))
}

func disagreeing(hops map[netip.Addr]Hop, targets []netip.Addr, want []answered) (wrong []string) {
	for i, a := range targets {
		if !want[i].by(hops[a]) {
			wrong = append(wrong, fmt.Sprintf("%s is %+v, the kernel says %s", a, hops[a], want[i].text))
		}
	}
	return wrong
}

// answered is what the kernel says, and the check that a hop says the same.
type answered struct {
	text string
	by   func(Hop) bool
}

// fresh asks the kernel for a route.
func (w *world) fresh(handle *netlink.Handle, a netip.Addr) answered {
	routes, err := handle.RouteGet(a.AsSlice())
	if err != nil {
		return answered{err.Error(), func(h Hop) bool { return !h.Resolved && failedLike(err, h.Reason) }}
	}
	r := routes[0]
	if r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_ANYCAST {
		return answered{"local", func(h Hop) bool { return h.Local }}
	}
	if r.Type != unix.RTN_UNICAST {
		return answered{r.String(), func(h Hop) bool { return h.Reason == kindFault(uint8(r.Type), a) }}
	}
	gateway, source, mtu := a, netip.Addr{}, 1500
	if r.Gw != nil {
		gateway, _ = netip.AddrFromSlice(r.Gw)
	}
	if r.Src != nil {
		source, _ = netip.AddrFromSlice(r.Src)
	}
	if r.MTU != 0 {
		mtu = r.MTU
	}
	return answered{fmt.Sprintf("%s mtu %d", r, mtu), func(h Hop) bool {
		return h.Link == r.LinkIndex && h.Gateway == gateway && h.Source == source && h.MTU == mtu && !h.Local
	}}
}

// failedLike tells whether a reason is the one for a failed look-up.
func failedLike(err error, reason string) bool {
	if errors.Is(err, unix.ENETUNREACH) {
		return strings.HasPrefix(reason, "no route") || strings.HasPrefix(reason, "link ")
	}
	for errno, text := range map[error]string{
		unix.EINVAL: "blackhole", unix.EHOSTUNREACH: "unreachable", unix.EACCES: "prohibit",
	} {
		if errors.Is(err, errno) {
			return strings.HasPrefix(reason, text)
		}
	}
	return false
}
