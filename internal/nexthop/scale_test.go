// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// many gives n addresses from a first one on.
func many(first string, n int) []netip.Addr {
	list := make([]netip.Addr, n)
	a := netip.MustParseAddr(first)
	for i := range list {
		list[i] = a
		a = a.Next()
	}
	return list
}

// TestFortyThousandKnownNeighbors is 10,000 services with 4 real servers each, all of them on-link
// and known to the kernel.
func TestFortyThousandKnownNeighbors(t *testing.T) {
	r := newRig(t)
	r.ip(r.dir, "address add 10.64.0.1/10 dev eth0")
	r.ip(r.dir, "address add fd64::1/64 dev eth0 nodad")
	targets := append(many("10.64.1.0", 20_000), many("fd64::100", 20_000)...)
	handle, err := r.dir.Netlink()
	r.must(err)
	for _, a := range targets {
		r.must(handle.NeighSet(&netlink.Neigh{
			LinkIndex: r.eth.Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: macFor(a),
		}))
	}
	res := New(nil, Options{FirstWait: time.Minute})
	res.SetTargets(targets)
	begin, cpu := time.Now(), processorTime(t)
	r.run(res)
	<-res.Synced()
	took := time.Since(begin)
	cpu = processorTime(t) - cpu
	for a, h := range res.Hops() {
		if !h.Resolved || h.DstMAC != [6]byte(macFor(a)) {
			t.Fatalf("%s: %v", a, h)
		}
	}
	t.Logf("%d targets in %v, %v of processor time", len(res.Hops()), took, cpu)
	// Processor time, since others may use the machine; but garbage collection counts, too.
	if limit := slower(time.Second); cpu > limit {
		t.Errorf("first resolution took %v of processor time, want less than %v", cpu, limit)
	}
	hw := net.HardwareAddr{2, 9, 9, 9, 9, 9}
	r.must(r.dir.SetNeigh("eth0", targets[0], hw))
	t.Logf("one changed neighbour among them took %v", await(t, res, targets[0].String(), leeway, toMAC(hw)))
	r.ip(r.dir, "route add default via 10.0.0.2") // covers all IPv4 targets, but does not matter
	begin = time.Now()
	r.must(r.eth.Peer.SetUp(false))
	await(t, res, targets[0].String(), leeway, because("link eth0 has no carrier"))
	t.Logf("link down for all of them took %v", time.Since(begin))
}

func macFor(a netip.Addr) net.HardwareAddr {
	b := a.As16()
	return net.HardwareAddr{2, 0, 0, 0, b[14], b[15]}
}

// slower widens a limit of time under the race detector, and for machines that others use too.
func slower(d time.Duration) time.Duration {
	if raceDetector {
		return 10 * d
	}
	return d
}

// TestTenThousandNeighborsAnswer resolves them all by ARP.
func TestTenThousandNeighborsAnswer(t *testing.T) {
	r := newRig(t)
	h, a := r.host("a", "10.64.0.2/10")
	r.ip(r.dir, "address add 10.64.0.1/10 dev eth0")
	r.ip(h, "route add local 10.65.0.0/16 dev eth0")
	res := New(nil, Options{Refresh: 2 * time.Second, Retry: 2 * time.Second, ProbeRate: 20_000, FirstWait: time.Minute})
	res.SetTargets(many("10.65.0.0", 10_000))
	begin := time.Now()
	r.run(res)
	<-res.Synced()
	t.Logf("10,000 neighbours answered in %v", time.Since(begin))
	cpu := processorTime(t)
	for range 50 { // they stay resolved while each is probed every 2 s
		for addr, hop := range res.Hops() {
			if !toMAC(a.MAC)(hop) {
				t.Fatalf("%s: %v", addr, hop)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("5 s of 5,000 probes each took %v of processor time, the answering host's included", processorTime(t)-cpu)
}

// processorTime is what this process used until now, in user and kernel mode.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLookup measures the kernel's answers, by family.
func BenchmarkLookup(b *testing.B) {
	for _, first := range []string{"127.64.0.0", "::1"} {
		b.Run(first, func(b *testing.B) {
			l, err := newLookup()
			if err != nil {
				b.Skip(err)
			}
			defer l.close()
			queries := make([]query, lookupSlice)
			for i := range queries {
				queries[i].dst = netip.MustParseAddr(first)
			}
			answers := make([]route, len(queries))
			for b.Loop() {
				if err := l.routes(queries, answers); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(queries)), "ns/route")
		})
	}
}

// BenchmarkLookupOneByOne is the same as the netlink package does it.
func BenchmarkLookupOneByOne(b *testing.B) {
	h, err := netlink.NewHandle()
	if err != nil {
		b.Skip(err)
	}
	defer h.Close()
	for b.Loop() {
		if _, err := h.RouteGet(net.IPv4(127, 64, 0, 0)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSnapshot measures what one changed neighbour costs among 40,000 targets.
func BenchmarkSnapshot(b *testing.B) {
	f := newFake()
	res := New(nil, Options{})
	var addrs []netip.Addr
	for i := range 40_000 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24|uint32(i))
		addrs = append(addrs, netip.AddrFrom4(a))
		f.neighT[neighKey{2, addrs[i]}] = entry{mac: macA, valid: true, static: true}
	}
	f.routeT = map[netip.Prefix]route{netip.MustParsePrefix("10.0.0.0/8"): via(2, "")}
	res.SetTargets(addrs)
	e := newEngine(res, f)
	if err := e.resync(time.Now()); err != nil {
		b.Fatal(err)
	}
	e.retarget(time.Now())
	for len(e.todo) > 0 || e.dirty {
		e.work(time.Now())
	}
	runtime.GC()
	for i := 0; b.Loop(); i++ {
		e.hear(neighKey{2, addrs[0]}, entry{mac: mac{2, byte(i), byte(i >> 8), byte(i >> 16)}, valid: true, static: true}, time.Now())
		e.work(time.Now())
	}
}
