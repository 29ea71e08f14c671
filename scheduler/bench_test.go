// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"xdplvs/scheduler"
)

// busyService has servers with weights of 1 to 100 and up to 1000 connections each.
func busyService(b *testing.B, name string, o scheduler.Options, count int) *service {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	v := newService(b, name, o)
	for range count {
		v.add(uint32(1 + r.IntN(100)))
	}
	for i := range v.servers {
		v.servers[i].Active, v.servers[i].Inactive = uint32(r.IntN(500)), uint32(r.IntN(500))
	}
	return v
}

// BenchmarkForward: a plan of 4096 slots for 1000 servers.
func BenchmarkForward(b *testing.B) {
	for _, name := range []string{"rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "twos"} {
		v := busyService(b, name, scheduler.Options{Rand: rand.New(rand.NewPCG(1, 2))}, 1000)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				scheduler.Forward(v.s, v.servers, scheduler.CountActive, 4096)
			}
		})
	}
}

// BenchmarkPick: one choice among 1000 servers, for comparison: what the kernel
// pays per connection.
func BenchmarkPick(b *testing.B) {
	for _, name := range scheduler.Names() {
		v := busyService(b, name, scheduler.Options{}, 1000)
		p := scheduler.Packet{Src: serverAddr(1), Dst: serverAddr(2)}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				v.s.Pick(p, v.servers)
			}
		})
	}
}

// BenchmarkMHTable: edit, and fill the table again.
func BenchmarkMHTable(b *testing.B) {
	for _, size := range []int{4093, 65537} {
		v := busyService(b, "mh", scheduler.Options{MHTableSize: size}, 1000)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for b.Loop() {
				v.s.Edit(v.servers)
				v.s.(scheduler.Tabled).Table(v.servers)
			}
		})
	}
}

func BenchmarkFlowTable(b *testing.B) {
	for _, size := range []int{4093, 65537} {
		v := busyService(b, "rr", scheduler.Options{}, 1000)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for b.Loop() {
				scheduler.FlowTable(v.servers, size)
			}
		})
	}
}

// BenchmarkAdvance: 2^64-1 choices of a cycle of some 50,000.
func BenchmarkAdvance(b *testing.B) {
	v := busyService(b, "wrr", scheduler.Options{}, 1000)
	for b.Loop() {
		scheduler.Advance(v.s, v.servers, scheduler.CountActive, 1<<64-1)
	}
}
