// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"xdplvs/director"
)

// bigSnapshot has n services of m real servers each.
func bigSnapshot(n, m int) *director.Snapshot {
	s := &director.Snapshot{Time: time.Unix(1e9, 0).UTC(), Generation: 1, TableSize: 1 << 18}
	counters := director.Counters{Conns: 123456, InPkts: 1234567890, InBytes: 123456789012}
	for i := range n {
		service := director.ServiceState{Name: fmt.Sprintf("service-%d", i), Scheduler: "wlc", Counters: counters,
			Key: director.ServiceKey{Protocol: director.TCP, Addr: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), Port: 80}}
		for j := range m {
			service.Reals = append(service.Reals, director.RealState{Key: director.RealKey{Addr: netip.AddrFrom4([4]byte{10, byte(j), byte(i >> 8), byte(i)}), Port: 80},
				Method: director.DirectRouting, Weight: 100, Active: 1234, Inactive: 5678, Reachable: true, Counters: counters})
		}
		s.Services = append(s.Services, service)
	}
	return s
}

func BenchmarkAppendConn(b *testing.B) {
	c := fakeConn(12345)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendConn(buf[:0], &c)
	}
}

func BenchmarkMarshalConn(b *testing.B) {
	c := fakeConn(12345)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = json.Marshal(&c)
	}
}

func BenchmarkDecodeConn(b *testing.B) {
	c := fakeConn(12345)
	line := AppendConn(nil, &c)
	var d decoder
	b.ReportAllocs()
	for b.Loop() {
		if err := d.decode(line, &c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnmarshalConn(b *testing.B) {
	c := fakeConn(12345)
	line := AppendConn(nil, &c)
	b.ReportAllocs()
	for b.Loop() {
		if err := json.Unmarshal(line, &c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnections is the cost of one connection through server and client.
func BenchmarkConnections(b *testing.B) {
	path, _ := start(b, &fakeBackend{conns: b.N}, ServerOptions{})
	client := newClient(b, path)
	b.ReportAllocs()
	b.ResetTimer()
	if err := client.Connections().List(context.Background(), "", func(*director.Conn) error { return nil }); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	path, _ := start(b, &fakeBackend{snapshot: bigSnapshot(10_000, 10)}, ServerOptions{})
	client := newClient(b, path)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Snapshot(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMarshalSnapshot(b *testing.B) {
	s := bigSnapshot(10_000, 10)
	for b.Loop() {
		t, _ := json.Marshal(s)
		b.SetBytes(int64(len(t)))
	}
}

func BenchmarkUnmarshalSnapshot(b *testing.B) {
	t, _ := json.Marshal(bigSnapshot(10_000, 10))
	b.SetBytes(int64(len(t)))
	b.ReportAllocs()
	for b.Loop() {
		var s director.Snapshot
		_ = json.Unmarshal(t, &s)
	}
}
