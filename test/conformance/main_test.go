// SPDX-License-Identifier: Apache-2.0

// Package conformance replays what the IPVS of a Linux kernel was seen to
// decide, end to end: ipvsadm's commands become desired states of package
// director, which writes its plans, and the clients' packets run through the
// BPF program. scheduler's own test replays the same recordings without packets.
package conformance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"

	"xdplvs/bpf"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if loaded.plane != nil {
		if err := loaded.plane.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close data plane:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// sizes hold the largest scenario, and what lives of a load, several times: no
// connection may have to make room for another. dh takes a service for each destination.
var sizes = bpf.Sizes{
	Conns4: 1 << 16, Conns6: 1 << 10, Overflow: 1,
	Services: 2048, Reals: 4096, Plans: 1 << 19, Destinations: 1 << 12,
}

// loaded is the data plane that all tests share; who starts on it empties it first.
var loaded struct {
	once  sync.Once
	plane *bpf.DataPlane
	err   error
}

func loadPlane(t *testing.T) *bpf.DataPlane {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading the data plane and running packets through it takes root")
	}
	loaded.once.Do(func() { loaded.plane, loaded.err = bpf.Load(sizes) })
	if loaded.err != nil {
		t.Fatal(loaded.err)
	}
	return loaded.plane
}

// emptyTables leaves the tables as they are after loading.
func emptyTables(t *bpf.Tables) {
	clear(t.Filter)
	clear(t.Services)
	clear(t.Keys)
	clear(t.Plans)
	clear(t.Reals)
	clear(t.Counts)
	clear(t.Traffic)
	clear(t.Conns4)
	clear(t.Conns6)
}

// forgetAll empties the memory of lblc and lblcr.
func forgetAll(t *testing.T, p *bpf.DataPlane) {
	t.Helper()
	var keys []bpf.DestinationKey
	err := p.Destinations(func(key *bpf.DestinationKey, _ *bpf.Destination) bool {
		keys = append(keys, *key)
		return true
	})
	for i := range keys {
		err = errors.Join(err, p.ForgetDestination(&keys[i]))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// loopback is the interface that packets seem to come and leave by.
func loopback(t *testing.T) int {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return lo.Index
}
