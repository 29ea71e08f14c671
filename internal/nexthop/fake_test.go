// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// fakeKernel has tables that a test writes, and hosts that answer. Like the kernel it announces
// every change to its subscriber; unlike it, only if it is told to.
type fakeKernel struct {
	mu     sync.Mutex
	linkT  linkTable
	addrT  addressTable
	neighT map[neighKey]entry
	routeT map[netip.Prefix]route
	hosts  map[neighKey]*fakeHost

	in       *inbox // the subscription's; nil: there is none
	ports    map[portKey]*inbox
	asked    []asked
	reads    map[string]int
	watchErr error
	routeErr error
	portErr  error
	open     int // ports and subscriptions that nobody closed
}

// fakeHost answers for an address on a link.
type fakeHost struct {
	mac  mac
	dead bool
}

// asked is a question, and when it came.
type asked struct {
	at time.Duration // since the test began
	q  question
}

// answerTime is how long fake hosts take to answer.
const answerTime = time.Millisecond

func newFake() *fakeKernel {
	return &fakeKernel{
		linkT: linkTable{
			1: {index: 1, name: "lo", mtu: 65536, up: true, carrier: true, noARP: true},
			2: ether(2, "eth0"),
		},
		addrT:  addressTable{2: {{prefix: netip.MustParsePrefix("10.0.0.1/24"), usable: true}, {prefix: netip.MustParsePrefix("fe80::1/64"), usable: true}}},
		neighT: map[neighKey]entry{},
		routeT: map[netip.Prefix]route{
			netip.MustParsePrefix("10.0.0.0/24"): via(2, ""),
			netip.MustParsePrefix("fd00::/64"):   via(2, ""),
			netip.MustParsePrefix("10.0.0.1/32"): {kind: unix.RTN_LOCAL, link: 1},
		},
		hosts: map[neighKey]*fakeHost{}, ports: map[portKey]*inbox{}, reads: map[string]int{},
	}
}

// ether makes an Ethernet device that works.
func ether(index int, name string) link {
	return link{index: index, name: name, mac: mac{2, 0, 0, 0, 0, byte(index)}, ether: true, mtu: 1500, up: true, carrier: true}
}

// via makes a unicast route, on-link without a gateway.
func via(link int, gateway string) route {
	r := route{kind: unix.RTN_UNICAST, link: link, source: netip.MustParseAddr("10.0.0.1")}
	if gateway != "" {
		r.gateway = netip.MustParseAddr(gateway)
	}
	return r
}

func on(link int, address string) neighKey { return neighKey{link, netip.MustParseAddr(address)} }

// change changes the tables and announces it as note says, if there is a subscriber.
func (f *fakeKernel) change(change func(), note func(*news)) {
	f.mu.Lock()
	change()
	in := f.in
	f.mu.Unlock()
	if in != nil && note != nil {
		in.put(note)
	}
}

func (f *fakeKernel) setLink(l link) {
	f.mu.Lock()
	was, known := f.linkT[l.index]
	f.mu.Unlock()
	f.change(func() { f.linkT[l.index] = l }, func(n *news) {
		n.addLink(l)
		n.routes = n.routes || !known || was.up != l.up || was.carrier != l.carrier
	})
}

func (f *fakeKernel) setRoute(prefix string, r route) {
	p := netip.MustParsePrefix(prefix)
	f.change(func() { f.routeT[p] = r }, func(n *news) { n.addPrefix(p) })
}

func (f *fakeKernel) setNeigh(k neighKey, e entry) {
	f.change(func() { f.neighT[k] = e }, func(n *news) { n.addEntry(k, e) })
}

// overrun loses the subscription, and with it what f changes meanwhile.
func (f *fakeKernel) overrun(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	if f.in != nil {
		f.in.put(func(n *news) { n.lost = true })
	}
	f.in = nil
}

func (f *fakeKernel) setHost(k neighKey, h *fakeHost) {
	f.change(func() { f.hosts[k] = h }, nil)
}

// announce makes everybody on the link hear from a host.
func (f *fakeKernel) announce(k neighKey, m mac) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in := f.ports[portKey{k.link, k.addr.Is6()}]; in != nil {
		in.put(func(n *news) { n.addSighting(sighting{key: k, mac: m, override: true}) })
	}
}

func (f *fakeKernel) watch(in *inbox) (func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads["watch"]++
	if f.watchErr != nil {
		return nil, f.watchErr
	}
	f.in = in
	f.open++
	return func() { f.mu.Lock(); f.open--; f.mu.Unlock() }, nil
}

// read counts a reading and gives a copy.
func read[M ~map[K]V, K comparable, V any](f *fakeKernel, name string, m M) (M, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads[name]++
	return maps.Clone(m), nil
}

func (f *fakeKernel) links() (linkTable, error)              { return read(f, "links", f.linkT) }
func (f *fakeKernel) addresses() (addressTable, error)       { return read(f, "addresses", f.addrT) }
func (f *fakeKernel) neighbors() (map[neighKey]entry, error) { return read(f, "neighbors", f.neighT) }
func (f *fakeKernel) close()                                 {}

func (f *fakeKernel) routes(queries []query, answers []route) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads["routes"] += len(queries)
	for i, q := range queries {
		answers[i] = f.longest(q)
	}
	return f.routeErr
}

// longest finds the route of the longest prefix.
func (f *fakeKernel) longest(q query) route {
	best, found := route{errno: unix.ENETUNREACH}, -1
	for p, r := range f.routeT {
		if p.Contains(q.dst) && p.Bits() > found && (q.link == 0 || q.link == r.link) {
			best, found = r, p.Bits()
		}
	}
	return best
}

// fakePort is one open socket.
type fakePort struct {
	f   *fakeKernel
	key portKey
}

func (f *fakeKernel) listen(l link, v6 bool, into *inbox) (port, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.portErr != nil {
		return nil, f.portErr
	}
	k := portKey{l.index, v6}
	if f.ports[k] != nil {
		panic(fmt.Sprintf("a second port for %+v", k))
	}
	f.ports[k] = into
	f.open++
	return fakePort{f, k}, nil
}

func (p fakePort) close() {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	delete(p.f.ports, p.key)
	p.f.open--
}

// ask notes the question, which reaches the host unless it is to another address.
func (p fakePort) ask(q question) error {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	p.f.asked = append(p.f.asked, asked{time.Since(epoch), q})
	k := neighKey{p.key.link, q.target}
	h := p.f.hosts[k]
	if h == nil || h.dead || q.to != (mac{}) && q.to != h.mac {
		return nil
	}
	s := sighting{key: k, mac: h.mac, solicited: true, override: true}
	if p.key.v6 && q.to != (mac{}) { // as Linux does
		s.mac, s.override = mac{}, false
	}
	in := p.f.ports[p.key]
	time.AfterFunc(answerTime, func() { in.put(func(n *news) { n.addSighting(s) }) })
	return nil
}

// epoch is when every synctest bubble's clock begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// questions gives what was asked since the last call.
func (f *fakeKernel) questions() []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.asked
	f.asked = nil
	return list
}

// bench is a Resolver that runs on a fakeKernel in a synctest bubble.
type bench struct {
	*testing.T
	*fakeKernel
	*Resolver
}

// simulate runs a test in a bubble, with a Resolver for the addresses that runs on f.
func simulate(t *testing.T, f *fakeKernel, opts Options, addrs []string, test func(*bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t, f, New(slog.New(slog.NewTextHandler(t.Output(), nil)), opts)}
		if addrs != nil {
			b.SetTargets(parse(addrs...))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Resolver.run(ctx, f) }()
		synctest.Wait()
		test(b)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if f.open != 0 {
			t.Errorf("%d ports or subscriptions were left open", f.open)
		}
	})
}

// after lets time pass and what is due happen.
func (b *bench) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) hop(address string) Hop { return b.Hops()[netip.MustParseAddr(address)] }

// wants checks a resolved hop's destination, or the reason of an unresolved one.
func (b *bench) wants(address string, want any) {
	b.Helper()
	h := b.hop(address)
	switch want := want.(type) {
	case mac:
		if !h.Resolved || h.DstMAC != want {
			b.Errorf("at %v: %s is %v, want %v", time.Since(epoch), address, h, want)
		}
	case string:
		if h.Resolved || h.Reason != want {
			b.Errorf("at %v: %s is %v, want %q", time.Since(epoch), address, h, want)
		}
	}
}

// is tells whether a channel is closed or has a value.
func is(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// recipients lists whom questions went to.
func recipients(list []asked) (to []mac) {
	for _, a := range list {
		to = append(to, a.q.to)
	}
	return slices.Clip(to)
}
